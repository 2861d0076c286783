"""The shell: read agent.json, look at the disk and the server, decide, act, report. One turn, over and over.

All state is changed on the loop's thread alone. Work on other threads and signals only post to the inbox. Nothing in
memory is needed to go on: a killed agent's next one reads the ledger and the boot configuration. What an event means is
judged in `plan`.
"""

import functools
import queue
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import assert_never

from slipway_agent.config import Config, show_url
from slipway_agent.fetching.pipeline import Job
from slipway_agent.loop.announce import FetchInHand, log_changes
from slipway_agent.loop.config_file import ConfigFile
from slipway_agent.loop.state import Description, ModelState, Surroundings, find_digest, open_model
from slipway_agent.loop.verdict import compose_verdict, no_verdict
from slipway_agent.loop.work import (
    Event,
    FetchEnded,
    Listed,
    ListOutcome,
    SignatureRead,
    Stop,
    WorkEnded,
    Worker,
    explain_write,
    fetch_now,
    list_now,
    load_now,
    locate,
    probe_now,
    read_signature_now,
)
from slipway_agent.model.errors import AgentError, CancelledError, TransientError, UnchangedError
from slipway_agent.model.ledger import Ledger, Published, describe_bytes
from slipway_agent.model.readiness import Verdict
from slipway_agent.model.server_state import Loaded, LoadOutcome
from slipway_agent.plan.discovery import ListError, take_error, take_look
from slipway_agent.plan.plan import Action, CancelFetch, Fetch, Load, Remove, WriteBoot, decide
from slipway_agent.plan.probe import ProbeEnded, follow, is_due, take_answer
from slipway_agent.plan.transitions import (
    LoadEnded,
    LoadTaken,
    take_fetch_refusal,
    take_load,
    take_load_error,
    take_published,
    take_record,
    take_second_look,
    take_secret,
    take_view,
)
from slipway_agent.plan.world import find_refused, needs_second_look
from slipway_agent.reporting.endpoints import Board
from slipway_agent.reporting.log import Log, format_date
from slipway_agent.reporting.report import Counters, Report, compose_report
from slipway_agent.servers.base import SERVER_KEY
from slipway_agent.sources.base import Progress
from slipway_agent.sources.secrets import stamp_secret
from slipway_agent.volume.after_crash import seal

LOGGED_VERSIONS = 10  # of a source that holds thousands
CONFIG_LOOK_SECONDS = 0.25
DESCRIBE_ATTEMPTS, DESCRIBE_SECONDS = 5, 0.5  # the wait doubles; after that the server counts as not telling
ERROR_SECONDS = 5.0  # between two turns of a loop that fails


