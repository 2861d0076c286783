"""Any container that serves one version: the agent publishes it, sets a link to it, and watches its ready path.

Facts: the container starts once the link is set and reads SLIPWAY_MODEL_PATH, which is the link; it is asked for no
loads, so another version is another pod (the operator's runtimes/custom.py).
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from slipway_agent.config import Fields, parse_version
from slipway_agent.model.readiness import ReadinessQuestion
from slipway_agent.model.server_state import Gone, Loaded, LoadOutcome, Refused, ServerView
from slipway_agent.model.signature import Signature, read_metadata
from slipway_agent.servers.base import REQUEST_SECONDS, Answer, DriverInputs, go_on
from slipway_agent.servers.local_http import HOST, LOST, WORDS_LIMIT, LocalHttp, explain_lost
from slipway_agent.servers.readiness import LastView
from slipway_agent.volume.models_volume import ModelVolume

LINK = "current"
WORKING_LINK = ".current.new"
POLL_SECONDS = 0.25
WRONG_SECONDS = 30.0  # how long a ready path may say that there is no such path: some servers load before they route
PATIENCE_SECONDS = 600.0
PROTOCOL = "/v2/models/"  # what the paths of the Open Inference Protocol begin with
WRONG_STATUSES = frozenset({401, 403, 404, 405})


@dataclass(frozen=True, slots=True)
class CustomSettings:
    """Paths may hold {model} and {version}."""

    http_port: int
    ready_path: str
    predict_path: str


def parse_settings(fields: Fields) -> CustomSettings:
    return CustomSettings(
        http_port=fields.whole("httpPort", at_least=1, default=8080),
        ready_path=fields.text("readyPath"),
        predict_path=fields.text("predictPath"),
    )


def open_server(inputs: DriverInputs, settings: CustomSettings) -> "CustomServer":
    return CustomServer(inputs.volume, settings)


class CustomServer:
    """A container that may be anything which answers over HTTP."""

    warms_itself = False

    def __init__(self, volume: ModelVolume, settings: CustomSettings) -> None:
        self._volume = volume
        self._settings = settings
        self._root = volume.repository.parent.parent
        self._local_http = LocalHttp(settings.http_port)
        self._last_view = LastView()

    def holds_model(self, folder: Path) -> bool:
        """Anything is a model but an empty folder, and one with versions in it."""
        try:
            entries = [entry for entry in folder.iterdir() if not entry.name.startswith("..")]
        except (FileNotFoundError, NotADirectoryError):
            return False
        return bool(entries) and not any(parse_version(entry.name) and entry.is_dir() for entry in entries)

    def accepted_files(self) -> str:
        return "any files"

    def name_files(self, folder: Path, check: Callable[[], None] = go_on) -> None:
        """The container knows its own files."""

    def observe(self, versions: frozenset[int]) -> ServerView:
        linked = self.read_boot()
        if not linked:
            return ServerView()  # it doesn't start before the link is there
        try:
            is_ready = all(self._ask_ready(version)[0] == 200 for version in linked)
        except TimeoutError:
            return self._last_view.while_busy(versions)
        except LOST:
            return ServerView()
        return self._last_view.keep(ServerView(is_alive=True, ready=linked & versions if is_ready else frozenset()))

    def read_boot(self) -> frozenset[int]:
        try:
            version = parse_version(os.readlink(self._root / LINK).rpartition("/")[2])
        except OSError:
            return frozenset()
        return frozenset() if version is None else frozenset({version})

    def write_boot(self, versions: frozenset[int]) -> None:
        """The link leads to the highest of them: there is but one."""
        target = (self._volume.repository / str(max(versions))).relative_to(self._root)
        working = self._root / WORKING_LINK
        working.unlink(missing_ok=True)
        working.symlink_to(target)
        os.replace(working, self._root / LINK)

    def load(self, versions: frozenset[int]) -> LoadOutcome:
        """Wait until the container that runs is ready with the version that it started with."""
        linked = self.read_boot()
        if versions != linked:
            words = (
                f"the container started with version {', '.join(map(str, sorted(linked))) or 'none'}, and a Custom "
                "container serves no other; another version needs another pod"
            )
            return Refused(words, dict.fromkeys(versions - linked, words))
        version = max(versions)
        began = time.monotonic()
        while True:
            try:
                status, said = self._ask_ready(version)
            except TimeoutError:
                status, said = 0, b"no answer"
            except LOST as cause:
                return Gone(
                    f"the container doesn't answer at {HOST}:{self._settings.http_port} ({explain_lost(cause)})"
                )
            if status == 200:
                return Loaded()
            waited_seconds = time.monotonic() - began
            if waited_seconds > (WRONG_SECONDS if status in WRONG_STATUSES else PATIENCE_SECONDS):
                return self._explain(version, status, said, waited_seconds)
            time.sleep(POLL_SECONDS)

    def ask(self, version: int, body: object, seconds: float = REQUEST_SECONDS) -> Answer:
        return self._local_http.predict(self._fill(self._settings.predict_path, version), body, seconds)

    def readiness_question(self, version: int) -> ReadinessQuestion:
        return ReadinessQuestion(self._settings.http_port, self._fill(self._settings.ready_path, version))

    def signature(self, version: int) -> Signature | None:
        """A container that answers predictions of the Open Inference Protocol may answer its question for that too."""
        if not self._settings.predict_path.startswith(PROTOCOL):
            return None
        model = self._fill(f"{PROTOCOL}{{model}}", version)
        for path in (f"{model}/versions/{version}", model):
            status, body = self._local_http.describe(path)
            if status == 200 and (signature := read_metadata(body)) is not None:
                return signature
        return None

    def _explain(self, version: int, status: int, said: bytes, waited_seconds: float) -> Refused:
        path = self._fill(self._settings.ready_path, version)
        words = said.decode(errors="replace").strip()[:WORDS_LIMIT] or "nothing more"
        message = (
            f"the container answers GET {path} with {status} for {waited_seconds:.0f} s, and says: {words}. It has to "
            "answer 200 there once it can serve. To ask another path, name that in spec.runtime.paths.ready"
        )
        return Refused(message, {version: message})

    def _ask_ready(self, version: int) -> tuple[int, bytes]:
        return self._local_http.ask("GET", self._fill(self._settings.ready_path, version))

    def _fill(self, path: str, version: int) -> str:
        return path.replace("{model}", self._volume.model).replace("{version}", str(version))
