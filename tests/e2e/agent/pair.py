"""The agent and one server beside it, as processes on loopback: what the tests of this folder share.

A test module says how its server starts and what agent.json says of it (`Beside`); the rest is the same for all.
Must not import: anything of Kubernetes.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import requests
from onnx import TensorProto, helper
from tritonclient.utils import InferenceServerException

import slipway_agent
from tests.e2e.ask import UnansweredError, grpc_client, rest
from tests.ports import free_port

KEY = "only the agent knows it"
MODEL = "multiplier"


def multiplier(factor: float, opset: int = 17) -> bytes:
    """An ONNX model that multiplies its input, so that an answer tells which version gave it."""
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "factor"], ["y"])],
        MODEL,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", 2])],
        [helper.make_tensor("factor", TensorProto.FLOAT, [1], [factor])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    content: bytes = model.SerializeToString()
    return content


def infer_body(values: Any, name: str = "x") -> dict[str, Any]:
    """A request for the multiplier, in the Open Inference Protocol."""
    array = np.array(values, np.float32)
    data = array.ravel().tolist()
    return {"inputs": [{"name": name, "shape": list(array.shape), "datatype": "FP32", "data": data}]}


class Processes:
    """An agent and a server as processes: started, killed, and what the agent says. `folder` holds all of theirs."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.source, self.models = folder, folder / "source", folder / "models"
        self.source.mkdir()
        self.server_port, self.grpc_port, self.metrics_port, self.agent_port = (free_port() for _ in range(4))
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start_agent(self) -> None:
        command = [sys.executable, "-m", "slipway_agent", "--config", str(self.folder / "agent.json")]
        self._start(
            "agent",
            [*command, "--models", str(self.models), "--port", str(self.agent_port)],
            {"PYTHONPATH": str(Path(slipway_agent.__file__).parents[1]), "SLIPWAY_SERVER_KEY": KEY},
        )

    def _start(self, name: str, command: list[str], environment: dict[str, str]) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            self._running[name] = subprocess.Popen(
                command, env=environment, stdout=log, stderr=log, cwd=self.folder, start_new_session=True
            )

    def kill(self, name: str) -> None:
        """As a container ends: with everything that it started. (The agent's worker has a process group of its own, and
        ends with its supervisor.)"""
        running = self._running.pop(name)
        if running.poll() is None:
            os.killpg(running.pid, signal.SIGKILL)
        running.wait()

    def is_running(self, name: str) -> bool:
        return self._running[name].poll() is None

    def pid_of(self, name: str) -> int:
        return self._running[name].pid

    def stop(self) -> None:
        for name in list(self._running):
            self.kill(name)

    def probe(self, path: str) -> int:
        try:
            return requests.get(f"http://127.0.0.1:{self.agent_port}{path}", timeout=2).status_code
        except requests.RequestException:
            return 0

    def status(self) -> dict[str, Any]:
        """As soon as the agent's worker answers: the probes are good before that."""
        deadline = time.monotonic() + 15
        while True:
            answer = requests.get(f"http://127.0.0.1:{self.agent_port}/status", timeout=10)
            if answer.status_code == 200:
                found: dict[str, Any] = answer.json()
                return found
            assert time.monotonic() < deadline, answer.text
            time.sleep(0.05)

    def states(self) -> dict[int, str]:
        return {each["version"]: each["state"] for each in self.status()["versions"]}

    def message(self, version: int) -> str:
        (said,) = (each["message"] for each in self.status()["versions"] if each["version"] == version)
        return str(said)

    def until(self, condition: Callable[[], bool], seconds: float = 30.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, self.words()
            time.sleep(0.05)

    def words(self) -> str:
        return "\n".join((self.folder / f"{name}.log").read_text(errors="replace")[-4000:] for name in self._running)


class Beside(Processes):
    """An agent and a server. A subclass names `runtime` and `section` and says how its server starts.

    The source holds one ONNX file for each version that was `put`; `want` is the operator's word.
    """

    runtime: str
    section: str
    asks_by_grpc = True

    # what a subclass says

    def server_command(self) -> list[str]:
        raise NotImplementedError

    def server_environment(self) -> dict[str, str]:
        return {"PATH": "/usr/bin:/bin"}

    def settings(self) -> dict[str, Any]:
        return {"httpPort": self.server_port}

    # what happens

    def put(self, version: int, content: bytes | None = None) -> None:
        (self.source / str(version)).mkdir(exist_ok=True)
        place = self.source / str(version) / f"{MODEL}-{version}.onnx"
        place.write_bytes(multiplier(float(version)) if content is None else content)

    def put_broken(self, version: int) -> None:
        self.put(version, b"no model")

    def want(
        self,
        served: int,
        *others: int,
        warmup: tuple[Any, ...] = (),
        golden: dict[str, Any] | None = None,
        turn: dict[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        fields = {
            "schema": 1,
            "generation": f"{served}, {others}, {json.dumps([warmup, golden, turn])}, {settings}",
            "runtime": self.runtime,
            "model": MODEL,
            "source": {"uri": f"pvc://models/{MODEL}", "path": str(self.source), "versions": {}},
            "served": served,
            "load": [served, *others],
            "warmup": list(warmup),
            "golden": golden,
            "turn": turn,
            self.section: self.settings() | settings,
        }
        new = self.folder / "agent.json.new"
        new.write_text(json.dumps(fields))
        os.replace(new, self.folder / "agent.json")

    def start_server(self) -> None:
        self._start("server", self.server_command(), self.server_environment() | {"SLIPWAY_SERVER_KEY": KEY})

    def end_server(self, seconds: float = 40) -> int:
        """SIGTERM, as the kubelet sends it; its exit code."""
        running = self._running.pop("server")
        running.terminate()
        return running.wait(seconds)

    # what is seen

    def tells(self, word: str) -> bool:
        """Whether the log of the agent or of the server has that word."""
        return any(word in (self.folder / f"{name}.log").read_text() for name in ("agent", "server"))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def multiply(self, version: int | None = None) -> float:
        path = f"/v2/models/{MODEL}" + (f"/versions/{version}" if version else "") + "/infer"
        answer = requests.post(self.url + path, json=infer_body([[1.0, 1.0]]), timeout=5)
        answer.raise_for_status()
        return float(answer.json()["outputs"][0]["data"][0])

    def serves(self, version: int) -> bool:
        try:
            self.multiply(version)
        except requests.HTTPError:
            return False
        return True

    def identity(self, version: int) -> int:
        """Other processes for this version, another number."""
        return self.pid_of("server")

    def boot(self) -> None:
        self.start_agent()
        self.until(lambda: self.probe("/startz") == 200)
        self.start_server()
        self.until(lambda: self.probe("/readyz") == 200)

    def constant(self) -> Constant:
        return Constant(self)

    @contextmanager
    def asked_all_the_time(self) -> Iterator[Constant]:
        """Unversioned requests from clients of three kinds, none of which retries, while something happens."""
        constant = self.constant()
        constant.start()
        try:
            constant.after_answers()
            yield constant
            constant.after_answers()
        finally:
            constant.end()


class Constant:
    """Requests all the time: REST on a kept connection, REST on new ones, gRPC; and the agent's readiness."""

    def __init__(self, pair: Beside) -> None:
        self._pair = pair
        self._ended = threading.Event()
        self.answers: dict[str, list[float]] = {"kept": [], "new": [], **({"grpc": []} if pair.asks_by_grpc else {})}
        self.failures: list[str] = []
        asks = {"kept": self._kept, "new": self._new, "grpc": self._grpc}
        self._threads = [threading.Thread(target=asks[name], daemon=True) for name in self.answers]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join(timeout=30)

    def after_answers(self, count: int = 20) -> None:
        wanted = {name: len(answers) + count for name, answers in self.answers.items()}
        self._pair.until(
            lambda: bool(self.failures) or all(len(self.answers[name]) >= least for name, least in wanted.items()), 20
        )

    def nothing_failed(self, *values: float) -> None:
        """Every request was answered, with one of `values`, in this order."""
        assert self.failures == []
        for name, answers in self.answers.items():
            seen = list(dict.fromkeys(answers))
            assert seen == [value for value in values if value in seen], f"{name}: {seen}"

    def _go_on(self, name: str, ask: Callable[[], float]) -> None:
        while not self._ended.wait(0.005):
            try:
                self.answers[name].append(ask())
            except (OSError, requests.RequestException, UnansweredError, InferenceServerException) as failure:
                self.failures.append(f"{name}: {type(failure).__name__}: {failure}")

    def _kept(self) -> None:
        one = np.ones((1, 2), np.float32)
        with rest(self._pair.url, MODEL) as client:
            self._go_on("kept", lambda: float(client.infer_json({"x": one})["y"][0, 0]))

    def _new(self) -> None:
        def ask() -> float:
            value = self._pair.multiply()
            if self._pair.probe("/readyz") != 200:
                self.failures.append("the agent says that the pod isn't ready")
            return value

        self._go_on("new", ask)

    def _grpc(self) -> None:
        one = np.ones((1, 2), np.float32)
        with grpc_client(f"127.0.0.1:{self._pair.grpc_port}", MODEL) as client:
            self._go_on("grpc", lambda: float(client.infer({"x": one})["y"][0, 0]))
