"""What https:// and oci:// share: one exchange over HTTP, its bytes, and messages for its errors.

Knows nothing of versions. Credentials are bound to the host that they are for. Whatever a server sends has an end:
heads and small answers by size and time, bodies by what they said of themselves and by a pace.
"""

import base64
import hashlib
import socket
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias
from urllib.parse import urljoin, urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter

from slipway_agent.config import show_url
from slipway_agent.model.errors import AgentError, Reason, SpecError, TransientError
from slipway_agent.model.ledger import describe_bytes
from slipway_agent.sources.base import Progress
from slipway_agent.volume.digest import CHUNK_BYTES

CONNECT_SECONDS = 10.0
READ_SECONDS = 30.0
REDIRECT_LIMIT = 10
RETRY_AFTER_LIMIT_SECONDS = 600.0
REDIRECTS = (301, 302, 303, 307, 308)
HEAD_SECONDS = 60.0  # until an answer's status and headers are there, however they drip
SMALL_SECONDS = 60.0  # until an answer that is read whole is there
SLOW_SECONDS = 300.0  # in which CHUNK_BYTES of a body must come, or its end: 3.5 KB/s


@contextmanager
def ended_after(seconds: float, end: Callable[[], None]) -> Iterator[threading.Event]:
    """Calls `end` after that time unless the block is done by then; the event is set where it was called."""
    is_over = threading.Event()

    def run() -> None:
        is_over.set()
        with suppress(OSError, ValueError, RuntimeError):
            end()

    timer = threading.Timer(seconds, run)
    timer.daemon = True
    timer.start()
    try:
        yield is_over
    finally:
        timer.cancel()


@contextmanager
def _head_in_time(connection: Any) -> Iterator[None]:
    """TimeoutError, which becomes requests' own, where an answer's head doesn't come: timeouts are for each byte."""

    def end() -> None:
        connection.shutdown(socket.SHUT_RDWR)

    with ended_after(HEAD_SECONDS, end) as is_over:
        try:
            yield
        except Exception as cause:
            if is_over.is_set():
                raise TimeoutError from cause
            raise
        if is_over.is_set():
            raise TimeoutError  # headers that break off count as whole, to http.client


class _HttpConnection(urllib3.connection.HTTPConnection):
    def getresponse(self) -> urllib3.response.HTTPResponse:  # type: ignore[override]  # as urllib3's own
        with _head_in_time(self.sock):
            return super().getresponse()


class _HttpsConnection(urllib3.connection.HTTPSConnection):
    def getresponse(self) -> urllib3.response.HTTPResponse:  # type: ignore[override]  # as urllib3's own
        with _head_in_time(self.sock):
            return super().getresponse()


class _HttpPool(urllib3.HTTPConnectionPool):
    ConnectionCls = _HttpConnection


class _HttpsPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _HttpsConnection


class _Adapter(HTTPAdapter):
    """Pools whose connections have a deadline for an answer's head, through a proxy too."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _HttpPool, "https": _HttpsPool}

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(proxy, **kwargs)
        if not proxy.lower().startswith("socks"):
            manager.pool_classes_by_scheme = {"http": _HttpPool, "https": _HttpsPool}
        return manager


class Session(requests.Session):
    def __init__(self) -> None:
        super().__init__()
        for scheme in ("https://", "http://"):
            self.mount(scheme, _Adapter())

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        """None: even with redirects off, requests would read a redirect's whole body into memory for the next hop."""


class Authorization(requests.auth.AuthBase):
    """The header for requests to the host of one URL, and nothing for any other."""

    def __init__(self, value: str, url: str) -> None:
        self._value = value
        self._origin = _origin(url)

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if _origin(request.url or "") == self._origin:
            request.headers["Authorization"] = self._value
        return request


def encode_basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"https": 443, "http": 80}.get(parts.scheme)


