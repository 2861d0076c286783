"""What to do next: one pure function of the configuration, the disk and the server.

Laws (tests/unit/agent/plan/test_plan.py):
- A version that isn't named in `load` is never fetched; one that is published and verified isn't fetched again.
- A version that serves is not taken away before the served one is ready and every other is ready or has failed.
- A pod that is told to leave the Service loads another served version only after its drain, and never before that.
- A version that failed is left out until its time to be tried again, and never makes another one unavailable.
- The server dies of no version for ever: one that it ended with is asked for again alone, and once more; after that
  not before its bytes, or what the server obeys, have changed.
- What the plan asks for, once done, is not asked for again.
- A version is loaded only if it fits into the server's memory beside what is loaded already, the first of an empty
  server excepted. To make room only versions go that are no longer named and don't serve in place of the served one.
While the server is down its boot configuration has only what it was seen to hold and what is wanted or served last; the
served version itself, unproven, only where that leaves nothing. So a server that died of a version comes back without
it, and what served serves.

No I/O, no clock: `now` is in the World, in seconds of any one clock.
"""

from dataclasses import dataclass
from typing import TypeAlias

from slipway_agent.plan.failures import is_deadly, is_waiting
from slipway_agent.plan.memory_budget import find_shortages, fits
from slipway_agent.plan.turn import has_drained
from slipway_agent.plan.world import World, is_ready, is_refused, is_satisfied, is_suspect, needs_second_look

RELOAD_SECONDS = 5.0  # between two loads of the same versions, when the server doesn't show what it promised
CHANGING_SECONDS, SETTLED_SECONDS = 0.25, 1.0


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
        and current.public_keys == config.source.public_keys
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
    if served in target - world.server.ready and not has_drained(world):
        return ()  # the clients that it still has must not meet the new version before that is ready
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
    usable = [version for version in usable if not is_suspect(world, version)] or usable[:1]
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


def _has_failed(world: World, version: int) -> bool:
    fetch_failure = world.fetch_failures.get(version)
    cant_be_had = fetch_failure is not None and fetch_failure.is_permanent
    return cant_be_had or is_refused(world, version) or version in find_shortages(world)


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
