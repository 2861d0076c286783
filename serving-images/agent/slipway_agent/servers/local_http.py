"""One HTTP request to the server in the same pod. No connection is kept, but by who asks with `look`: an open one may
hold up the server's end.

The server runs a stranger's model, which may answer in its place: an answer has a size and a time in all.
Knows nothing of any server; used by drivers only.
"""

import http.client
import io
import json
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from slipway_agent.model.errors import TransientError
from slipway_agent.model.ledger import describe_bytes
from slipway_agent.model.untrusted_json import parse_json
from slipway_agent.servers.base import REQUEST_SECONDS, Answer

HOST = "127.0.0.1"
ASK_SECONDS = 2.0
ANSWER_BYTES = 4 << 20  # of what a server says of itself and its models
PREDICTION_BYTES = 16 << 20
WORDS_LIMIT = 2000  # characters of a server's complaint that a status can carry

LOST = (OSError, http.client.HTTPException)
"""What `ask` raises when the server isn't there, or ends in the middle. TimeoutError and ConnectionRefusedError too."""


class TooLargeError(http.client.HTTPException):
    """An answer of more bytes than are read."""


class _TimedReader(io.RawIOBase):
    """A socket whose reads end by one deadline together, where a time-out would begin anew with each byte."""

    def __init__(self, reading: socket.socket, deadline: float | None) -> None:
        self._reading = reading
        self._deadline = deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if self._deadline is not None:
            left_seconds = self._deadline - time.monotonic()
            if left_seconds <= 0:
                raise TimeoutError("timed out")
            self._reading.settimeout(left_seconds)
        return self._reading.recv_into(buffer)


class _TimedSocket:
    """What http.client needs of a socket. It closes one before an answer without a length is read: not this one."""

    def __init__(self, opened: socket.socket, seconds: float | None) -> None:
        self._opened = opened
        self._deadline = None if seconds is None else time.monotonic() + seconds
        opened.settimeout(seconds)
        self.sendall = opened.sendall

    def close(self) -> None:
        """Done by who opened it."""

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(_TimedReader(self._opened, self._deadline))


@dataclass(frozen=True, slots=True)
class LocalHttp:
    """The server's HTTP port, and headers that go with every request."""

    port: int
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    def ask(
        self,
        method: str,
        path: str,
        seconds: float | None = ASK_SECONDS,
        body: object = None,
        *,
        limit_bytes: int = ANSWER_BYTES,
    ) -> tuple[int, bytes]:
        """Status and body. `body` travels as JSON; `seconds`, for the whole answer, None: as long as the server lives.

        Raises one of LOST; TooLargeError, which is one, for an answer of more than `limit_bytes`.
        """
        headers = {"Connection": "close", **self.headers}
        content = None
        if body is not None:
            content = json.dumps(body).encode()
            headers["Content-Type"] = "application/json"
        with socket.create_connection((HOST, self.port), ASK_SECONDS) as opened:
            opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = http.client.HTTPConnection(HOST, self.port)
            # a load may take minutes; a server that died resets the connection
            connection.sock = _TimedSocket(opened, seconds)
            connection.request(method, path, content, headers)
            with connection.getresponse() as response:
                return response.status, _read_bounded(response, f"{method} {path}", limit_bytes)

    def look(self, path: str) -> tuple[bytes, socket.socket | None]:
        """The body that GET is answered with, and the connection where the server holds that open: its end shows the
        server's. Bounds and errors are those of `ask`."""
        opened = socket.create_connection((HOST, self.port), ASK_SECONDS)
        try:
            connection = http.client.HTTPConnection(HOST, self.port)
            connection.sock = _TimedSocket(opened, ASK_SECONDS)
            connection.request("GET", path, headers=self.headers)
            with connection.getresponse() as response:
                said, is_over = _read_bounded(response, f"GET {path}", ANSWER_BYTES), response.will_close
        except BaseException:
            opened.close()
            raise
        if is_over:
            opened.close()
        return said, None if is_over else opened

    def predict(
        self,
        path: str,
        body: object,
        seconds: float = REQUEST_SECONDS,
        read_complaint: Callable[[int, bytes], str] | None = None,
    ) -> Answer:
        """A predict request. `read_complaint` reads the message of an answer that isn't 200; default: `read_words`."""
        began = time.monotonic()
        try:
            status, said = self.ask("POST", path, seconds, body, limit_bytes=PREDICTION_BYTES)
        except TimeoutError:
            return Answer(f"no answer within {seconds:.0f} s")
        except LOST as cause:
            return Answer(f"the connection broke ({explain_lost(cause)})")
        if status != 200:
            return Answer((read_complaint or read_words)(status, said), status=status)
        return Answer(None, said, time.monotonic() - began, status)

    def describe(self, path: str) -> tuple[int, bytes]:
        """Status and body of what the server says of a model. TransientError when it says nothing now."""
        try:
            return self.ask("GET", path)
        except LOST as cause:
            raise TransientError(f"GET {path}: {explain_lost(cause)}") from cause


def _read_bounded(response: http.client.HTTPResponse, what: str, limit_bytes: int) -> bytes:
    said = response.read(limit_bytes + 1)
    if len(said) > limit_bytes:
        raise TooLargeError(f"{what} is answered with more than {describe_bytes(limit_bytes)}")
    if response.length:  # what is left of the length that it said
        raise http.client.IncompleteRead(said, response.length)
    return said


def explain_lost(cause: Exception) -> str:
    return str(cause) or type(cause).__name__


def read_words(status: int, body: bytes, field: str = "error") -> str:
    """The server's complaint: the JSON field `error` where there is one, as most servers have it."""
    try:
        said = str(parse_json(body)[field])
    except (ValueError, KeyError, TypeError):
        said = body.decode(errors="replace").strip() or f"status {status} without a word"
    return said[:WORDS_LIMIT]
