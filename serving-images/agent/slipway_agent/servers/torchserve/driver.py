"""TorchServe by its management API, which listens on the pod's loopback alone. Measured on 0.12.0:

- A folder registers like an archive (`url` is its path), is never copied, and its manifest alone decides its version.
- `POST /models?synchronous=true` waits on a thread that also serves clients' connections, and then doesn't say why
  a load failed. So the agent doesn't ask it to wait. The worker's log has what the handler raised;
  both containers have its folder, and nothing else that the server may write.
- A version that fails is tried again and again for five minutes, and counts as registered all that time.
- The first version registered is the default one, which unversioned requests get, until `set-default`. The default one
  can't be unregistered while there are others.
- Unregistering kills the version's workers: a request that one of them is answering gets a 500. So a version that was
  the default until just now is left alone for a moment, and none goes while requests wait for it.
- `/models/M/all` answers within milliseconds, and 404 when no version is registered.
"""

import errno
import os
import re
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from urllib.parse import quote, urlencode
from zipfile import is_zipfile

from slipway_agent.config import Fields, parse_version
from slipway_agent.model.errors import Reason, SpecError
from slipway_agent.model.limits import DEFAULT_LIMITS, Limits
from slipway_agent.model.readiness import ReadinessQuestion
from slipway_agent.model.server_state import Gone, Loaded, LoadOutcome, Refused, ServerView
from slipway_agent.model.signature import Signature
from slipway_agent.model.untrusted_json import parse_json
from slipway_agent.servers.base import REQUEST_SECONDS, Answer, DriverInputs, Say, go_on, say_nothing
from slipway_agent.servers.local_http import HOST, LOST, WORDS_LIMIT, LocalHttp, explain_lost, read_words
from slipway_agent.servers.readiness import LastView
from slipway_agent.servers.torchserve.files import (
    LOG_NAME,
    LOGGING,
    MANIFEST,
    PROPERTIES,
    TorchServeSpec,
    complete_manifest,
    complete_model_config,
    compose_logging,
    compose_properties,
    count_starts,
    find_words,
    order_versions,
    read_properties,
)
from slipway_agent.servers.torchserve.workers_log import measure_log, read_log
from slipway_agent.volume.models_volume import ModelVolume
from slipway_agent.volume.safe_open import open_ordinary, read_whole
from slipway_agent.volume.unpacking import Unpacking, unpack_archive

SILENT = "a worker ended before it was ready, without a word; most often by the container's memory limit"
POLL_SECONDS = 0.05  # a server that dies between two looks is held against the version that it loaded
SETTLE_SECONDS = 0.5  # until a failed worker's last lines are in the log
LINGER_SECONDS = 2.0  # between a version's last unversioned request and the end of its workers, at least
QUIET_SECONDS = 60.0  # how long requests that a version still answers put its end off, at most
FILE_BYTES = 1 << 20  # the most that is read of a manifest or a model's configuration
_GZIP = b"\x1f\x8b"


@dataclass(frozen=True, slots=True)
class Registered:
    """One version as the server describes it.

    `wanted_workers`: how many it keeps. `started`: when the oldest of them began, seconds since the epoch.
    """

    is_ready: bool
    wanted_workers: int
    pending: int
    started: float


class _ServerEndedError(Exception):
    """Nothing listens any more, or the answer never came."""


def parse_settings(fields: Fields) -> TorchServeSpec:
    default = TorchServeSpec()
    return TorchServeSpec(
        http_port=fields.whole("httpPort", at_least=1, default=default.http_port),
        metrics_port=fields.whole("metricsPort", at_least=1, default=default.metrics_port),
        management_port=fields.whole("managementPort", at_least=1, default=default.management_port),
        grpc_port=fields.whole("grpcPort", at_least=1, default=default.grpc_port),
        grpc_management_port=fields.whole("grpcManagementPort", at_least=1, default=default.grpc_management_port),
        grpc_connection_age_milliseconds=fields.whole(
            "grpcConnectionAgeMilliseconds", at_least=1, default=default.grpc_connection_age_milliseconds
        ),
        workers=fields.whole_or_none("workers", at_least=1),
        default_workers=fields.whole("defaultWorkers", at_least=1, default=default.default_workers),
        max_batch_size=fields.whole_or_none("maxBatchSize", at_least=1),
        max_batch_delay_milliseconds=fields.whole_or_none("maxBatchDelayMilliseconds", at_least=1),
        response_timeout_seconds=fields.whole(
            "responseTimeoutSeconds", at_least=1, default=default.response_timeout_seconds
        ),
        startup_timeout_seconds=fields.whole(
            "startupTimeoutSeconds", at_least=1, default=default.startup_timeout_seconds
        ),
        gpu_count=fields.whole("gpuCount", default=default.gpu_count),
        log_folder=fields.text_or_none("logFolder") or default.log_folder,
    )


