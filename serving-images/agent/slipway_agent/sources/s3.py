"""S3 and what speaks its protocol, by obstore (the Rust object_store crate behind Python functions).

The library signs, connects and streams; it retries nothing, because the agent plans retries itself (decide.plan_retry)
and reports them. It names errors by text alone, so this module is where that text is read, and the only one.

Who asks: the keys of the Secret, else the pod's own identity (a web identity token as of IRSA, or a container
credentials endpoint as of EKS Pod Identity), else nobody. Never the node's role, which isn't the pod's.
"""

import asyncio
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

import obstore
from obstore.store import S3Store

from slipway_agent.config import Source
from slipway_agent.model.errors import AgentError, Reason, SpecError, TransientError
from slipway_agent.sources.object_store import ChangedError, StoredObject
from slipway_agent.sources.secrets import name_secret, read_secret, refuse_secret

if TYPE_CHECKING:
    from obstore import ObjectMeta
    from obstore.store import ClientConfig, S3Config

CONNECT_SECONDS, READ_SECONDS = 10, 30
DEFAULT_REGION = "us-east-1"
_WHOLE_REQUEST = "600s"  # for a part of 8 MiB: the library's own 30 s would end it where eight share a slow line
LIST_SECONDS = 60.0  # until the next thousand objects are listed, however many pages that takes
PAGE_MEMORY_BYTES = 96 << 20  # by which the agent may grow meanwhile: more than a download that begins then takes
_LOOK_SECONDS = 0.02
LISTING_SECONDS = 600.0  # for a whole listing: some millions of objects
_LIST_CHUNK = 1000
_READ_BYTES = 512 << 10  # small enough to be digested while it is in the processor's cache
_EXPECTED_KEYS = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_SESSION_TOKEN where the keys are temporary)"
_KSERVE_NAMES = {"awsAccessKeyID": "AWS_ACCESS_KEY_ID", "awsSecretAccessKey": "AWS_SECRET_ACCESS_KEY"}
_IDENTITIES = (
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_ACCESS_KEY_ID",
)

_STATUS = re.compile(r"status code: (\d{3})([^:\n]*)")
_CODE, _MESSAGE = re.compile(r"<Code>([^<]+)</Code>"), re.compile(r"<Message>([^<]*)</Message>")
_CAUSES = (  # the innermost words of the library's debug text, most telling first
    (re.compile(r"InvalidCertificate\(\s*(\w+)"), "its certificate isn't trusted ({})"),
    (re.compile(r'error: "([^"]+)"'), "{}"),
    (re.compile(r'message: "([^"]+)"'), "{}"),
    (re.compile(r"source: (TimedOut)"), "no byte came in time"),
    (re.compile(r"kind: (Timeout)"), "it didn't answer in time"),
)
_WRONG_REGION = "Received redirect without LOCATION"
_NO_IDENTITY = ("Failed to read token file", "Failed to read EKS token file", "Invalid AssumeRoleWithWebIdentity")
_NO_PATH = ("Encountered object with invalid path", "contained empty path segment")