def _no_authorization(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Keeps requests from looking for a password in ~/.netrc."""
    return request


JudgeRedirect: TypeAlias = Callable[[str, str, str], None]
"""(from, to, its host): SpecError(RedirectRefused) for a hop that isn't followed."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """How a host is asked."""

    session: Session
    ca_file: str | None
    read_seconds: float

    def ask(
        self, method: str, url: str, headers: Mapping[str, str], authorization: str | None, judge: JudgeRedirect
    ) -> requests.Response:
        """The final response, its body unread. Redirects are followed by hand, so that each hop can be judged."""
        here = url
        for _ in range(REDIRECT_LIMIT + 1):
            try:
                response = self.session.request(
                    method,
                    here,
                    headers={"Accept-Encoding": "identity", "User-Agent": "slipway-agent", **headers},
                    auth=_no_authorization if authorization is None else Authorization(authorization, url),
                    stream=True,
                    allow_redirects=False,
                    timeout=(CONNECT_SECONDS, self.read_seconds),
                    verify=self.ca_file or True,  # per request: a session's own gives way to the environment's
                )
            except (requests.RequestException, OSError, ValueError) as cause:
                raise explain_connection(cause, here, self.ca_file) from cause
            if response.status_code not in REDIRECTS:
                return response
            target, host = _read_target(here, response.headers.get("Location", ""))
            response.close()
            judge(here, target, host)
            here = target
        message = f"{show_url(url)} redirects more than {REDIRECT_LIMIT} times. Write its final address"
        raise SpecError(Reason.REDIRECT_REFUSED, message)


@dataclass(frozen=True, slots=True)
class BodyLimit:
    """How many bytes a body may have, and what is raised at one more."""

    most_bytes: int
    refusal: AgentError


def read_small(response: requests.Response, url: str, limit_bytes: int, what: str) -> bytes:
    """A whole body, unpacked where it was packed unasked.

    SpecError(UnsupportedArchive) where it is larger than the limit, packed or not; TransientError where it is too slow.
    """
    packed, unpacked = b"", b""
    with ended_after(SMALL_SECONDS, response.raw.shutdown) as is_over:
        try:
            packed = response.raw.read(limit_bytes + 1, decode_content=False)
        except Exception as cause:
            if not is_over.is_set():
                raise explain_connection(OSError(_innermost(cause)), url, None) from cause
    if is_over.is_set():
        raise TransientError(
            f"{urlsplit(url).netloc} didn't send {what} within {SMALL_SECONDS:.0f} s; it is tried again"
        )
    unpacked = packed
    if response.headers.get("Content-Encoding", "identity").lower() in ("gzip", "deflate", "x-gzip"):
        with suppress(zlib.error):  # what isn't packed after all is taken as it is
            unpacked = zlib.decompressobj(zlib.MAX_WBITS | 32).decompress(packed, limit_bytes + 1)
    if max(len(packed), len(unpacked)) > limit_bytes:
        raise SpecError(
            Reason.UNSUPPORTED_ARCHIVE,
            f"{urlsplit(url).netloc} sends more than {describe_bytes(limit_bytes)} as {what}, and no more than that is "
            "read. Check that it is what the URI means",
        )
    return unpacked


def store_body(
    response: requests.Response,
    url: str,
    path: Path,
    begun_bytes: int,
    progress: Progress,
    *,
    limit: BodyLimit | None = None,
) -> tuple[str, int]:
    """Write the body behind the first `begun_bytes` of the file: the whole file's sha256 and size. OSError of the disk.

    The bytes are stored undecoded: a .tar.gz sent with Content-Encoding: gzip stays the file whose digest is pinned.
    `limit` counts those that were begun.
    """
    with path.open("r+b" if begun_bytes else "wb") as file:
        digest = digest_beginning(file, begun_bytes)
        if begun_bytes:
            file.truncate(begun_bytes)
        stored_bytes = begun_bytes
        for chunk in _stream(response, url, progress):
            stored_bytes += len(chunk)
            if limit is not None and stored_bytes > limit.most_bytes:
                raise limit.refusal
            digest.update(chunk)
            file.write(chunk)
            progress.add(len(chunk))
    return digest.hexdigest(), stored_bytes


def _stream(response: requests.Response, url: str, progress: Progress) -> Iterator[bytes]:
    chunks = response.raw.stream(CHUNK_BYTES, decode_content=False)
    progress.call_off_by(response.raw.shutdown)
    with _Pace(response.raw.shutdown) as pace:
        while True:
            try:
                chunk = next(chunks, None)
            except (urllib3.exceptions.HTTPError, requests.RequestException, OSError, ValueError) as cause:
                progress.check()
                words = pace.words or f"broke after {progress.fetched_bytes} bytes ({_innermost(cause)})"
                raise TransientError(
                    f"the connection to {urlsplit(url).netloc} {words}; it goes on from there"
                ) from cause
            if chunk is None:
                progress.check()  # a read that was called off looks like an end
                if pace.words:
                    raise TransientError(
                        f"the connection to {urlsplit(url).netloc} {pace.words}; it goes on from there"
                    )
                return
            pace.count(len(chunk))
            yield chunk


class _Pace:
    """Ends a body that drips: a read waits for whole chunks, and its own time-out is for each byte."""

    def __init__(self, end: Callable[[], None]) -> None:
        self._end = end
        self._stop = threading.Event()
        self._bytes = 0
        self._deadline = time.monotonic() + SLOW_SECONDS
        self._thread = threading.Thread(target=self._watch, name="pace", daemon=True)
        self.words = ""

    def count(self, size_bytes: int) -> None:
        """What came: a server may send it in pieces of one byte."""
        self._bytes += size_bytes
        if self._bytes >= CHUNK_BYTES:
            self._bytes, self._deadline = 0, time.monotonic() + SLOW_SECONDS

    def __enter__(self) -> "_Pace":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()

    def _watch(self) -> None:
        while not self._stop.wait(max(self._deadline - time.monotonic(), 0.01)):
            if time.monotonic() >= self._deadline:
                size = describe_bytes(CHUNK_BYTES)
                self.words = f"brought less than {size} within {SLOW_SECONDS:.0f} s, which is too slow"
                with suppress(OSError, ValueError, RuntimeError):
                    self._end()
                return


def digest_beginning(file: BinaryIO, size_bytes: int) -> "hashlib._Hash":
    """The digest so far of a file's first bytes; leaves the file positioned after them."""
    digest = hashlib.sha256()
    while file.tell() < size_bytes:
        digest.update(file.read(min(CHUNK_BYTES, size_bytes - file.tell())))
    return digest


def _read_target(here: str, location: str) -> tuple[str, str]:
    """Where a redirect leads, and its host for a message."""
    try:
        target = urljoin(here, location)
        return target, urlsplit(target).hostname or "an address without a host"
    except ValueError:
        return "", f"an address that can't be read ({location[:100]})"


def length_of(response: requests.Response) -> int | None:
    length = response.headers.get("Content-Length", "")
    return int(length) if length.isascii() and length.isdigit() and len(length) < 19 else None


def retry_after_seconds(response: requests.Response) -> float | None:
    """Seconds or a date (RFC 9110, 10.2.3), within reason; None when the server asked for nothing readable."""
    word = response.headers.get("Retry-After", "")
    if word.isascii() and word.isdigit() and len(word) < 19:
        return min(float(word), RETRY_AFTER_LIMIT_SECONDS)
    try:
        wanted = parsedate_to_datetime(word)
    except (ValueError, TypeError, OverflowError):
        return None
    if wanted.tzinfo is None:
        return None
    return min(max((wanted - datetime.now(UTC)).total_seconds(), 0.0), RETRY_AFTER_LIMIT_SECONDS)


def explain_connection(cause: Exception, url: str, ca_file: str | None) -> AgentError:
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
