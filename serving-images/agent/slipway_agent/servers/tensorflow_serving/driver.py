"""TensorFlow Serving by its model config file, which it polls, with REST status as the read-back, on 127.0.0.1.

Facts (TensorFlow Serving's sources and docs; the stand-in of tests/e2e/images behaves so):
- The file replaces the one before. Versions are named one by one (`specific`), so that nothing is loaded that
  isn't asked for. A change is taken up after a poll of the file (1 s) and one of the folders (1 s).
- The highest version that is AVAILABLE gets the unversioned requests. The server may unload a version that is no
  longer named as soon as any named one serves.
- Status answers 200 whatever the state is, and lists every version of the server's life: one that failed, or was
  unloaded, stays as END until it is loaded again. With `--max_num_load_retries=0` a broken one gets there at once.
- A label may only move to an AVAILABLE version, and one that can't be moved makes the whole file count for nothing. So:
  load, see it AVAILABLE, then move the label, and only then unload. At a start nothing is AVAILABLE yet:
  `--allow_version_labels_for_unavailable_models`.
- Each REST status request counts as a request in the server's metrics. So a server that is as it should be is asked
  seldom: a connection is held open, and its end shows that the server ended.
"""

import json
import select
import socket
import threading
import time
import weakref
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias
from urllib.parse import quote

from slipway_agent.config import Fields, parse_version
from slipway_agent.model.errors import Reason, SpecError, TransientError
from slipway_agent.model.readiness import ReadinessQuestion
from slipway_agent.model.server_state import Gone, Loaded, LoadOutcome, Refused, ServerView
from slipway_agent.model.signature import Signature
from slipway_agent.model.untrusted_json import parse_json
from slipway_agent.servers.base import REQUEST_SECONDS, Answer, DriverInputs, go_on
from slipway_agent.servers.local_http import HOST, LOST, WORDS_LIMIT, LocalHttp, read_words
from slipway_agent.servers.readiness import BUSY_SECONDS
from slipway_agent.servers.tensorflow_serving.config import (
    BATCHING_FILE,
    MODELS_FILE,
    MONITORING_FILE,
    TensorFlowServingSpec,
    choose_labels,
    compose_batching,
    compose_models,
    compose_monitoring,
    read_models,
)
from slipway_agent.servers.tensorflow_serving.saved_model import SERVE_TAG, UnreadableError, read_saved_model
from slipway_agent.servers.tensorflow_serving.signature import read_metadata
from slipway_agent.servers.tensorflow_serving.warmup import write_warm_up
from slipway_agent.volume.models_volume import ModelVolume

POLL_SECONDS = 0.1
TAKEN_UP_SECONDS = 6.0  # twice what a change of the file takes to be acted on: two polls of 1 s, and the manager's turn
FORGET_SECONDS = 4.0  # until the server has surely seen a file, and what it no longer names
SILENT_SECONDS = 30.0  # a file that nothing came of: the server doesn't poll it, or can't read it
UNLOAD_SECONDS = 15.0  # requests in flight hold an unload up
STEADY_SECONDS = 15.0  # between two looks at a server that is as it should be
WARMUP_HINT = (
    "(The server answers the requests of spec.warmup as a part of the load; it may be one of them that failed)"
)
SAVED_MODEL, SAVED_MODEL_TEXT = "saved_model.pb", "saved_model.pbtxt"
_NOTE = "loaded.json"


_Stamp: TypeAlias = tuple[int, int]
"""Tells one folder from another that came in its place: publishing renames a new one there."""


@dataclass(frozen=True, slots=True)
class VersionStatus:
    """One entry of the status. `words` is what failed; empty when nothing did."""

    state: str
    words: str = ""

    @property
    def is_under_way(self) -> bool:
        return self.state in ("START", "LOADING", "UNLOADING")


class _ServerEndedError(Exception):
    """Nothing listens any more."""


def parse_settings(fields: Fields) -> TensorFlowServingSpec:
    return TensorFlowServingSpec(
        http_port=fields.whole("httpPort", at_least=1, default=8501),
        max_batch_size=fields.whole_or_none("maxBatchSize", at_least=1),
        max_delay_microseconds=fields.whole_or_none("maxDelayMicroseconds"),
        batch_threads=fields.whole_or_none("batchThreads", at_least=1),
    )


def open_server(inputs: DriverInputs, settings: TensorFlowServingSpec) -> "TensorFlowServer":
    config = inputs.config
    return TensorFlowServer(inputs.volume, settings, config.labels, config.load, config.warmup)


