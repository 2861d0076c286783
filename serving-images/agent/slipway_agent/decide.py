"""What to do next: the agent's whole judgement, as one pure function of what is wanted, on disk and in the server.

Laws (tests/unit/agent/test_decide.py):
- A version that isn't named in `load` is never fetched; one that is published and verified isn't fetched again.
- A version that serves is not taken away before the served one is ready and every other is ready or has failed.
- A version that failed is left out until its time to be tried again, and never makes another one unavailable.
- What the plan asks for, once done, is not asked for again.
While the server is down nothing unproven is added to its boot configuration but the served version itself, so that a
server that died of a version comes back without it.

No I/O, no clock: `now` is in the World, in seconds of any one clock.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from slipway_agent.config import Config
from slipway_agent.failures import Reason
from slipway_agent.servers import Gone, Refused, ServerView
from slipway_agent.volume import Published

PERMANENT_RETRY_SECONDS = 60.0
MISSING_RETRY_SECONDS = 5.0  # a look at a folder costs nothing, and a copy that is under way ends soon
TRANSIENT_FIRST_SECONDS, TRANSIENT_LONGEST_SECONDS = 1.0, 30.0
RELOAD_SECONDS = 5.0  # between two loads of the same versions, when the server doesn't show what it promised
CHANGING_SECONDS, SETTLED_SECONDS = 0.25, 1.0


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a version isn't there. `retry_at` is on the World's clock; `attempts` counts from 1.

    `is_confirmed`: the source was asked since, and still has the bytes that the server refused.
    """

    reason: Reason
    message: str
    is_permanent: bool
    attempts: int
    retry_at: float
    fingerprint: str | None = None
    is_confirmed: bool = False


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
    configuration it came from has changed since. `standing`: the last served version that was ready."""

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
    is_settled = is_resting and (is_ready(world) or _has_failed(world, world.config.served))
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


def is_waiting(failure: Failure | None, now: float) -> bool:
    return failure is not None and now < failure.retry_at


def blame(outcome: Refused | Gone, asked: frozenset[int], ready: frozenset[int], served: int) -> Mapping[int, str]:
    """Which versions a load failed by, with the words for each. `ready`: what was ready before it.

    A server that names versions is believed. One that doesn't, or that ended, is asked again without the extra ones
    that were new; only when none is left is it the served version's fault. A server that ended with nothing else
    loaded is judged by the kubelet's restarts, not by us: no version is blamed.
    """
    if isinstance(outcome, Refused) and (named := asked & outcome.words.keys()):
        return {version: outcome.words[version] for version in named}
    new = asked - ready
    if new - {served}:
        return dict.fromkeys(new - {served}, outcome.message)
    if isinstance(outcome, Refused) or (served in new and asked - {served}):
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


def _decide_fetch(world: World) -> tuple[Action, ...]:
    config = world.config
    wanted = [config.served, *(version for version in reversed(config.load) if version != config.served)]
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
    if world.loading is not None or world.config.served not in world.published:
        return ()  # without the served version's own files there is nothing better to write than what is there
    target = _target(world)
    if not target:
        return ()
    if not world.server.is_alive:
        if target != world.boot or not world.is_boot_current:
            return (WriteBoot(target),)
        return ()
    return (Load(target),) if _needs_load(world, target) else ()


def _target(world: World) -> frozenset[int]:
    """The versions the server should hold now; empty when there is nothing to ask for."""
    published, ready, named = frozenset(world.published), world.server.ready, frozenset(world.config.load)
    if not world.server.is_alive:
        proven = (world.boot & published) - frozenset(world.load_failures)
        adds_served = is_satisfied(world, world.config.served) and (
            world.config.served not in world.load_failures or not proven
        )
        return proven | ({world.config.served} if adds_served else frozenset())
    usable = frozenset(
        version
        for version in named & published
        if version in ready
        or (
            (is_satisfied(world, version) or version in world.boot)
            and not is_waiting(world.load_failures.get(version), world.now)
            and not needs_second_look(world, version)
        )
    )
    return usable if _is_arrived(world) else usable | ((ready & published) - named)


def _is_arrived(world: World) -> bool:
    """The served version is ready and nothing named is still on its way: what is no longer named may go."""
    if not is_ready(world):
        return False
    return all(version in world.server.ready or _has_failed(world, version) for version in world.config.load)


def _has_failed(world: World, version: int) -> bool:
    failures = (world.fetch_failures.get(version), world.load_failures.get(version))
    return any(failure is not None and failure.is_permanent for failure in failures)


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
    is_written = world.is_boot_current and target == world.boot
    return not is_written or replaced or retried or (world.server.ready != target and rested)


def _decide_removal(world: World) -> tuple[Action, ...]:
    if world.loading is not None or not _is_arrived(world):
        return ()
    in_use = frozenset(world.config.load) | world.server.ready | world.boot
    return tuple(Remove(version) for version in sorted(world.published) if version not in in_use)
