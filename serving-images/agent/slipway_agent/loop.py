"""The shell: read agent.json, look at the disk and the server, decide, act, report. One turn, over and over.

All state is changed on the loop's thread alone. The fetching worker, the loading worker and signals only post to the
inbox. Nothing in memory is needed to go on: a killed agent's next one reads the ledger and the boot configuration.
"""

import errno
import functools
import os
import queue
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeAlias, assert_never

from slipway_agent.config import Config, parse_config, show_url
from slipway_agent.decide import (
    Action,
    CancelFetch,
    Failure,
    Fetch,
    Fetching,
    Load,
    LoadRecord,
    Remove,
    World,
    WriteBoot,
    blame,
    decide,
    is_ready,
    needs_second_look,
    plan_retry,
)
from slipway_agent.endpoints import Board
from slipway_agent.failures import (
    AgentError,
    CancelledError,
    Reason,
    SpecError,
    TransientError,
    UnchangedError,
)
from slipway_agent.fetching import Job, fetch_version, open_source
from slipway_agent.journal import Journal, format_date
from slipway_agent.report import Counters, ErrorReport, Report, VersionReport, compose_report
from slipway_agent.servers import Loaded, LoadOutcome, Refused, Server
from slipway_agent.servers.triton import TritonServer
from slipway_agent.sources import ModelSource, Progress
from slipway_agent.volume import Ledger, ModelVolume, Published, describe_bytes
from slipway_agent.worker import Worker

LIST_SECONDS = 60.0
PROGRESS_SECONDS, PROGRESS_SHARE = 5.0, 0.1
ERROR_SECONDS = 5.0  # between two turns of a loop that fails


@dataclass(frozen=True, slots=True)
class FetchEnded:
    job: Job
    progress: Progress
    seconds: float
    outcome: Published | AgentError | UnchangedError | CancelledError


@dataclass(frozen=True, slots=True)
class LoadEnded:
    asked: frozenset[int]
    ready_before: frozenset[int]
    seconds: float
    outcome: LoadOutcome | AgentError


@dataclass(frozen=True, slots=True)
class Listed:
    source: ModelSource
    versions: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Stop:
    signal: str


Event: TypeAlias = FetchEnded | LoadEnded | Listed | Stop


@dataclass(slots=True)
class _Fetch:
    """The fetch in hand, and what was last said of it in the log."""

    job: Job
    progress: Progress
    said_at: float
    said_share: float = 0.0


@dataclass(slots=True)
class _Model:
    """What follows from one agent.json; the volume and its ledger outlive a change of it."""

    world: World
    volume: ModelVolume
    server: Server
    source: ModelSource
    listed: tuple[int, ...] = ()
    listed_at: float | None = None


