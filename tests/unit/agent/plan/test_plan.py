"""The agent's judgement: a table of worlds, and the laws that hold in every world."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slipway_agent.config import Config, Memory, Source, key_name
from slipway_agent.model.errors import Reason, SpecError, TransientError
from slipway_agent.model.golden import Golden, Tolerance
from slipway_agent.model.ledger import Published
from slipway_agent.model.server_state import Gone, Refused, ServerView
from slipway_agent.plan.failures import Failure, blame, may_correct, remember, repeat
from slipway_agent.plan.memory_budget import find_shortages, fits
from slipway_agent.plan.plan import Action, CancelFetch, Fetch, Load, Remove, WriteBoot, decide
from slipway_agent.plan.world import Fetching, LoadRecord, World, is_ready, is_serving, may_start

NOW = 1000.0
URI = "pvc://models/digits"


def config_of(served: int, *load: int, sha256: Mapping[int, str] | None = None, limit: int | None = None) -> Config:
    """Every version of these worlds has 10 bytes."""
    return Config(
        generation="g",
        runtime="Triton",
        model="digits",
        source=Source(URI, "/source"),
        served=served,
        load=tuple(sorted({served, *load})),
        sha256=sha256 or {},
        memory=Memory(limit, 1.0) if limit is not None else None,
    )


WAITING = Config("g", "Triton", "digits", Source(URI, "/source"), served=None, load=())


def published_of(*versions: int) -> dict[int, Published]:
    return {version: Published(f"{version:064x}", 10, f"{URI}/{version}", "etag") for version in versions}


KEY = "-----BEGIN PUBLIC KEY-----"


def signed_config(served: int, *keys: str, load: tuple[int, ...] = ()) -> Config:
    return replace(config_of(served, *load), source=Source(URI, "/source", public_keys=keys))


def signed_of(version: int, key: str) -> dict[int, Published]:
    return {version: replace(published_of(version)[version], signed_by=key_name(key))}


def alive(*ready: int) -> ServerView:
    return ServerView(True, frozenset(ready))


def failure(reason: Reason = Reason.LOAD_FAILED, retry_at: float = NOW + 60, **fields: Any) -> Failure:
    return Failure(reason, "why", reason is not Reason.SOURCE_UNAVAILABLE, 1, retry_at, **fields)


def world_of(config: Config, **fields: Any) -> World:
    return World(config, NOW, **{"is_boot_current": True, **fields})


def settled(*load: int) -> World:
    versions = frozenset(load)
    return world_of(
        config_of(*load),
        published=published_of(*load),
        boot=versions,
        server=alive(*load),
        standing=load[0],
        held=versions,
    )


SUSPECT = failure(is_suspect=True, is_confirmed=True).outdate(NOW)

TABLE: dict[str, tuple[World, tuple[Action, ...]]] = {
    "a settled world wants nothing": (settled(3, 2), ()),
    "an empty pod fetches the served version first": (world_of(config_of(2, 1, 3)), (Fetch(2),)),
    "then the newest of the others, and the boot configuration names the served one alone": (
        world_of(config_of(2, 1, 3), published=published_of(2)),
        (Fetch(3), WriteBoot(frozenset({2}))),
    ),
    "the others wait for the server's start": (
        world_of(config_of(2, 1), published=published_of(1, 2), boot=frozenset({2})),
        (),
    ),
    "and are loaded once it answers": (
        world_of(config_of(2, 1), published=published_of(1, 2), boot=frozenset({2}), server=alive(2)),
        (Load(frozenset({1, 2})),),
    ),
    "a load in flight is waited for": (
        world_of(
            config_of(2, 1),
            published=published_of(1, 2),
            boot=frozenset({2}),
            server=alive(2),
            loading=frozenset({1, 2}),
        ),
        (),
    ),
    "a new served version is fetched while the old one serves": (
        replace(settled(2), config=config_of(3), is_boot_current=False),
        (Fetch(3),),
    ),
    "it is loaded beside the old one": (
        replace(settled(2), config=config_of(3), published=published_of(2, 3)),
        (Load(frozenset({2, 3})),),
    ),
    "without waiting for other new ones": (
        replace(settled(2), config=config_of(3, 1, 2), published=published_of(1, 2, 3)),
        (Load(frozenset({2, 3})),),
    ),
    "which come with the next load": (
        replace(settled(3, 2), config=config_of(3, 1, 2), published=published_of(1, 2, 3)),
        (Load(frozenset({1, 2, 3})),),
    ),
    "and don't wait for it when it has failed": (
        replace(settled(2), config=config_of(3, 1, 2), published=published_of(1, 2, 3), load_failures={3: failure()}),
        (Load(frozenset({1, 2})),),
    ),
    "only when it is ready does the old one go": (
        replace(settled(2, 3), config=config_of(3)),
        (Load(frozenset({3})),),
    ),
    "and only when the server let go of it are its files removed": (
        replace(settled(3), published=published_of(2, 3)),
        (Remove(2),),
    ),
    "a version that is still unloading keeps its files": (
        replace(
            settled(3), published=published_of(2, 3), server=alive(2, 3), last_load=LoadRecord(frozenset({3}), NOW)
        ),
        (),
    ),
    "an old version stays while another one is on its way": (
        replace(settled(3, 1), config=config_of(3, 2)),
        (Fetch(2),),
    ),
    "but doesn't wait for one that failed": (
        replace(settled(3, 1), config=config_of(3, 2), fetch_failures={2: failure(Reason.VERSION_NOT_FOUND)}),
        (Load(frozenset({3})),),
    ),
    "a new served version that fails to load leaves the old one loaded": (
        replace(settled(2), config=config_of(3), published=published_of(2, 3), load_failures={3: failure()}),
        (),
    ),
    "a failing extra version is left out": (
        world_of(
            config_of(3, 2),
            published=published_of(2, 3),
            boot=frozenset({3}),
            server=alive(3),
            load_failures={2: failure()},
        ),
        (),
    ),
    "when its time has come its source is looked at again": (
        replace(
            settled(3), config=config_of(3, 2), published=published_of(2, 3), load_failures={2: failure(retry_at=NOW)}
        ),
        (Fetch(2),),
    ),
    "and if that has nothing new the load is tried again": (
        replace(
            settled(3),
            config=config_of(3, 2),
            published=published_of(2, 3),
            load_failures={2: failure(retry_at=NOW, is_confirmed=True)},
        ),
        (Load(frozenset({2, 3})),),
    ),
    "a pinned version isn't looked at again": (
        replace(
            settled(3),
            config=config_of(3, 2, sha256={2: f"{2:064x}"}),
            published=published_of(2, 3),
            load_failures={2: failure(retry_at=NOW)},
        ),
        (Load(frozenset({2, 3})),),
    ),
    "a failed fetch waits for its time": (
        world_of(config_of(3), fetch_failures={3: failure(Reason.SOURCE_UNAVAILABLE, NOW + 1)}),
        (),
    ),
    "and is tried again": (
        world_of(config_of(3), fetch_failures={3: failure(Reason.SOURCE_UNAVAILABLE, NOW)}),
        (Fetch(3),),
    ),
    "a failed fetch doesn't hold up the others": (
        world_of(config_of(3, 2), fetch_failures={3: failure(Reason.VERSION_NOT_FOUND)}),
        (Fetch(2),),
    ),
    "a fetch nobody wants any more is called off": (
        replace(settled(3), fetching=Fetching(2, f"{URI}/2", None)),
        (CancelFetch(2),),
    ),
    "so is one whose pin changed": (
        world_of(config_of(3, sha256={3: "a" * 64}), fetching=Fetching(3, f"{URI}/3", "b" * 64)),
        (CancelFetch(3),),
    ),
    "and an extra one's when the served one is wanted": (
        world_of(config_of(3, 2), fetching=Fetching(2, f"{URI}/2", None)),
        (CancelFetch(2),),
    ),
    "bytes that don't match a new pin keep serving and are fetched again": (
        replace(settled(3), config=config_of(3, sha256={3: "a" * 64})),
        (Fetch(3),),
    ),
    "a fetch that began under other keys is called off": (
        world_of(signed_config(3, KEY), fetching=Fetching(3, f"{URI}/3", None)),
        (CancelFetch(3),),
    ),
    "what isn't verified keeps serving, and is fetched to be verified": (
        replace(settled(3), config=signed_config(3, KEY)),
        (Fetch(3),),
    ),
    "what one of the keys signed is settled": (
        replace(settled(3), config=signed_config(3, "other", KEY), published=signed_of(3, KEY)),
        (),
    ),
    "what a key signed that is no longer named is fetched to be verified by the others": (
        replace(settled(3), config=signed_config(3, "other"), published=signed_of(3, KEY)),
        (Fetch(3),),
    ),
    "what isn't verified is never loaded anew": (
        world_of(
            signed_config(3, KEY, load=(2,)),
            published=signed_of(3, KEY) | published_of(2),
            fetch_failures={2: failure(Reason.NOT_SIGNED)},
            boot=frozenset({3}),
            server=alive(3),
        ),
        (),
    ),
    "nor written for a server that starts": (
        world_of(signed_config(3, KEY), published=published_of(3), fetch_failures={3: failure(Reason.NOT_SIGNED)}),
        (),
    ),
    "bytes that don't match a pin are never loaded anew": (
        replace(
            settled(3),
            config=config_of(3, 2, sha256={2: "a" * 64}),
            published=published_of(2, 3),
            fetch_failures={2: failure(Reason.DIGEST_MISMATCH)},
        ),
        (),
    ),
    "replaced bytes are loaded": (
        replace(settled(3), published={3: replace(published_of(3)[3], awaits_load=True)}),
        (Load(frozenset({3})),),
    ),
    "a changed configuration is written and loaded, with the same versions too": (
        replace(settled(3), is_boot_current=False),
        (Load(frozenset({3})),),
    ),
    "a server that restarts finds what it had": (replace(settled(3, 2), server=ServerView()), ()),
    "without the version that made it end": (
        replace(settled(3, 2), server=ServerView(), load_failures={2: failure()}),
        (WriteBoot(frozenset({3})),),
    ),
    "what the server may have died of comes alone": (
        replace(
            settled(3),
            config=config_of(3, 2, 1),
            published=published_of(1, 2, 3),
            load_failures={2: SUSPECT, 1: SUSPECT},
        ),
        (Load(frozenset({2, 3})),),
    ),
    "and last": (
        replace(settled(3), config=config_of(3, 2, 1), published=published_of(1, 2, 3), load_failures={2: SUSPECT}),
        (Load(frozenset({1, 3})),),
    ),
    "what it died of is asked for once more, alone too": (
        replace(
            settled(3),
            config=config_of(3, 2, 1),
            published=published_of(1, 2, 3),
            load_failures={each: failure(retry_at=NOW, is_confirmed=True, deaths=1) for each in (1, 2)},
        ),
        (Load(frozenset({2, 3})),),
    ),
    "and never again": (
        replace(
            settled(3),
            config=config_of(3, 2),
            published=published_of(2, 3),
            load_failures={2: failure(retry_at=NOW, is_confirmed=True, deaths=2)},
        ),
        (),
    ),
    "though its source is looked at": (
        replace(
            settled(3),
            config=config_of(3, 2),
            published=published_of(2, 3),
            load_failures={2: failure(retry_at=NOW, deaths=2)},
        ),
        (Fetch(2),),
    ),
    "nor while what served serves on, when it is the served one": (
        replace(
            settled(2),
            config=config_of(3),
            published=published_of(2, 3),
            load_failures={3: failure(retry_at=NOW, is_confirmed=True, deaths=2)},
        ),
        (),
    ),
    "and without one that it never held": (
        replace(settled(3, 2), server=ServerView(), held=frozenset({3})),
        (WriteBoot(frozenset({3})),),
    ),
    "nor one that nobody wants any more": (
        replace(settled(3, 2), config=config_of(3), server=ServerView()),
        (WriteBoot(frozenset({3})),),
    ),
    "a new served version waits until the one that served is back": (
        replace(settled(2), config=config_of(3), published=published_of(2, 3), server=ServerView()),
        (),
    ),
    "and takes its place when that never came up": (
        world_of(
            config_of(3, 2), published=published_of(2, 3), boot=frozenset({2}), standing=None, is_boot_current=False
        ),
        (WriteBoot(frozenset({3})),),
    ),
    "a served version that made it end isn't put back while another one can serve": (
        replace(
            settled(2),
            config=config_of(3),
            published=published_of(2, 3),
            server=ServerView(),
            load_failures={3: failure(retry_at=NOW, is_confirmed=True)},
        ),
        (),
    ),
    "a new served version that doesn't fit beside the old one isn't loaded": (
        replace(settled(2), config=config_of(3, limit=19), published=published_of(2, 3)),
        (),
    ),
    "one that just fits is": (
        replace(settled(2), config=config_of(3, limit=20), published=published_of(2, 3)),
        (Load(frozenset({2, 3})),),
    ),
    "an old extra that isn't named any more makes room for it first": (
        replace(settled(2, 1), config=config_of(3, limit=20), published=published_of(1, 2, 3)),
        (Load(frozenset({2})),),
    ),
    "an extra that is named doesn't": (
        replace(settled(2, 1), config=config_of(3, 1, limit=20), published=published_of(1, 2, 3)),
        (),
    ),
    "the first version of an empty server is loaded whatever its size": (
        world_of(config_of(3, limit=5), published=published_of(3), server=ServerView(True)),
        (Load(frozenset({3})),),
    ),
    "and is what a server that starts gets": (
        world_of(config_of(3, limit=5), published=published_of(3)),
        (WriteBoot(frozenset({3})),),
    ),
    "a server that is down isn't told to start with more than fits": (
        replace(settled(2), config=config_of(3, limit=19), published=published_of(2, 3), server=ServerView()),
        (),
    ),
    "extras that don't fit are left out, the oldest first": (
        replace(settled(3), config=config_of(3, 2, 1, limit=20), published=published_of(1, 2, 3)),
        (Load(frozenset({2, 3})),),
    ),
    "an extra that fits only without an old one waits until that has gone": (
        replace(settled(3, 1), config=config_of(3, 2, limit=20), published=published_of(1, 2, 3)),
        (Load(frozenset({3})),),
    ),
    "and doesn't take the room of a served version that failed": (
        replace(
            settled(2), config=config_of(3, 1, limit=20), published=published_of(1, 2, 3), load_failures={3: failure()}
        ),
        (),
    ),
    "a limit that was lowered unloads nothing": (replace(settled(3, 2), config=config_of(3, 2, limit=5)), ()),
    "without a name for anything nothing is done": (world_of(WAITING), ()),
    "and what serves is left alone": (replace(settled(3, 2), config=WAITING, is_boot_current=False), ()),
    "a server that came up without a version is asked for it": (
        replace(settled(3, 2), server=alive(3)),
        (Load(frozenset({2, 3})),),
    ),
    "but not at once again when it had just promised it": (
        replace(settled(3, 2), server=alive(3), last_load=LoadRecord(frozenset({2, 3}), NOW - 1)),
        (),
    ),
    "nor when it just refused, and blamed a version that serves": (
        replace(
            settled(2),
            config=config_of(3, 2),
            published=published_of(2, 3),
            load_failures={2: failure()},
            last_load=LoadRecord(frozenset({2, 3}), NOW - 1),
        ),
        (),
    ),
}


@pytest.mark.parametrize("name", TABLE)
def test_decide(name: str) -> None:
    world, wanted = TABLE[name]
    assert decide(world).actions == wanted


def test_a_settled_agent_looks_once_a_second_and_a_busy_one_four_times() -> None:
    assert decide(settled(3)).wake_seconds == 1.0
    assert decide(replace(settled(3), server=alive())).wake_seconds == 0.25
    assert decide(world_of(config_of(3), fetch_failures={3: failure(Reason.ACCESS_DENIED)})).wake_seconds == 1.0


def test_the_server_may_start_when_it_would_find_the_served_version() -> None:
    world = world_of(config_of(3, 2), published=published_of(3))
    assert not may_start(world)
    assert may_start(replace(world, boot=frozenset({3})))
    assert not may_start(replace(world, boot=frozenset({2})))
    assert may_start(replace(world, standing=2, published=published_of(2, 3))), "a pod that served keeps its server"
    assert not may_start(replace(world, standing=2)), "whose files are gone, it would start with nothing"


def test_the_pod_stays_ready_on_the_old_version_until_the_new_one_is() -> None:
    world = replace(settled(2), config=config_of(3))
    assert is_serving(world)
    assert not is_ready(world)
    assert not is_serving(replace(world, server=ServerView()))
    extra_only = replace(world, standing=None, server=alive(1))
    assert not is_serving(extra_only), "another version than the one that served doesn't stand in"


@pytest.mark.parametrize(
    ("outcome", "asked", "ready", "blamed"),
    [
        (Refused("all", {2: "two's words"}), {2, 3}, {3}, {2: "two's words"}),
        (Refused("all", {9: "not asked"}), {2, 3}, {3}, {2: "all"}),
        (Refused("all", {}), {2, 3}, set(), {2: "all"}),
        (Refused("all", {}), {3}, set(), {3: "all"}),
        (Refused("all", {}), {3}, {3}, {3: "all"}),
        (Gone("ended"), {2, 3}, {3}, {2: "ended"}),
        (Gone("ended"), {2, 3}, {2}, {3: "ended"}),
        (Gone("ended"), {2, 3}, {2, 3}, {}),
        (Gone("ended"), {3}, set(), {}),
        (Gone("ended"), {3}, {3}, {}),
        (Gone("not there", was_asked=False), {2, 3}, {3}, {}),
    ],
)
def test_who_is_blamed_for_a_failed_load(
    outcome: Refused | Gone, asked: set[int], ready: set[int], blamed: dict[int, str]
) -> None:
    assert blame(outcome, frozenset(asked), frozenset(ready), served=3) == blamed


def test_waits_double_up_to_half_a_minute_and_permanent_ones_last_a_minute() -> None:
    waits, earlier = [], None
    for _ in range(8):
        earlier = remember(TransientError("why"), NOW, earlier)
        waits.append(earlier.retry_at - NOW)
    assert waits == [1, 2, 4, 8, 16, 30, 30, 30]
    assert remember(TransientError("why", 120), NOW, None).retry_at == NOW + 120
    assert remember(SpecError(Reason.DIGEST_MISMATCH, "why"), NOW, earlier).retry_at == NOW + 60
    missing = remember(SpecError(Reason.VERSION_NOT_FOUND, "why", "etag"), NOW, None)
    assert missing.retry_at == NOW + 5
    assert repeat(missing, NOW) == replace(missing, attempts=2)


BEFORE = config_of(3, 2)


@pytest.mark.parametrize(
    ("now", "is_corrected"),
    [
        (replace(BEFORE, generation="other"), False),
        (replace(BEFORE, labels={"newest": 3}), False),
        (config_of(3, 2, 1), False),
        (config_of(2, 3), True),
        (replace(BEFORE, settings="other"), True),
        (replace(BEFORE, memory=Memory(1 << 30, 1.0)), True),
        (replace(BEFORE, warmup=({"inputs": []},)), True),
        (replace(BEFORE, golden=Golden((), "golden.json", Tolerance())), True),
    ],
    ids=["generation", "label", "another extra", "served now", "settings", "memory", "warm-up", "golden requests"],
)
def test_what_ended_the_server_twice_is_asked_for_again_when_a_change_may_be_its_correction(
    now: Config, is_corrected: bool
) -> None:
    assert may_correct(BEFORE, now, 2, failure(deaths=2)) is is_corrected
    assert may_correct(BEFORE, now, 2, failure(deaths=1))


# A model of everything around the agent: what the source has, what the server can load, and what ends the server.

versions = st.integers(1, 4)
sets = st.frozensets(versions)
limits = st.none() | st.sampled_from([5, 10, 20, 30, 40])
configs = st.builds(lambda served, load, limit: config_of(served, *load, limit=limit), versions, sets, limits)


@st.composite
def worlds(draw: st.DrawFn) -> World:
    config = draw(configs)
    published = draw(sets)
    is_alive = draw(st.booleans())
    ready = draw(sets) & published if is_alive else frozenset[int]()
    return world_of(
        config,
        published=published_of(*published),
        boot=draw(sets) & published,
        server=ServerView(is_alive, ready),
        is_boot_current=draw(st.booleans()),
        standing=draw(st.none() | versions),
        load_failures={
            version: failure(retry_at=NOW + draw(st.sampled_from([0, 30])), is_confirmed=draw(st.booleans()))
            for version in draw(sets) & published
        },
        held=draw(sets) & published,
        fetch_failures={
            version: failure(draw(st.sampled_from([Reason.SOURCE_UNAVAILABLE, Reason.VERSION_NOT_FOUND])))
            for version in draw(sets) - published
        },
    )


def perform(world: World, action: Action, missing: frozenset[int], broken: frozenset[int]) -> World:
    """The world after one action, where the source lacks `missing` and the server refuses `broken`."""
    match action:
        case Fetch(version) if version in missing:
            if version in world.load_failures and version in world.published:
                confirmed = replace(world.load_failures[version], is_confirmed=True)
                return replace(world, load_failures={**world.load_failures, version: confirmed})
            failed = failure(Reason.VERSION_NOT_FOUND, world.now + 60)
            return replace(world, fetch_failures={**world.fetch_failures, version: failed})
        case Fetch(version):
            remaining = {each: why for each, why in world.load_failures.items() if each != version}
            fetched = {**world.published, **published_of(version)}
            gone = {each: why for each, why in world.fetch_failures.items() if each != version}
            return replace(world, published=fetched, load_failures=remaining, fetch_failures=gone)
        case CancelFetch():
            return replace(world, fetching=None)
        case WriteBoot(written):
            return replace(world, boot=written, is_boot_current=True)
        case Load(asked) if asked & broken - world.server.ready:
            failures = {version: failure(retry_at=world.now + 60) for version in asked & broken - world.server.ready}
            return replace(
                world,
                is_boot_current=True,
                load_failures={**world.load_failures, **failures},
                last_load=LoadRecord(asked, world.now),
            )
        case Load(asked):
            remaining = {each: why for each, why in world.load_failures.items() if each not in asked}
            return replace(
                world,
                boot=asked,
                is_boot_current=True,
                server=ServerView(True, asked),
                load_failures=remaining,
                last_load=LoadRecord(asked, world.now),
            )
        case Remove(version):
            kept = {each: published for each, published in world.published.items() if each != version}
            return replace(world, published=kept)


def settle(world: World, missing: frozenset[int], broken: frozenset[int]) -> World:
    for _ in range(60):
        actions = decide(world).actions
        if not actions:
            return world
        for action in actions:
            world = perform(world, action, missing, broken)
    raise AssertionError(f"never settles: {decide(world).actions} in {world}")


@settings(max_examples=400)
@given(worlds(), sets, sets)
def test_it_settles_and_asks_for_nothing_more(world: World, missing: frozenset[int], broken: frozenset[int]) -> None:
    end = settle(world, missing, broken)
    assert decide(end).actions == ()


@settings(max_examples=400)
@given(worlds())
def test_with_a_good_source_and_server_exactly_what_is_named_ends_up_loaded(world: World) -> None:
    config = replace(world.config, memory=None)
    world = replace(
        world, config=config, server=ServerView(True, world.server.ready), load_failures={}, fetch_failures={}
    )
    end = settle(world, frozenset(), frozenset())
    assert end.server.ready == frozenset(world.config.load) == frozenset(end.published)


@settings(max_examples=400)
@given(worlds(), sets, sets)
def test_nothing_is_added_that_doesnt_fit(world: World, missing: frozenset[int], broken: frozenset[int]) -> None:
    for _ in range(60):
        for action in decide(world).actions:
            if isinstance(action, Load) and action.versions - world.server.ready:
                together = action.versions | world.server.ready
                assert len(action.versions) == 1 or fits(world.config.memory, world.published, together)
            world = perform(world, action, missing, broken)


@settings(max_examples=400)
@given(worlds())
def test_what_fits_with_the_one_that_serves_ends_up_loaded_and_the_rest_is_said(world: World) -> None:
    world = replace(world, server=ServerView(True, world.server.ready), load_failures={}, fetch_failures={})
    end = settle(world, frozenset(), frozenset())
    named = frozenset(world.config.load)
    assert named == end.server.ready & named | find_shortages(end).keys()
    everything = named | world.server.ready | world.boot | {world.standing or 0}
    if fits(world.config.memory, {**end.published, **published_of(*everything)}, everything):
        assert end.server.ready == named


def test_a_shortage_is_said_in_numbers() -> None:
    gib = 1 << 30
    published = {version: replace(each, size_bytes=gib) for version, each in published_of(1, 2, 3).items()}
    config = replace(config_of(3, 2), memory=Memory(4 * gib, 1.5))
    world = replace(settled(2, 1), config=config, published=published)
    assert find_shortages(world) == {}, "1 isn't named any more and goes"
    world = replace(world, config=replace(config_of(3, 2, 1), memory=Memory(4 * gib, 1.5)))
    message = find_shortages(world)[3].message
    assert "version 3 isn't loaded: it has 1.0 GiB on disk, versions 1, 2 beside it 2.0 GiB" in message
    assert "with the factor 1.5 that is 4.5 GiB of the 4.0 GiB that the server may use" in message
    assert "raise spec.resources.limits.memory, or lower spec.model.memoryFactor" in message
    assert "pods of its own" in message


@settings(max_examples=400)
@given(worlds(), sets, sets)
def test_no_step_takes_away_the_last_version_that_serves(
    world: World, missing: frozenset[int], broken: frozenset[int]
) -> None:
    for _ in range(60):
        for action in decide(world).actions:
            after = perform(world, action, missing, broken)
            if isinstance(action, Load):
                lost = world.server.ready - after.server.ready
                if world.config.memory is not None:
                    lost &= {world.standing}  # to make room, what doesn't stand in may go
                assert not lost & frozenset(world.config.load), "a named version that is ready is never unloaded"
                assert not lost & frozenset(world.published) or is_ready(after), (
                    "nothing goes before the served one is ready"
                )
            if isinstance(action, Remove):
                assert action.version not in world.server.ready | world.boot | frozenset(world.config.load)
            world = after


@settings(max_examples=400)
@given(worlds())
def test_only_named_versions_are_ever_fetched_or_added(world: World) -> None:
    for action in decide(world).actions:
        match action:
            case Fetch(version):
                assert version in world.config.load
                assert version not in world.published or version in world.load_failures
            case Load(asked):
                assert asked <= frozenset(world.config.load) | world.server.ready
            case WriteBoot(written):
                assert written <= world.boot | {world.config.served}


@given(worlds())
def test_a_world_always_gets_the_same_answer(world: World) -> None:
    assert decide(world) == decide(world)
