"""A pod's agent as its container runs it, as processes, beside a server that goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import slipway_agent
from tests.ports import free_port
from tests.unit.agent.servers.fake_http import FakeServer, Said

ROOT = Path(__file__).parents[4]
PATH = os.pathsep.join([str(Path(slipway_agent.__file__).parents[1]), str(ROOT)])


class Container(FakeServer):
    """A server that says 200 at any path while it is up."""

    def answer(self, method: str, path: str, body: Any, headers: Mapping[str, str]) -> Said:
        return 200, {}


class ProcessPod:
    """A pod's volumes, its agent as processes and its server on a thread."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.models, self.config = folder, folder / "models", folder / "agent.json"
        self.server, self.port = Container(folder), free_port()
        (folder / "server-port").write_text(str(self.server.port))
        source = folder / "source" / "3"
        source.mkdir(parents=True)
        (source / "weights.bin").write_text("weights")
        self.agent: subprocess.Popen[bytes] | None = None

    def want(self, **changes: Any) -> None:
        fields = {
            "schema": 1,
            "generation": "g",
            "runtime": "Custom",
            "model": "digits",
            "source": {"uri": "pvc://models/digits", "path": str(self.folder / "source"), "versions": {}},
            "served": 3,
            "load": [3],
            "custom": {"httpPort": self.server.port, "readyPath": "/up", "predictPath": "/predict"},
        }
        self.write(json.dumps(fields | changes))

    def write(self, text: str) -> None:
        new = self.config.with_suffix(".new")
        new.write_text(text)
        os.replace(new, self.config)

    def start(self, *options: str) -> None:
        command = [sys.executable, "-m", "tests.unit.agent.supervisor.supervised", "--config", str(self.config)]
        command += ["--models", str(self.models), "--port", str(self.port), *options]
        with (self.folder / "log").open("ab") as log:
            self.agent = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": PATH}, stderr=log, cwd=ROOT)

    def serve(self, *options: str) -> None:
        self.want()
        self.start(*options)
        self.until(lambda: self.probe("/startz") == 200)
        self.server.listen()
        self.until(lambda: self.probe("/readyz") == 200)

    def end(self, number: int = signal.SIGKILL) -> int:
        assert self.agent is not None
        self.agent.send_signal(number)
        return self.agent.wait(20)

    def ask(self, target: str, seconds: float = 30.0) -> tuple[int, str]:
        """Status and body; 0 and why where there is no answer."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{target}", timeout=seconds) as answer:
                return int(answer.status), answer.read().decode()
        except urllib.error.HTTPError as refusal:
            with refusal:
                return int(refusal.code), refusal.read().decode()
        except OSError as cause:
            return 0, str(cause)

    def probe(self, path: str) -> int:
        return self.ask(path)[0]

    def status(self) -> dict[str, Any]:
        status, body = self.ask("/status")
        return dict(json.loads(body)) if status == 200 else {}

    def logged(self, message: str) -> list[dict[str, Any]]:
        lines = (self.folder / "log").read_text().splitlines()
        return [found for line in lines if line.startswith("{") and (found := json.loads(line))["message"] == message]

    @property
    def worker(self) -> int:
        """The last one that was started."""
        return int(self.logged("worker started")[-1]["pid"])

    def until(self, condition: Callable[[], bool], seconds: float = 60.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, (self.folder / "log").read_text()
            time.sleep(0.02)

    def until_replaced(self, worker: int) -> None:
        """Another worker has said something."""
        self.until(lambda: self.worker != worker and self.probe("/status") == 200)