class _Kept:
    """The connection of the last look: while it stands, the server does.

    Not the driver's own: of what is garbage together, the collector ends the socket as well before the driver as after.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.connection: socket.socket | None = None

    def keep(self, connection: socket.socket | None) -> None:
        """In the place of the one before, which is closed. A load looks from a thread of its own."""
        with self._lock:
            former, self.connection = self.connection, connection
        if former is not None:
            former.close()

    def close(self) -> None:
        """Keep none."""
        self.keep(None)


class TensorFlowServer:
    """`labels`: where each one should stand; those whose version isn't loaded are left out until it is.

    `named`: the versions that the operator wants, loaded or on their way. `warmup`: bodies of predictions; they are put
    into each version's own warm-up file, beside what the model brought.
    """

    warms_itself = True

    def __init__(
        self,
        volume: ModelVolume,
        spec: TensorFlowServingSpec,
        labels: Mapping[str, int],
        named: Collection[int],
        warmup: Sequence[object] = (),
    ) -> None:
        self._volume = volume
        self._spec = spec
        self._local_http = LocalHttp(spec.http_port)
        self._labels = labels
        self._named = named
        self._warmup = warmup
        self._lock = threading.Lock()
        self._kept = _Kept()
        weakref.finalize(self, self._kept.close)  # another agent.json makes another driver
        self._seen: tuple[Mapping[int, VersionStatus], float] | None = None
        self._loaded_folders: Mapping[int, _Stamp] = _read_note(volume.read_note(_NOTE))

    def holds_model(self, folder: Path) -> bool:
        return (folder / SAVED_MODEL).is_file() or (folder / SAVED_MODEL_TEXT).is_file()

    def accepted_files(self) -> str:
        return f"{SAVED_MODEL} (a SavedModel, with its variables folder beside it)"

    def name_files(self, folder: Path, check: Callable[[], None] = go_on) -> None:
        """Nothing is renamed. A SavedModel that the server would load and never could ask is refused here."""
        require_signature(folder)
        if self._warmup:
            write_warm_up(folder, self._volume.model, self._warmup)

    def observe(self, versions: frozenset[int]) -> ServerView:
        with self._lock:
            seen = self._look()
            available = _available(seen) if seen is not None else frozenset()
            # what is found loaded was loaded from the folders that are there now, unless it is known better
            self._note_loaded({each: self._loaded_folders.get(each, self._folder(each)) for each in available})
        if seen is None:
            return ServerView()
        return ServerView(True, available & versions)

    def read_boot(self) -> frozenset[int]:
        return read_models(self._volume.read_in_repository(MODELS_FILE) or "").versions

    def write_boot(self, versions: frozenset[int]) -> None:
        self._volume.write_in_repository(MONITORING_FILE, compose_monitoring())
        if batching := compose_batching(self._spec):
            self._volume.write_in_repository(BATCHING_FILE, batching)
        # nothing is loaded at a start, and there labels may stand on what is about to be
        before = read_models(self._volume.read_in_repository(MODELS_FILE) or "").labels
        self._write_models(versions, self._choose(before, versions))

    def load(self, versions: frozenset[int]) -> LoadOutcome:
        before = self._volume.read_in_repository(MODELS_FILE)
        # other bytes may be published while this load goes on: what it loads is what is there now
        folders = {version: self._folder(version) for version in versions}
        was_asked = False
        try:
            found = self._status()
            was_asked = True
            outcome = self._load_now(versions, found, read_models(before or "").labels, folders)
        except _ServerEndedError:
            outcome = Gone(f"the server doesn't answer at {HOST}:{self._spec.http_port}", was_asked)
        except BaseException:
            self._restore(before)
            raise
        if isinstance(outcome, Loaded):
            with self._lock:
                self._note_loaded(folders)
        else:
            self._restore(before)
        return outcome

    def ask(self, version: int, body: object, seconds: float = REQUEST_SECONDS) -> Answer:
        path = f"/v1/models/{self._volume.model}/versions/{version}:predict"
        return self._local_http.predict(path, body, seconds, explain_error)

    def readiness_question(self, version: int) -> ReadinessQuestion:
        expected = {"model_version_status": [{"version": str(version), "state": "AVAILABLE"}]}
        return ReadinessQuestion(self._spec.http_port, f"/v1/models/{self._volume.model}", expected=expected)

    def signature(self, version: int) -> Signature | None:
        status, body = self._local_http.describe(f"/v1/models/{self._volume.model}/versions/{version}/metadata")
        if status != 200:
            raise TransientError(explain_error(status, body))
        return read_metadata(body)

    # loading

    def _load_now(
        self,
        versions: frozenset[int],
        found: Mapping[int, VersionStatus],
        labels: Mapping[str, int],
        folders: Mapping[int, _Stamp],
    ) -> LoadOutcome:
        available = _available(found)
        if replaced := self._replaced(versions & available, folders):
            # the server keeps what it has under a number: the old bytes go before the new ones come
            rest = available - replaced
            self._write_models(rest, self._choose(labels, rest))
            found = self._await_unload(replaced)
        found = self._await_forgotten(versions, found)
        available = _available(found)
        # What a label stands on stays until the label has moved.
        carried = self._choose(labels, available)
        self._write_models(versions | frozenset(carried.values()), carried)
        failed = self._await_available(versions, found)
        if failed:
            if self._warmup:
                failed = {version: f"{words}. {WARMUP_HINT}" for version, words in failed.items()}
            message = "; ".join(f"version {version}: {words}" for version, words in sorted(failed.items()))
            return Refused(message[:WORDS_LIMIT], failed)
        self._write_models(versions, self._choose(carried, versions))
        self._await_unload(_available(self._status()) - versions)
        self._await_labels(labels)
        return Loaded()

    def _await_available(self, wanted: frozenset[int], before: Mapping[int, VersionStatus]) -> dict[int, str]:
        """What failed, with the words; empty when all are AVAILABLE.

        A failure that the status showed before the file was written may be the last attempt's: it counts when the
        version was seen under way since, or when the server had time enough to try again.
        """
        began = time.monotonic()
        tried = {version for version in wanted if not (version in before and before[version].words)}
        while True:
            found, elapsed_seconds = self._status(), time.monotonic() - began
            failed, is_pending = {}, False
            for version in sorted(wanted):
                each = found.get(version, VersionStatus("unknown"))
                if each.is_under_way:
                    tried.add(version)
                    is_pending = True
                elif each.state == "AVAILABLE":
                    continue
                elif each.words and (version in tried or elapsed_seconds > TAKEN_UP_SECONDS):
                    failed[version] = each.words
                elif elapsed_seconds > SILENT_SECONDS:
                    failed[version] = (
                        f"the server hasn't begun to load it {SILENT_SECONDS:.0f} s after its model config file "
                        f"named it (state {each.state}). Look into the server's log, and leave its flags "
                        "--model_config_file_poll_wait_seconds and --file_system_poll_wait_seconds at 1"
                    )
                else:
                    is_pending = True
            if not is_pending:
                return failed
            time.sleep(POLL_SECONDS)

    def _await_unload(self, leaving: Collection[int]) -> Mapping[int, VersionStatus]:
        """The status once these are gone, or have had their time."""
        deadline = time.monotonic() + UNLOAD_SECONDS
        while True:
            found = self._status()
            staying = [each for each in leaving if each in found and found[each].state in ("AVAILABLE", "UNLOADING")]
            if not staying or time.monotonic() > deadline:
                return found
            time.sleep(POLL_SECONDS)

    def _await_labels(self, before: Mapping[str, int]) -> None:
        """A moved label is in force when asking by it gives its version; a file that is polled says nothing itself."""
        written = read_models(self._volume.read_in_repository(MODELS_FILE) or "").labels
        moved = {label: version for label, version in written.items() if before.get(label) != version}
        deadline = time.monotonic() + TAKEN_UP_SECONDS
        while moved and time.monotonic() < deadline:
            moved = {label: version for label, version in moved.items() if self._version_of(label) != version}
            if moved:
                time.sleep(POLL_SECONDS)

    def _await_forgotten(
        self, versions: frozenset[int], found: Mapping[int, VersionStatus]
    ) -> Mapping[int, VersionStatus]:
        """The status once the server has acted on the file that is there.

        A version that failed is tried again only after the server has seen a file that doesn't name it. One that is
        loaded and not named is about to go: a file that puts a label on it would be refused when it has gone.
        """
        unnamed = [found[version] for version in versions - self.read_boot() if version in found]
        if not any(each.words or each.state == "AVAILABLE" for each in unnamed):
            return found
        written_at = (self._volume.repository / MODELS_FILE).stat().st_mtime
        time.sleep(min(max(0.0, written_at + FORGET_SECONDS - time.time()), FORGET_SECONDS))
        return self._status()

    def _choose(self, before: Mapping[str, int], available: frozenset[int]) -> Mapping[str, int]:
        return choose_labels(self._labels, before, available, self._named)

    def _replaced(self, versions: frozenset[int], folders: Mapping[int, _Stamp]) -> frozenset[int]:
        """Those whose folder is another one than the server loaded."""
        known = self._loaded_folders
        return frozenset(each for each in versions if known.get(each, folders[each]) != folders[each])

    def _note_loaded(self, folders: Mapping[int, _Stamp]) -> None:
        """For the next driver, too: the server keeps the bytes of before, whoever comes to know it meanwhile."""
        if folders == self._loaded_folders:
            return
        self._loaded_folders = folders
        self._volume.write_note(_NOTE, json.dumps({str(each): stamp for each, stamp in sorted(folders.items())}))

    def _folder(self, version: int) -> _Stamp:
        try:
            status = (self._volume.repository / str(version)).stat()
        except FileNotFoundError:
            return (0, 0)
        return (status.st_ino, status.st_mtime_ns)

    def _write_models(self, versions: frozenset[int], labels: Mapping[str, int]) -> None:
        content = compose_models(self._volume.model, str(self._volume.repository), versions, labels)
        self._volume.write_in_repository(MODELS_FILE, content)

    def _restore(self, before: str | None) -> None:
        if before is not None:
            self._volume.write_in_repository(MODELS_FILE, before)

    # asking

    def _look(self) -> Mapping[int, VersionStatus] | None:
        """The status, as of now or as of when nothing can have changed since; None when nothing listens."""
        seen = self._seen
        age_seconds = time.monotonic() - seen[1] if seen is not None else 0.0
        if seen is not None and age_seconds < STEADY_SECONDS and self._is_steady(seen[0]) and self._is_open():
            return seen[0]
        self._kept.close()
        try:
            body, connection = self._local_http.look(f"/v1/models/{self._volume.model}")
        except TimeoutError:
            # busy is not gone: a pod that drops out under load makes the load worse for the others
            return seen[0] if seen is not None and age_seconds < BUSY_SECONDS else None
        except LOST:
            self._seen = None
            return None
        found = parse_status(body)
        self._seen = (found, time.monotonic())
        self._kept.keep(connection)
        return found

    def _is_steady(self, found: Mapping[int, VersionStatus]) -> bool:
        return _available(found) == self.read_boot() and not any(each.is_under_way for each in found.values())

    def _is_open(self) -> bool:
        """Whether the connection of the last look still stands: anything to read on it is its end."""
        pulse = self._kept.connection
        if pulse is None:
            return False
        try:
            return not select.select([pulse], [], [], 0)[0]
        except (OSError, ValueError):
            return False

    def _status(self) -> Mapping[int, VersionStatus]:
        """As `load` needs it: fresh. A busy server is asked again for a while."""
        deadline = time.monotonic() + BUSY_SECONDS
        while True:
            try:
                return parse_status(self._local_http.ask("GET", f"/v1/models/{self._volume.model}")[1])
            except TimeoutError:
                if time.monotonic() > deadline:
                    raise _ServerEndedError from None
            except LOST:
                raise _ServerEndedError from None

    def _version_of(self, label: str) -> int | None:
        """The version that a request by this label gets."""
        try:
            path = f"/v1/models/{self._volume.model}/labels/{quote(label, safe='')}/metadata"
            _, body = self._local_http.ask("GET", path)
            return parse_version(str(parse_json(body)["model_spec"]["version"]))
        except (*LOST, ValueError, KeyError, TypeError):
            return None


def parse_status(body: bytes) -> dict[int, VersionStatus]:
    """GetModelStatus' answer; empty when the server has nothing under this name (404), or says something else."""
    try:
        entries = parse_json(body)["model_version_status"]
    except (ValueError, KeyError, TypeError):
        return {}
    found: dict[int, VersionStatus] = {}
    for entry in entries if isinstance(entries, list) else ():
        if not isinstance(entry, Mapping):
            continue
        version, status = parse_version(str(entry.get("version"))), entry.get("status")
        if version is None:
            continue
        words = ""
        if isinstance(status, Mapping) and status.get("error_code", "OK") not in ("OK", 0):
            words = f"{status.get('error_code')}: {status.get('error_message') or 'without a word'}"
        found[version] = VersionStatus(str(entry.get("state")), words[:WORDS_LIMIT])
    return found


