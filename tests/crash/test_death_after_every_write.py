"""The operator is killed around every single write it makes, started again, and must end where it would have anyway.

For each scenario an undisturbed run shows the final state. Then, for n = 1, 2, … and for both moments (the write was
answered; it was sent and nobody knows), in a namespace each, an operator is killed at its n-th write of the scenario,
up to an n that it never reaches. One operator for all namespaces recovers them: it must reach the undisturbed state in
each, then rest; and an operator started once more must find nothing to write.
Last comes what may happen while an operator starts.
"""

import asyncio
from pathlib import Path

import pytest

from tests.apiserver import ApiServer, RequestError, read_access

from .conftest import ControlPlane
from .launcher import Moment
from .phases import live_undisturbed, perform_before, recover, undisturbed
from .pod_player import PodPlayer
from .run import REST_SECONDS, CrashRun, is_converged, wait_for
from .scenarios import NAME, SCENARIOS, Scenario, apply

AT_ONCE = 16  # dying operators side by side: enough to fill two cores while each waits for its API server
OFTEN_MORE = 2  # a whole round for the last death alone takes longer
MORE_AT_MOST = 10  # writes beyond the undisturbed count: conditions met in another order cost a status more

Death = tuple[int, Moment]


def namespace_of(scenario: Scenario, death: Death) -> str:
    number, moment = death
    return f"{scenario.name}-{moment.value.partition('_')[0]}-{number}"


async def die(run: CrashRun, scenario: Scenario, death: Death) -> bool:
    """Lets an operator do the scenario's edit and die at its n-th write; False when it finished without dying."""
    namespace = namespace_of(scenario, death)
    async with run.life(namespace, *death) as life:
        await scenario.edit(run.api, namespace)

        async def is_over() -> bool:
            if await life.wait_until_dead(0.2):
                return True
            item = await run.api.read("ModelDeployment", namespace, NAME)
            is_done = item is None if scenario.edit_deletes else is_converged(item, scenario.ends)
            if is_done:
                await life.wait_until_dead(REST_SECONDS)
            return is_done

        assert await wait_for(is_over, 0.2), f"{namespace} neither died nor finished\n{life.tail()}"
        has_died = life.has_died
    if scenario.while_down is not None:
        await scenario.while_down(run.api, namespace)
    return has_died


async def die_everywhere(run: CrashRun, scenario: Scenario, writes: int) -> tuple[list[str], int]:
    """One death for every write and moment, until for each moment an n is never reached.

    Returns the namespaces and how many died in them.
    """
    slots = asyncio.Semaphore(AT_ONCE)

    async def die_in_turn(death: Death) -> bool:
        async with slots:
            return await die(run, scenario, death)

    namespaces: list[str] = []
    deaths = 0
    unfinished = list(Moment)
    numbers = range(1, writes + 2 + OFTEN_MORE)
    while unfinished:
        assert numbers[-1] <= writes + MORE_AT_MOST, (
            f"undisturbed it takes {writes} writes, here {numbers[-1]} and more"
        )
        plan = [(number, moment) for number in numbers for moment in unfinished]
        batch = [namespace_of(scenario, death) for death in plan]
        await perform_before(run, scenario, batch)
        died = dict(zip(plan, await asyncio.gather(*map(die_in_turn, plan)), strict=True))
        namespaces += batch
        deaths += sum(died.values())
        unfinished = [moment for moment in unfinished if died[numbers[-1], moment]]
        numbers = range(numbers[-1] + 1, numbers[-1] + 2)
    return namespaces, deaths


async def clear(run: CrashRun, namespaces: list[str]) -> None:
    """Deletes the ModelDeployments, and waits until their pods are gone."""
    await asyncio.gather(*(run.api.delete("ModelDeployment", namespace, NAME) for namespace in namespaces))
    left = -1

    async def are_gone() -> bool:
        nonlocal left
        pods, _ = await run.api.list_all("Pod", metadata_only=True)
        left = sum(pod["metadata"]["namespace"] in namespaces for pod in pods)
        return not left

    is_clear = await wait_for(are_gone, progress=lambda: left)
    assert is_clear, f"{left} pods of deleted ModelDeployments stay: does the garbage collector run?"


async def crash_at_every_write(control_plane: ControlPlane, scenario: Scenario, folder: Path) -> str:
    """The whole test; returns one line about it."""
    began = asyncio.get_running_loop().time()
    times: list[str] = []

    def lap(what: str) -> None:
        nonlocal began
        now = asyncio.get_running_loop().time()
        times.append(f"{what} {now - began:.1f} s")
        began = now

    async with ApiServer(read_access(control_plane.kubeconfig)) as api, PodPlayer(api):
        run = CrashRun(control_plane, api, folder)
        await perform_before(run, scenario, [undisturbed(scenario)])
        expected, writes = await live_undisturbed(run, scenario)
        lap("undisturbed")
        namespaces, deaths = await die_everywhere(run, scenario, writes)
        lap("deaths")
        assert deaths >= 2 * min(writes, 1), "no operator died: the hook saw no write"
        await recover(run, namespaces, expected)
        lap("recovery")
        # The next scenario's operators watch everything: what is left here would be theirs to pass over.
        await clear(run, [undisturbed(scenario), *namespaces])
        lap("clearing")
    return f"{scenario.name}: {writes} writes undisturbed, {deaths} deaths ({', '.join(times)})"


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_death_at_every_write_ends_in_the_undisturbed_state(
    scenario: Scenario, control_plane: ControlPlane, tmp_path: Path
) -> None:
    try:
        print(asyncio.run(crash_at_every_write(control_plane, scenario, tmp_path)))
    except RequestError as error:
        pytest.fail(str(error))


async def lose_a_pod_while_one_starts(control_plane: ControlPlane, folder: Path) -> None:
    namespace = "starts-late"
    async with ApiServer(read_access(control_plane.kubeconfig)) as api, PodPlayer(api):
        run = CrashRun(control_plane, api, folder)
        await perform_before(run, Scenario("starts", apply(), before=(apply(),)), [namespace])
        async with run.life(namespace, late="pods") as life:
            await run.wait_until_passed_once(life)  # it has listed all pods, and kopf hasn't
            pods, _ = await api.list_all("Pod", metadata_only=True)
            lost = next(pod["metadata"]["name"] for pod in pods if pod["metadata"]["namespace"] == namespace)
            await api.delete("Pod", namespace, lost)

            async def is_replaced() -> bool:
                items, _ = await api.list_all("Pod", metadata_only=True)
                own = [each["metadata"]["name"] for each in items if each["metadata"]["namespace"] == namespace]
                return len(own) == 2 and lost not in own

            assert await wait_for(is_replaced)
            life.go_on()
            await asyncio.sleep(REST_SECONDS)  # what is settled now is the state before
            await run.wait_until_converged([namespace], life)
            assert (await run.model_deployments())[namespace]["status"]["replicas"] == 2  # and not three
        await clear(run, [namespace])


def test_a_pod_that_is_lost_while_an_operator_starts_is_not_waited_for(
    control_plane: ControlPlane, tmp_path: Path
) -> None:
    """It is in the operator's own listing, and not in that of kopf's watch, which so tells of no deletion."""
    asyncio.run(lose_a_pod_while_one_starts(control_plane, tmp_path))
