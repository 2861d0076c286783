"""ONNX Runtime in MLServer (serving-images/onnxruntime): boot configuration in model-settings.json, loads by POST.

Facts (of the image's own code, and measured): model-settings.json names every version; a load loads what is new in it
and unloads what is gone, touches nothing else, and is all or nothing; the answer to a refused one names the version and
carries its words. Warm-up requests run inside the load, before a version counts as ready. An unversioned request gets
the highest version that is ready. The index answers within milliseconds during a load.
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from slipway_agent.config import Fields, parse_version
from slipway_agent.model.errors import Reason, TransientError
from slipway_agent.model.readiness import ReadinessQuestion
from slipway_agent.model.server_state import Gone, Loaded, LoadOutcome, Refused, ServerView
from slipway_agent.model.signature import Signature, read_metadata
from slipway_agent.model.untrusted_json import parse_json
from slipway_agent.servers.base import REQUEST_SECONDS, SERVER_KEY, Answer, DriverInputs, go_on
from slipway_agent.servers.local_http import HOST, LOST, WORDS_LIMIT, LocalHttp, explain_lost, read_words
from slipway_agent.servers.open_inference import read_index
from slipway_agent.servers.readiness import LastView, await_ready
from slipway_agent.volume.models_volume import ModelVolume, link_or_copy

FILE_NAME = "model.onnx"
SETTINGS_FILE = "model-settings.json"
KEY_HEADER = "slipway-agent"
WARMUP_WORDS = "warm-up request "  # how the server's complaint begins when a warm-up request failed


@dataclass(frozen=True, slots=True)
class OnnxSettings:
    """What the spec says. None: the server's own default, which goes by the container's CPU limit."""

    http_port: int = 8000
    max_batch_size: int | None = None
    max_batch_delay_microseconds: int = 0
    instances: int | None = None
    threads: int | None = None


def parse_settings(fields: Fields) -> OnnxSettings:
    return OnnxSettings(
        http_port=fields.whole("httpPort", at_least=1, default=8000),
        max_batch_size=fields.whole_or_none("maxBatchSize", at_least=1),
        max_batch_delay_microseconds=fields.whole("maxBatchDelayMicroseconds", default=0),
        instances=fields.whole_or_none("instances", at_least=1),
        threads=fields.whole_or_none("threads", at_least=1),
    )


def open_server(inputs: DriverInputs, settings: OnnxSettings) -> "OnnxRuntimeServer":
    return OnnxRuntimeServer(inputs.volume, settings, inputs.config.warmup, inputs.key)


class OnnxRuntimeServer:
    """`key` is the SLIPWAY_SERVER_KEY that the server's repository API asks for; None when it isn't set."""

    warms_itself = True

    def __init__(
        self, volume: ModelVolume, settings: OnnxSettings, warmup: tuple[object, ...], key: str | None
    ) -> None:
        self._volume = volume
        self._settings = settings
        self._warmup = warmup
        self._last_view = LastView()
        self._local_http = LocalHttp(settings.http_port, {KEY_HEADER: key} if key else {})

    def holds_model(self, folder: Path) -> bool:
        return find_onnx(folder) is not None

    def accepted_files(self) -> str:
        return f"{FILE_NAME}, or one *.onnx of any name"

    def name_files(self, folder: Path, check: Callable[[], None] = go_on) -> None:
        """`digits-v3.onnx` becomes `model.onnx` too."""
        found = find_onnx(folder)
        if found is not None and found.name != FILE_NAME:
            link_or_copy(found, folder / FILE_NAME)

    def observe(self, versions: frozenset[int]) -> ServerView:
        try:
            status, body = self._local_http.ask("POST", "/v2/repository/index", body={"ready": True})
        except TimeoutError:
            return self._last_view.while_busy(versions)
        except LOST:
            return ServerView()
        ready = read_index(body, self._volume.model) if status == 200 else frozenset()
        return self._last_view.keep(ServerView(is_alive=True, ready=ready & versions))

    def read_boot(self) -> frozenset[int]:
        return read_versions(self._volume.read_in_repository(SETTINGS_FILE) or "")

    def write_boot(self, versions: frozenset[int]) -> None:
        content = compose_settings(self._volume.model, versions, self._settings, self._warmup)
        self._volume.write_in_repository(SETTINGS_FILE, content)

    def load(self, versions: frozenset[int]) -> LoadOutcome:
        before = self._volume.read_in_repository(SETTINGS_FILE)
        self.write_boot(versions)
        outcome = self._load_now(versions)
        if not isinstance(outcome, Loaded) and before is not None:
            self._volume.write_in_repository(SETTINGS_FILE, before)
        return outcome

    def _load_now(self, versions: frozenset[int]) -> LoadOutcome:
        try:
            status, body = self._local_http.ask("POST", f"/v2/repository/models/{self._volume.model}/load", None, {})
        except ConnectionRefusedError:
            return Gone(f"the server doesn't answer at {HOST}:{self._settings.http_port}", was_asked=False)
        except LOST as cause:
            return Gone(f"the server ended during the load ({explain_lost(cause)})")
        if status != 200:
            return explain_refusal(status, body)
        return await_ready(self, versions, "the server")

    def ask(self, version: int, body: object, seconds: float = REQUEST_SECONDS) -> Answer:
        return self._local_http.predict(f"/v2/models/{self._volume.model}/versions/{version}/infer", body, seconds)

    def readiness_question(self, version: int) -> ReadinessQuestion:
        return ReadinessQuestion(
            self._settings.http_port,
            "/v2/repository/index",
            "POST",
            body=json.dumps({"ready": True}),
            keys={KEY_HEADER: SERVER_KEY},
            expected=[{"name": self._volume.model, "version": str(version), "state": "READY"}],
        )

    def signature(self, version: int) -> Signature | None:
        status, body = self._local_http.describe(f"/v2/models/{self._volume.model}/versions/{version}")
        if status != 200:
            raise TransientError(read_words(status, body))
        return read_metadata(body)


def find_onnx(folder: Path) -> Path | None:
    """The folder's model: `model.onnx`, else the only *.onnx; None when there is none, or more than one to choose."""
    try:
        found = [entry for entry in folder.iterdir() if entry.name.endswith(".onnx")]
    except (FileNotFoundError, NotADirectoryError):
        return None
    named = [entry for entry in found if entry.name == FILE_NAME]
    chosen = named or found
    return chosen[0] if len(chosen) == 1 else None