def explain_error(status: int, body: bytes) -> str:
    """The words of an error answer."""
    return f"HTTP {status}: {read_words(status, body)}"[:WORDS_LIMIT]


def require_signature(folder: Path) -> None:
    """SpecError(NoModelFile) for a SavedModel that has nothing a request could ask for.

    TensorFlow Serving loads such a model and answers every request with an error. What can't be read, or lacks the
    graph that is served, is left to the server: it refuses that itself, in its own words.
    """
    file = folder / SAVED_MODEL
    if not file.is_file():
        return
    try:
        served = [graph for graph in read_saved_model(file) if SERVE_TAG in graph.tags]
    except (OSError, UnreadableError):
        return
    if served and not any(graph.signatures for graph in served):
        raise SpecError(
            Reason.NO_MODEL_FILE,
            f"{SAVED_MODEL} has no signature, so TensorFlow Serving could load it and answer nothing. Export it with "
            "one: tf.saved_model.save(model, path, signatures=...), or model.export(path) in Keras 3",
        )


def _available(found: Mapping[int, VersionStatus]) -> frozenset[int]:
    return frozenset(version for version, each in found.items() if each.state == "AVAILABLE")


def _read_note(text: str | None) -> dict[int, _Stamp]:
    try:
        return {
            int(version): (int(inode), int(changed)) for version, (inode, changed) in parse_json(text or "").items()
        }
    except (ValueError, TypeError, AttributeError):
        return {}