class Agent:
    def __init__(
        self, config_path: Path, models: Path, board: Board, journal: Journal, environment: Mapping[str, str]
    ) -> None:
        self._config_path = config_path
        self._models = models
        self._board = board
        self._journal = journal
        self._server_key = environment.get("SLIPWAY_SERVER_KEY")
        self._inbox: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._fetcher = Worker("fetch")
        self._loader = Worker("load")
        self._model: _Model | None = None
        self._config_stamp: tuple[int, int, int] | None = None
        self._config_text: str | None = None
        self._config_error: ErrorReport | None = None
        self._fetch: _Fetch | None = None
        self._report = Report()
        self._counters = Counters()

    def stop(self, signal: str) -> None:
        """Make `run` return. Callable from a signal handler: SimpleQueue.put is reentrant."""
        self._inbox.put(Stop(signal))

    def run(self) -> None:
        while True:
            wake_seconds = self._turn_safely()
            while (event := self._next_event(wake_seconds)) is not None:
                if isinstance(event, Stop):
                    self._journal.info("stopping", signal=event.signal)
                    return
                self._take(event)
                wake_seconds = 0.0  # take what else is there, then turn

    def _next_event(self, wait_seconds: float) -> Event | None:
        try:
            return self._inbox.get(timeout=wait_seconds) if wait_seconds > 0 else self._inbox.get_nowait()
        except queue.Empty:
            return None

    def _turn_safely(self) -> float:
        try:
            wake_seconds = self._turn()
        except Exception as defect:  # the agent must outlive its own defects, and say where they are
            self._journal.error("the agent failed at its own work and goes on", **_locate(defect))
            wake_seconds = ERROR_SECONDS
        self._board.turned_at = time.monotonic()
        return wake_seconds

    def _turn(self) -> float:
        self._read_config()
        model = self._model
        if model is None:
            self._show(replace(self._report, error=self._config_error))
            return 1.0
        self._look(model)
        plan = decide(model.world)
        for action in plan.actions:
            self._act(model, action)
        self._list(model)
        report = compose_report(
            model.world, model.listed, self._config_error, self._report, format_date(datetime.now(UTC))
        )
        self._show(report)
        self._say_progress()
        # a synchronous action changed the world: judge the new one now
        return 0.0 if any(isinstance(action, WriteBoot | Remove) for action in plan.actions) else plan.wake_seconds

    # what is wanted

    def _read_config(self) -> None:
        """Take up a changed agent.json. One that can't be read leaves the one in force, and is reported."""
        try:
            status = self._config_path.stat()
            stamp = (status.st_mtime_ns, status.st_ino, status.st_size)
            if stamp == self._config_stamp:
                return
            text = self._config_path.read_text()
        except (OSError, UnicodeDecodeError) as cause:
            self._config_stamp = None
            words = cause.strerror if isinstance(cause, OSError) else str(cause)
            self._refuse_config(f"{self._config_path} can't be read: {words}. The operator mounts it from a ConfigMap")
            return
        self._config_stamp = stamp
        if text == self._config_text:
            self._config_error = None
            return
        try:
            config = parse_config(text)
        except SpecError as refusal:
            self._refuse_config(refusal.message)
            return
        self._config_text = text
        self._config_error = None
        self._take_config(config)

    def _refuse_config(self, message: str) -> None:
        if self._config_error is None or self._config_error.message != message:
            self._journal.error("configuration refused", reason=Reason.CONFIG_INVALID.value, detail=message)
        self._config_error = ErrorReport(Reason.CONFIG_INVALID, True, message)

    def _take_config(self, config: Config) -> None:
        before = self._model
        same_model = before is not None and before.volume.model == config.model
        volume = before.volume if before is not None and same_model else ModelVolume(self._models, config.model)
        server = TritonServer(volume, config.triton, config.served, self._server_key)
        source = open_source(config, server)
        world = World(config=config, now=time.monotonic())
        if before is not None and same_model:
            # every failure gets a new chance: the change may be the correction
            due = {each: replace(failure, retry_at=world.now) for each, failure in before.world.load_failures.items()}
            world = replace(before.world, config=config, fetch_failures={}, load_failures=due, is_boot_current=False)
        else:
            ledger = volume.read_ledger()
            volume.clean_staging(config.load)
            world = replace(world, published=ledger.versions, standing=ledger.standing, boot=server.read_boot())
        self._model = _Model(world, volume, server, source, before.listed if before is not None else ())
        self._journal.info(
            "configuration in force",
            generation=config.generation,
            model=config.model,
            source=show_url(config.source.uri),
            served=config.served,
            load=list(config.load),
        )

    # what is there

    def _look(self, model: _Model) -> None:
        world = model.world
        versions = frozenset(world.config.load) | frozenset(world.published) | world.boot
        view = model.server.observe(versions)
        if view.is_alive != world.server.is_alive:
            self._journal.info("server answers" if view.is_alive else "server doesn't answer", ready=sorted(view.ready))
            # a server that starts reads everything anew: nothing it was told before counts
            fresh = {version: replace(each, awaits_load=False) for version, each in world.published.items()}
            world = replace(world, last_load=None, published=fresh)
        fetch = self._fetch
        fetching = None if fetch is None else _describe_fetch(fetch)
        model.world = replace(world, now=time.monotonic(), server=view, fetching=fetching)
        if is_ready(model.world) and world.standing != world.config.served:
            model.world = replace(model.world, standing=world.config.served)
            self._write_ledger(model)

    def _list(self, model: _Model) -> None:
        """Ask the source for its versions, off the loop: a mount may hang."""
        if self._fetch is not None or (
            model.listed_at is not None and model.world.now - model.listed_at < LIST_SECONDS
        ):
            return
        model.listed_at = model.world.now
        source, post, journal = model.source, self._inbox.put, self._journal

        def list_now() -> None:
            try:
                post(Listed(source, source.list_versions()))
            except Exception as cause:  # the fetch says in plain words what is wrong with a source
                journal.debug("source can't be listed", detail=str(cause))

        self._fetcher.submit(list_now)

    # what to do

    def _act(self, model: _Model, action: Action) -> None:
        match action:
            case Fetch(version):
                self._start_fetch(model, version)
            case CancelFetch(version):
                if self._fetch is not None:
                    self._journal.info("fetch called off", version=version)
                    self._fetch.progress.cancel()
            case WriteBoot(versions):
                self._write_boot(model, versions)
            case Load(versions):
                self._start_load(model, versions)
            case Remove(version):
                model.volume.remove(version)
                remaining = {each: published for each, published in model.world.published.items() if each != version}
                model.world = replace(model.world, published=remaining)
                self._write_ledger(model)
                self._journal.info("version removed", version=version)
            case _:
                assert_never(action)

    def _start_fetch(self, model: _Model, version: int) -> None:
        config = model.world.config
        failure, published = model.world.fetch_failures.get(version), model.world.published.get(version)
        if needs_second_look(model.world, version):
            refused = published.fingerprint if published is not None else None
        else:
            refused = failure.fingerprint if failure is not None else None
        job = Job(version, config.source.location(version), config.sha256.get(version), refused)
        progress = Progress()
        self._fetch = _Fetch(job, progress, time.monotonic())
        if failure is None and refused is None:
            self._journal.info("fetch begins", version=version, source=job.place)
        self._fetcher.submit(
            functools.partial(_fetch_now, job, progress, model.source, model.volume, model.server, self._inbox.put)
        )
        model.world = replace(model.world, fetching=Fetching(version, job.location, job.pin))

    def _write_boot(self, model: _Model, versions: frozenset[int]) -> None:
        try:
            model.server.write_boot(versions)
        except (AgentError, OSError) as cause:
            self._note_load_failure(model, dict.fromkeys([model.world.config.served], _explain_write(cause)))
            return
        model.world = replace(model.world, boot=versions, is_boot_current=True)
        self._journal.info("boot configuration written", versions=sorted(versions))

    def _start_load(self, model: _Model, versions: frozenset[int]) -> None:
        ready = model.world.server.ready
        if versions != ready:
            self._journal.info("load begins", versions=sorted(versions), loaded=sorted(ready))
        server, post = model.server, self._inbox.put

        def load_now() -> None:
            began = time.monotonic()
            outcome: LoadOutcome | AgentError
            try:
                outcome = server.load(versions)
            except AgentError as refusal:
                outcome = refusal
            except Exception as defect:
                outcome = _explain_write(defect)
            post(LoadEnded(versions, ready, time.monotonic() - began, outcome))

        self._loader.submit(load_now)
        model.world = replace(model.world, loading=versions)

    # what came of it

    def _take(self, event: FetchEnded | LoadEnded | Listed) -> None:
        model = self._model
        assert model is not None
        match event:
            case FetchEnded():
                self._take_fetch(model, event)
            case LoadEnded():
                self._take_load(model, event)
            case Listed(source, versions):
                if source is model.source:
                    model.listed = versions
            case _:
                assert_never(event)

    def _take_fetch(self, model: _Model, event: FetchEnded) -> None:
        self._fetch = None
        model.listed_at = None
        version, world = event.job.version, replace(model.world, fetching=None, now=time.monotonic())
        failures, received = dict(world.fetch_failures), event.progress.received_bytes
        is_current = (
            world.config.source.location(version) == event.job.location
            and world.config.sha256.get(version) == event.job.pin
        )
        if needs_second_look(world, version) and not isinstance(event.outcome, Published | CancelledError):
            # nothing better to be had: the server is asked again for what there is
            confirmed = replace(world.load_failures[version], is_confirmed=True)
            model.world = replace(world, load_failures={**world.load_failures, version: confirmed})
            return
        match event.outcome:
            case Published() as published:
                failures.pop(version, None)
                load_failures = {each: failure for each, failure in world.load_failures.items() if each != version}
                now_published = {**world.published, version: published}
                model.world = replace(
                    world, published=now_published, fetch_failures=failures, load_failures=load_failures
                )
                self._write_ledger(model)
                self._counters = self._counters.count_fetch("published", received, event.seconds)
                self._journal.info(
                    "version published",
                    version=version,
                    sha256=published.sha256,
                    pinned=event.job.pin is not None,
                    size=describe_bytes(published.size_bytes),
                    seconds=round(event.seconds, 2),
                )
                return
            case CancelledError():
                result = "cancelled"
            case UnchangedError() if is_current and version in failures:
                result = "unchanged"
                earlier = failures[version]
                failures[version] = plan_retry(
                    earlier.reason, earlier.message, world.now, earlier, None, earlier.fingerprint
                )
            case UnchangedError():
                result = "unchanged"
            case AgentError() as error:
                result = error.reason.value
                if is_current:
                    earlier_failure = failures.get(version) if received == 0 else None  # progress starts the waits anew
                    failures[version] = _remember(error, world.now, earlier_failure)
            case _:
                assert_never(event.outcome)
        model.world = replace(world, fetch_failures=failures)
        self._counters = self._counters.count_fetch(result, received, event.seconds)

    def _take_load(self, model: _Model, event: LoadEnded) -> None:
        now = time.monotonic()
        world = replace(model.world, loading=None, now=now, last_load=LoadRecord(event.asked, now))
        outcome = event.outcome
        match outcome:
            case Loaded():
                failures = {each: failure for each, failure in world.load_failures.items() if each not in event.asked}
                loaded = {
                    version: replace(published, awaits_load=published.awaits_load and version not in event.asked)
                    for version, published in world.published.items()
                }
                is_news = loaded != world.published
                world = replace(world, load_failures=failures, published=loaded)
                model.world = replace(world, boot=event.asked, is_boot_current=True)
                if is_news:
                    self._write_ledger(model)
                result = "loaded"
                if event.asked != event.ready_before:
                    self._journal.info("load ended", versions=sorted(event.asked), seconds=round(event.seconds, 2))
            case AgentError():
                result = outcome.reason.value
                model.world = replace(world, is_boot_current=True)
                self._note_load_failure(model, {world.config.served: outcome})
            case _:
                result = "refused" if isinstance(outcome, Refused) else "gone"
                # a server that is gone reads the boot configuration next, so it must be the one in force
                model.world = replace(world, is_boot_current=world.is_boot_current or isinstance(outcome, Refused))
                faults = blame(outcome, event.asked, event.ready_before, world.config.served)
                self._journal.warning(
                    "load failed",
                    versions=sorted(event.asked),
                    blamed=sorted(faults),
                    detail=outcome.message,
                    seconds=round(event.seconds, 2),
                )
                errors = {version: SpecError(Reason.LOAD_FAILED, words) for version, words in faults.items()}
                self._note_load_failure(model, errors)
        self._counters = self._counters.count_load(result)

    def _note_load_failure(self, model: _Model, errors: Mapping[int, AgentError]) -> None:
        world = model.world
        failures = dict(world.load_failures)
        for version, error in errors.items():
            failures[version] = _remember(error, world.now, failures.get(version))
        model.world = replace(world, load_failures=failures)

    def _write_ledger(self, model: _Model) -> None:
        world = model.world
        try:
            model.volume.write_ledger(Ledger(model.volume.model, world.published, world.standing))
        except OSError as cause:
            self._journal.warning("ledger can't be written", detail=cause.strerror or str(cause))

    # what to say

    def _show(self, report: Report) -> None:
        before = {each.version: each for each in self._report.versions}
        for each in report.versions:
            earlier = before.pop(each.version, None)
            if earlier is None or (earlier.state, earlier.reason) != (each.state, each.reason):
                self._say_version(earlier, each)
        for gone in before:
            self._journal.info("version gone", version=gone)
        if report.is_serving != self._report.is_serving:
            self._journal.info("pod is ready" if report.is_serving else "pod isn't ready", served=report.served)
        self._report = report
        self._board.report = report
        self._board.counters = self._counters

    def _say_version(self, earlier: VersionReport | None, now: VersionReport) -> None:
        fields: dict[str, object] = {"version": now.version, "state": now.state.value}
        if earlier is not None:
            fields["before"] = earlier.state.value
        if not now.reason:
            self._journal.info("version state", **fields)
        else:
            self._journal.warning("version state", **fields, reason=now.reason, detail=now.message)

    def _say_progress(self) -> None:
        fetch = self._fetch
        if fetch is None:
            return
        now, done, total = time.monotonic(), fetch.progress.fetched_bytes, fetch.progress.total_bytes
        share = done / total if total else 0.0
        if now - fetch.said_at < PROGRESS_SECONDS and share - fetch.said_share < PROGRESS_SHARE:
            return
        if done in (0, total):
            return  # begun and ended have lines of their own
        fetch.said_at, fetch.said_share = now, share
        percent = f"{share:.0%}" if total else "unknown"
        self._journal.info("fetching", version=fetch.job.version, fetched=describe_bytes(done), percent=percent)


