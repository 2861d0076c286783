"""One file per version over https: streamed, resumed by Range, in constant memory.

A partial file is only continued when the server says by If-Range that it is still the same object. http:// is never
fetched and redirects are refused unless the spec allows them (a redirect names a host that nobody reviewed).
"""

import errno
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote, urljoin, urlsplit

import requests
import urllib3

from slipway_agent.config import Source, show_url
from slipway_agent.digest import CHUNK_BYTES
from slipway_agent.failures import AgentError, Reason, SpecError, TransientError, UnchangedError
from slipway_agent.sources import Fetched, Progress
from slipway_agent.volume import ensure_room

CONNECT_SECONDS = 10.0
READ_SECONDS = 30.0
REDIRECT_LIMIT = 10
RETRY_AFTER_LIMIT_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class _Partial:
    """What is known of the object that a partial file is the beginning of. `validator` goes into If-Range."""

    url: str
    validator: str
    total_bytes: int


class _Session(requests.Session):
    def get_redirect_target(self, resp: requests.Response) -> str | None:
        """None: even with redirects off, requests would read a redirect's whole body into memory for the next hop."""


class HttpsSource:
    def __init__(self, source: Source, read_seconds: float = READ_SECONDS) -> None:
        self._source = source
        self._read_seconds = read_seconds

    def list_versions(self) -> tuple[int, ...]:
        return tuple(sorted(self._source.versions))

    def model_folder(self) -> Path | None:
        return None

    def fetch(self, version: int, staging: Path, progress: Progress, refused: str | None) -> Fetched:
        if version not in self._source.versions:
            known = ", ".join(map(str, sorted(self._source.versions))) or "none"
            raise SpecError(
                Reason.VERSION_NOT_FOUND,
                f"version {version} has no URL: https:// can't be listed, so model.versions must name it (it names "
                f"{known})",
            )
        url = self._source.location(version)
        part, note = staging / "download.part", staging / "download.json"
        with _Session() as session:
            try:
                sha256, fingerprint = self._download(session, version, url, part, note, progress, refused)
            except OSError as cause:  # requests' own errors are OSErrors too, but are explained where they arise
                raise _explain_disk(cause, url) from cause
        return Fetched(part, sha256, unquote(urlsplit(url).path.rsplit("/", 1)[-1]), fingerprint)

    def _download(
        self,
        session: requests.Session,
        version: int,
        url: str,
        part: Path,
        note: Path,
        progress: Progress,
        refused: str | None,
    ) -> tuple[str, str | None]:
        """The finished file's digest and the ETag it came with."""
        partial = _read_note(note)
        begun_bytes = part.stat().st_size if partial is not None and partial.url == url and part.is_file() else 0
        if partial is None or not 0 < begun_bytes <= partial.total_bytes:
            begun_bytes, partial = 0, None
        headers = {"Accept-Encoding": "identity", "User-Agent": "slipway-agent"}
        if partial is not None and begun_bytes == partial.total_bytes:
            begun_bytes -= 1  # a range must ask for something, and the server's word on "still the same" is wanted
        if partial is not None:
            headers |= {"Range": f"bytes={begun_bytes}-", "If-Range": partial.validator}
        elif refused is not None:
            headers["If-None-Match"] = refused
        with self._request(session, url, headers) as response:
            if response.status_code == 304 and refused is not None:
                raise UnchangedError
            if response.status_code == 416:
                note.unlink(missing_ok=True)
            self._refuse_status(response, url, version)
            if response.status_code == 206:
                if partial is None or not _continues(response, begun_bytes, partial):
                    note.unlink(missing_ok=True)
                    raise TransientError(
                        f"{show_url(url)} answered a range that wasn't asked for; it is fetched from the start"
                    )
            else:
                begun_bytes = 0
            length_bytes = _length(response)
            total_bytes = None if length_bytes is None else begun_bytes + length_bytes
            validator = _validator(response)
            if total_bytes is not None and validator is not None:
                note.write_text(json.dumps(asdict(_Partial(url, validator, total_bytes))))
            else:
                note.unlink(missing_ok=True)
            with part.open("r+b" if begun_bytes else "wb") as file:
                digest = _digest_beginning(file, begun_bytes)
                if begun_bytes:
                    file.truncate(begun_bytes)
                if total_bytes is not None:
                    ensure_room(part.parent, total_bytes - begun_bytes, f"version {version} ({show_url(url)})")
                progress.expect(total_bytes, begun_bytes)

                def keep(chunk: bytes) -> None:
                    digest.update(chunk)
                    file.write(chunk)

                received_bytes = begun_bytes + _stream(response, url, keep, progress)
            if total_bytes is not None and received_bytes != total_bytes:
                raise TransientError(
                    f"{show_url(url)} sent {received_bytes} of {total_bytes} bytes; it goes on from there"
                )
            return digest.hexdigest(), response.headers.get("ETag")

    def _request(self, session: requests.Session, url: str, headers: Mapping[str, str]) -> requests.Response:
        """The final response, its body unread. Redirects are followed by hand, so that each hop can be judged."""
        here = url
        for _ in range(REDIRECT_LIMIT + 1):
            try:
                response = session.get(
                    here,
                    headers=dict(headers),
                    stream=True,
                    allow_redirects=False,
                    timeout=(CONNECT_SECONDS, self._read_seconds),
                    verify=self._source.ca_file or True,  # per request: a session's own gives way to the environment's
                )
            except (requests.RequestException, OSError, ValueError) as cause:
                raise _explain_connection(cause, here, self._source.ca_file) from cause
            if response.status_code not in (301, 302, 303, 307, 308):
                return response
            target, host = _read_target(here, response.headers.get("Location", ""))
            response.close()
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
            here = target
        message = f"{show_url(url)} redirects more than {REDIRECT_LIMIT} times. Write its final address"
        raise SpecError(Reason.REDIRECT_REFUSED, message)

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
            raise TransientError(f"{said}; it is tried again", _retry_after_seconds(response))
        if 400 <= status < 500:
            raise SpecError(Reason.ACCESS_DENIED, f"{said}: the server refuses it. Check its permissions for this URL")
        raise TransientError(f"{said}, which is no answer to a download; it is tried again")


