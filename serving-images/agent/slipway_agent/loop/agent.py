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
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeAlias, assert_never

from slipway_agent.config import Config, parse_config, parse_recorded, show_url
from slipway_agent.fetching.pipeline import Job, fetch_version, open_source
from slipway_agent.loop.worker import Worker
from slipway_agent.model.errors import AgentError, CancelledError, Reason, SpecError, TransientError, UnchangedError
from slipway_agent.model.golden import GoldenReport
from slipway_agent.model.ledger import Ledger, Published, describe_bytes
from slipway_agent.model.server_state import Gone, Loaded, LoadOutcome, Refused
from slipway_agent.model.signature import Signature
from slipway_agent.plan.discovery import ListError, Listing, take_error, take_look
from slipway_agent.plan.plan import (
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
    configures_alike,
    confirm,
    decide,
    is_ready,
    may_correct,
    needs_second_look,
    note_death,
    plan_retry,
)
from slipway_agent.reporting.endpoints import Board
from slipway_agent.reporting.log import Journal, format_date
from slipway_agent.reporting.report import Counters, ErrorReport, Report, VersionReport, compose_report
from slipway_agent.servers.base import Server
from slipway_agent.servers.by_runtime import KINDS
from slipway_agent.servers.wrappers.golden import Clearance, GoldenServer
from slipway_agent.servers.wrappers.warmup import WarmingServer, Warmth
from slipway_agent.sources.base import ModelSource, Progress
from slipway_agent.sources.secrets import SecretStamp, stamp_secret
from slipway_agent.volume.models_volume import ModelVolume

OTHER_BYTES = ". Its source has other bytes by now: "
RECORDED_NAME = "recorded.json"
LOGGED_VERSIONS = 10  # of a source that holds thousands
PROGRESS_SECONDS, PROGRESS_SHARE = 5.0, 0.1
CONFIG_LOOK_SECONDS = 0.25
DESCRIBE_ATTEMPTS, DESCRIBE_SECONDS = 5, 0.5  # the wait doubles; after that the server counts as not telling
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
    published_before: Mapping[int, Published]
    config: Config
    seconds: float
    outcome: LoadOutcome | AgentError


@dataclass(frozen=True, slots=True)
class Listed:
    source: ModelSource
    secret: SecretStamp
    outcome: Mapping[int, str | None] | ListError


@dataclass(frozen=True, slots=True)
class Described:
    """What the server said of a version's inputs and outputs, when it had the bytes of that digest."""

    server: Server
    version: int
    digest: str | None
    outcome: Signature | TransientError | None


@dataclass(frozen=True, slots=True)
class Stop:
    signal: str


Event: TypeAlias = FetchEnded | LoadEnded | Listed | Described | Stop


@dataclass(slots=True)
class _Fetch:
    """The fetch in hand, and what was last said of it in the log."""

    job: Job
    progress: Progress
    secret: SecretStamp
    said_at: float
    said_share: float = 0.0


@dataclass(frozen=True, slots=True)
class _Description:
    """What is known of a version's signature. `retry_at`: when the server is asked again; None: never."""

    digest: str | None
    signature: Signature | None = None
    attempts: int = 0
    retry_at: float | None = None


