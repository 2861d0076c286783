"""What each event makes of the World: another agent.json, a look at the server, the end of a fetch or of a load.

Pure: no I/O, no clock; `world.now` is the time of the event, and another time is an argument. Imports nothing of what
acts on the plan.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

from slipway_agent.config import Config
from slipway_agent.model.errors import AgentError, Reason, SpecError, UnchangedError
from slipway_agent.model.ledger import Ledger, Published
from slipway_agent.model.server_state import Gone, Loaded, LoadOutcome, Refused, ServerView
from slipway_agent.plan.failures import (
    Failure,
    blame,
    configures_alike,
    confirm,
    may_correct,
    note_death,
    remember,
    repeat,
)
from slipway_agent.plan.turn import goes_over, is_back
from slipway_agent.plan.world import LoadRecord, World, is_ready

OTHER_BYTES = ". Its source has other bytes by now: "

FetchRefusal: TypeAlias = AgentError | UnchangedError


@dataclass(frozen=True, slots=True)
class LoadEnded:
    """A load that the server answered. `ready_before`, `published_before` and `config` are from when it began."""

    asked: frozenset[int]
    ready_before: frozenset[int]
    published_before: Mapping[int, Published]
    config: Config
    seconds: float
    outcome: LoadOutcome | AgentError


@dataclass(frozen=True, slots=True)
class LoadTaken:
    """The World after a load, the result's name for the metrics, and the versions that the load failed by."""

    world: World
    result: str
    blamed: frozenset[int] = frozenset()


# another configuration


def restore(config: Config, ledger: Ledger, boot: frozenset[int], now: float) -> World:
    """The World of an agent that starts: what the ledger and the boot configuration say."""
    held = boot if ledger.standing in boot else frozenset()  # an unproven version is written alone
    left_at = now if ledger.has_left else None
    return World(config, now, ledger.versions, standing=ledger.standing, boot=boot, held=held, left_at=left_at)


def reconfigure(world: World, config: Config, now: float) -> World:
    """Another agent.json for the same model: a failure gets a new chance where the change may be the correction."""
    due = {
        version: failure.outdate(now) if may_correct(world.config, config, version, failure) else failure
        for version, failure in world.load_failures.items()
    }
    is_current = world.is_boot_current and configures_alike(world.config, config)
    return replace(world, config=config, fetch_failures={}, load_failures=due, is_boot_current=is_current)


def take_record(world: World, before: Mapping[int, str], recorded: Mapping[int, str]) -> World:
    """Other digests are recorded: a version that was refused by an older record gets a new chance."""
    failures = {
        version: failure
        for version, failure in world.fetch_failures.items()
        if failure.reason is not Reason.CONTENT_CHANGED or recorded.get(version) == before.get(version)
    }
    return replace(world, fetch_failures=failures)


def take_secret(world: World, now: float) -> World:
    """Another Secret: what was refused for the one before is tried again at once."""
    failures = {
        version: replace(failure, retry_at=now) if failure.reason is Reason.ACCESS_DENIED else failure
        for version, failure in world.fetch_failures.items()
    }
    return replace(world, fetch_failures=failures)


# a look at the server


def take_view(world: World, view: ServerView, now: float) -> World:
    """`standing` follows the served version as soon as that is ready."""
    if view.is_alive != world.server.is_alive:
        world = replace(world, last_load=None, published=_read_anew(world))
    proven = world.proven | view.ready if world.loading is not None else frozenset[int]()
    held = (world.held | view.ready) & world.published.keys()
    world = replace(world, now=now, server=view, held=held, proven=proven)
    world = replace(world, standing=world.config.served) if is_ready(world) else world
    return replace(world, left_at=_find_leave(world))


def _read_anew(world: World) -> Mapping[int, Published]:
    """A server that starts reads everything anew: no earlier load counts.

    But an agent that starts sees its server for the first time, which may have stood all the while with the bytes of
    before. That agent has written no boot configuration yet.
    """
    if not world.is_boot_current:
        return world.published
    return {version: replace(each, awaits_load=False) for version, each in world.published.items()}


def _find_leave(world: World) -> float | None:
    """Since when the pod keeps out of the Service. Once out, it comes back when an unversioned request gets what it
    should: a version that is taken back is answered with until it is unloaded."""
    if goes_over(world):
        return world.now if world.left_at is None else world.left_at
    return None if world.left_at is None or is_back(world) or not world.server.is_alive else world.left_at


# the end of a fetch


def take_published(world: World, version: int, published: Published) -> World:
    return replace(
        world,
        published={**world.published, version: published},
        fetch_failures=_without(world.fetch_failures, version),
        load_failures=_without(world.load_failures, version),
        held=world.held - {version},
    )


