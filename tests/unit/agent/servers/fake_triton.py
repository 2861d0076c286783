"""Triton's repository and readiness endpoints, for speed: they behave as measured on 2.51, and load nothing.

A version whose model.onnx says `broken` fails to load, `deadly` ends the server, `slow` takes 0.3 s, `mute` answers no
request well; any other answers with its content. With `answers_loads` False a load is done and nobody is told until the
server is killed. Loads go by gRPC, all else by HTTP. The real server is met by tests/e2e/agent.
"""

import threading
import time
from collections import deque
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc

from slipway_agent.servers.triton.config import read_versions
from tests.ports import free_port
from tests.unit.agent.servers.fake_http import FakeServer, Said

TENSOR = {"name": "x", "datatype": "FP32", "shape": [-1, 2]}
METADATA = {"inputs": [TENSOR, TENSOR | {"name": "seed"}], "outputs": [TENSOR | {"name": "y"}]}


class FakeTriton(FakeServer):
    model_file = "model.onnx"

    def __init__(self, folder: Path, key: str | None = None) -> None:
        super().__init__(folder)
        self.key = key
        self.grpc_port = free_port()
        self.loaded: dict[int, str] = {}
        self.loads: list[tuple[int, ...]] = []
        self.lives = 0
        self.words = "Internal: not an ONNX model"
        self.requests: list[int] = []
        self.is_backend_dead = False  # every request fails, and Triton calls all versions ready
        self.delay_seconds = 0.0
        self.gates: deque[threading.Event] = deque()  # each holds up one load of something else until it is set
        self.answers_loads = True
        self.killed = threading.Event()
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.described: list[int] = []
        self.silent_times = 0
        self._grpc_server: grpc.Server | None = None

    def boot(self) -> None:
        """Load what the boot configuration names, as `--load-model` with `--exit-on-error=false` does."""
        self.loaded = {}
        self.lives += 1
        self.killed.clear()
        with suppress(FileNotFoundError, RuntimeError):
            self.load()

    def start(self) -> None:
        super().start()
        self._grpc_server = self._start_grpc()

    def answer(self, method: str, path: str, body: Any, headers: Mapping[str, str]) -> Said:
        if path == "/v2/repository/index":
            is_allowed = self.key is None or headers.get("slipway-agent") == self.key
            return (200, self.index()) if is_allowed else (403, {"error": "This API is restricted"})
        version, _, what = path.removeprefix(f"/v2/models/{self.model}/versions/").partition("/")
        content = self.loaded.get(int(version))
        if what == "infer":
            self.requests.append(int(version))
            self.may_answer.wait(10)
            if self.is_backend_dead:
                return 500, {"error": "Failed to process the request: stub process is not healthy"}
            if content in (None, "mute"):
                return 400, {"error": "unexpected shape"}
            return 200, {"outputs": [{"name": "y", "datatype": "BYTES", "shape": [1], "data": [content]}]}
        if what == "ready" or content is None:
            return 200 if content is not None else 400, ""
        if what == "config":
            return 200, {"input": [{"name": "x"}, {"name": "seed", "optional": True}]}
        self.described.append(int(version))
        is_silent = len(self.described) <= self.silent_times
        return (503, {"error": "busy"}) if is_silent else (200, METADATA)

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
        loading, self._grpc_server = self._grpc_server, None
        self.loaded = {}
        super().kill()  # HTTP first: whoever learns of the end by the load that is cut off finds nobody there
        if loading is not None:
            loading.stop(None)
        self.killed.set()

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
                found[version] = self.read(version)
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
