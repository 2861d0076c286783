"""The stand-in for TensorFlow Serving as a process on this machine, and the SavedModels of the tests.

They need TensorFlow, which is no dependency of ours: SLIPWAY_TENSORFLOW_PYTHON names a Python that has the packages of
tests/e2e/images/tensorflow-serving/requirements.lock. `make beside` takes the image's.
Must not import: anything of Kubernetes or Slipway.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import requests

from tests.e2e.tensorflow_api import TensorFlowGrpc, tensorflow_grpc
from tests.ports import free_port

FOLDER = Path(__file__).resolve().parents[1] / "images" / "tensorflow-serving"
READY_SECONDS = 60.0


PYTHON = os.environ.get("SLIPWAY_TENSORFLOW_PYTHON")
WHY_SKIPPED = "no Python with TensorFlow: make beside, or SLIPWAY_TENSORFLOW_PYTHON"


def make_models(folder: Path) -> Path:
    """The tiny SavedModels of make_models.py, below `folder`."""
    done = subprocess.run(
        [str(PYTHON), str(FOLDER / "make_models.py"), str(folder)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


def command_of(*flags: str) -> list[str]:
    return [str(PYTHON), str(FOLDER / "tensorflow_model_server"), *flags]


@dataclass(slots=True)
class StandIn:
    """A running server. `log` is all that it said."""

    process: subprocess.Popen[bytes]
    rest_port: int
    grpc_port: int
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.rest_port}"

    def post(self, path: str, body: object, seconds: float = 30.0) -> requests.Response:
        """`body` as JSON; a text as it is."""
        if isinstance(body, str):
            return requests.post(f"{self.url}{path}", data=body.encode(), timeout=seconds)
        return requests.post(f"{self.url}{path}", json=body, timeout=seconds)

    def get(self, path: str) -> requests.Response:
        return requests.get(f"{self.url}{path}", timeout=10)

    def states(self, model: str) -> dict[int, str]:
        found = self.get(f"/v1/models/{model}").json().get("model_version_status", [])
        return {int(each["version"]): each["state"] for each in found}

    @contextmanager
    def grpc(self) -> Iterator[TensorFlowGrpc]:
        with tensorflow_grpc(f"127.0.0.1:{self.grpc_port}") as client:
            yield client

    def listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.rest_port)) == 0

    def until_ready(self) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while not self.listens():
            assert self.process.poll() is None, f"it ended with {self.process.returncode}:\n{self.words()}"
            assert time.monotonic() < deadline, self.words()
            time.sleep(0.05)

    def words(self) -> str:
        return self.log.read_text(errors="replace")[-6000:]

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.process.wait()


def start(folder: Path, *flags: str) -> StandIn:
    """A server with these flags and free ports; it may not listen yet."""
    rest_port, grpc_port = free_port(), free_port()
    log = folder / f"server-{grpc_port}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command_of(f"--port={grpc_port}", f"--rest_api_port={rest_port}", *flags),
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=folder,
        )
    return StandIn(process, rest_port, grpc_port, log)


def wait_until(what: str, is_so: object, seconds: float = 15.0) -> None:
    """Asks a callable until it is true."""
    assert callable(is_so)
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, f"{what}: not within {seconds:.0f} s"
        time.sleep(0.05)
