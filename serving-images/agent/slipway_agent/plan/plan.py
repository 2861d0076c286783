"""What to do next: the agent's whole judgement, as one pure function of what is wanted, on disk and in the server.

Laws (tests/unit/agent/plan/test_plan.py):
- A version that isn't named in `load` is never fetched; one that is published and verified isn't fetched again.
- A version that serves is not taken away before the served one is ready and every other is ready or has failed.
- A version that failed is left out until its time to be tried again, and never makes another one unavailable.
- The server dies of no version for ever: one that it ended with is asked for again alone, and once more; after that
  not before its bytes, or what the server obeys, have changed.
- What the plan asks for, once done, is not asked for again.
- A version is loaded only if it fits into the server's memory beside what is loaded already, the first of an empty
  server excepted. To make room only versions go that are no longer named and don't stand in for the served one.
While the server is down its boot configuration has only what it was seen to hold and what is wanted or served last; the
served version itself, unproven, only where that leaves nothing. So a server that died of a version comes back without
it, and what served serves.

No I/O, no clock: `now` is in the World, in seconds of any one clock.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import inf
from typing import TypeAlias

from slipway_agent.config import Config
from slipway_agent.model.errors import Reason
from slipway_agent.model.ledger import Published
from slipway_agent.model.server_state import Gone, Refused, ServerView
from slipway_agent.plan.memory_budget import describe_shortage, fits

PERMANENT_RETRY_SECONDS = 60.0
MISSING_RETRY_SECONDS = 5.0  # a look at a folder costs nothing, and a copy that is under way ends soon
TRANSIENT_FIRST_SECONDS, TRANSIENT_LONGEST_SECONDS = 1.0, 30.0
RELOAD_SECONDS = 5.0  # between two loads of the same versions, when the server doesn't show what it promised
DEATHS = 2  # the first one may have had another cause
DEADLY_WORDS = "It ended the server twice, and isn't loaded again before its bytes or the server's settings change"
CHANGING_SECONDS, SETTLED_SECONDS = 0.25, 1.0


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a version isn't there. `retry_at` is on the World's clock; `attempts` counts from 1.

    `is_confirmed`: the source was asked since, and still has the bytes that the server refused.
    `is_outdated`: the configuration it happened under has changed since, or the server ended while it loaded others
    too. It is asked anew, and until then the failure says nothing about what is wanted now.
    `deaths`: how often the server ended while it loaded this version, and nothing else that was new.
    """

    reason: Reason
    message: str
    is_permanent: bool
    attempts: int
    retry_at: float
    fingerprint: str | None = None
    is_confirmed: bool = False
    is_outdated: bool = False
    is_suspect: bool = False
    deaths: int = 0

    def outdate(self, now: float) -> "Failure":
        return replace(self, retry_at=now, is_outdated=True)


@dataclass(frozen=True, slots=True)
class Fetching:
    version: int
    location: str
    pin: str | None
    fetched_bytes: int = 0
    total_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class LoadRecord:
    """The last load that the server finished: of which versions, and when."""

    versions: frozenset[int]
    at: float


@dataclass(frozen=True, slots=True)
class World:
    """Everything the agent knows. `boot` is what a starting server loads; `is_boot_current` False when the
    configuration it came from has changed since. `standing`: the last served version that was ready. `held`: what a
    server was seen to have ready, with the bytes that are published. `proven`: what was seen ready since the load in
    hand began, or was just before."""

    config: Config
    now: float
    published: Mapping[int, Published] = field(default_factory=dict)
    fetching: Fetching | None = None
    fetch_failures: Mapping[int, Failure] = field(default_factory=dict)
    load_failures: Mapping[int, Failure] = field(default_factory=dict)
    boot: frozenset[int] = frozenset()
    is_boot_current: bool = False
    server: ServerView = field(default_factory=ServerView)
    loading: frozenset[int] | None = None
    held: frozenset[int] = frozenset()
    proven: frozenset[int] = frozenset()
    last_load: LoadRecord | None = None
    standing: int | None = None


@dataclass(frozen=True, slots=True)
class Fetch:
    version: int


@dataclass(frozen=True, slots=True)
class CancelFetch:
    version: int


@dataclass(frozen=True, slots=True)
class WriteBoot:
    versions: frozenset[int]