def take_fetch_refusal(world: World, version: int, refusal: FetchRefusal, has_progressed: bool) -> World:
    """`has_progressed`: bytes arrived, so the waits start anew."""
    earlier = world.fetch_failures.get(version)
    if not isinstance(refusal, UnchangedError):
        failure = remember(refusal, world.now, None if has_progressed else earlier)
    elif earlier is not None:
        failure = repeat(earlier, world.now)
    else:
        return world
    return replace(world, fetch_failures={**world.fetch_failures, version: failure})


def take_second_look(world: World, version: int, refusal: FetchRefusal) -> World:
    """The source has nothing better than the bytes that the server refused: the server is asked again for those."""
    confirmed = confirm(world.load_failures[version], world.now)
    if isinstance(refusal, SpecError) and refusal.reason is Reason.CONTENT_CHANGED:
        # whoever corrects a version in place must hear why the correction isn't loaded
        before = confirmed.message.partition(OTHER_BYTES)[0]
        confirmed = replace(confirmed, message=f"{before}{OTHER_BYTES}{refusal.message}")
    return replace(world, load_failures={**world.load_failures, version: confirmed})


# the end of a load


def take_load(world: World, ended: LoadEnded) -> LoadTaken:
    outcome = ended.outcome
    is_asked_anew = ended.config.golden != world.config.golden  # other golden requests don't wait
    last = None if is_asked_anew else LoadRecord(ended.asked, world.now)
    world = replace(world, loading=None, last_load=last)
    if isinstance(outcome, Loaded):
        return LoadTaken(_take_loaded(world, ended), "loaded")
    if isinstance(outcome, Gone):
        return _take_gone(world, ended, outcome)
    if ended.config != world.config:  # refused under an earlier configuration; under this one it is asked anew
        return LoadTaken(replace(world, last_load=None), "superseded")
    if isinstance(outcome, AgentError):
        return LoadTaken(take_load_error(replace(world, is_boot_current=True), outcome), outcome.reason.value)
    return _take_refused(world, ended, outcome)


def take_load_error(world: World, error: AgentError) -> World:
    """No load could be tried: the served version answers for it."""
    return world if world.config.served is None else _note_failures(world, {world.config.served: error})


def _take_loaded(world: World, ended: LoadEnded) -> World:
    failures = {version: failure for version, failure in world.load_failures.items() if version not in ended.asked}
    # bytes that were published while it loaded still wait for theirs
    loaded = {
        version: replace(published, awaits_load=False)
        if version in ended.asked and published == ended.published_before.get(version)
        else published
        for version, published in world.published.items()
    }
    # what changed while it loaded (a label, a setting) still waits for a load of its own
    is_current = configures_alike(ended.config, world.config)
    return replace(world, load_failures=failures, published=loaded, boot=ended.asked, is_boot_current=is_current)


def _take_refused(world: World, ended: LoadEnded, outcome: Refused) -> LoadTaken:
    faults = _find_faults(world, ended, outcome)
    # The boot configuration says what it said before. A server that refused an extra obeys what is new in this one
    # without that. What serves while the served version is refused is left alone.
    world = replace(world, is_boot_current=world.is_boot_current or world.config.served in faults)
    errors = {version: SpecError(outcome.reason, words) for version, words in faults.items()}
    return LoadTaken(_note_failures(world, errors), "refused", frozenset(faults))


def _take_gone(world: World, ended: LoadEnded, outcome: Gone) -> LoadTaken:
    """The server ended while it loaded these. It must come back without them, whatever the configuration is now; what
    is new in that is still to be written, because the server reads it next."""
    faults = _find_faults(world, ended, outcome)
    earlier = world.load_failures
    errors = {version: SpecError(Reason.LOAD_FAILED, words) for version, words in faults.items()}
    noted = _note_failures(world, errors)
    is_alone = len(ended.asked - ended.ready_before - world.held) == 1
    deaths = _note_deaths(noted, faults, earlier, is_alone)
    if ended.config != world.config:
        deaths = {version: failure.outdate(world.now) for version, failure in deaths.items()}
    return LoadTaken(replace(noted, load_failures={**noted.load_failures, **deaths}), "gone", frozenset(faults))


def _find_faults(world: World, ended: LoadEnded, outcome: Refused | Gone) -> Mapping[int, str]:
    return blame(outcome, ended.asked, ended.ready_before | world.proven, world.config.served)


def _note_deaths(
    world: World, versions: Collection[int], earlier: Mapping[int, Failure], is_alone: bool
) -> Mapping[int, Failure]:
    return {
        version: note_death(world.load_failures[version], earlier.get(version), is_alone, world.now)
        for version in versions
    }


def _note_failures(world: World, errors: Mapping[int, AgentError]) -> World:
    noted = {version: remember(error, world.now, world.load_failures.get(version)) for version, error in errors.items()}
    return replace(world, load_failures={**world.load_failures, **noted})


def _without(failures: Mapping[int, Failure], version: int) -> Mapping[int, Failure]:
    return {each: failure for each, failure in failures.items() if each != version}
