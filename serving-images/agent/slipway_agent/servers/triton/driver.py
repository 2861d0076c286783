"""Triton in explicit model control: boot configuration in config.pbtxt, loads by gRPC, on 127.0.0.1 alone.

Facts (measured on 2.51 with the Python-based onnxruntime backend): a load is by model, and with only the version
policy changed it touches no version that is loaded already; one failing version aborts it and the loaded ones stay;
a version folder that is missing is skipped with 200, so readiness is asked afterwards; the index and the ready
endpoints answer within milliseconds during a load; kept-alive connections hold up Triton's exit, so none is kept.
"""

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from slipway_agent.config import Fields, parse_version
from slipway_agent.model.errors import TransientError
from slipway_agent.model.readiness import ReadinessQuestion
from slipway_agent.model.server_state import Gone, Loaded, LoadOutcome, Refused, ServerView
from slipway_agent.model.signature import Signature, read_metadata
from slipway_agent.model.untrusted_json import parse_json
from slipway_agent.servers.base import REQUEST_SECONDS, Answer, DriverInputs, go_on
from slipway_agent.servers.local_http import HOST, LOST, WORDS_LIMIT, LocalHttp, read_words
from slipway_agent.servers.open_inference import read_index
from slipway_agent.servers.readiness import LastView, await_ready
from slipway_agent.servers.triton.config import (
    BACKEND_BY_FILE,
    TritonSpec,
    compose_config,
    detect_backend,
    read_versions,
)
from slipway_agent.servers.triton.load import load_model
from slipway_agent.servers.triton.warmup import WARMUP_FOLDER, is_warmup_file, read_requests, warmup_files
from slipway_agent.volume.models_volume import ModelVolume, link_or_copy

KEY_HEADER = "slipway-agent"
_VERSION_WORDS = re.compile(r"version (\d+) is at UNAVAILABLE state: (.*?)(?=;?\s*$|;\s*version \d+ is at)", re.DOTALL)


def parse_settings(fields: Fields) -> TritonSpec:
    return TritonSpec(
        threads=fields.whole_or_none("threads", at_least=1),
        http_port=fields.whole("httpPort", at_least=1, default=8000),
        grpc_port=fields.whole("grpcPort", at_least=1, default=8001),
        max_batch_size=fields.whole_or_none("maxBatchSize"),
        max_queue_delay_microseconds=fields.whole_or_none("maxQueueDelayMicroseconds"),
        instance_count=fields.whole_or_none("instanceCount", at_least=1),
        gpu=fields.flag("gpu"),
    )


def open_server(inputs: DriverInputs, settings: TritonSpec) -> "TritonServer":
    config = inputs.config
    return TritonServer(inputs.volume, settings, config.served, inputs.key, config.warmup)


