"""TorchServe's management API, for speed: it behaves as measured on 0.12.0, and loads nothing.

A version whose factor.txt says `broken` fails to load, with a worker's traceback in the log, again and again until it
is taken out; that of `killed` ends without a word. `deadly` ends the server; `stuck` stays without a ready worker. The
real server is met by tests/e2e/agent.
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from slipway_agent.servers.torchserve.files import MANIFEST, PROPERTIES
from tests.unit.agent.servers.fake_http import FakeServer, Said

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
    """words: what its worker says each time that it is tried."""

    url: str
    workers: list[dict[str, object]]
    words: str


class FakeTorchServe(FakeServer):
    """`calls`: what was asked that changes something, in order. `port` is the management API's."""

    model_file = "factor.txt"

    def __init__(self, folder: Path, log: Path) -> None:
        super().__init__(folder)
        self.log = log
        self.versions: dict[int, Entry] = {}
        self.default: int | None = None
        self.calls: list[str] = []

    def put(self, **versions: str) -> None:
        super().put(**versions)
        for name in versions:
            place = self.folder / name.removeprefix("v") / MANIFEST
            place.parent.mkdir(exist_ok=True)
            place.write_text(json.dumps({"model": {"modelVersion": name.removeprefix("v")}}))

    def boot(self) -> None:
        """Register what config.properties names."""
        self.versions, self.default = {}, None
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.log.write_text("")
        with suppress(FileNotFoundError):
            for line in (self.folder / PROPERTIES).read_text().splitlines():
                if line.startswith("load_models="):
                    for entry in line.removeprefix("load_models=").split(","):
                        self.register(entry.partition("=")[2])

    def answer(self, method: str, path: str, body: Any, headers: Mapping[str, str]) -> Said:
        place = urlsplit(path)
        named = place.path.removeprefix(f"/models/{self.model}").strip("/")
        match method:
            case "GET":
                found = list(self.versions) if named == "all" else [self.default] if self.default else []
                return (200, [self.describe(each) for each in found]) if found else (404, "")
            case "POST":
                url = parse_qs(place.query)["url"][0]
                self.calls.append(f"register {url.rpartition('/')[2]}")
                try:
                    self.register(url)
                except RuntimeError:
                    self.kill()
                    return None
                return 202, ""
            case "PUT":
                self.default = int(named.partition("/")[0])
                self.calls.append(f"default {self.default}")
                return 200, ""
        version = int(named)
        if version == self.default and len(self.versions) > 1:
            return 403, {"code": 403, "message": "Cannot remove default version for model digits"}
        self.calls.append(f"unregister {version}")
        del self.versions[version]
        self.default = self.default if self.versions else None
        return 200, ""

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
        words = {"broken": TRACEBACK, "killed": "Torch worker started.\n"}.get(content, "")
        entry = self.versions[version] = Entry(url, [worker], words)
        if self.default not in self.versions:
            self.default = version
        self.say(version, entry.words)

    def say(self, version: int, words: str) -> None:
        """Lines of a worker of this version."""
        with self.log.open("a") as log:
            for line in words.splitlines():
                log.write(f"W-9000-{self.model}_{version}-stdout {line}\n")

    def describe(self, version: int) -> dict[str, object]:
        entry = self.versions[version]
        self.say(version, entry.words)  # it is tried again, and fails again, between any two looks
        waiting = {"remainingCapacity": 100, "pendingRequests": 0}
        return {"modelVersion": str(version), "workers": entry.workers, "jobQueueStatus": waiting}
