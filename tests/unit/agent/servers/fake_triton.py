"""Triton's repository and readiness endpoints, for speed: they behave as measured on 2.51, and load nothing.

A version whose model.onnx says `broken` fails to load, `deadly` ends the server, `slow` takes 0.3 s, `mute` answers no
request well; any other answers with its content. With `answers_loads` False a load is done and nobody is told until the
server is killed. Loads go by gRPC, all else by HTTP. The real server is met by tests/e2e/agent.
"""

import http.server
import json
import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import grpc

from slipway_agent.servers.triton.config import read_versions
from tests.ports import free_port

TENSOR = {"name": "x", "datatype": "FP32", "shape": [-1, 2]}
METADATA = {"inputs": [TENSOR, TENSOR | {"name": "seed"}], "outputs": [TENSOR | {"name": "y"}]}


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A connection that a dying server cuts."""


class FakeTriton:
    def __init__(self, repository: Path, model: str, port: int, key: str | None = None) -> None:
        self.folder = repository / model
        self.model, self.port, self.key = model, port, key
        self.grpc_port = free_port()
        self.loaded: dict[int, str] = {}
        self.loads: list[tuple[int, ...]] = []
        self.lives = 0
        self.words = "Internal: not an ONNX model"
        self.requests: list[int] = []
        self.delay_seconds = 0.0
        self.gates: deque[threading.Event] = deque()  # each holds up one load of something else until it is set
        self.answers_loads = True
        self.killed = threading.Event()
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.described: list[int] = []
        self.silent_times = 0
        self._server: _Server | None = None
        self._grpc_server: grpc.Server | None = None

    @property
    def is_up(self) -> bool:
        return self._server is not None

    def start(self) -> None:
        """Load what the boot configuration names, then listen, as `--load-model` with `--exit-on-error=false` does."""
        self.loaded = {}
        self.lives += 1
        self.killed.clear()
        with suppress(FileNotFoundError, RuntimeError):
            self.load()
        fake = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                version, _, what = self.path.removeprefix(f"/v2/models/{fake.model}/versions/").partition("/")
                is_loaded = version.isdigit() and int(version) in fake.loaded
                if what == "ready" or not is_loaded:
                    self.reply(200 if is_loaded else 400)
                elif what == "config":
                    self.reply(200, {"input": [{"name": "x"}, {"name": "seed", "optional": True}]})
                else:
                    fake.described.append(int(version))
                    silent = len(fake.described) <= fake.silent_times
                    self.reply(503, {"error": "busy"}) if silent else self.reply(200, METADATA)

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                if fake.key is not None and self.headers.get("slipway-agent") != fake.key:
                    self.reply(403, {"error": "This API is restricted, expecting header 'slipway-agent'"})
                elif self.path == "/v2/repository/index":
                    self.reply(200, fake.index())
                elif self.path.endswith("/infer"):
                    version = int(self.path.split("/")[-2])
                    fake.requests.append(version)
                    fake.may_answer.wait(10)
                    content = fake.loaded.get(version)
                    outputs = [{"name": "y", "datatype": "BYTES", "shape": [1], "data": [content]}]
                    is_mute = content in (None, "mute")
                    self.reply(400, {"error": "unexpected shape"}) if is_mute else self.reply(200, {"outputs": outputs})
                else:
                    self.reply(404, {"error": "no such endpoint"})

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
        self._grpc_server = self._start_grpc()

    def _start_grpc(self) -> grpc.Server:
        handler = grpc.unary_unary_rpc_method_handler(self._take_load)
        name = "inference.GRPCInferenceService"
        service = grpc.method_handlers_generic_handler(name, {"RepositoryModelLoad": handler})
        server = grpc.server(ThreadPoolExecutor(4), handlers=[service])
        server.add_insecure_port(f"127.0.0.1:{self.grpc_port}")
        server.start()
        return server

    def _take_load(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        given = dict(context.invocation_metadata()).get("triton-grpc-protocol-slipway-agent")
        if self.key is not None and given != self.key:
            words = "This protocol is restricted, expecting header 'triton-grpc-protocol-slipway-agent'"
            context.abort(grpc.StatusCode.UNAVAILABLE, words)
        assert request.endswith(self.model.encode())
        try:
            failed = self.load()
        except RuntimeError:
            self.kill()
            return b""
        if not self.answers_loads:
            self.killed.wait()
            return b""
        if failed:
            context.abort(grpc.StatusCode.INTERNAL, failed)
        return b""

    def kill(self) -> None:
        server, self._server = self._server, None
        loading, self._grpc_server = self._grpc_server, None
        self.loaded = {}
        if loading is not None:
            loading.stop(None)  # what it was loading is cut off
        self.killed.set()
        if server is not None:
            server.shutdown()
            server.server_close()

    def index(self) -> list[dict[str, str]]:
        return [{"name": self.model, "version": str(version), "state": "READY"} for version in sorted(self.loaded)]

    def load(self) -> str:
        """Triton's words when it fails, with what was loaded left as it was; empty when it succeeds."""
        life = self.lives
        wanted = read_versions((self.folder / "config.pbtxt").read_text())
        self.loads.append(tuple(sorted(wanted)))
        time.sleep(self.delay_seconds)
        found: dict[int, str] = {}
        for version in sorted(wanted):
            with suppress(FileNotFoundError):
                found[version] = (self.folder / str(version) / "model.onnx").read_text()
        if "deadly" in found.values():
            raise RuntimeError
        if self.gates and found != self.loaded:
            self.gates.popleft().wait(10)
        if "slow" in found.values() and found != self.loaded:
            time.sleep(0.3)
        broken = [version for version, content in found.items() if content == "broken"]
        if broken:
            said = "".join(f"version {each} is at UNAVAILABLE state: {self.words};\n" for each in broken)
            return f"load failed for model '{self.model}': {said}"
        if life == self.lives:  # else it went with the server
            self.loaded = found
        return ""
