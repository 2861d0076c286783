"""One file per version over https: streamed, resumed by Range, in constant memory.

A partial file is only continued when the server says by If-Range that it is still the same object. http:// is never
fetched and redirects are refused unless the spec allows them (a redirect names a host that nobody reviewed). The
Secret's token or password goes to the host that the URL names, and to no other that a redirect leads to.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

import requests

from slipway_agent.config import Source, name_place, show_url
from slipway_agent.model.errors import Reason, SpecError, TransientError, UnchangedError
from slipway_agent.model.ledger import describe_bytes
from slipway_agent.sources.base import Fetched, Progress
from slipway_agent.sources.http_exchange import (
    READ_SECONDS,
    BodyLimit,
    Exchange,
    Session,
    encode_basic,
    length_of,
    retry_after_seconds,
    store_body,
)
from slipway_agent.sources.secrets import name_secret, read_secret, refuse_secret
from slipway_agent.volume.models_volume import ensure_room, explain_disk, find_room
from slipway_agent.volume.safe_open import Tree

_QUERY = re.compile(r"query(\.[1-9][0-9]*)?")
_QUERY_VALUE = re.compile(r"[!-~]+")
PART_NAME, NOTE_NAME = "download.part", "download.json"


@dataclass(frozen=True, slots=True)
class _Partial:
    """What is known of the object that a partial file is the beginning of. `validator` goes into If-Range.

    url: by `name_place`, as the server's container can read where it is written.
    """

    url: str
    validator: str
    total_bytes: int


def read_authorization(source: Source) -> str | None:
    """The Authorization header that the Secret gives; None where the spec names no Secret.

    `token` is a Bearer, `username` and `password` are Basic (RFC 6750, 7617). SpecError(AccessDenied) without either.
    """
    found = read_secret(source)
    if found is None:
        return None
    if found.get("token"):
        return f"Bearer {found['token']}"
    if found.get("username") and found.get("password") is not None:
        return encode_basic(found["username"], found["password"])
    if any(_QUERY.fullmatch(name) for name in found):
        return None
    raise refuse_secret(source, found, "token, or username and password, or query")


def open_url(source: Source, version: int) -> str:
    """A version's URL with what opens it, where the Secret has that: its key query.<version>, else query.

    The value is what stands behind the URL's "?", or the whole presigned URL of the place that the spec names. It is
    read anew for each fetch, and reaches no message, file or object. SpecError(AccessDenied) for another URL.
    """
    url = source.location(version)
    found = read_secret(source) or {}
    key = next((name for name in (f"query.{version}", "query") if found.get(name)), None)
    if key is None:
        return url
    place, _, query = found[key].rpartition("?")
    if place and place != url.partition("?")[0]:
        what = f"is a URL of another place than {show_url(url)}, which model.versions names for version {version}"
    elif not query or "://" in query or not _QUERY_VALUE.fullmatch(query):
        what = "is no query of a URL"
    else:
        return f"{url}{'&' if '?' in url else '?'}{query}"
    raise SpecError(
        Reason.ACCESS_DENIED,
        f"{name_secret(source)}: its {key} {what}. Write what stands behind the presigned URL's question mark there",
    )


class HttpsSource:
    def __init__(self, source: Source, read_seconds: float = READ_SECONDS) -> None:
        self._source = source
        self._read_seconds = read_seconds

    def list_versions(self) -> Mapping[int, str | None]:
        return dict.fromkeys(sorted(self._source.versions))

    def model_folder(self) -> Tree | None:
        return None

    def fetch(
        self, version: int, staging: Path, progress: Progress, refused: str | None, known: str | None = None
    ) -> Fetched:
        if version not in self._source.versions:
            known = ", ".join(map(str, sorted(self._source.versions))) or "none"
            raise SpecError(
                Reason.VERSION_NOT_FOUND,
                f"version {version} has no URL: https:// can't be listed, so model.versions must name it (it names "
                f"{known})",
            )
        url = self._source.location(version)
        with Session() as session:
            try:
                sha256, fingerprint = self._download(session, version, staging, progress, refused)
            except OSError as cause:  # requests' own errors are OSErrors too, but are explained where they arise
                raise explain_disk(cause, show_url(url)) from cause
        return Fetched(staging / PART_NAME, sha256, unquote(urlsplit(url).path.rsplit("/", 1)[-1]), fingerprint)

    def _download(
        self, session: Session, version: int, staging: Path, progress: Progress, refused: str | None
    ) -> tuple[str, str | None]:
        """The finished file's digest and the ETag it came with."""
        url = self._source.location(version)
        opened = open_url(self._source, version)
        part, note = staging / PART_NAME, staging / NOTE_NAME
        partial, begun_bytes = _find_partial(note, part, url)
        headers: dict[str, str] = {}
        if partial is not None:
            headers = {"Range": f"bytes={begun_bytes}-", "If-Range": partial.validator}
        elif refused is not None:
            headers = {"If-None-Match": refused}
        exchange = Exchange(session, self._source.ca_file, self._read_seconds)
        authorization = read_authorization(self._source)
        with exchange.ask("GET", opened, headers, authorization, self._judge_redirect) as response:
            if response.status_code == 304 and refused is not None:
                raise UnchangedError
            if response.status_code == 416:
                note.unlink(missing_ok=True)
            self._refuse_status(response, url, version)
            if response.status_code != 206:
                begun_bytes = 0
            elif partial is None or not _continues(response, begun_bytes, partial):
                note.unlink(missing_ok=True)
                raise TransientError(f"{show_url(url)} changed since its download began; it is fetched from the start")
            length_bytes = length_of(response)
            total_bytes = None if length_bytes is None else begun_bytes + length_bytes
            _write_note(note, url, _validator(response), total_bytes)
            if total_bytes is not None:
                ensure_room(staging, total_bytes - begun_bytes, f"version {version} ({show_url(url)})")
            progress.expect(total_bytes, begun_bytes)
            limit = _limit_body(staging, total_bytes, url)
            digest, stored_bytes = store_body(response, url, part, begun_bytes, progress, limit=limit)
            if total_bytes is not None and stored_bytes != total_bytes:
                raise TransientError(
                    f"{show_url(url)} sent {stored_bytes} of {total_bytes} bytes; it goes on from there"
                )
            return digest, response.headers.get("ETag")

    def _judge_redirect(self, here: str, target: str, host: str) -> None:
        if not self._source.allow_redirects:
            raise SpecError(
                Reason.REDIRECT_REFUSED,
                f"{show_url(here)} redirects to {host}, and redirects are refused. Write that address as the "
                "URL, or set storage.allowRedirects: true",
            )
        if urlsplit(target).scheme != "https":
            raise SpecError(
                Reason.REDIRECT_REFUSED, f"{show_url(here)} redirects to {host} without https, which is refused"
            )

    def _refuse_status(self, response: requests.Response, url: str, version: int) -> None:
        status = response.status_code
        said = f"{show_url(url)} answered {status} {response.reason or ''}".rstrip()
        if status in (200, 206):
            return
        if status in (404, 410):
            advice = "Correct its URL in model.versions, or upload it"
            raise SpecError(Reason.VERSION_NOT_FOUND, f"{said}: version {version} isn't there. {advice}")
        if status == 416:
            raise TransientError(f"{said}: the object became shorter; it is fetched from the start")
        if status in (408, 425, 429) or status >= 500:
            raise TransientError(f"{said}; it is tried again", retry_after_seconds(response))
        if 400 <= status < 500:
            who = "without credentials" if self._source.credentials is None else f"with {name_secret(self._source)}"
            advice = f"Check what it allows for this URL, asked {who}"
            raise SpecError(Reason.ACCESS_DENIED, f"{said}: the server refuses it. {advice}")
        raise TransientError(f"{said}, which a download can't use; it is tried again")


