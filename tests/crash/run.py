"""One crash test's hands: starts lives of the operator, watches namespaces come to rest, reads their states.

Namespaces are read all at once (one list a kind), however many there are: dozens of polls a second of each would be
the load that the test then waits for.
"""

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp

from tests.apiserver import ApiServer, Manifest

from .conftest import ControlPlane
from .final_state import STATE_KINDS, State, difference, normalise
from .launcher import JournalEntry, Life, Moment, OperatorLife
from .scenarios import ENDS, NAME

REST_SECONDS = 1.5
PATIENCE_SECONDS = 120.0
"""How long nothing at all may move. How long everything takes is the machine's matter: it may be busy, or slow."""
WRITES_AT_MOST = 5000
"""What a life writes beyond that is no progress."""

_ports = itertools.count(21_000)


async def wait_for(
    condition: Callable[[], Awaitable[bool]],
    pause_seconds: float = 1.0,  # the API server and the operators have two cores for all they do
    progress: Callable[[], object] = lambda: None,
) -> bool:
    """Asks until the answer is yes, or patience ends; returns whether it was yes.

    progress: what is another value whenever something has moved; patience begins anew then.
    """
    loop = asyncio.get_running_loop()
    moved, deadline = progress(), loop.time() + PATIENCE_SECONDS
    while not await condition():
        if (now := progress()) != moved:
            moved, deadline = now, loop.time() + PATIENCE_SECONDS
        if loop.time() > deadline:
            return False
        await asyncio.sleep(pause_seconds)
    return True


def is_converged(model_deployment: Manifest | None, ends: Collection[str] = ENDS) -> bool:
    """Whether the ModelDeployment says, of the spec as it is now, that it is ready, and how its rollout ended."""
    if model_deployment is None:
        return False
    now = {
        condition["type"]: condition
        for condition in model_deployment.get("status", {}).get("conditions", [])
        if condition.get("observedGeneration") == model_deployment["metadata"]["generation"]
    }
    status = model_deployment.get("status", {})
    # Before agents and routers agree, a write may still follow a silence that is longer than REST_SECONDS.
    is_ready = "settled" in status and "Ready" in now and now["Ready"]["status"] == "True"
    return is_ready and "Promoted" in now and not {now["Promoted"]["reason"], status["phase"]}.isdisjoint(ends)