@dataclass(frozen=True, slots=True)
class Load:
    versions: frozenset[int]


@dataclass(frozen=True, slots=True)
class Remove:
    version: int


Action: TypeAlias = Fetch | CancelFetch | WriteBoot | Load | Remove


@dataclass(frozen=True, slots=True)
class Plan:
    actions: tuple[Action, ...]
    wake_seconds: float


def decide(world: World) -> Plan:
    actions = (*_decide_fetch(world), *_decide_server(world), *_decide_removal(world))
    is_resting = not actions and world.fetching is None and world.loading is None
    served = world.config.served
    is_settled = is_resting and (served is None or is_ready(world) or _has_failed(world, served))
    return Plan(actions, SETTLED_SECONDS if is_settled else CHANGING_SECONDS)


def is_satisfied(world: World, version: int) -> bool:
    """The version is in the repository with the bytes that are wanted: the pinned ones, else those of its location."""
    published = world.published.get(version)
    if published is None:
        return False
    pin = world.config.sha256.get(version)
    return published.sha256 == pin if pin is not None else published.location == world.config.source.location(version)


def needs_second_look(world: World, version: int) -> bool:
    """The server refused these bytes a while ago: before it is asked again, has the source got better ones?

    Never for a pinned version, whose bytes can't be others, nor where the source can't tell without a download.
    """
    failure, published = world.load_failures.get(version), world.published.get(version)
    if failure is None or published is None or failure.is_confirmed or version in world.server.ready:
        return False
    is_movable = published.fingerprint is not None and version not in world.config.sha256
    return is_movable and is_satisfied(world, version) and not is_waiting(failure, world.now)


def is_ready(world: World) -> bool:
    """The served version answers."""
    return world.server.is_alive and world.config.served in world.server.ready


def is_serving(world: World) -> bool:
    """The pod may get traffic: the served version answers, or the one it is about to replace still does."""
    return is_ready(world) or (world.server.is_alive and world.standing in world.server.ready)


def may_start(world: World) -> bool:
    """The server would find the served version when it starts now, or has started before."""
    if world.server.is_alive or world.standing is not None:
        return True
    return world.is_boot_current and world.config.served in world.boot


def is_deadly(failure: Failure | None) -> bool:
    """Proven to end the server; asking for it again would take what serves with it."""
    return failure is not None and failure.deaths >= DEATHS and not failure.is_outdated


def is_waiting(failure: Failure | None, now: float) -> bool:
    return failure is not None and now < failure.retry_at


def blame(
    outcome: Refused | Gone, asked: frozenset[int], ready: frozenset[int], served: int | None
) -> Mapping[int, str]:
    """Which versions a load failed by, with the words for each. `ready`: what was ready before it, or came to be.

    A server that names versions is believed. One that doesn't, or that ended, is asked again without the extra ones
    that were new; only when none is left is it the served version's fault. A server that was gone before it was asked
    died of something else, and one that ended with nothing else loaded is judged by the kubelet's restarts, not by us:
    no version is blamed. Nor is one that was seen ready while the load went on: it is loaded, and what the load still
    waited for (labels, unloads) isn't its fault.
    """
    if isinstance(outcome, Refused) and (named := asked & outcome.words.keys()):
        return {version: outcome.words[version] for version in named}
    if isinstance(outcome, Gone) and not outcome.was_asked:
        return {}
    new = asked - ready
    if new - {served}:
        return dict.fromkeys(new - {served}, outcome.message)
    if served is not None and (isinstance(outcome, Refused) or (served in new and asked - {served})):
        return {served: outcome.message}
    return {}


def plan_retry(
    reason: Reason,
    message: str,
    now: float,
    earlier: Failure | None,
    wanted_seconds: float | None,
    fingerprint: str | None,
) -> Failure:
    """The failure to remember. Transient ones double from 1 to 30 s, or wait as long as the source asked.

    A third transient failure in a row waits 4 s; a digest that doesn't match waits 60 s, however often.
    """
    attempts = earlier.attempts + 1 if earlier is not None and earlier.reason == reason else 1
    is_permanent = reason is not Reason.SOURCE_UNAVAILABLE
    if reason in (Reason.SOURCE_NOT_FOUND, Reason.VERSION_NOT_FOUND) and wanted_seconds is None:
        wait_seconds = MISSING_RETRY_SECONDS if attempts < 120 else PERMANENT_RETRY_SECONDS
    elif is_permanent:
        wait_seconds = PERMANENT_RETRY_SECONDS
    else:
        wait_seconds = min(TRANSIENT_FIRST_SECONDS * 2.0 ** min(attempts - 1, 10), TRANSIENT_LONGEST_SECONDS)
    return Failure(reason, message, is_permanent, attempts, now + max(wait_seconds, wanted_seconds or 0.0), fingerprint)