def _stream(response: requests.Response, url: str, keep: Callable[[bytes], None], progress: Progress) -> int:
    """Bytes received, undecoded: a .tar.gz sent with Content-Encoding: gzip stays the file whose digest is pinned."""
    received_bytes = 0
    chunks = response.raw.stream(CHUNK_BYTES, decode_content=False)
    while True:
        try:
            chunk = next(chunks, None)
        except (urllib3.exceptions.HTTPError, requests.RequestException, OSError) as cause:
            raise TransientError(
                f"the connection to {urlsplit(url).netloc} broke after {progress.fetched_bytes} bytes "
                f"({_innermost(cause)}); it goes on from there"
            ) from cause
        if chunk is None:
            return received_bytes
        keep(chunk)
        received_bytes += len(chunk)
        progress.add(len(chunk))


def _digest_beginning(file: BinaryIO, size_bytes: int) -> "hashlib._Hash":
    """The digest so far of a file's first bytes; leaves the file positioned after them."""
    digest = hashlib.sha256()
    while file.tell() < size_bytes:
        digest.update(file.read(min(CHUNK_BYTES, size_bytes - file.tell())))
    return digest


def _continues(response: requests.Response, begun_bytes: int, partial: _Partial) -> bool:
    content_range = response.headers.get("Content-Range", "")
    return content_range == f"bytes {begun_bytes}-{partial.total_bytes - 1}/{partial.total_bytes}"


def _read_target(here: str, location: str) -> tuple[str, str]:
    """Where a redirect leads, and its host for a message."""
    try:
        target = urljoin(here, location)
        return target, urlsplit(target).hostname or "an address without a host"
    except ValueError:
        return "", f"an address that can't be read ({location[:100]})"


def _length(response: requests.Response) -> int | None:
    length = response.headers.get("Content-Length", "")
    return int(length) if length.isascii() and length.isdigit() else None


def _validator(response: requests.Response) -> str | None:
    """What If-Range may carry: a strong ETag, else a date (RFC 9110, 13.1.5); None when resuming wouldn't be safe."""
    etag = response.headers.get("ETag")
    if etag is not None:
        return None if etag.startswith("W/") else etag
    return response.headers.get("Last-Modified")


def _read_note(note: Path) -> _Partial | None:
    try:
        raw = json.loads(note.read_text())
        return _Partial(str(raw["url"]), str(raw["validator"]), int(raw["total_bytes"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _retry_after_seconds(response: requests.Response) -> float | None:
    """Seconds or a date (RFC 9110, 10.2.3), within reason; None when the server asked for nothing readable."""
    word = response.headers.get("Retry-After", "")
    if word.isascii() and word.isdigit():
        return min(float(word), RETRY_AFTER_LIMIT_SECONDS)
    try:
        wanted = parsedate_to_datetime(word)
    except ValueError:
        return None
    if wanted.tzinfo is None:
        return None
    return min(max((wanted - datetime.now(UTC)).total_seconds(), 0.0), RETRY_AFTER_LIMIT_SECONDS)


def _explain_connection(cause: Exception, url: str, ca_file: str | None) -> AgentError:
    host = urlsplit(url).netloc
    if isinstance(cause, requests.exceptions.SSLError):
        return TransientError(
            f"{host}'s certificate isn't trusted ({_innermost(cause)}). Name the CA that signed it in storage.caBundle"
        )
    if isinstance(cause, OSError) and not isinstance(cause, requests.RequestException):
        if ca_file is not None:
            return SpecError(Reason.CONFIG_INVALID, f"storage.caBundle can't be used for {host}: {cause}. Correct it")
        return TransientError(f"{host} can't be reached: {cause}; it is tried again")
    if isinstance(cause, ValueError):  # requests.exceptions.InvalidURL is one, and urllib3's own are
        return SpecError(
            Reason.SOURCE_NOT_FOUND, f"{show_url(url)} is no URL that can be fetched. Correct it in model.versions"
        )
    if isinstance(cause, requests.Timeout):
        return TransientError(f"{host} didn't answer in time; it is tried again")
    return TransientError(f"{host} can't be reached: {_innermost(cause)}; it is tried again")


def _explain_disk(cause: OSError, url: str) -> AgentError:
    if cause.errno in (errno.ENOSPC, errno.EDQUOT):
        return SpecError(
            Reason.DISK_FULL,
            f"the pod's model volume filled up while {show_url(url)} was fetched. Free some on the node, or load fewer "
            "versions",
        )
    words = cause.strerror or str(cause)
    return TransientError(f"{show_url(url)} can't be stored in the pod's model volume: {words}; it is tried again")


def _innermost(cause: BaseException) -> str:
    """The operating system's words, which requests and urllib3 wrap several deep, each in its own way."""
    reason = cause
    for _ in range(10):
        wrapped = (getattr(reason, "reason", None), reason.__cause__, *reason.args)
        inner = next((each for each in wrapped if isinstance(each, BaseException)), None)
        if inner is None:
            break
        reason = inner
    if isinstance(reason, OSError) and reason.strerror:
        return reason.strerror
    return (str(reason) or type(reason).__name__)[:300]
