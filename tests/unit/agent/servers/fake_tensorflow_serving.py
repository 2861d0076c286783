"""TensorFlow Serving's polled file, status and labels, for speed: it behaves as the stand-in does, and loads nothing.

A version whose saved_model.pb says `broken` fails to load, `deadly` ends the server, `slow` takes 0.3 s. The file is
read every 20 ms. The stand-in, with real SavedModels, is met by tests/e2e/agent.
"""

from __future__ import annotations

import http.server
import json
import re
import threading
import time
from contextlib import suppress
from pathlib import Path

from slipway_agent.servers.tensorflow_serving.config import ModelConfig, read_models

POLL_SECONDS = 0.02
_LABEL = re.compile(r"/labels/([^/]+)/metadata")
_PREDICT = re.compile(r"/versions/(\d+):predict")


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A connection that a dying server cuts."""


class FakeTensorFlowServing:
    def __init__(self, folder: Path, port: int) -> None:
        self.folder, self.port = folder, port
        self.states: dict[int, tuple[str, str]] = {}
        self.labels: dict[str, int] = {}
        self.taken: list[ModelConfig] = []
        self.asked = 0
        self.polls = True
        self._server: _Server | None = None
        self._ended = threading.Event()
        self._failed: set[int] = set()

    @property
    def is_up(self) -> bool:
        return self._server is not None

    def start(self) -> None:
        """Load what the file names, labels without asking, then listen and poll."""
        self.states, self.labels, self._failed, self.taken = {}, {}, set(), []
        self._ended = threading.Event()
        config = self._read()
        self.labels = dict(config.labels)
        self._hold(config)
        if self._ended.is_set():
            return
        fake = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                label = _LABEL.search(self.path)
                if label is None:
                    fake.asked += 1
                    self.reply(200, fake.status())
                elif label[1] in fake.labels:
                    self.reply(200, {"model_spec": {"version": str(fake.labels[label[1]])}})
                else:
                    self.reply(400, {"error": f"Unrecognized servable version label: {label[1]}"})

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))))
                version = int(_PREDICT.search(self.path)[1])  # type: ignore[index]
                if fake.states.get(version, ("", ""))[0] != "AVAILABLE":
                    self.reply(404, {"error": f"Servable not found for request: Specific(digits, {version})"})
                elif "instances" not in body:
                    self.reply(400, {"error": "Missing 'inputs' or 'instances' key"})
                else:
                    self.reply(200, {"predictions": body["instances"]})

            def reply(self, status: int, body: object) -> None:
                content = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *args: object) -> None:
                """Quiet."""

        self._server = _Server(("127.0.0.1", self.port), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.005,), daemon=True).start()
        threading.Thread(target=self._poll, args=(self._ended,), daemon=True).start()

    def kill(self) -> None:
        ended = self._ended
        server, self._server = self._server, None  # from here on another may start
        ended.set()
        if server is not None:
            server.shutdown()
            server.server_close()

    def status(self) -> dict[str, object]:
        return {
            "model_version_status": [
                {
                    "version": str(version),
                    "state": state,
                    "status": {"error_code": "DATA_LOSS" if words else "OK", "error_message": words},
                }
                for version, (state, words) in sorted(self.states.items(), reverse=True)
            ]
        }

    def _read(self) -> ModelConfig:
        with suppress(FileNotFoundError):
            return read_models((self.folder / "models.config").read_text())
        return ModelConfig()

    def _poll(self, ended: threading.Event) -> None:
        while not ended.wait(POLL_SECONDS):
            if not self.polls:
                continue
            config = self._read()
            available = {version for version, (state, _) in self.states.items() if state == "AVAILABLE"}
            if not set(config.labels.values()) <= available:
                continue  # refused as a whole
            if not self.taken or self.taken[-1] != config:
                self.taken.append(config)
            self.labels = dict(config.labels)
            self._hold(config)

    def _hold(self, config: ModelConfig) -> None:
        """New ones first, then what is no longer named goes."""
        ended = self._ended
        self._failed &= config.versions
        for version in sorted(config.versions, reverse=True):
            if version in self._failed or self.states.get(version, ("", ""))[0] == "AVAILABLE":
                continue
            try:
                content = (self.folder / str(version) / "saved_model.pb").read_text()
            except FileNotFoundError:
                continue
            self.states[version] = ("LOADING", "")
            if content == "deadly":
                threading.Thread(target=self.kill).start()
                ended.wait()
                return
            if content == "slow":
                time.sleep(0.3)
            if content == "broken":
                self._failed.add(version)
                self.states[version] = ("END", f"Can't parse version {version} as binary proto")
            else:
                self.states[version] = ("AVAILABLE", "")
        for version, (state, _) in list(self.states.items()):
            if version not in config.versions and state == "AVAILABLE":
                self.states[version] = ("END", "")
