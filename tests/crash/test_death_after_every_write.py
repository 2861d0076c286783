"""The operator is killed around every single write it makes, started again, and must end where it would have anyway.

For each scenario an undisturbed run shows the final state. Then, for n = 1, 2, …, in a namespace each, an operator is
killed at its n-th write of the scenario, until one finishes its work before its n-th write comes. All are recovered by
one operator for all namespaces, which must reach the undisturbed state in each, then rest; and an operator started
once more must find nothing to write.
"""

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from tests.apiserver import ApiServer, RequestError, read_access

from .conftest import ControlPlane
from .final_state import STATE_KINDS, State, difference, normalise
from .launcher import JournalEntry, Life, Moment, OperatorLife
from .pod_player import PodPlayer
from .scenarios import NAME, SCENARIOS, Scenario

AT_ONCE = 5  # dying operators side by side: enough to fill two cores while each waits for its API server
REST_SECONDS = 1.5
PATIENCE_SECONDS = 40.0

_ports = itertools.count(21_000)
_references: dict[str, tuple[State, int]] = {}


class CrashRun:
    """One test's API session, folder and lives."""

    def __init__(self, control_plane: ControlPlane, api: ApiServer, folder: Path) -> None:
        self.control_plane = control_plane
        self.api = api
        self._folder = folder
        self._lives = itertools.count(1)

    @asynccontextmanager
    async def life(
        self, namespace: str, death: int | None = None, moment: Moment = Moment.AFTER_ANSWER
    ) -> AsyncIterator[OperatorLife]:
        """An operator that is up, for one namespace or ("") for all; ended with the block if it still lives."""
        stem = f"{next(self._lives):03}-{namespace or 'all'}"
        life = OperatorLife(
            self.control_plane.context,
            Life(
                kubeconfig=str(self.control_plane.kubeconfig),
                namespaces=namespace,
                metrics_port=next(_ports),
                journal=str(self._folder / f"{stem}.journal"),
                log=str(self._folder / f"{stem}.log"),
                module=self.control_plane.module,
                death=death,
                moment=moment,
            ),
        )
        try:
            await life.wait_until_up()
            yield life
        finally:
            await life.end()

    async def state(self, namespace: str) -> State:
        kinds = [self.api.list_all(kind, namespace) for kind in STATE_KINDS]
        listed = await asyncio.gather(*kinds)
        return normalise({kind: items for kind, (items, _) in zip(STATE_KINDS, listed, strict=True)}, namespace)

    async def is_converged(self, namespace: str) -> bool:
        """Whether the ModelDeployment says, of the spec as it is now, that it is ready and promoted."""
        item = await self.api.read("ModelDeployment", namespace, NAME)
        if item is None:
            return False
        generation = item["metadata"]["generation"]
        true = {
            condition["type"]
            for condition in item.get("status", {}).get("conditions", [])
            if condition["status"] == "True" and condition.get("observedGeneration") == generation
        }
        return {"Ready", "Promoted"} <= true

    async def wait_until_converged(self, namespace: str, life: OperatorLife) -> None:
        for _ in range(int(PATIENCE_SECONDS / 0.1)):
            if await self.is_converged(namespace):
                return
            await asyncio.sleep(0.1)
        item = await self.api.read("ModelDeployment", namespace, NAME)
        status = (item or {}).get("status")
        raise AssertionError(
            f"{namespace} is not ready and promoted in {PATIENCE_SECONDS:.0f} s: {status}\n{life.tail()}"
        )

    async def wait_until_gone(self, namespace: str) -> None:
        state: State = {}
        for _ in range(int(PATIENCE_SECONDS / 0.1)):
            state = await self.state(namespace)
            if not state:
                return
            await asyncio.sleep(0.1)
        raise AssertionError(f"left behind in {namespace}: {sorted(state)}")

    async def make_namespace(self, name: str) -> None:
        await self.api.make_namespace(name)
        for _ in range(100):  # pods need the namespace's service account, which the controller-manager makes
            if await self.api.read("ServiceAccount", name, "default"):
                return
            await asyncio.sleep(0.05)
        raise AssertionError(f"namespace {name} has no default service account: is the controller-manager running?")

    async def rest(self, life: OperatorLife, namespaces: Sequence[str]) -> None:
        """Waits until the operator has written nothing in these namespaces for a while."""
        loop = asyncio.get_running_loop()
        count, since, deadline = -1, loop.time(), loop.time() + PATIENCE_SECONDS
        while loop.time() - since < REST_SECONDS:
            if (now := len(writes_in(life, namespaces))) != count:
                count, since = now, loop.time()
            assert loop.time() < deadline, f"it never stops writing: {writes_in(life, namespaces)[-5:]}"
            await asyncio.sleep(0.1)


def writes_in(life: OperatorLife, namespaces: Sequence[str]) -> list[JournalEntry]:
    """The life's answered writes in any of these namespaces."""
    return [entry for entry in life.journal() if any(f"/namespaces/{name}/" in entry.path for name in namespaces)]


async def perform_before(run: CrashRun, scenario: Scenario, namespaces: Sequence[str]) -> None:
    """Brings namespaces to where the scenario begins, with an operator that nobody disturbs."""
    await asyncio.gather(*(run.make_namespace(namespace) for namespace in namespaces))
    if not scenario.before:
        return
    async with run.life("") as life:
        for edit in scenario.before:
            await asyncio.gather(*(edit(run.api, namespace) for namespace in namespaces))
            await asyncio.gather(*(run.wait_until_converged(namespace, life) for namespace in namespaces))
        await run.rest(life, namespaces)