def compose_settings(
    model: str, versions: Iterable[int], settings: OnnxSettings, warmup: tuple[object, ...] = ()
) -> str:
    """MLServer's ModelSettings of each version, as one list."""
    extra: dict[str, object] = {
        name: value
        for name, value in (
            ("threads", settings.threads),
            ("instances", settings.instances),
            ("warmup", list(warmup) or None),
        )
        if value is not None
    }
    entries = [
        {
            "name": model,
            "max_batch_size": settings.max_batch_size or 0,
            "max_batch_time": settings.max_batch_delay_microseconds / 1e6,
            "parameters": {"version": str(version), "uri": str(version), "extra": extra},
        }
        for version in sorted(versions)
    ]
    return json.dumps(entries, indent=1) + "\n"


def read_versions(written: str) -> frozenset[int]:
    """The versions that the agent's model-settings.json names; empty for another text."""
    try:
        found = [parse_version(str(entry["parameters"]["version"])) for entry in parse_json(written)]
    except (ValueError, KeyError, TypeError):
        return frozenset()
    return frozenset(version for version in found if version is not None)


def explain_refusal(status: int, body: bytes) -> Refused:
    """The server's answer to a load that failed, per version where it names versions."""
    try:
        named = parse_json(body)["versions"]
        words = {
            version: str(said)[:WORDS_LIMIT]
            for key, said in named.items()
            if (version := parse_version(str(key))) is not None
        }
    except (ValueError, KeyError, TypeError, AttributeError):
        words = {}
    is_warmup = bool(words) and all(said.startswith(WARMUP_WORDS) for said in words.values())
    reason = Reason.WARMUP_FAILED if is_warmup else Reason.LOAD_FAILED
    return Refused(read_words(status, body), words, reason)