def open_server(inputs: DriverInputs, settings: TorchServeSpec) -> "TorchServer":
    config = inputs.config
    limits = config.source.limits
    return TorchServer(inputs.volume, settings, config.served, config.warmup, inputs.say, limits=limits)


class TorchServer:
    """`warmup`: requests that a version answers before it becomes the default one. What they prove is judged by
    `servers.wrappers.warmup`, which sends them again. `say(message, **fields)` writes a line of the log. `limits`: of
    a .mar that lies in a folder."""

    warms_itself = False

    def __init__(
        self,
        volume: ModelVolume,
        spec: TorchServeSpec,
        served: int | None,
        warmup: tuple[object, ...] = (),
        say: Say = say_nothing,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        self._volume = volume
        self._spec = spec
        self._served = served
        self._warmup = warmup
        self._say = say
        self._limits = limits
        self._management = LocalHttp(spec.management_port)
        self._inference = LocalHttp(spec.http_port)
        self._last_view = LastView()
        self._default_moved_at = 0.0

    # files

    def holds_model(self, folder: Path) -> bool:
        return (folder / MANIFEST).is_file() or _find_archive(folder) is not None

    def accepted_files(self) -> str:
        return f"one whole *.mar, or what it holds ({MANIFEST} and the files beside it)"

    def name_files(self, folder: Path, check: Callable[[], None] = go_on) -> None:
        """Unpack a .mar that lies in the folder, and give its manifest this model's name and this version's number."""
        if not (folder / MANIFEST).is_file() and (archive := _find_archive(folder)) is not None:
            _unpack_here(archive, folder, Unpacking(archive.name, archive.name, self._limits, check))
        version = self._volume.staged_version(folder)
        place = folder / MANIFEST
        try:
            manifest = complete_manifest(read_whole(place, FILE_BYTES).decode(), self._volume.model, version)
        except (FileNotFoundError, UnicodeDecodeError) as cause:
            what = f"version {version} has no readable {MANIFEST}. Make the .mar with torch-model-archiver"
            raise SpecError(Reason.NO_MODEL_FILE, what) from cause
        if manifest.said is not None:
            self._say(
                "the manifest says another version; the folder's number is the version's",
                version=version,
                manifest=manifest.said,
            )
        config = folder / manifest.config_file
        kept = read_whole(config, FILE_BYTES).decode(errors="replace") if config.is_file() else ""
        _replace(place, manifest.text)
        config.parent.mkdir(parents=True, exist_ok=True)
        _replace(config, complete_model_config(kept, self._spec))

    def read_boot(self) -> frozenset[int]:
        return read_properties(self._volume.read_in_repository(PROPERTIES) or "")

    def write_boot(self, versions: frozenset[int]) -> None:
        self._volume.write_in_repository(LOGGING, compose_logging(self._spec.log_folder))
        paths = {version: str(self._folder(version)) for version in versions}
        ordered = order_versions(versions, self._served)
        self._volume.write_in_repository(PROPERTIES, compose_properties(self._volume.model, paths, ordered, self._spec))

    # looking

    def observe(self, versions: frozenset[int]) -> ServerView:
        try:
            registered = self._describe()
            ready = frozenset(version for version, each in registered.items() if each.is_ready)
            # it serves once unversioned requests get it, which is after all others of its load
            if self._served in ready and self._find_default() != self._served:
                ready -= {self._served}
        except TimeoutError:
            return self._last_view.while_busy(versions)
        except LOST:
            return ServerView()
        return self._last_view.keep(ServerView(is_alive=True, ready=ready & versions))

    def _describe(self) -> Mapping[int, Registered]:
        """All versions that are registered. Raises TimeoutError or another of LOST."""
        status, body = self._management.ask("GET", f"/models/{self._name}/all")
        return read_description(body) if status == 200 else {}

    # loading

    def load(self, versions: frozenset[int]) -> LoadOutcome:
        before = self._volume.read_in_repository(PROPERTIES)
        self.write_boot(versions)
        was_asked = False
        try:
            self._describe()
            was_asked = True
            outcome = self._load_now(versions)
        except LOST as cause:
            place = f"{HOST}:{self._spec.management_port}"
            outcome = Gone(f"the server doesn't answer at {place} ({explain_lost(cause)})", was_asked)
        except _ServerEndedError as cause:
            outcome = Gone(str(cause))
        if not isinstance(outcome, Loaded) and before is not None:
            self._volume.write_in_repository(PROPERTIES, before)
        return outcome

    def _load_now(self, versions: frozenset[int]) -> LoadOutcome:
        failed: dict[int, str] = {}
        fresh: list[int] = []
        for version in order_versions(versions, self._served):
            found = self._describe().get(version)
            if found is not None and found.is_ready and not self._is_replaced(version, found):
                continue
            # after a start its workers are on their way; what they say from now on counts
            words = self._await_ready(version, self._log_size()) if found is not None and found.wanted_workers else None
            if found is not None and (words is not None or not self._is_as_wanted(version)):
                self._unregister(version)
                found = None
            if words is None and found is None:
                words = self._register(version)
            if words is None:
                fresh.append(version)
            else:
                failed[version] = words
        if failed:
            message = "; ".join(f"version {version}: {words}" for version, words in sorted(failed.items()))
            return Refused(message[:WORDS_LIMIT], failed)
        if self._warm(fresh):
            self._set_default(versions)
        for version in sorted(self._describe().keys() - versions):
            self._await_quiet(version)
            self._unregister(version)
        return Loaded()

    def _register(self, version: int) -> str | None:
        """Load one version that isn't registered: None when a worker is ready, else the words of what failed."""
        folder = self._folder(version)
        if not (folder / MANIFEST).is_file():
            return f"its files are gone from {folder}; it is fetched again"
        seen = self._log_size()
        # Not synchronous: TorchServe would wait on a thread that serves clients' connections.
        wanted = {"model_name": self._volume.model, "url": str(folder), "synchronous": "false"}
        status, body = self._ask_long("POST", f"/models?{urlencode(wanted)}")
        words = read_message(status, body) if status not in (200, 202) else self._await_ready(version, seen)
        if words is not None:
            self._unregister(version)
        return words

    def _await_ready(self, version: int, seen: int) -> str | None:
        """Wait for workers that are on their way: None when one is ready, or the version gone; words when they failed.

        Only what the log says after `seen` counts; it has older words too, of predictions that failed. A worker that
        fails is started again within seconds, and says so again.
        """
        deadline = time.monotonic() + self._spec.startup_timeout_seconds
        while time.monotonic() < deadline:
            found = self._describe().get(version)
            if found is None or found.is_ready:
                return None
            log = self._read_log(seen)
            # What a worker said and that it was started again come by different ways, in either order.
            has_ended = count_starts(log, self._volume.model, version) > found.wanted_workers
            if find_words(log, self._volume.model, version) or has_ended:
                time.sleep(SETTLE_SECONDS)
                words = find_words(self._read_log(seen), self._volume.model, version)
                if words:
                    return words[:WORDS_LIMIT]
                if has_ended:
                    return SILENT
            time.sleep(POLL_SECONDS)
        return f"its workers weren't ready within {self._spec.startup_timeout_seconds} s"

    def _is_as_wanted(self, version: int) -> bool:
        found = self._describe().get(version)
        return found is not None and found.is_ready and not self._is_replaced(version, found)

    def _is_replaced(self, version: int, found: Registered) -> bool:
        """Whether the version's files are younger than its workers: published again, and loaded before that.

        The manifest shows it: each publication writes it, and nothing touches it afterwards.
        """
        try:
            return os.stat(self._folder(version) / MANIFEST).st_ctime > found.started
        except OSError:
            return False

    def _warm(self, versions: list[int]) -> bool:
        return all(self.ask(version, body).words is None for version in versions for body in self._warmup)

    def _set_default(self, versions: frozenset[int]) -> None:
        """Have unversioned requests go to the served version; where it isn't among these, to the newest of them."""
        wanted = order_versions(versions, self._served)[0]
        current = self._find_default()
        if current == wanted or (current in versions and self._served not in versions):
            return
        self._move_default(wanted)

    def _move_default(self, version: int) -> None:
        status, body = self._management.ask("PUT", f"/models/{self._name}/{version}/set-default")
        if status != 200:
            raise _ServerEndedError(
                f"version {version} can't be made the default: {read_words(status, body, 'message')}"
            )
        self._default_moved_at = time.monotonic()

    def _find_default(self) -> int | None:
        """The version that answers unversioned requests; None when none is registered."""
        status, body = self._management.ask("GET", f"/models/{self._name}")
        described = read_description(body) if status == 200 else {}
        return next(iter(described), None)

    def _await_quiet(self, version: int) -> None:
        """Until nothing waits for the version, and what it took before it stopped to be the default is answered.

        TorchServe doesn't say what its workers are answering: they get the time of five mean answers, and a little.
        """
        linger_seconds = LINGER_SECONDS + 5 * self._measure_latency_seconds()
        deadline = time.monotonic() + QUIET_SECONDS
        while time.monotonic() < deadline:
            found = self._describe().get(version)
            if found is None or not found.is_ready:
                return
            rested = time.monotonic() - self._default_moved_at
            if rested >= linger_seconds and found.pending == 0:
                return
            time.sleep(POLL_SECONDS)

    def _measure_latency_seconds(self) -> float:
        try:
            status, body = LocalHttp(self._spec.metrics_port).ask("GET", "/metrics")
        except LOST:
            return 0.0
        return read_latency_seconds(body.decode(errors="replace"), self._volume.model) if status == 200 else 0.0

    def _unregister(self, version: int) -> None:
        """Take a version out. Where it is the default one of several, another becomes that first."""
        registered = self._describe()
        if version not in registered:
            return
        others = {each: found for each, found in registered.items() if each != version}
        if others and self._find_default() == version:
            self._move_default(max(others, key=lambda each: (others[each].is_ready, each)))
            if registered[version].is_ready:
                self._await_quiet(version)
        status, body = self._ask_long("DELETE", f"/models/{self._name}/{version}")
        if status not in (200, 404):
            raise _ServerEndedError(f"version {version} can't be unregistered: {read_words(status, body, 'message')}")

    def ask(self, version: int, body: object, seconds: float = REQUEST_SECONDS) -> Answer:
        return self._inference.predict(f"/predictions/{self._name}/{version}", body, seconds, read_message)

    def readiness_question(self, version: int) -> ReadinessQuestion:
        # without a number it describes the default version, which the served one has to be
        path = f"/models/{self._name}" if version == self._served else f"/models/{self._name}/all"
        expected = [{"modelVersion": str(version), "workers": [{"status": "READY"}]}]
        return ReadinessQuestion(self._spec.management_port, path, expected=expected)

    def signature(self, version: int) -> Signature | None:
        """A handler takes and gives what it likes, and TorchServe knows nothing of it."""
        return None

    # small things

    @property
    def _name(self) -> str:
        return quote(self._volume.model, safe="")

    def _folder(self, version: int) -> Path:
        return self._volume.repository / str(version)

    def _ask_long(self, method: str, path: str) -> tuple[int, bytes]:
        """As long as the server lives: a large model may take minutes."""
        try:
            return self._management.ask(method, path, None)
        except ConnectionRefusedError:
            raise
        except LOST as cause:
            raise _ServerEndedError(f"the server ended during the load ({explain_lost(cause)})") from cause

    # the workers' log

    @property
    def _log(self) -> Path:
        return Path(self._spec.log_folder) / LOG_NAME

    def _log_size(self) -> int:
        return measure_log(self._log)

    def _read_log(self, start: int) -> str:
        return read_log(self._log, start)


def read_description(body: bytes) -> Mapping[int, Registered]:
    """GET /models/M/all. A version that isn't a whole number isn't the agent's."""
    try:
        entries = parse_json(body)
    except ValueError:
        return {}
    found: dict[int, Registered] = {}
    for entry in entries if isinstance(entries, list) else ():
        version = parse_version(str(entry.get("modelVersion"))) if isinstance(entry, dict) else None
        if version is None:
            continue
        workers = entry.get("workers") or []
        started = [_moment(str(worker.get("startTime"))) for worker in workers]
        found[version] = Registered(
            is_ready=any(worker.get("status") == "READY" for worker in workers),
            wanted_workers=len(workers),
            pending=int((entry.get("jobQueueStatus") or {}).get("pendingRequests") or 0),
            started=min(started, default=0.0),
        )
    return found


def read_latency_seconds(metrics: str, model: str) -> float:
    """The mean time of an answer, of whichever version's is longest; 0.0 where nothing was counted yet."""
    sums: dict[tuple[str, str], float] = {}
    line_of = re.compile(
        rf"(ts_inference_requests_total|ts_inference_latency_microseconds)"
        rf'\{{model_name="{re.escape(model)}",model_version="([^"]*)",[^}}]*\}} (\S+)'
    )
    for line in metrics.splitlines():
        if found := line_of.fullmatch(line):
            sums[found[1], found[2]] = float(found[3])
    means = [
        sums.get(("ts_inference_latency_microseconds", version), 0.0) / count / 1e6
        for (name, version), count in sums.items()
        if name == "ts_inference_requests_total" and count > 0
    ]
    return max(means, default=0.0)


def read_message(status: int, body: bytes) -> str:
    """TorchServe's answer to what it can't do: {"code": 500, "type": "…", "message": "…"}."""
    return read_words(status, body, "message")


def _moment(written: str) -> float:
    """ "2026-11-21T03:30:57.088Z" in seconds since the epoch; 0.0 for another text."""
    try:
        return datetime.fromisoformat(written).timestamp()
    except ValueError:
        return 0.0


def _find_archive(folder: Path) -> Path | None:
    """The one whole .mar in a folder. A zip that is still being copied lacks its directory, which stands at its end."""
    try:
        archives = [entry for entry in folder.iterdir() if entry.name.lower().endswith(".mar") and entry.is_file()]
    except OSError:
        return None
    return archives[0] if len(archives) == 1 and _archive_kind(archives[0]) is not None else None


def _archive_kind(archive: Path) -> str | None:
    try:
        with open_ordinary(archive) as file:  # a listing looks at claims too, where it may be a FIFO by now
            if is_zipfile(file):
                return "zip"
            file.seek(0)
            return "tar.gz" if file.read(2) == _GZIP else None
    except OSError:
        return None


def _unpack_here(archive: Path, folder: Path, unpacking: Unpacking) -> None:
    """The archive's entries beside it, and the archive gone: 14 GB need not be there twice."""
    kind = _archive_kind(archive)
    assert kind is not None
    inner = folder.with_name(f"{folder.name}.unpacked")  # beside it: whatever the archive holds has another name
    shutil.rmtree(inner, ignore_errors=True)
    unpack_archive(kind, archive, inner, unpacking)
    archive.unlink()
    for entry in sorted(inner.iterdir()):
        try:
            os.replace(entry, folder / entry.name)
        except OSError as cause:
            if cause.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
                raise
            what = f"{entry.name} is in {archive.name} and beside it, once as a folder. Keep one of them"
            raise SpecError(Reason.UNSUPPORTED_ARCHIVE, what) from cause
    inner.rmdir()


def _replace(place: Path, content: str) -> None:
    """Another file under the name: the one that is there may have a second name elsewhere."""
    place.unlink(missing_ok=True)
    place.write_text(content)