def note_death(failure: Failure, earlier: Failure | None, is_alone: bool, now: float) -> Failure:
    """The failure of a version that the server ended with. `is_alone`: it was the only new one; else it is suspect."""
    deaths = (earlier.deaths if earlier is not None else 0) + is_alone
    if not is_alone:
        return replace(failure, deaths=deaths, is_suspect=True).outdate(now)
    words = f"{failure.message}. {DEADLY_WORDS}" if deaths >= DEATHS else failure.message
    return replace(failure, deaths=deaths, message=words)


def confirm(failure: Failure, now: float) -> Failure:
    """The source still has the bytes that the server refused: they may be asked for again. Those that end the server
    may not, and their source is looked at again instead."""
    if is_deadly(failure):
        return replace(failure, retry_at=now + PERMANENT_RETRY_SECONDS)
    return replace(failure, is_confirmed=True)


def configures_alike(before: Config, now: Config) -> bool:
    """Whether a server has the same to load and to obey: golden requests are only asked of it."""
    return now == replace(before, generation=now.generation, golden=now.golden)


def may_correct(before: Config, now: Config, version: int, failure: Failure) -> bool:
    """Whether a version that failed may do better under a changed configuration. A deadly one must have been given
    other settings, or be asked for as the served one: nobody expects a server to end for a label."""
    if not is_deadly(failure):
        return True
    is_asked_for = version == now.served != before.served
    settings = (before.runtime, before.settings, before.memory, before.warmup, before.golden)
    return is_asked_for or settings != (now.runtime, now.settings, now.memory, now.warmup, now.golden)


def _decide_fetch(world: World) -> tuple[Action, ...]:
    config = world.config
    first = () if config.served is None else (config.served,)
    wanted = [*first, *(version for version in reversed(config.load) if version != config.served)]
    due = [
        version
        for version in wanted
        if needs_second_look(world, version)
        or (not is_satisfied(world, version) and not is_waiting(world.fetch_failures.get(version), world.now))
    ]
    current = world.fetching
    if current is None:
        return (Fetch(due[0]),) if due else ()
    is_wanted = (
        current.version in due
        and current.location == config.source.location(current.version)
        and current.pin == config.sha256.get(current.version)
    )
    # the served version doesn't wait for an extra one's download
    is_first = current.version == config.served or config.served not in due
    return () if is_wanted and is_first else (CancelFetch(current.version),)


def _decide_server(world: World) -> tuple[Action, ...]:
    served = world.config.served
    if world.loading is not None or served is None or served not in world.published:
        return ()  # without the served version's own files there is nothing better to write than what is there
    target = _find_target(world, served)
    if not target:
        return ()
    if not world.server.is_alive:
        if target != world.boot or not world.is_boot_current:
            return (WriteBoot(target),)
        return ()
    return (Load(target),) if _needs_load(world, target) else ()


def _find_target(world: World, served: int) -> frozenset[int]:
    """The versions the server should hold now; empty when there is nothing to ask for."""
    published, ready, named = frozenset(world.published), world.server.ready, frozenset(world.config.load)
    if not world.server.is_alive:
        proven = (world.boot & published & world.held & (named | {world.standing})) - frozenset(world.load_failures)
        return proven or (frozenset({served}) if is_satisfied(world, served) else proven)
    usable = [
        version
        for version in sorted(named & published - ready, key=lambda version: (version == served, version), reverse=True)
        if (is_satisfied(world, version) or version in world.boot)
        and not is_waiting(world.load_failures.get(version), world.now)
        and not needs_second_look(world, version)
        and not is_deadly(world.load_failures.get(version))
    ]
    if served in usable:  # it doesn't wait for the others, nor fail with them
        usable = [version for version in usable if version == served or version in world.boot]
    # what the server may die of comes alone, and last
    usable = [version for version in usable if not _is_suspect(world, version)] or usable[:1]
    return _with_room(world, ready & published & named if _is_arrived(world) else ready & published, usable)