class S3:
    """One store as the spec names it; a client for each bucket, made anew when the Secret's content changes."""

    def __init__(self, source: Source, read_seconds: float = READ_SECONDS) -> None:
        self._source = source
        self._read_seconds = read_seconds
        self._clients: dict[tuple[str, frozenset[tuple[str, str]]], S3Store] = {}

    def list_objects(self, bucket: str, prefix: str) -> Iterator[StoredObject]:
        client = self._client(bucket)
        is_empty = True
        try:
            for batch in self._list_batches(client, prefix):
                is_empty = False
                for each in batch:
                    yield StoredObject(each["path"], each["size"], each["e_tag"] or "")
            if is_empty and prefix:
                yield from self._find_single(client, prefix)
        except Exception as cause:
            raise self._explain(cause, bucket, prefix) from None

    def _list_batches(self, client: S3Store, prefix: str) -> Iterator["Sequence[ObjectMeta]"]:
        """A thousand objects at a time, none of them empty. TransientError for a listing that has no end: the library
        would ask for pages for ever where each names the next and holds nothing."""
        stream = obstore.list(client, prefix or None, chunk_size=_LIST_CHUNK)
        deadline = time.monotonic() + LISTING_SECONDS
        first: str | None = None
        with asyncio.Runner() as runner:  # a wait that is given up drops the library's request; a blocking one can't be
            while batch := runner.run(_next_batch(stream)):
                if batch[0]["path"] == first:
                    raise TransientError(f"{self._shown(prefix)} lists the same objects again and again; tried again")
                if time.monotonic() > deadline:
                    words = f"isn't listed to its end within {LISTING_SECONDS:.0f} s; it is tried again"
                    raise TransientError(f"{self._shown(prefix)} {words}")
                first = batch[0]["path"]
                yield batch

    def _shown(self, prefix: str) -> str:
        place = urlsplit(self._source.endpoint).netloc if self._source.endpoint else "Amazon S3"
        return f"{place}: {self._source.scheme}://…/{prefix}"

    def _find_single(self, client: S3Store, key: str) -> list[StoredObject]:
        try:
            meta = obstore.head(client, key)
        except FileNotFoundError:
            return []
        return [StoredObject(key, meta["size"], meta["e_tag"] or "")]

    def read(self, bucket: str, wanted: StoredObject, begin: int, end: int) -> Iterator[bytes]:
        try:
            got = obstore.get(
                self._client(bucket), wanted.key, options={"range": (begin, end), "if_match": wanted.etag or None}
            )
            # a store that doesn't know If-Match answers all the same: its answer says of what
            if got.meta["e_tag"] != (wanted.etag or None) or got.range != (begin, end):
                raise ChangedError
            for chunk in got.stream(min_chunk_size=_READ_BYTES):
                yield bytes(chunk)
        except (FileNotFoundError, obstore.exceptions.PreconditionError):
            raise ChangedError from None
        except (AgentError, ChangedError):
            raise
        except Exception as cause:
            refusal = self._explain(cause, bucket, wanted.key)
            if isinstance(refusal, _RangeRefusedError):
                raise ChangedError from None
            raise refusal from None

    def _client(self, bucket: str) -> S3Store:
        secret = read_secret(self._source)
        wanted = (bucket, frozenset((secret or {}).items()))
        client = self._clients.get(wanted)  # the listing's thread and those of a fetch come here at once
        if client is None:
            client = self._open(bucket, _judge_secret(self._source, secret))
            if len(self._clients) > 8:
                self._clients.clear()  # a token that is renewed every hour must not fill the memory
            self._clients[wanted] = client
        return client

    def _open(self, bucket: str, keys: Mapping[str, str] | None) -> S3Store:
        source = self._source
        if not bucket:
            raise SpecError(Reason.SOURCE_NOT_FOUND, f"{source.uri} names no bucket. Write s3://BUCKET/PATH")
        client: ClientConfig = {
            "connect_timeout": f"{CONNECT_SECONDS}s",
            "read_timeout": f"{int(self._read_seconds * 1000)}ms",
            "timeout": _WHOLE_REQUEST,
            "user_agent": "slipway-agent",
            # http is spoken only where the spec's own endpoint says http://
            "allow_http": (source.endpoint or "").startswith("http://"),
        }
        settings: S3Config = {"region": source.region or os.environ.get("AWS_REGION") or DEFAULT_REGION}
        if source.ca_file is not None:
            client["root_certificate"] = _read_ca(source)
        # a bucket with dots in its name fits no certificate of the form *.s3.REGION.amazonaws.com
        is_usual = source.endpoint is not None or "." in bucket
        is_path_style = source.path_style if source.path_style is not None else is_usual
        settings["virtual_hosted_style_request"] = not is_path_style
        if source.endpoint is not None:
            settings["endpoint"] = _judge_endpoint(source.endpoint, None if is_path_style else bucket)
        if keys is not None:
            settings["access_key_id"] = keys["AWS_ACCESS_KEY_ID"]
            settings["secret_access_key"] = keys["AWS_SECRET_ACCESS_KEY"]
            if keys.get("AWS_SESSION_TOKEN"):
                settings["session_token"] = keys["AWS_SESSION_TOKEN"]
        elif not any(os.environ.get(name) for name in _IDENTITIES):
            settings["skip_signature"] = True
        try:
            return S3Store(bucket, config=settings, client_options=client, retry_config={"max_retries": 0})
        except Exception as cause:
            if source.ca_file is not None and "certificate" in str(cause):
                raise _refuse_ca(source, str(cause)) from None
            raise SpecError(
                Reason.CONFIG_INVALID,
                f"{source.uri} can't be asked for with storage.endpoint {source.endpoint or 'unset'} and region "
                f"{source.region or 'unset'}: {_first_line(cause)}. Correct spec.storage",
            ) from None

    def _explain(self, cause: Exception, bucket: str, key: str) -> AgentError:
        if isinstance(cause, AgentError):
            return cause
        if isinstance(cause, TimeoutError):
            return TransientError(
                f"{self._shown(key)} isn't listed within {LIST_SECONDS:.0f} s for the next {_LIST_CHUNK} objects; it "
                "is tried again"
            )
        if isinstance(cause, MemoryError):
            return TransientError(
                f"{self._shown(key)} answers a listing with more than {PAGE_MEMORY_BYTES >> 20} MiB at once, which no "
                "store does; it is tried again. Check storage.endpoint"
            )
        text = str(cause)
        said = _STATUS.search(text)
        shown = f"{self._source.scheme}://{bucket}/{key}".rstrip("/")
        if said is None:
            return self._explain_connection(text, shown)
        status, code, words = int(said[1]), _find(_CODE, text), _find(_MESSAGE, text)
        answer = " ".join(filter(None, (f"{self._place(text)} answered {status}", code or said[2].strip())))
        answer += f" ({words})" if words else ""
        if status == 416:
            return _RangeRefusedError(answer)
        if status in (408, 425, 429) or status >= 500 or code in ("SlowDown", "RequestTimeout"):
            return TransientError(f"{answer} to {shown}; it is tried again")
        if status == 404 and code in (None, "NoSuchBucket", "NoSuchKey"):
            what = f"{shown} isn't there" if code == "NoSuchKey" else f"there is no bucket {bucket}"
            return SpecError(
                Reason.SOURCE_NOT_FOUND,
                f"{answer}: {what}. Correct model.uri or storage.endpoint, or create it; it is looked for again",
            )
        if 300 <= status < 400 or code in ("PermanentRedirect", "AuthorizationHeaderMalformed"):
            return self._refuse_region(answer, shown)
        who = self._asker()
        return SpecError(
            Reason.ACCESS_DENIED,
            f"{answer} to {shown}, asked for {who}. Allow it to list the bucket and read its objects",
        )

    def _explain_connection(self, text: str, shown: str) -> AgentError:
        """What the library says when nobody answered with a status. Its phrases are matched, never words of a key."""
        place, first = self._place(text), _first_line(text)
        found = next(((match, form) for pattern, form in _CAUSES if (match := pattern.search(text))), None)
        words = found[1].format(found[0][1]) if found is not None else first
        if _WRONG_REGION in first:
            return self._refuse_region(f"{place} sends {shown} elsewhere", shown)
        if any(phrase in first for phrase in _NO_IDENTITY):
            return SpecError(
                Reason.ACCESS_DENIED,
                f"the pod's identity can't be turned into credentials for {shown}: {first}. Check the role of the "
                "model's ServiceAccount, or name a Secret in storage.secretRef",
            )
        if any(phrase in first for phrase in _NO_PATH):
            return SpecError(
                Reason.UNSAFE_PATH, f"{shown} holds an object whose key is no path: {first}. Store it under another key"
            )
        if "InvalidCertificate" in text:
            return TransientError(f"{place}: {words}. Name the CA that signed it in storage.caBundle")
        return TransientError(f"{place} can't be reached for {shown}: {words}; it goes on from where it was")

    def _refuse_region(self, answer: str, shown: str) -> SpecError:
        return SpecError(
            Reason.REDIRECT_REFUSED,
            f"{answer}: the bucket of {shown} is in another region or at another endpoint than "
            f"{self._source.region or DEFAULT_REGION}. Write them in storage.region and storage.endpoint",
        )

    def _place(self, text: str) -> str:
        """Who answered, or didn't: the store, or who gives the pod its credentials."""
        first = _first_line(text)
        if "Error performing POST" in first:
            return "the token service (AWS STS)"
        if (identity := os.environ.get("AWS_CONTAINER_CREDENTIALS_FULL_URI")) and f" {identity}" in first:
            return "the pod identity's endpoint"
        return urlsplit(self._source.endpoint).netloc if self._source.endpoint else "Amazon S3"

    def _asker(self) -> str:
        if self._source.credentials is not None:
            return f"with the keys of {name_secret(self._source)}"
        if any(os.environ.get(name) for name in _IDENTITIES):
            return "with the identity of the model's ServiceAccount"
        return "without credentials (name a Secret in storage.secretRef, or give the ServiceAccount a role)"


