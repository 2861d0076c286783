"""What each crash test begins and ends with: the way to where a scenario begins, the undisturbed run, the recovery."""

import asyncio
from collections.abc import Callable, Sequence

from tests.apiserver import Manifest

from .final_state import State, difference
from .launcher import OperatorLife
from .run import PATIENCE_SECONDS, REST_SECONDS, CrashRun, moved_by, wait_for
from .scenarios import NAME, STOPS, Scenario

EVERYWHERE = ""
"""All namespaces, for an operator."""


def undisturbed(scenario: Scenario) -> str:
    """The namespace in which nobody dies."""
    return f"{scenario.name}-undisturbed"


async def perform_before(
    run: CrashRun, scenario: Scenario, namespaces: Sequence[str], watched: str = EVERYWHERE
) -> None:
    """Brings namespaces to where the scenario begins, with an operator that nobody disturbs.

    watched: the namespaces that it watches.
    """
    await asyncio.gather(*(run.make_namespace(namespace) for namespace in namespaces))
    if not scenario.before:
        return
    async with run.life(watched) as life:
        for edit in scenario.before:
            await asyncio.gather(*(edit(run.api, namespace) for namespace in namespaces))
            ends = scenario.begins if edit is scenario.before[-1] else STOPS
            await run.wait_until_converged(namespaces, life, ends)
        await run.rest(life, namespaces)


async def settle(run: CrashRun, scenario: Scenario, namespace: str, life: OperatorLife, *, is_last_edit: bool) -> None:
    """Waits for what an edit should lead to, and then for rest."""
    if scenario.leaves_nothing and is_last_edit:
        await run.wait_until_gone(namespace)
    else:
        await run.wait_until_converged([namespace], life, scenario.ends)
    await run.rest(life, [namespace])


async def live_undisturbed(run: CrashRun, scenario: Scenario) -> tuple[State, int]:
    """The final state nobody disturbed, and how many writes of the operator the scenario's edit took.

    Its namespace is where the scenario begins.
    """
    namespace = undisturbed(scenario)
    before = await run.model_deployments()
    async with run.life(namespace) as life:
        if scenario.before:
            await run.find_nothing_to_write(life, [namespace], before)
        await scenario.edit(run.api, namespace)
        await settle(run, scenario, namespace, life, is_last_edit=scenario.while_down is None)
        writes = len(life.journal())
        if scenario.while_down is not None:
            await scenario.while_down(run.api, namespace)
            await settle(run, scenario, namespace, life, is_last_edit=True)
        return (await run.states([namespace]))[namespace], writes


async def recover(run: CrashRun, namespaces: Sequence[str], expected: State, watched: str = EVERYWHERE) -> None:
    """Starts the operator again: every namespace reaches the undisturbed state and stays there; a restart, too.

    watched: the namespaces that it watches.
    """
    differences: dict[str, str] = {}

    async def are_recovered() -> bool:
        nonlocal differences
        states = await run.states(namespaces)
        differences = {name: text for name, state in states.items() if (text := difference(expected, state))}
        return not differences

    async with run.life(watched) as life:
        has_recovered = await wait_for(are_recovered, progress=lambda: (differences, moved_by(life)))
        first = next(iter(differences.values()), "")
        assert has_recovered, f"{sorted(differences)} did not recover; the first:\n{first}\n{life.tail()}"
        await run.rest(life, namespaces)
    assert await are_recovered(), f"{sorted(differences)} left the state they had reached: {differences}"
    settled = await run.model_deployments()
    async with run.life(watched) as life:
        await run.find_nothing_to_write(life, namespaces, settled)


async def rests(run: CrashRun, namespace: str, life: OperatorLife, is_over: Callable[[Manifest | None], bool]) -> bool:
    """Waits until the operator has died, or has nothing to do any more and it is over; returns whether that is it."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + PATIENCE_SECONDS
    writes, since = 0, loop.time()
    while not await life.wait_until_dead(0.5):
        if (now := len(life.journal())) != writes or not await life.is_up():
            writes, since = now, loop.time()
        elif loop.time() - since > REST_SECONDS and is_over(await run.api.read("ModelDeployment", namespace, NAME)):
            return True
        if loop.time() > deadline:
            found = await run.api.read("ModelDeployment", namespace, NAME)
            raise AssertionError(f"{namespace} neither died nor finished: {found and found['status']}\n{life.tail()}")
    return False
