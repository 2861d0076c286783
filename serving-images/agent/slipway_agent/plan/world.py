"""Everything the agent knows, in one value, and what follows from it at a glance.

Pure: no I/O, no clock. Imports `config`, `model` and `failures` alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from slipway_agent.config import Config, key_name, name_place
from slipway_agent.model.ledger import Published
from slipway_agent.model.probe import Probe
from slipway_agent.model.server_state import ServerView
from slipway_agent.plan.failures import Failure, is_waiting


@dataclass(frozen=True, slots=True)
class Fetching:
    version: int
    location: str
    pin: str | None
    fetched_bytes: int = 0
    total_bytes: int | None = None
    public_keys: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LoadRecord:
    """The last load that the server finished: of which versions, and when."""

    versions: frozenset[int]
    at: float


@dataclass(frozen=True, slots=True)
class World:
    """Everything the agent knows, in one record, so that `decide` is a function of nothing else.

    `boot` is what a starting server loads; `is_boot_current` False when the configuration it came from has changed
    since. `standing`: the last served version that was ready. `held`: what a server was seen to have ready, with the
    bytes that are published. `proven`: what was seen ready since the present load began, or was just before.
    `left_at`: since when the pod keeps out of the Service, to go over to another version; None: it doesn't.
    `probe`: how the served version answers its own request.
    Sixteen fields: each is remembered or observed on its own, and a test names those that its case is about.
    """

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
    left_at: float | None = None
    probe: Probe = field(default_factory=Probe)


def is_satisfied(world: World, version: int) -> bool:
    """The version is in the repository with the bytes that are wanted: the pinned ones, else those of its location;
    verified by one of the keys, where there are any."""
    published = world.published.get(version)
    if published is None or not _is_verified(world, published):
        return False
    pin = world.config.sha256.get(version)
    return (
        published.sha256 == pin
        if pin is not None
        else published.location == name_place(world.config.source.location(version))
    )


def _is_verified(world: World, published: Published) -> bool:
    keys = world.config.source.public_keys
    return not keys or published.signed_by in {key_name(key) for key in keys}


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
    """The pod may get traffic: the served version answers, or the one it is about to replace still does.

    Not while it keeps out to go over: most servers give a request that names no version the highest one that they hold.
    """
    return world.left_at is None and not is_out(world) and (is_ready(world) or stands(world))


def is_out(world: World) -> bool:
    """The operator has seen others serve, and this server answers its own request with errors: until it answers one.

    An agent that starts doesn't know how its server answers, and believes the operator until it does.
    """
    return world.config.is_out and world.config.question is not None and world.probe.is_failing is not False


def stands(world: World) -> bool:
    """The version that served last still answers."""
    return world.server.is_alive and world.standing in world.server.ready


def may_start(world: World) -> bool:
    """The server would find the served version when it starts now, or has started before."""
    if world.server.is_alive or world.standing in world.published:
        return True
    return world.is_boot_current and world.config.served in world.boot


def is_refused(world: World, version: int) -> bool:
    failure = world.load_failures.get(version)
    return failure is not None and failure.is_permanent and not failure.is_outdated


def is_suspect(world: World, version: int) -> bool:
    failure = world.load_failures.get(version)
    return failure is not None and (failure.is_suspect or failure.deaths > 0)


def find_refused(world: World, version: int) -> str | None:
    """The fingerprint of this version's bytes that were refused, so that they aren't fetched again; None when none
    were, or the source couldn't tell."""
    if needs_second_look(world, version):
        return world.published[version].fingerprint
    failure = world.fetch_failures.get(version)
    return failure.fingerprint if failure is not None else None