def _describe_fetch(fetch: _Fetch) -> Fetching:
    job, progress = fetch.job, fetch.progress
    return Fetching(job.version, job.location, job.pin, progress.fetched_bytes, progress.total_bytes)


def _fetch_now(
    job: Job,
    progress: Progress,
    source: ModelSource,
    volume: ModelVolume,
    server: Server,
    post: Callable[[Event], None],
) -> None:
    began = time.monotonic()
    outcome: Published | AgentError | UnchangedError | CancelledError
    try:
        outcome = fetch_version(job, source, volume, server, progress)
    except (AgentError, UnchangedError, CancelledError) as ending:
        outcome = ending
    except Exception as defect:
        where = _locate(defect)
        outcome = TransientError(
            f"version {job.version} ({job.place}) can't be fetched: {where['error']} at {where['at']}; it is tried "
            "again. If it stays, report this line"
        )
    post(FetchEnded(job, progress, time.monotonic() - began, outcome))


def _remember(error: AgentError, now: float, earlier: Failure | None) -> Failure:
    wanted_seconds = error.retry_after_seconds if isinstance(error, TransientError) else None
    fingerprint = error.fingerprint if isinstance(error, SpecError) else None
    return plan_retry(error.reason, error.message, now, earlier, wanted_seconds, fingerprint)


def _explain_write(cause: Exception) -> AgentError:
    if isinstance(cause, AgentError):
        return cause
    if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
        message = "the server's configuration can't be written: the pod's model volume is full. Free some on the node"
        return SpecError(Reason.DISK_FULL, message)
    where = _locate(cause)
    return TransientError(f"the server can't be configured: {where['error']} at {where['at']}; it is tried again")


def _locate(defect: BaseException) -> dict[str, str]:
    """One line for what would be a traceback: the error and the innermost place of ours."""
    frames = traceback.extract_tb(defect.__traceback__)
    ours = [frame for frame in frames if "slipway_agent" in frame.filename] or list(frames)
    at = f"{os.path.basename(ours[-1].filename)}:{ours[-1].lineno}" if ours else "unknown"
    return {"error": f"{type(defect).__name__}: {defect}", "at": at}