@dataclass(slots=True)
class _Model:
    """What follows from one agent.json; the volume and its ledger outlive a change of it."""

    world: World
    volume: ModelVolume
    server: Server
    source: ModelSource
    warmth: Warmth
    clearance: Clearance
    listing: Listing
    is_listing: bool = False
    descriptions: dict[int, _Description] = field(default_factory=dict)
    is_describing: bool = False
    recorded: Mapping[int, str] = field(default_factory=dict)
    secret: SecretStamp = ()


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
        self._lister = Worker("list")  # of its own: neither a long download nor a source that hangs holds the other up
        self._describer = Worker("describe")  # nor does either wait for what a server says of its versions
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
            while (event := self._await_event(wake_seconds)) is not None:
                if isinstance(event, Stop):
                    self._journal.info("stopping", signal=event.signal)
                    return
                self._take(event)
                wake_seconds = 0.0  # take what else is there, then turn

    def _await_event(self, wait_seconds: float) -> Event | None:
        """The next event, None when there is none in that time or agent.json changed meanwhile: a look at that costs
        nothing, and somebody waits for what it says."""
        wake_at = time.monotonic() + wait_seconds
        while True:
            left_seconds = wake_at - time.monotonic()
            event = self._next_event(min(left_seconds, CONFIG_LOOK_SECONDS))
            if event is not None or left_seconds <= CONFIG_LOOK_SECONDS or self._stamp_config() != self._config_stamp:
                return event

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
        self._read_recorded(model)
        self._look_at_secret(model)
        self._look(model)
        plan = decide(model.world)
        for action in plan.actions:
            self._act(model, action)
        self._list(model)
        self._describe(model)
        now = format_date(datetime.now(UTC))
        report = compose_report(
            model.world,
            model.listing,
            self._config_error,
            self._report,
            now,
            _report_golden(model),
            {version: each.signature for version, each in model.descriptions.items() if each.retry_at is None},
        )
        self._show(report)
        self._say_progress()
        # a synchronous action changed the world: judge the new one now
        if any(isinstance(action, WriteBoot | Remove) for action in plan.actions):
            return 0.0
        look_at = model.listing.next_at
        until_look = plan.wake_seconds if look_at is None or model.is_listing else look_at - time.monotonic()
        return max(min(plan.wake_seconds, until_look), 0.0)

    # what is wanted

    def _read_config(self) -> None:
        """Take up a changed agent.json. One that can't be read leaves the one in force, and is reported."""
        stamp = self._stamp_config()
        if stamp is not None and stamp == self._config_stamp:
            return
        try:
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
            self._take_config(parse_config(text, KINDS))
        except SpecError as refusal:
            self._refuse_config(refusal.message)
            return
        self._config_text = text
        self._config_error = None

    def _stamp_config(self) -> tuple[int, int, int] | None:
        """Other content, another stamp; None when it can't be looked at."""
        try:
            status = self._config_path.stat()
        except OSError:
            return None
        return (status.st_mtime_ns, status.st_ino, status.st_size)

    def _refuse_config(self, message: str) -> None:
        if self._config_error is None or self._config_error.message != message:
            self._journal.error("configuration refused", reason=Reason.CONFIG_INVALID.value, detail=message)
        self._config_error = ErrorReport(Reason.CONFIG_INVALID, True, message)

    def _take_config(self, config: Config) -> None:
        before = self._model
        same_model = before is not None and before.volume.model == config.model
        volume = before.volume if before is not None and same_model else ModelVolume(self._models, config.model)
        driver = KINDS[config.runtime].open(volume, config, config.settings, self._server_key)
        source = open_source(config, driver, self._journal.warning, self._recorded_digests)
        warmth = before.warmth if before is not None and same_model else Warmth(volume)
        clearance = before.clearance if before is not None and same_model else Clearance(volume, self._digest_of)
        server: Server = driver
        if config.warmup and not driver.warms_itself:
            if before is not None and same_model:
                warmth.adopt(before.world.server.ready)
            server = WarmingServer(driver, config.warmup, config.served, warmth)
        if config.golden is not None and config.served is not None:
            server = GoldenServer(server, config.golden, config.served, volume, clearance)
        world = World(config=config, now=time.monotonic())
        listing = Listing()
        descriptions: dict[int, _Description] = {}
        if before is not None and same_model:
            # a failure gets a new chance where the change may be the correction
            due = {
                each: failure.outdate(world.now) if may_correct(before.world.config, config, each, failure) else failure
                for each, failure in before.world.load_failures.items()
            }
            is_current = before.world.is_boot_current and configures_alike(before.world.config, config)
            world = replace(
                before.world, config=config, fetch_failures={}, load_failures=due, is_boot_current=is_current
            )
            clearance.adopt({each: _digest_in(world, each) for each in world.server.ready})
            if config.settings == before.world.config.settings and config.runtime == before.world.config.runtime:
                descriptions = before.descriptions
            if config.source == before.world.config.source:
                listing = replace(before.listing, next_at=None)
        else:
            ledger = volume.read_ledger()
            volume.clean_staging(config.load)
            world = replace(world, published=ledger.versions, standing=ledger.standing, boot=server.read_boot())
            if ledger.standing is not None:
                clearance.adopt({ledger.standing: _digest_in(world, ledger.standing)})
            if ledger.standing in world.boot:  # an unproven version is written alone
                world = replace(world, held=world.boot)
        clearance.expect(config.golden.fingerprint() if config.golden is not None else "")
        self._model = _Model(world, volume, server, source, warmth, clearance, listing, descriptions=descriptions)
        self._journal.info(
            "configuration in force",
            generation=config.generation,
            model=config.model,
            source=show_url(config.source.uri),
            served=config.served,
            load=list(config.load),
        )

    def _read_recorded(self, model: _Model) -> None:
        """The digests that versions had before, as the operator has them now. What was refused by an older record gets
        a new chance."""
        try:
            recorded = parse_recorded((self._config_path.parent / RECORDED_NAME).read_text())
        except (OSError, UnicodeDecodeError):
            recorded = {}
        failures = {
            version: failure
            for version, failure in model.world.fetch_failures.items()
            if failure.reason is not Reason.CONTENT_CHANGED or recorded.get(version) == model.recorded.get(version)
        }
        model.recorded = recorded
        model.world = replace(model.world, fetch_failures=failures)

    def _look_at_secret(self, model: _Model) -> None:
        """A Secret that comes or changes is what a refused fetch and a refused look wait for."""
        stamp = stamp_secret(model.world.config.source)
        if stamp == model.secret:
            return
        model.secret = stamp
        now = time.monotonic()
        failures = {
            version: replace(failure, retry_at=now) if failure.reason is Reason.ACCESS_DENIED else failure
            for version, failure in model.world.fetch_failures.items()
        }
        model.world = replace(model.world, fetch_failures=failures)
        model.listing = replace(model.listing, next_at=None)

    def _recorded_digests(self) -> frozenset[str]:
        """What a rollback may need again; read by the fetching thread."""
        return frozenset(self._model.recorded.values()) if self._model is not None else frozenset()

    def _digest_of(self, version: int) -> str | None:
        """Of what is published now; read by the loading thread."""
        return _digest_in(self._model.world, version) if self._model is not None else None

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
        proven = world.proven | view.ready if world.loading is not None else frozenset[int]()
        held = (world.held | view.ready) & world.published.keys()
        model.world = replace(world, now=time.monotonic(), server=view, fetching=fetching, held=held, proven=proven)
        if is_ready(model.world) and world.standing != world.config.served:
            model.world = replace(model.world, standing=world.config.served)
            self._write_ledger(model)

    def _list(self, model: _Model) -> None:
        """Ask the source for its versions when it is time to, off the loop: a mount may hang."""
        due_at = model.listing.next_at
        if model.is_listing or (due_at is not None and model.world.now < due_at):
            return
        model.is_listing = True
        self._lister.submit(functools.partial(_list_now, model.source, model.secret, self._inbox.put))

    def _take_listing(self, model: _Model, outcome: Mapping[int, str | None] | ListError) -> None:
        model.is_listing = False
        before, now, poll_seconds = model.listing, time.monotonic(), model.world.config.source.poll_seconds
        if isinstance(outcome, ListError):
            model.listing = take_error(before, outcome, now, poll_seconds)
            if before.error != outcome:
                self._journal.warning("source can't be listed", reason=outcome.reason.value, detail=outcome.message)
            return
        model.listing = take_look(before, outcome, now, poll_seconds)
        known, found = before.found, model.listing.found
        if found != known:
            new = sorted(version for version, stamp in found.items() if known.get(version, ...) != stamp)
            gone = sorted(known.keys() - found.keys())
            self._journal.info(
                "versions found", count=len(found), new=new[-LOGGED_VERSIONS:], gone=gone[-LOGGED_VERSIONS:]
            )

    def _describe(self, model: _Model) -> None:
        """Have the server say what each version takes and gives, once for its bytes, one after the other."""
        if model.is_describing:
            return
        world = model.world
        for version in sorted(world.server.ready, key=lambda version: (version == world.config.served, version))[::-1]:
            digest, known = _digest_in(world, version), model.descriptions.get(version)
            if known is not None and known.digest == digest and (known.retry_at is None or world.now < known.retry_at):
                continue
            model.is_describing = True
            work = functools.partial(_describe_now, model.server, version, digest, self._inbox.put)
            self._describer.submit(work)
            return

    def _take_description(self, model: _Model, event: Described) -> None:
        model.is_describing = False
        signature, retry_at, attempts = event.outcome, None, 0
        if isinstance(event.outcome, TransientError):
            known = model.descriptions.get(event.version)
            attempts = known.attempts + 1 if known is not None and known.digest == event.digest else 1
            signature = None
            if attempts < DESCRIBE_ATTEMPTS:
                retry_at = time.monotonic() + DESCRIBE_SECONDS * 2.0 ** (attempts - 1)
            else:
                self._journal.warning(
                    "signature can't be read", version=event.version, detail=event.outcome.message[:500]
                )
        assert not isinstance(signature, TransientError)
        model.descriptions[event.version] = _Description(event.digest, signature, attempts, retry_at)
        for gone in model.descriptions.keys() - model.world.published.keys() - model.world.server.ready:
            del model.descriptions[gone]

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
        location, pin = config.source.location(version), config.sha256.get(version)
        job = Job(version, location, pin, refused, model.recorded.get(version))
        progress = Progress()
        self._fetch = _Fetch(job, progress, model.secret, time.monotonic())
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
            self._note_load_failure(model, _blame_served(model.world, _explain_write(cause)))
            return
        model.world = replace(model.world, boot=versions, is_boot_current=True)
        self._journal.info("boot configuration written", versions=sorted(versions))

    def _start_load(self, model: _Model, versions: frozenset[int]) -> None:
        ready, published = model.world.server.ready, model.world.published
        if versions != ready:
            self._journal.info("load begins", versions=sorted(versions), loaded=sorted(ready))
        server, config, post = model.server, model.world.config, self._inbox.put

        def load_now() -> None:
            began = time.monotonic()
            outcome: LoadOutcome | AgentError
            try:
                outcome = server.load(versions)
            except AgentError as refusal:
                outcome = refusal
            except Exception as defect:
                outcome = _explain_write(defect)
            post(LoadEnded(versions, ready, published, config, time.monotonic() - began, outcome))

        self._loader.submit(load_now)
        model.world = replace(model.world, loading=versions, proven=ready)

    # what came of it

    def _take(self, event: FetchEnded | LoadEnded | Listed | Described) -> None:
        model = self._model
        assert model is not None
        match event:
            case FetchEnded():
                self._take_fetch(model, event)
            case LoadEnded():
                self._take_load(model, event)
            case Listed(source, secret, outcome):
                if source is model.source:
                    self._take_listing(model, outcome)
                    if secret != model.secret:  # it looked with the one before
                        model.listing = replace(model.listing, next_at=None)
            case Described():
                if event.server is model.server:
                    self._take_description(model, event)
            case _:
                assert_never(event)

    def _take_fetch(self, model: _Model, event: FetchEnded) -> None:
        fetch, self._fetch = self._fetch, None
        version, world = event.job.version, replace(model.world, fetching=None, now=time.monotonic())
        failures, received = dict(world.fetch_failures), event.progress.received_bytes
        is_current = (
            world.config.source.location(version) == event.job.location
            and world.config.sha256.get(version) == event.job.pin
            and model.recorded.get(version) == event.job.recorded
            and (fetch is None or fetch.secret == model.secret)
        )
        if needs_second_look(world, version) and not isinstance(event.outcome, Published | CancelledError):
            # nothing better to be had: the server is asked again for what there is
            confirmed = confirm(world.load_failures[version], world.now)
            if isinstance(event.outcome, SpecError) and event.outcome.reason is Reason.CONTENT_CHANGED:
                # whoever corrects a version in place must hear why that isn't taken up
                before = confirmed.message.partition(OTHER_BYTES)[0]
                confirmed = replace(confirmed, message=f"{before}{OTHER_BYTES}{event.outcome.message}")
            model.world = replace(world, load_failures={**world.load_failures, version: confirmed})
            return
        match event.outcome:
            case Published() as published:
                failures.pop(version, None)
                load_failures = {each: failure for each, failure in world.load_failures.items() if each != version}
                now_published = {**world.published, version: published}
                model.world = replace(
                    world,
                    published=now_published,
                    fetch_failures=failures,
                    load_failures=load_failures,
                    held=world.held - {version},
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
        if event.config.golden != world.config.golden:
            world = replace(world, last_load=None)  # what is asked now is asked at once
        outcome = event.outcome
        match outcome:
            case Loaded():
                failures = {each: failure for each, failure in world.load_failures.items() if each not in event.asked}
                # bytes that were published while it loaded still wait for theirs
                loaded = {
                    version: replace(published, awaits_load=False)
                    if version in event.asked and published == event.published_before.get(version)
                    else published
                    for version, published in world.published.items()
                }
                is_news = loaded != world.published
                world = replace(world, load_failures=failures, published=loaded)
                # what changed while it loaded (a label, a setting) still waits for a load of its own
                is_current = configures_alike(event.config, world.config)
                model.world = replace(world, boot=event.asked, is_boot_current=is_current)
                if is_news:
                    self._write_ledger(model)
                result = "loaded"
                if event.asked != event.ready_before:
                    self._journal.info("load ended", versions=sorted(event.asked), seconds=round(event.seconds, 2))
            case Refused() | AgentError() if event.config != world.config:
                result = "superseded"  # refused under an earlier configuration; under this one it is asked anew
                model.world = replace(world, last_load=None)
            case AgentError():
                result = outcome.reason.value
                model.world = replace(world, is_boot_current=True)
                self._note_load_failure(model, _blame_served(world, outcome))
            case _:
                result = "refused" if isinstance(outcome, Refused) else "gone"
                reason = outcome.reason if isinstance(outcome, Refused) else Reason.LOAD_FAILED
                faults = blame(outcome, event.asked, event.ready_before | world.proven, world.config.served)
                # The boot configuration says what it said before. What is new in this one is still to be written: a
                # server that is gone reads it next, and one that refused an extra obeys it without that. What serves
                # while the served version is refused is left alone.
                is_left_alone = isinstance(outcome, Refused) and world.config.served in faults
                model.world = replace(world, is_boot_current=world.is_boot_current or is_left_alone)
                self._journal.warning(
                    "load failed",
                    versions=sorted(event.asked),
                    blamed=sorted(faults),
                    detail=outcome.message,
                    seconds=round(event.seconds, 2),
                )
                earlier = world.load_failures
                errors = {version: SpecError(reason, words) for version, words in faults.items()}
                self._note_load_failure(model, errors)
                if isinstance(outcome, Gone):
                    self._note_deaths(model, faults, earlier, event)
        self._counters = self._counters.count_load(result)

    def _note_deaths(
        self, model: _Model, faults: Collection[int], earlier: Mapping[int, Failure], event: LoadEnded
    ) -> None:
        """The server ended while it loaded these. It must come back without them, whatever the configuration is now."""
        world = model.world
        is_alone = len(event.asked - event.ready_before - world.held) == 1
        failures = dict(world.load_failures)
        for version in faults:
            failure = note_death(failures[version], earlier.get(version), is_alone, world.now)
            failures[version] = failure if event.config == world.config else failure.outdate(world.now)
        model.world = replace(world, load_failures=failures)

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
        self._board.counters = self._counters
        self._board.show(report)

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


def _digest_in(world: World, version: int) -> str | None:
    published = world.published.get(version)
    return published.sha256 if published is not None else None


def _report_golden(model: _Model) -> GoldenReport | None:
    config = model.world.config
    if config.golden is None or config.served is None:
        return None
    return model.clearance.report(config.served)


def _describe_now(server: Server, version: int, digest: str | None, post: Callable[[Event], None]) -> None:
    outcome: Signature | TransientError | None
    try:
        outcome = server.signature(version)
    except TransientError as cause:
        outcome = cause
    except Exception as defect:
        where = _locate(defect)
        outcome = TransientError(f"{where['error']} at {where['at']}")
    post(Described(server, version, digest, outcome))


def _list_now(source: ModelSource, secret: SecretStamp, post: Callable[[Event], None]) -> None:
    outcome: Mapping[int, str | None] | ListError
    try:
        outcome = source.list_versions()
    except AgentError as error:
        outcome = ListError(error.reason, error.message)
    except Exception as defect:
        where = _locate(defect)
        words = f"the source can't be listed: {where['error']} at {where['at']}; it is tried again"
        outcome = ListError(Reason.SOURCE_UNAVAILABLE, words)
    post(Listed(source, secret, outcome))


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


def _blame_served(world: World, error: AgentError) -> Mapping[int, AgentError]:
    return {} if world.config.served is None else {world.config.served: error}


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