class CrashRun:
    """One test's API session, folder and lives."""

    def __init__(self, control_plane: ControlPlane, api: ApiServer, folder: Path) -> None:
        self.api = api
        self._control_plane = control_plane
        self._folder = folder
        self._lives = itertools.count(1)

    @asynccontextmanager
    async def life(
        self,
        watched: str,
        death: int | None = None,
        moment: Moment = Moment.AFTER_ANSWER,
        *,
        is_awaited: bool = True,
        late: str = "",
    ) -> AsyncIterator[OperatorLife]:
        """An operator, for some namespaces (with commas) or ("") for all; ended with the block if it still lives.

        is_awaited: the block begins when it is up. late: what kopf watches only once the life is told `go_on`.
        """
        first, *others = watched.split(",")
        stem = f"{next(self._lives):03}-{first or 'all'}{'-and-others' if others else ''}"
        life = OperatorLife(
            self._control_plane.context,
            Life(
                kubeconfig=str(self._control_plane.kubeconfig),
                namespaces=watched,
                metrics_port=next(_ports),
                journal=str(self._folder / f"{stem}.journal"),
                log=str(self._folder / f"{stem}.log"),
                module=self._control_plane.module,
                death=death,
                moment=moment,
                late=late,
                released=str(self._folder / f"{stem}.released"),
            ),
        )
        try:
            if is_awaited:
                await life.wait_until_up()
            yield life
        finally:
            await life.end()

    async def states(self, namespaces: Sequence[str]) -> dict[str, State]:
        """Each namespace's state, normalised."""
        listed = await asyncio.gather(*(self.api.list_all(kind) for kind in STATE_KINDS))
        objects: dict[str, dict[str, list[Manifest]]] = {
            namespace: {kind: [] for kind in STATE_KINDS} for namespace in namespaces
        }
        for kind, (items, _) in zip(STATE_KINDS, listed, strict=True):
            for item in items:
                if (namespace := item["metadata"]["namespace"]) in objects:
                    objects[namespace][kind].append(item)
        return {namespace: normalise(found, namespace) for namespace, found in objects.items()}

    async def model_deployments(self) -> dict[str, Manifest]:
        """Namespace → its ModelDeployment, where it has one."""
        items, _ = await self.api.list_all("ModelDeployment")
        return {item["metadata"]["namespace"]: item for item in items if item["metadata"]["name"] == NAME}

    async def wait_until_converged(
        self, namespaces: Sequence[str], life: OperatorLife, ends: Collection[str] = ENDS
    ) -> None:
        late: list[str] = []
        found: dict[str, Manifest] = {}

        async def are_converged() -> bool:
            nonlocal late, found
            found = await self.model_deployments()
            late = [namespace for namespace in namespaces if not is_converged(found.get(namespace), ends)]
            return not late

        if not await wait_for(are_converged, progress=lambda: (late, moved_by(life))):
            status = found.get(late[0], {}).get("status")
            raise AssertionError(f"{late} did not come to {ends}; the first's status: {status}\n{life.tail()}")

    async def wait_until_gone(self, namespace: str) -> None:
        left: State = {}

        async def is_gone() -> bool:
            nonlocal left
            left = (await self.states([namespace]))[namespace]
            return not left

        if not await wait_for(is_gone):
            raise AssertionError(f"left behind in {namespace}: {sorted(left)}")

    async def make_namespace(self, name: str) -> None:
        await self.api.make_namespace(name)

        async def has_account() -> bool:  # pods need it, and the controller-manager makes it
            return await self.api.read("ServiceAccount", name, "default") is not None

        assert await wait_for(has_account), f"namespace {name} has no service account: does controller-manager run?"

    async def rest(self, life: OperatorLife, namespaces: Sequence[str]) -> None:
        """Waits until the operator has written nothing in these namespaces for a while."""
        loop = asyncio.get_running_loop()
        count, since, deadline = -1, loop.time(), loop.time() + PATIENCE_SECONDS
        while loop.time() - since < REST_SECONDS:
            if (now := len(writes_in(life, namespaces))) != count:
                count, since = now, loop.time()
            assert loop.time() < deadline, f"it never stops writing: {writes_in(life, namespaces)[-5:]}"
            await asyncio.sleep(0.25)

    async def wait_until_passed_once(self, life: OperatorLife) -> None:
        """Waits until the operator has passed over what it found at its start: its queue is empty, by its metrics."""
        url = f"http://127.0.0.1:{life.life.metrics_port}/metrics"
        has_nothing = not await self.model_deployments()
        async with aiohttp.ClientSession() as session:

            async def is_idle() -> bool:
                async with session.get(url) as response:
                    lines = (await response.text()).splitlines()
                depths = [float(line.split()[-1]) for line in lines if line.startswith("slipway_queue_depth")]
                passes = [float(line.split()[-1]) for line in lines if line.startswith("slipway_pass_seconds_count")]
                return sum(depths) == 0 and (sum(passes) > 0 or has_nothing)

            assert await wait_for(is_idle), f"its queue never empties\n{life.tail()}"
        await asyncio.sleep(REST_SECONDS)

    async def find_nothing_to_write(
        self, life: OperatorLife, namespaces: Sequence[str], before: Mapping[str, Manifest]
    ) -> None:
        """An operator that was started over settled namespaces passes over what it finds, and writes nothing.

        before: the ModelDeployments when it was started. Raises AssertionError, with what it changed.
        """
        await self.wait_until_passed_once(life)
        if not (written := writes_in(life, namespaces)):
            return
        after = await self.model_deployments()
        texts = [difference({name: before[name]}, {name: after.get(name, {})}) for name in namespaces if name in before]
        changes = "\n".join(text for text in texts if text)
        raise AssertionError(f"an operator started over settled namespaces writes {written}:\n{changes}\n{life.tail()}")


def moved_by(life: OperatorLife) -> int:
    """Another number with each write, of as many as are to be expected."""
    return min(WRITES_AT_MOST, len(life.journal()))


def writes_in(life: OperatorLife, namespaces: Sequence[str]) -> list[JournalEntry]:
    """The life's answered writes in any of these namespaces."""
    ours = set(namespaces)
    return [entry for entry in life.journal() if entry.path.partition("/namespaces/")[2].partition("/")[0] in ours]