class Agent:
    def __init__(
        self,
        config_path: Path,
        models: Path,
        board: Board,
        log: Log,
        environment: Mapping[str, str],
        *,
        tell: Callable[[Verdict], None] = lambda verdict: None,
    ) -> None:
        """`tell` hears what each turn comes to."""
        self._tell = tell
        self._board = board
        self._log = log
        self._config_file = ConfigFile(config_path, log, board.pod)
        self._around = Surroundings(models, environment.get(SERVER_KEY), log, self._recorded_digests, self._digest_of)
        self._inbox: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._fetcher = Worker("fetch")
        self._loader = Worker("load")
        self._lister = Worker("list")  # of its own: neither a long download nor a source that hangs holds the other up
        self._describer = Worker("describe")  # nor does either wait for a server's answer about its versions
        self._prober = Worker("probe")
        self._sealer = Worker("seal")
        self._model: ModelState | None = None
        self._fetch: FetchInHand | None = None
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
                    self._log.debug("worker stops", signal=event.signal)
                    return
                self._take(event)
                wake_seconds = 0.0  # take what else is there, then turn

    def _await_event(self, wait_seconds: float) -> Event | None:
        """The next event, None when there is none in that time or agent.json changed meanwhile: a look at that costs
        nothing, and the operator waits for its effect."""
        wake_at = time.monotonic() + wait_seconds
        while True:
            left_seconds = wake_at - time.monotonic()
            event = self._next_event(min(left_seconds, CONFIG_LOOK_SECONDS))
            if event is not None or left_seconds <= CONFIG_LOOK_SECONDS or self._config_file.has_changed():
                return event

    def _next_event(self, wait_seconds: float) -> Event | None:
        try:
            return self._inbox.get(timeout=wait_seconds) if wait_seconds > 0 else self._inbox.get_nowait()
        except queue.Empty:
            return None

    def _turn_safely(self) -> float:
        try:
            wake_seconds = self._turn()
            verdict = self._judge()
        except Exception as defect:  # the agent must outlive its own defects, and say where they are
            self._log.error("the agent failed at its own work and goes on", **locate(defect))
            wake_seconds, verdict = ERROR_SECONDS, no_verdict(self._report)
        self._board.turned_at = time.monotonic()
        self._tell(verdict)
        return wake_seconds

    def _judge(self) -> Verdict:
        model = self._model
        return no_verdict(self._report) if model is None else compose_verdict(model.world, self._report, model.server)

    def _turn(self) -> float:
        """Seconds until the next turn, unless an event comes before."""
        self._config_file.follow(self._take_config)
        model = self._model
        if model is None:
            self._show(replace(self._report, error=self._config_file.error))
            return 1.0
        self._read_recorded(model)
        self._look_at_secret(model)
        self._look_at_server(model)
        plan = decide(model.world)
        for action in plan.actions:
            self._act(model, action)
        self._list_source(model)
        self._read_signature(model)
        self._probe(model)
        self._show(
            compose_report(
                model.world,
                model.listing,
                self._report,
                date=format_date(datetime.now(UTC)),
                config_error=self._config_file.error,
                golden=model.report_golden(),
                signatures=model.report_signatures(),
            )
        )
        if self._fetch is not None:
            self._fetch.log_progress(self._log, time.monotonic())
        # a synchronous action changed the world: judge the new one now
        if any(isinstance(action, WriteBoot | Remove) for action in plan.actions):
            return 0.0
        look_at = model.listing.next_at
        until_look = plan.wake_seconds if look_at is None or model.is_listing else look_at - time.monotonic()
        return max(min(plan.wake_seconds, until_look), 0.0)

    def _show(self, report: Report) -> None:
        log_changes(self._log, self._report, report)
        self._report = report
        self._board.counters = self._counters
        self._board.show(report)

    # the configuration

    def _take_config(self, config: Config) -> None:
        self._model = open_model(config, self._model, self._around)
        self._seal(self._model)
        self._log.info(
            "configuration in force",
            generation=config.generation,
            model=config.model,
            source=show_url(config.source.uri),
            served=config.served,
            load=list(config.load),
        )

    def _seal(self, model: ModelState) -> None:
        """Have it remembered what is published now, for after the node's next crash."""
        published = {version: each.sha256 for version, each in model.world.published.items()}
        self._sealer.submit(functools.partial(seal, self._around.models, model.volume.model, published))

    def _read_recorded(self, model: ModelState) -> None:
        recorded = self._config_file.read_recorded()
        model.world = take_record(model.world, model.recorded, recorded)
        model.recorded = recorded

    def _look_at_secret(self, model: ModelState) -> None:
        """A refused fetch and a refused look wait for a Secret that comes or changes."""
        stamp = stamp_secret(model.world.config.source)
        if stamp != model.secret:
            model.secret = stamp
            model.world = take_secret(model.world, time.monotonic())
            model.listing = replace(model.listing, next_at=None)

    def _recorded_digests(self) -> frozenset[str]:
        return frozenset(self._model.recorded.values()) if self._model is not None else frozenset()

    def _digest_of(self, version: int) -> str | None:
        return find_digest(self._model.world, version) if self._model is not None else None

    # the server and the source

    def _look_at_server(self, model: ModelState) -> None:
        world = model.world
        versions = frozenset(world.config.load) | frozenset(world.published) | world.boot
        view = model.server.observe(versions)
        if view.is_alive != world.server.is_alive:
            self._log.info("server answers" if view.is_alive else "server doesn't answer", ready=sorted(view.ready))
        fetching = None if self._fetch is None else self._fetch.describe()
        model.world = replace(take_view(world, view, time.monotonic()), fetching=fetching)
        after = model.world
        if after.standing != world.standing or (after.left_at is None) != (world.left_at is None):
            self._write_ledger(model)

    def _list_source(self, model: ModelState) -> None:
        """Ask the source for its versions when it is time to, off the loop: a mount may hang."""
        due_at = model.listing.next_at
        if model.is_listing or (due_at is not None and model.world.now < due_at):
            return
        model.is_listing = True
        self._start(self._lister, functools.partial(list_now, model.source, model.secret))

    def _read_signature(self, model: ModelState) -> None:
        """Ask the server what each version takes and gives, once for its bytes, one after the other, the served one
        first."""
        if model.is_describing:
            return
        world = model.world
        for version in sorted(world.server.ready, key=lambda version: (version == world.config.served, version))[::-1]:
            digest, known = find_digest(world, version), model.descriptions.get(version)
            if known is not None and known.digest == digest and (known.retry_at is None or world.now < known.retry_at):
                continue
            model.is_describing = True
            self._start(self._describer, functools.partial(read_signature_now, model.server, version, digest))
            return

    def _probe(self, model: ModelState) -> None:
        """Ask the served version its own request when it is time to, after the actions: a load goes first."""
        world = model.world = replace(model.world, probe=follow(model.world, format_date(datetime.now(UTC))))
        version, question = world.probe.version, world.config.question
        if model.is_probing or version is None or question is None or not is_due(world):
            return
        model.is_probing = True
        self._start(self._prober, functools.partial(probe_now, model.server, model.volume, version, question))

    # actions

    def _start(self, worker: Worker, work: Callable[[], Event]) -> None:
        """Have `worker` do this, and post the event that it returns."""
        worker.submit(lambda: self._inbox.put(work()))

    def _act(self, model: ModelState, action: Action) -> None:
        match action:
            case Fetch(version):
                self._start_fetch(model, version)
            case CancelFetch(version):
                if self._fetch is not None:
                    self._log.info("fetch called off", version=version)
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
                self._log.info("version removed", version=version)
            case _:
                assert_never(action)

    def _start_fetch(self, model: ModelState, version: int) -> None:
        world, config = model.world, model.world.config
        location, pin = config.source.location(version), config.sha256.get(version)
        job = Job(
            version,
            location,
            pin,
            find_refused(world, version),
            model.recorded.get(version),
            limits=config.source.limits,
            public_keys=config.source.public_keys,
            standing=world.published.get(version),
        )
        progress = Progress()
        self._fetch = FetchInHand(job, progress, model.secret, time.monotonic())
        if version not in world.fetch_failures and job.refused is None:
            self._log.info("fetch begins", version=version, source=job.place)
        work = functools.partial(fetch_now, job, progress, model.source, model.volume, server=model.server)
        self._start(self._fetcher, work)
        model.world = replace(world, fetching=self._fetch.describe())

    def _write_boot(self, model: ModelState, versions: frozenset[int]) -> None:
        try:
            model.server.write_boot(versions)
        except (AgentError, OSError) as cause:
            model.world = take_load_error(model.world, explain_write(cause))
            return
        model.world = replace(model.world, boot=versions, is_boot_current=True)
        self._log.info("boot configuration written", versions=sorted(versions))

    def _start_load(self, model: ModelState, versions: frozenset[int]) -> None:
        ready = model.world.server.ready
        if versions != ready:
            self._log.info("load begins", versions=sorted(versions), loaded=sorted(ready))
        self._start(self._loader, functools.partial(load_now, model.server, versions, model.world))
        model.world = replace(model.world, loading=versions, proven=ready)

    def _write_ledger(self, model: ModelState) -> None:
        world = model.world
        try:
            model.volume.write_ledger(
                Ledger(model.volume.model, world.published, world.standing, world.left_at is not None)
            )
        except OSError as cause:
            self._log.warning("ledger can't be written", detail=cause.strerror or str(cause))

    # events

    def _take(self, event: WorkEnded) -> None:
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
            case SignatureRead():
                if event.server is model.server:
                    self._take_signature(model, event)
            case ProbeEnded():
                self._take_probe(model, event)
            case _:
                assert_never(event)

    def _take_fetch(self, model: ModelState, event: FetchEnded) -> None:
        is_current = self._is_current(model, event.job)
        self._fetch = None
        version, received_bytes = event.job.version, event.progress.received_bytes
        model.world = replace(model.world, fetching=None, now=time.monotonic())
        match event.outcome:
            case Published() as published:
                result = "published"
                self._publish(model, event, published)
            case CancelledError():
                result = "cancelled"
            case AgentError() | UnchangedError() as refusal:
                if needs_second_look(model.world, version):
                    model.world = take_second_look(model.world, version, refusal)
                    return
                result = refusal.reason.value if isinstance(refusal, AgentError) else "unchanged"
                if is_current:
                    model.world = take_fetch_refusal(model.world, version, refusal, has_progressed=received_bytes > 0)
            case _:
                assert_never(event.outcome)
        self._counters = self._counters.count_fetch(result, received_bytes, event.seconds)

    def _is_current(self, model: ModelState, job: Job) -> bool:
        """Whether this fetch is still what would be fetched: another place, pin, record, limit or Secret may do."""
        config = model.world.config
        return (
            config.source.location(job.version) == job.location
            and config.sha256.get(job.version) == job.pin
            and config.source.public_keys == job.public_keys
            and model.recorded.get(job.version) == job.recorded
            and config.source.limits == job.limits
            and (self._fetch is None or self._fetch.secret == model.secret)
        )

    def _publish(self, model: ModelState, event: FetchEnded, published: Published) -> None:
        model.world = take_published(model.world, event.job.version, published)
        self._write_ledger(model)
        self._seal(model)
        self._log.info(
            "version published",
            version=event.job.version,
            sha256=published.sha256,
            pinned=event.job.pin is not None,
            signed_by=published.signed_by,
            size=describe_bytes(published.size_bytes),
            seconds=round(event.seconds, 2),
        )

    def _take_load(self, model: ModelState, event: LoadEnded) -> None:
        published = model.world.published
        taken = take_load(replace(model.world, now=time.monotonic()), event)
        model.world = taken.world
        if model.world.published != published:
            self._write_ledger(model)
        self._log_load(event, taken)
        self._counters = self._counters.count_load(taken.result)

    def _log_load(self, event: LoadEnded, taken: LoadTaken) -> None:
        versions, seconds = sorted(event.asked), round(event.seconds, 2)
        if isinstance(event.outcome, Loaded):
            if event.asked != event.ready_before:
                self._log.info("load ended", versions=versions, seconds=seconds)
        elif isinstance(event.outcome, LoadOutcome) and taken.result != "superseded":
            blamed, detail = sorted(taken.blamed), event.outcome.message
            self._log.warning("load failed", versions=versions, blamed=blamed, detail=detail, seconds=seconds)

    def _take_listing(self, model: ModelState, outcome: ListOutcome) -> None:
        model.is_listing = False
        before, now, poll_seconds = model.listing, time.monotonic(), model.world.config.source.poll_seconds
        if isinstance(outcome, ListError):
            model.listing = take_error(before, outcome, now, poll_seconds)
            if before.error != outcome:
                self._log.warning("source can't be listed", reason=outcome.reason.value, detail=outcome.message)
            return
        model.listing = take_look(before, outcome, now, poll_seconds)
        known, found = before.found, model.listing.found
        if found != known:
            new = sorted(version for version, stamp in found.items() if known.get(version, ...) != stamp)
            gone = sorted(known.keys() - found.keys())
            new, gone = new[-LOGGED_VERSIONS:], gone[-LOGGED_VERSIONS:]
            self._log.info("versions found", count=len(found), new=new, gone=gone)

    def _take_signature(self, model: ModelState, event: SignatureRead) -> None:
        model.is_describing = False
        if isinstance(event.outcome, TransientError):
            description = self._plan_another_question(model, event, event.outcome)
        else:
            description = Description(event.digest, event.outcome)
        model.descriptions[event.version] = description
        for gone in model.descriptions.keys() - model.world.published.keys() - model.world.server.ready:
            del model.descriptions[gone]

    def _take_probe(self, model: ModelState, event: ProbeEnded) -> None:
        model.is_probing = False
        before = model.world.probe.is_failing
        model.world = take_answer(replace(model.world, now=time.monotonic()), event)
        probe = model.world.probe
        if probe.is_failing and not before:
            self._log.warning("the served version answers with errors", version=probe.version, detail=probe.message)
        elif before and not probe.is_failing:
            self._log.info("the served version answers again", version=probe.version)

    def _plan_another_question(self, model: ModelState, event: SignatureRead, cause: TransientError) -> Description:
        known = model.descriptions.get(event.version)
        attempts = known.attempts + 1 if known is not None and known.digest == event.digest else 1
        if attempts < DESCRIBE_ATTEMPTS:
            retry_at = time.monotonic() + DESCRIBE_SECONDS * 2.0 ** (attempts - 1)
            return Description(event.digest, None, attempts, retry_at)
        self._log.warning("signature can't be read", version=event.version, detail=cause.message[:500])
        return Description(event.digest, None, attempts)