async def _next_batch(stream: Any) -> "Sequence[ObjectMeta]":
    """Empty at the end. TimeoutError; MemoryError where the answer is read into much more memory than a page takes:
    the library reads a page whole, however long it is, and that memory is what can be seen of it."""
    before_bytes, deadline = _resident_bytes(), time.monotonic() + LIST_SECONDS
    wanted = asyncio.create_task(_advance(stream))
    try:
        while not (await asyncio.wait({wanted}, timeout=_LOOK_SECONDS))[0]:
            if time.monotonic() > deadline:
                raise TimeoutError
            if _resident_bytes() - before_bytes > PAGE_MEMORY_BYTES:
                raise MemoryError
        return wanted.result()
    finally:
        wanted.cancel()


async def _advance(stream: Any) -> "Sequence[ObjectMeta]":
    try:
        return cast("Sequence[ObjectMeta]", await anext(stream))
    except StopAsyncIteration:
        return ()


def _resident_bytes() -> int:
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")


class _RangeRefusedError(TransientError):
    """416: the object became shorter."""


def _judge_secret(source: Source, found: Mapping[str, str] | None) -> Mapping[str, str] | None:
    if found is None:
        return None
    keys = {_KSERVE_NAMES.get(name, name): value for name, value in found.items()}
    if not keys.get("AWS_ACCESS_KEY_ID") or not keys.get("AWS_SECRET_ACCESS_KEY"):
        raise refuse_secret(source, found, _EXPECTED_KEYS)
    return keys


def _judge_endpoint(endpoint: str, bucket: str | None) -> str:
    """The endpoint without a slash at its end; with the bucket before its host where requests name it there."""
    try:
        parts = urlsplit(endpoint)
        is_good = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        is_good = False
    if not is_good:
        raise SpecError(
            Reason.CONFIG_INVALID, f"storage.endpoint is {endpoint!r}; it must be https://HOST or http://HOST:PORT"
        )
    return f"{parts.scheme}://{f'{bucket}.' if bucket else ''}{parts.netloc}{parts.path.rstrip('/')}"


def _read_ca(source: Source) -> bytes:
    assert source.ca_file is not None
    try:
        return Path(source.ca_file).read_bytes()
    except OSError as cause:
        raise _refuse_ca(source, cause.strerror or str(cause)) from cause


def _refuse_ca(source: Source, words: str) -> SpecError:
    return SpecError(Reason.CONFIG_INVALID, f"storage.caBundle can't be used for {source.uri}: {words}. Correct it")


def _find(pattern: re.Pattern[str], text: str) -> str | None:
    found = pattern.search(text)
    return found[1] if found is not None else None


def _first_line(cause: object) -> str:
    return str(cause).partition("\n")[0][:300]
