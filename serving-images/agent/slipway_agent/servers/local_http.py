"""One HTTP request to the server in the same pod. No connection is kept: an open one would hold up the server's end.

Knows nothing of any server; used by drivers only.
"""

import http.client
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from slipway_agent.model.errors import TransientError
from slipway_agent.servers.base import REQUEST_SECONDS, Answer

HOST = "127.0.0.1"
ASK_SECONDS = 2.0
WORDS_LIMIT = 2000  # characters of a server's complaint that a status can carry

LOST = (OSError, http.client.HTTPException)
"""What `ask` raises when the server isn't there, or ends in the middle. TimeoutError and ConnectionRefusedError too."""


@dataclass(frozen=True, slots=True)
class LocalHttp:
    """The server's HTTP port, and headers that go with every request."""

    port: int
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    def ask(
        self, method: str, path: str, seconds: float | None = ASK_SECONDS, body: object = None
    ) -> tuple[int, bytes]:
        """Status and body. `body` travels as JSON; `seconds` None: as long as the server lives. Raises one of LOST."""
        connection = http.client.HTTPConnection(HOST, self.port, timeout=ASK_SECONDS)
        headers = {"Connection": "close", **self.headers}
        content = None
        if body is not None:
            content = json.dumps(body).encode()
            headers["Content-Type"] = "application/json"
        try:
            connection.connect()
            connection.sock.settimeout(seconds)  # a load may take minutes; a server that died resets the connection
            connection.request(method, path, content, headers)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

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
            status, said = self.ask("POST", path, seconds, body)
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


def explain_lost(cause: Exception) -> str:
    return str(cause) or type(cause).__name__


def read_words(status: int, body: bytes, field: str = "error") -> str:
    """The server's complaint: the JSON field `error` where there is one, as most servers have it."""
    try:
        said = str(json.loads(body)[field])
    except (ValueError, KeyError, TypeError):
        said = body.decode(errors="replace").strip() or f"status {status} without a word"
    return said[:WORDS_LIMIT]
