"""Rollouts whose operator ends at every write: one operator after the other makes one write and is killed.

A rollout takes dozens of writes and some seconds; a whole rollout for each death would take too long. Here every state
between two writes is met once by an operator that knows nothing, at each moment, and in `make crash-all` again
with lives that last two and three writes. The end must be that of the undisturbed run, and an operator started once
more must find nothing to write.
Whatever happened on the way: no moment of the history may show two canaries with requests, or requests to a rejected
one. All scenarios run side by side, in namespaces of their own: most of the time they wait.
"""

import asyncio
import os
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.apiserver import ApiServer, read_access

from .conftest import ControlPlane
from .history import History, breaches
from .launcher import Moment
from .phases import live_undisturbed, perform_before, recover, rests, undisturbed
from .pod_player import PodPlayer
from .run import CrashRun, is_converged
from .scenarios import NAME, ROLLOUTS, Scenario

AT_ONCE = 3  # scenarios side by side
LIVES_AT_MOST = 400  # evidence takes its looks, and each may take some lives
EVERY_WRITE = ((1, Moment.AFTER_ANSWER), (1, Moment.BEFORE_ANSWER))
LONGER = ((2, Moment.BEFORE_ANSWER), (3, Moment.AFTER_ANSWER))
CHAINS = (*EVERY_WRITE, *LONGER) if "SLIPWAY_CRASH_ALL" in os.environ else EVERY_WRITE
"""At which of its writes each operator of a row of them ends, and when. The longer lives are `make crash-all`'s."""


def namespace_of(scenario: Scenario, chain: tuple[int, Moment]) -> str:
    number, moment = chain
    return f"{scenario.name}-{moment.value.partition('_')[0]}-{number}"


async def end_in_turn(run: CrashRun, scenario: Scenario, chain: tuple[int, Moment]) -> int:
    """Operators in turn, each of which ends at that write of its own, until one rests. Returns how many died."""
    namespace = namespace_of(scenario, chain)
    await scenario.edit(run.api, namespace)
    for deaths in range(LIVES_AT_MOST):
        async with run.life(namespace, *chain, is_awaited=False) as life:
            if await rests(run, namespace, life, lambda found: is_converged(found, scenario.ends)):
                return deaths
    found = await run.api.read("ModelDeployment", namespace, NAME)
    raise AssertionError(
        f"{namespace}: {LIVES_AT_MOST} operators died, and it isn't over: {found and found['status']}\n{life.tail()}"
    )


async def crash_in_turn(run: CrashRun, history: History, scenario: Scenario) -> str:
    """One scenario; returns a line about it."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    namespaces = [namespace_of(scenario, chain) for chain in CHAINS]
    everywhere = [undisturbed(scenario), *namespaces]
    await perform_before(run, scenario, everywhere, ",".join(everywhere))
    begun = loop.time()
    expected, writes = await live_undisturbed(run, scenario)
    deaths = await asyncio.gather(*(end_in_turn(run, scenario, chain) for chain in CHAINS))
    ended = loop.time()
    assert deaths[0] >= writes // 4, f"undisturbed it takes {writes} writes, and {deaths[0]} operators died"
    await recover(run, namespaces, expected, ",".join(namespaces))
    for namespace in everywhere:
        assert breaches(history.of(namespace)) == [], f"{namespace}: requests went astray"
    times = f"before {begun - began:.1f} s, deaths {ended - begun:.1f} s, recovery {loop.time() - ended:.1f} s"
    return f"{scenario.name}: {writes} writes undisturbed, {'+'.join(map(str, deaths))} deaths ({times})"


@pytest.fixture(scope="module")
def rollouts(
    control_plane: ControlPlane, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[str]]]:
    """Scenario's name → what comes of it. Those that were asked for run side by side from here on."""
    asked = {item.callspec.params["scenario"] for item in request.session.items if item.path == Path(__file__)}  # type: ignore[attr-defined]
    results: dict[str, Future[str]] = {scenario.name: Future() for scenario in ROLLOUTS if scenario in asked}
    slots = asyncio.Semaphore(AT_ONCE)

    async def one(run: CrashRun, history: History, scenario: Scenario) -> None:
        async with slots:
            try:
                results[scenario.name].set_result(await crash_in_turn(run, history, scenario))
            except BaseException as error:
                results[scenario.name].set_exception(error)

    async def every() -> None:
        async with AsyncExitStack() as stack:
            api = await stack.enter_async_context(ApiServer(read_access(control_plane.kubeconfig)))
            await stack.enter_async_context(PodPlayer(api))
            history = await stack.enter_async_context(History(api))
            run = CrashRun(control_plane, api, tmp_path_factory.mktemp("lives"))
            await asyncio.gather(*(one(run, history, scenario) for scenario in ROLLOUTS if scenario in asked))

    thread = threading.Thread(target=lambda: asyncio.run(every()))
    thread.start()
    yield results
    thread.join()


@pytest.mark.parametrize("scenario", ROLLOUTS, ids=lambda scenario: scenario.name)
def test_operators_that_end_at_every_write_bring_a_rollout_to_its_end(
    scenario: Scenario, rollouts: dict[str, Future[str]]
) -> None:
    print(rollouts[scenario.name].result())