class TritonServer:
    """`key` is what `--http-restricted-api=model-repository:slipway-agent=KEY` expects; None when it isn't set."""

    warms_itself = True

    def __init__(
        self,
        volume: ModelVolume,
        spec: TritonSpec,
        served: int | None,
        key: str | None,
        warmup: tuple[object, ...] = (),
    ) -> None:
        self._volume = volume
        self._spec = spec
        self._served = served
        self._warmup = warmup
        self._last_view = LastView()
        self._key = key
        self._local_http = LocalHttp(spec.http_port, {KEY_HEADER: key} if key else {})

    def holds_model(self, folder: Path) -> bool:
        return detect_backend(_names(folder)) is not None

    def accepted_files(self) -> str:
        return ", ".join(["*.onnx", *(name for name in BACKEND_BY_FILE if name != "model.onnx")])

    def name_files(self, folder: Path, check: Callable[[], None] = go_on) -> None:
        """`digits-v3.onnx` becomes `model.onnx` too: each version may have another name, and one config serves all."""
        names = _names(folder)
        named = [name for name in names if name.endswith(".onnx")]
        if len(named) == 1 and not names & set(BACKEND_BY_FILE):
            link_or_copy(folder / named[0], folder / "model.onnx")

    def observe(self, versions: frozenset[int]) -> ServerView:
        try:
            status, body = self._local_http.ask("POST", "/v2/repository/index", body={})
            if status != 200:
                return ServerView(is_alive=True)
            listed = read_index(body, self._volume.model) & versions
            # the index speaks of the load, the version's own endpoint of whether it answers
            ready = frozenset(version for version in listed if self._is_ready(version))
        except TimeoutError:
            return self._last_view.while_busy(versions)
        except LOST:
            return ServerView()
        return self._last_view.keep(ServerView(is_alive=True, ready=ready))

    def read_boot(self) -> frozenset[int]:
        return read_versions(self._volume.read_in_repository("config.pbtxt") or "")

    def write_boot(self, versions: frozenset[int]) -> None:
        self._write(versions, is_running=False)

    def _write(self, versions: frozenset[int], is_running: bool) -> None:
        # The configuration that came with the served version is the model's, or that of the newest of the others.
        author = self._served if self._served in versions else max(versions)
        warmup = read_requests(self._warmup)
        content = compose_config(
            kept=self._volume.kept_config(author),
            model=self._volume.model,
            versions=versions,
            backend=detect_backend(_names(self._volume.repository / str(author))),
            spec=self._spec,
            warmup=warmup,
        )
        self._write_warmup(warmup_files(warmup), is_running)
        self._volume.write_in_repository("config.pbtxt", content)

    def _write_warmup(self, files: Mapping[str, bytes], is_running: bool) -> None:
        """The files of the spec's warm-up requests. Those of earlier ones go, but for what config.pbtxt still names:
        a load that fails puts that configuration back, and a server that starts may be reading it."""
        folder = self._volume.repository / WARMUP_FOLDER
        found = {entry.name for entry in folder.glob("*") if is_warmup_file(entry.name)}
        before = self._volume.read_in_repository("config.pbtxt") or ""
        needed = {name for name in found if name in before}
        if is_running and files.keys() == needed:
            return  # a change beside the versions has Triton load all of them again (ModelVolume.keep_model_files)
        for name, data in files.items():
            if name not in found:  # the name is the content's own
                folder.mkdir(exist_ok=True)
                working = folder / f".{name}.new"
                working.write_bytes(data)
                os.replace(working, folder / name)
        for name in found - needed - files.keys():
            (folder / name).unlink(missing_ok=True)

    def load(self, versions: frozenset[int]) -> LoadOutcome:
        before = self._volume.read_in_repository("config.pbtxt")
        self._write(versions, is_running=True)
        outcome = self._load_now(versions)
        if not isinstance(outcome, Loaded) and before is not None:
            self._volume.write_in_repository("config.pbtxt", before)
        return outcome

    def _load_now(self, versions: frozenset[int]) -> LoadOutcome:
        asked = self._ask_to_load()
        if asked is not None:
            return asked
        return await_ready(self, versions, "Triton")

    def _ask_to_load(self) -> Refused | Gone | None:
        """None where Triton says that it is done."""
        key = (KEY_HEADER, self._key) if self._key else None
        answer = load_model(self._spec.grpc_port, self._volume.model, key)
        if answer.words is None:
            return None
        if not answer.was_asked:
            return Gone(f"the server doesn't answer at {HOST}:{self._spec.grpc_port} ({answer.words})", was_asked=False)
        if answer.is_lost:
            return Gone(f"the server ended during the load ({answer.words})")
        return explain_refusal(answer.words)

    def ask(self, version: int, body: object, seconds: float = REQUEST_SECONDS) -> Answer:
        return self._local_http.predict(f"/v2/models/{self._volume.model}/versions/{version}/infer", body, seconds)

    def readiness_question(self, version: int) -> ReadinessQuestion:
        return ReadinessQuestion(self._spec.http_port, self._ready_path(version))

    def signature(self, version: int) -> Signature | None:
        """The metadata's shapes have the batch's dimension; which inputs may be left out is in the configuration."""
        path = f"/v2/models/{self._volume.model}/versions/{version}"
        status, body = self._local_http.describe(path)
        if status != 200:
            raise TransientError(read_words(status, body))
        config_status, config = self._local_http.describe(f"{path}/config")
        return read_metadata(body, _optional_inputs(config) if config_status == 200 else frozenset())

    def _is_ready(self, version: int) -> bool:
        return self._local_http.ask("GET", self._ready_path(version))[0] == 200

    def _ready_path(self, version: int) -> str:
        return f"/v2/models/{self._volume.model}/versions/{version}/ready"


def explain_refusal(said: str) -> Refused:
    """Triton's answer to a load that failed, per version where it names versions, without a stack's lines."""
    words = {
        int(version): _plain(reason)
        for version, reason in _VERSION_WORDS.findall(said)
        if parse_version(version) is not None
    }
    return Refused(_plain(said), words)


def _plain(words: str) -> str:
    """Without the stack that Triton's Python backends append."""
    return words.split("\n\nAt:\n", 1)[0].strip().rstrip(";").strip()[:WORDS_LIMIT]


def _optional_inputs(body: bytes) -> frozenset[str]:
    """Of GET …/config."""
    try:
        return frozenset(str(each["name"]) for each in parse_json(body)["input"] if each.get("optional") is True)
    except (ValueError, KeyError, TypeError, AttributeError):
        return frozenset()


def _names(folder: Path) -> frozenset[str]:
    try:
        return frozenset(entry.name for entry in folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return frozenset()
