"""HTTP servers on the loopback that start and end as a model server's process does, and answer as a test says."""

from __future__ import annotations

import http.server
import json
import socket
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.ports import free_port

Said = tuple[int, Any] | None
"""Status, and JSON or text; None: the connection is cut without an answer."""
Answer = Callable[[str, str, Any], Said]


def some(*versions: int) -> frozenset[int]:
    return frozenset(versions)


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A connection that a dying server cuts."""


class FakeServer:
    """`folder`: the model's, in the repository. A version's model is its file `model_file`, whose text says how it
    behaves. Another server overrides `answer`, and does in `boot` what a server does before it listens."""

    model_file = "model"
    model = "digits"

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self._server: _Server | None = None
        self._open: set[socket.socket] = set()

    @property
    def is_up(self) -> bool:
        return self._server is not None

    def put(self, **versions: str) -> None:
        """put(v3="three"): a version's folder with a model that says `three`."""
        for name, content in versions.items():
            folder = self.folder / name.removeprefix("v")
            folder.mkdir(parents=True, exist_ok=True)
            (folder / self.model_file).write_text(content)

    def read(self, version: int) -> str:
        return (self.folder / str(version) / self.model_file).read_text()

    def boot(self) -> None:
        """Load what the boot configuration names."""

    def answer(self, method: str, path: str, body: Any, headers: Mapping[str, str]) -> Said:
        raise NotImplementedError

    def start(self) -> None:
        self.boot()
        self.listen()

    def listen(self) -> None:
        fake = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                fake._open.add(self.connection)

            def finish(self) -> None:
                fake._open.discard(self.connection)
                super().finish()

            def take(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(length)) if length else None
                said = fake.answer(self.command, self.path, body, dict(self.headers))
                if said is None:
                    self.close_connection = True
                    return
                content = said[1].encode() if isinstance(said[1], str) else json.dumps(said[1]).encode()
                self.send_response(said[0])
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *args: object) -> None:
                """Quiet."""

        for method in ("GET", "POST", "PUT", "DELETE"):
            setattr(Handler, f"do_{method}", Handler.take)
        self._server = _Server(("127.0.0.1", self.port), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.005,), daemon=True).start()

    def kill(self) -> None:
        server, self._server = self._server, None  # from here on another may start
        if server is None:
            return
        server.shutdown()
        server.server_close()
        for connection in list(self._open):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class FakeHttp(FakeServer):
    """A server that is up from the beginning and answers by a function. `asked`: method, path, body, headers."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(Path("nowhere"))
        self.asked: list[tuple[str, str, Any, Mapping[str, str]]] = []
        self._answer = answer
        self.start()

    def answer(self, method: str, path: str, body: Any, headers: Mapping[str, str]) -> Said:
        self.asked.append((method, path, body, headers))
        return self._answer(method, path, body)
