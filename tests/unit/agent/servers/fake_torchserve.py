"""TorchServe's management API, for speed: it behaves as measured on 0.12.0, and loads nothing.

A version whose factor.txt says `broken` fails to load, with a worker's traceback in the log, and again soon after; that
of `killed` ends without a word. `deadly` ends the server; `stuck` stays without a ready worker. The real server is met
by tests/e2e/agent.
"""

import http.server
import json
import socket
import threading
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from slipway_agent.servers.torchserve.files import MANIFEST, PROPERTIES

TRACEBACK = """\
Backend worker process died.
Traceback (most recent call last):
  File "/opt/torchserve/ts/model_loader.py", line 143, in load
    initialize_fn(service.context)
  File "/models/repository/digits/3/handler.py", line 3, in initialize
    raise ValueError("no vocabulary")
ValueError: no vocabulary
"""


@dataclass(slots=True)
class Entry:
    url: str
    workers: list[dict[str, object]]


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A connection that a dying server cuts."""


class FakeTorchServe:
    """`calls`: what was asked that changes something, in order."""

    def __init__(self, repository: Path, log: Path, model: str, port: int) -> None:
        self.folder, self.log = repository / model, log
        self.model, self.port = model, port
        self.versions: dict[int, Entry] = {}
        self.default: int | None = None
        self.calls: list[str] = []
        self._server: _Server | None = None

    def start(self) -> None:
        """Register what config.properties names, then listen."""
        self.versions, self.default = {}, None
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.log.write_text("")
        with suppress(FileNotFoundError):
            for line in (self.folder / PROPERTIES).read_text().splitlines():
                if line.startswith("load_models="):
                    for entry in line.removeprefix("load_models=").split(","):
                        self.register(entry.partition("=")[2])
        fake = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                named = urlsplit(self.path).path.removeprefix(f"/models/{fake.model}").strip("/")
                if named == "all":
                    found = list(fake.versions)
                else:
                    found = [fake.default] if not named and fake.default in fake.versions else []
                self.reply(200, [fake.describe(each) for each in found]) if found else self.reply(404)

            def do_POST(self) -> None:
                url = parse_qs(urlsplit(self.path).query)["url"][0]
                fake.calls.append(f"register {url.rpartition('/')[2]}")
                try:
                    fake.register(url)
                except RuntimeError:
                    self.connection.shutdown(socket.SHUT_RDWR)
                    fake.kill()
                    return
                self.reply(202)

            def do_PUT(self) -> None:
                version = int(self.path.split("/")[-2])
                fake.calls.append(f"default {version}")
                fake.default = version
                self.reply(200)

            def do_DELETE(self) -> None:
                version = int(self.path.rpartition("/")[2])
                if version == fake.default and len(fake.versions) > 1:
                    self.reply(403, {"code": 403, "message": "Cannot remove default version for model digits"})
                    return
                fake.calls.append(f"unregister {version}")
                del fake.versions[version]
                self.reply(200)

            def reply(self, status: int, body: object = None) -> None:
                content = b"" if body is None else json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *args: object) -> None:
                """Quiet."""

        self._server = _Server(("127.0.0.1", self.port), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.005,), daemon=True).start()

    def kill(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()

    def register(self, url: str) -> None:
        folder = Path(url)
        said = json.loads((folder / MANIFEST).read_text())["model"]["modelVersion"]
        content = (folder / "factor.txt").read_text()
        if content == "deadly":
            raise RuntimeError
        version = int(said)
        is_ready = content not in ("broken", "stuck", "killed")
        worker: dict[str, object] = {
            "status": "READY" if is_ready else "UNLOADING",
            "startTime": datetime.now(UTC).isoformat(),
        }
        self.versions[version] = Entry(url, [worker])
        if self.default not in self.versions:
            self.default = version
        words = {"broken": TRACEBACK, "killed": "Torch worker started.\n"}.get(content, "")
        self.say(version, words)
        threading.Timer(0.05, self.say, (version, words)).start()  # it is tried again

    def say(self, version: int, words: str) -> None:
        """Lines of a worker of this version."""
        with self.log.open("a") as log:
            for line in words.splitlines():
                log.write(f"W-9000-{self.model}_{version}-stdout {line}\n")

    def describe(self, version: int) -> dict[str, object]:
        entry = self.versions[version]
        waiting = {"remainingCapacity": 100, "pendingRequests": 0}
        return {"modelVersion": str(version), "workers": entry.workers, "jobQueueStatus": waiting}
