"""TensorFlow Serving's polled file, status and labels, for speed: it behaves as the stand-in does, and loads nothing.

A version whose saved_model.pb says `broken` fails to load, `deadly` ends the server, `slow` takes 0.3 s, `held` as long
as `may_load` isn't set. The file is read every 20 ms or so, and when a test has it looked at. The stand-in, with real
SavedModels, is met by tests/e2e/agent.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from slipway_agent.servers.tensorflow_serving import driver
from slipway_agent.servers.tensorflow_serving.config import ModelConfig, read_models
from tests.unit.agent.servers.fake_http import FakeServer, Said

POLL_SECONDS = 0.02
_LABEL = re.compile(r"/labels/([^/]+)/metadata")
_PREDICT = re.compile(r"/versions/(\d+):predict")


class FakeTensorFlowServing(FakeServer):
    model_file = "saved_model.pb"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.states: dict[int, tuple[str, str]] = {}
        self.labels: dict[str, int] = {}
        self.taken: list[ModelConfig] = []
        self.asked = 0
        self.polls = True
        self.may_load = threading.Event()
        self._ended = threading.Event()
        self._failed: set[int] = set()
        self._looking = threading.Lock()

    def start(self) -> None:
        """Load what the file names, labels without asking, then listen and poll."""
        self.states, self._failed = {}, set()
        self._ended = threading.Event()
        config = self._read()
        self.taken = [config]  # whenever the first look comes, it changes nothing
        self.labels = dict(config.labels)
        self._hold(config)
        if not self._ended.is_set():
            self.listen()
            threading.Thread(target=self._poll, args=(self._ended,), daemon=True).start()

    def answer(self, method: str, path: str, body: Any, headers: Mapping[str, str]) -> Said:
        if method == "GET":
            label = _LABEL.search(path)
            if label is None:
                self.asked += 1
                return 200, self.status()
            if label[1] in self.labels:
                return 200, {"model_spec": {"version": str(self.labels[label[1]])}}
            return 400, {"error": f"Unrecognized servable version label: {label[1]}"}
        version = int(_PREDICT.search(path)[1])  # type: ignore[index]
        if self.states.get(version, ("", ""))[0] != "AVAILABLE":
            return 404, {"error": f"Servable not found for request: Specific(digits, {version})"}
        if "instances" not in body:
            return 400, {"error": "Missing 'inputs' or 'instances' key"}
        return 200, {"predictions": body["instances"]}

    def kill(self) -> None:
        ended = self._ended
        super().kill()
        ended.set()

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
            if self.polls:
                self.look()

    def look(self) -> None:
        """What one poll of the file does."""
        with self._looking:
            config = self._read()
            available = {version for version, (state, _) in self.states.items() if state == "AVAILABLE"}
            if self._ended.is_set() or not set(config.labels.values()) <= available:
                return  # refused as a whole
            if self.taken[-1] != config:
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
                content = self.read(version)
            except FileNotFoundError:
                continue
            self.states[version] = ("LOADING", "")
            if content == "deadly":
                threading.Thread(target=self.kill).start()
                ended.wait()
                return
            if content == "slow":
                time.sleep(0.3)
            if content == "held":
                self.may_load.wait(60)
            if content == "broken":
                self._failed.add(version)
                self.states[version] = ("END", f"Can't parse version {version} as binary proto")
            else:
                self.states[version] = ("AVAILABLE", "")
        for version, (state, _) in list(self.states.items()):
            if version not in config.versions and state == "AVAILABLE":
                self.states[version] = ("END", "")


class ServersTime:
    """The driver's `time` beside a fake: what it waits for the server to have seen a file, it waits for one look.

    By the clock, a thread that doesn't get its turn would not have looked yet.
    """

    time, monotonic = staticmethod(time.time), staticmethod(time.monotonic)

    def __init__(self, fake: FakeTensorFlowServing) -> None:
        self._fake = fake

    def sleep(self, seconds: float) -> None:
        if seconds == driver.POLL_SECONDS:
            time.sleep(seconds)
        else:
            self._fake.look()