def _with_room(world: World, kept: frozenset[int], wanted: list[int]) -> frozenset[int]:
    """`kept`, and of `wanted`, best first, those that fit beside it. What is in the way of the served one goes first,
    in a load of its own: a server may take up the new version before it lets go of the old."""
    memory, target = world.config.memory, kept
    shortages = find_shortages(world)
    for version in wanted:
        if version in shortages:
            continue
        if not target or fits(memory, world.published, world.server.ready | target | {version}):
            target |= {version}
        elif version == world.config.served:
            staying = kept & (frozenset(world.config.load) | {world.standing})
            return staying or frozenset({version})
    return target


def find_shortages(world: World) -> Mapping[int, Failure]:
    """The named versions on disk that won't fit into the server's memory, whatever goes that may go.

    The served one is weighed against what must stay until it is ready: what is loaded and named, and the version that
    serves now. The others, newest first, against what will stay.
    """
    memory, served, named = world.config.memory, world.config.served, frozenset(world.config.load)
    if memory is None or served is None:
        return {}
    loaded = (world.server.ready | (world.boot - frozenset(world.load_failures))) & frozenset(world.published)
    staying = loaded & named
    beside_served = staying if served in loaded or world.standing not in loaded else staying | {world.standing}
    shortages: dict[int, Failure] = {}

    def weigh(version: int, beside: frozenset[int]) -> bool:
        if not beside or fits(memory, world.published, beside | {version}):
            return True
        words = describe_shortage(memory, world.published, version, beside, is_served=version == served)
        shortages[version] = Failure(Reason.NOT_ENOUGH_MEMORY, words, True, 1, inf)
        return False

    if served not in loaded and served in world.published:
        if not weigh(served, beside_served):
            staying = beside_served
        else:  # its room is kept while it fails to load, and the standing one's with it
            staying = (beside_served if _is_refused(world, served) else staying) | {served}
    for version in sorted(named - loaded - {served}, reverse=True):
        if is_satisfied(world, version) and not _is_refused(world, version) and weigh(version, staying):
            staying |= {version}
    return shortages


def _is_arrived(world: World) -> bool:
    """The served version is ready and nothing named is still on its way: what is no longer named may go."""
    if not is_ready(world):
        return False
    return all(
        version in world.server.ready or _has_failed(world, version) or _awaits_room(world, version)
        for version in world.config.load
    )


def _awaits_room(world: World, version: int) -> bool:
    """It is there, and fits only when something that isn't named any more has gone."""
    if not is_satisfied(world, version):
        return False
    return not fits(world.config.memory, world.published, world.server.ready | {version})


def _is_refused(world: World, version: int) -> bool:
    failure = world.load_failures.get(version)
    return failure is not None and failure.is_permanent and not failure.is_outdated


def _is_suspect(world: World, version: int) -> bool:
    failure = world.load_failures.get(version)
    return failure is not None and (failure.is_suspect or failure.deaths > 0)


def _has_failed(world: World, version: int) -> bool:
    fetch_failure = world.fetch_failures.get(version)
    cant_be_had = fetch_failure is not None and fetch_failure.is_permanent
    return cant_be_had or _is_refused(world, version) or version in find_shortages(world)


def _needs_load(world: World, target: frozenset[int]) -> bool:
    last = world.last_load
    rested = last is None or last.versions != target or world.now - last.at >= RELOAD_SECONDS
    replaced = any(
        world.published[version].awaits_load and not is_waiting(world.load_failures.get(version), world.now)
        for version in target
    )
    retried = any(
        version in world.load_failures and not is_waiting(world.load_failures[version], world.now) for version in target
    )
    # refused a moment ago, it isn't asked again at once, whichever version the server blamed
    is_unwritten = not world.is_boot_current or (target != world.boot and rested)
    return is_unwritten or replaced or retried or (world.server.ready != target and rested)


def _decide_removal(world: World) -> tuple[Action, ...]:
    if world.loading is not None or not _is_arrived(world):
        return ()
    in_use = frozenset(world.config.load) | world.server.ready | world.boot
    return tuple(Remove(version) for version in sorted(world.published) if version not in in_use)