def _continues(response: requests.Response, begun_bytes: int, partial: _Partial) -> bool:
    """Whether a 206 is the rest of the same object: some servers (versitygw) ignore If-Range and send any rest."""
    content_range = response.headers.get("Content-Range", "")
    if content_range != f"bytes {begun_bytes}-{partial.total_bytes - 1}/{partial.total_bytes}":
        return False
    # a 206 must say the ETag that a 200 would (RFC 9110, 15.3.7), and may leave out a date
    if partial.validator.startswith('"'):
        return response.headers.get("ETag") == partial.validator
    return response.headers.get("Last-Modified") in (None, partial.validator)


def _limit_body(staging: Path, total_bytes: int | None, url: str) -> BodyLimit:
    """A body that says nothing of its size may have what the volume has free, and not fill it."""
    if total_bytes is not None:
        return BodyLimit(
            total_bytes, TransientError(f"{show_url(url)} sent more bytes than it said; it is tried again")
        )
    free_bytes = find_room(staging).free_bytes
    return BodyLimit(
        free_bytes,
        SpecError(
            Reason.DISK_FULL,
            f"{show_url(url)} doesn't say how large it is, and sent more than the {describe_bytes(free_bytes)} that "
            "the pod's model volume has free. Check that the URL has an end, or free some on the node",
        ),
    )


def _validator(response: requests.Response) -> str | None:
    """What If-Range may carry: a strong ETag, else a date (RFC 9110, 13.1.5); None when resuming wouldn't be safe."""
    etag = response.headers.get("ETag")
    if etag is not None:
        return None if etag.startswith("W/") else etag
    return response.headers.get("Last-Modified")


def _find_partial(note: Path, part: Path, url: str) -> tuple[_Partial | None, int]:
    """What an earlier attempt left of this object, and how many bytes of that stand; (None, 0) when it is no use."""
    partial = _read_note(note)
    if partial is None or partial.url != name_place(url) or not part.is_file():
        return None, 0
    begun_bytes = part.stat().st_size
    if not 0 < begun_bytes <= partial.total_bytes:
        return None, 0
    # a range must ask for something, and the server's word on "still the same" is wanted
    return partial, min(begun_bytes, partial.total_bytes - 1)


def _write_note(note: Path, url: str, validator: str | None, total_bytes: int | None) -> None:
    """So that a later attempt may go on; without a validator or a size it can't."""
    if total_bytes is None or validator is None:
        note.unlink(missing_ok=True)
    else:
        note.write_text(json.dumps(asdict(_Partial(name_place(url), validator, total_bytes))))


def _read_note(note: Path) -> _Partial | None:
    try:
        raw = json.loads(note.read_text())
        return _Partial(str(raw["url"]), str(raw["validator"]), int(raw["total_bytes"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