async def settle(run: CrashRun, scenario: Scenario, namespace: str, life: OperatorLife, *, is_last_edit: bool) -> None:
    """Waits for what an edit should lead to, and then for rest."""
    if scenario.leaves_nothing and is_last_edit:
        await run.wait_until_gone(namespace)
    else:
        await run.wait_until_converged(namespace, life)
    await run.rest(life, [namespace])


async def reference(run: CrashRun, scenario: Scenario) -> tuple[State, int]:
    """The undisturbed final state and how many writes of the operator the scenario's edit took; made once."""
    if scenario.name in _references:
        return _references[scenario.name]
    namespace = f"{scenario.name}-undisturbed"
    await perform_before(run, scenario, [namespace])
    async with run.life(namespace) as life:
        await run.rest(life, [namespace])
        before = len(writes_in(life, [namespace]))
        assert before == 0, f"an operator started over a settled namespace wrote {life.journal()}"
        await scenario.edit(run.api, namespace)
        await settle(run, scenario, namespace, life, is_last_edit=scenario.while_down is None)
        writes = len(life.journal())
        if scenario.while_down is not None:
            await scenario.while_down(run.api, namespace)
            await settle(run, scenario, namespace, life, is_last_edit=True)
        state = await run.state(namespace)
    _references[scenario.name] = state, writes
    return state, writes


async def die(run: CrashRun, scenario: Scenario, namespace: str, number: int, moment: Moment) -> bool:
    """Lets an operator do the scenario's edit and die at its n-th write; False when it finished without dying."""
    async with run.life(namespace, death=number, moment=moment) as life:
        await scenario.edit(run.api, namespace)
        deadline = asyncio.get_running_loop().time() + PATIENCE_SECONDS
        while not await life.wait_until_dead(0.3):
            is_done = (
                not await run.state(namespace)
                if scenario.leaves_nothing and scenario.while_down is None
                else await run.is_converged(namespace)
            )
            if is_done and not await life.wait_until_dead(REST_SECONDS):
                break
            if asyncio.get_running_loop().time() > deadline:
                raise AssertionError(
                    f"{namespace} neither died nor finished in {PATIENCE_SECONDS:.0f} s\n{life.tail()}"
                )
        died = life.has_died
    if scenario.while_down is not None:
        await scenario.while_down(run.api, namespace)
    return died


async def recover(run: CrashRun, namespaces: Sequence[str], expected: State) -> None:
    """Starts the operator again: every namespace reaches the undisturbed state and stays there; a restart, too."""
    async with run.life("") as life:
        waiting = list(namespaces)
        differences: dict[str, str] = {}
        deadline = asyncio.get_running_loop().time() + PATIENCE_SECONDS
        while waiting and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.2)
            for namespace in list(waiting):
                if differs := difference(expected, await run.state(namespace)):
                    differences[namespace] = differs
                else:
                    waiting.remove(namespace)
        assert not waiting, f"{waiting} did not recover; the first:\n{differences[waiting[0]]}\n{life.tail()}"
        await run.rest(life, namespaces)
    for namespace in namespaces:
        assert not difference(expected, await run.state(namespace)), f"{namespace} left the state it had reached"
    async with run.life("") as life:
        await wait_until_every_object_was_seen(life)
        assert writes_in(life, namespaces) == [], "a restart over a settled cluster writes"


async def wait_until_every_object_was_seen(life: OperatorLife) -> None:
    """Waits until the queue is empty, by the operator's own metrics, and a moment longer."""
    url = f"http://127.0.0.1:{life.life.metrics_port}/metrics"
    async with aiohttp.ClientSession() as session:
        for _ in range(100):
            async with session.get(url) as response:
                lines = (await response.text()).splitlines()
            depths = [float(line.split()[-1]) for line in lines if line.startswith("slipway_queue_depth")]
            passes = [float(line.split()[-1]) for line in lines if line.startswith("slipway_pass_seconds_count")]
            if sum(depths) == 0 and (sum(passes) > 0 or not passes):
                break
            await asyncio.sleep(0.1)
    await asyncio.sleep(REST_SECONDS)


async def crash_at_every_write(control_plane: ControlPlane, scenario: Scenario, moment: Moment, folder: Path) -> str:
    """The whole test; returns one line about it."""
    async with ApiServer(read_access(control_plane.kubeconfig)) as api, PodPlayer(api):
        run = CrashRun(control_plane, api, folder)
        expected, writes = await reference(run, scenario)
        namespaces: list[str] = []
        deaths = 0
        survivors: list[int] = []
        for first in itertools.count(1, AT_ONCE):
            numbers = range(first, first + AT_ONCE if writes >= first else first + 1)
            batch = [f"{scenario.name}-{moment.value.split('_')[0]}-{number}" for number in numbers]
            await perform_before(run, scenario, batch)
            results = await asyncio.gather(
                *(
                    die(run, scenario, namespace, number, moment)
                    for namespace, number in zip(batch, numbers, strict=True)
                )
            )
            namespaces += batch
            deaths += sum(results)
            survivors += [number for number, died in zip(numbers, results, strict=True) if not died]
            if survivors and numbers[-1] > writes:
                break
            assert numbers[-1] < 60, f"operators still die at write {numbers[-1]}, undisturbed it takes {writes}"
        assert deaths >= min(writes, 1), "no operator died: the hook saw no write"
        await recover(run, namespaces, expected)
        return f"{scenario.name}: undisturbed {writes} writes; {deaths} deaths {moment.value.replace('_', ' ')}"


@pytest.mark.parametrize("moment", list(Moment))
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_death_at_every_write_ends_in_the_undisturbed_state(
    scenario: Scenario, moment: Moment, control_plane: ControlPlane, tmp_path: Path
) -> None:
    try:
        print(asyncio.run(crash_at_every_write(control_plane, scenario, moment, tmp_path)))
    except RequestError as error:
        pytest.fail(str(error))
