"""Lives of the operator in a world: the shell as it is; in the place of pods and the clock stands the world."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from slipway.api.v1alpha1 import KIND
from slipway.controller import version_watch
from slipway.controller.agents import Agents, Listing
from slipway.controller.cache import Cache, Key
from slipway.controller.clients import Clients
from slipway.controller.reconciler import Clock, Reconciler
from slipway.controller.routers import Routers
from slipway.controller.server_counts import ServerCounts
from slipway.controller.workqueue import Queue
from slipway.model.signals import Reading
from slipway.observe.agent_reports import AgentReport, read_found, read_report
from slipway.observe.pods import Pod
from slipway.observe.router_reports import RouterPod, RouterReport
from slipway.observe.server_counts import Counter
from slipway.render.pod_template import Images
from tests.simulation.pods import Json
from tests.transition.api_server import OperatorEndedError, Write
from tests.transition.world import World
from tests.unit.specs import IMAGES

LOOP = asyncio.new_event_loop()
"""One for all: what an operator does between two passes goes on from one `run` to the next. conftest.py closes it."""
version_watch.NEWS_PAUSE_SECONDS = 0.0


class NothingDueError(Exception):
    """All keys wait for something, or for a later time."""


class PlayedAgents(Agents):
    """Asks the world's agents instead of pods' addresses."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world

    async def read_reports(self, pods: Iterable[Pod]) -> dict[str, AgentReport]:
        found = {}
        for pod in pods:
            is_quiet = self._world.are_mute or pod.name in self._world.quiet
            is_heard = pod.ip and not pod.is_ending and not is_quiet
            report = read_report(self._world.report_of(pod.name)) if is_heard else None
            if report is not None:
                found[pod.uid] = report
        return found

    async def await_listing(self, ip: str, after: str) -> Listing | None:
        """Answers when there is something new, second by second of the world."""
        while (token := json.dumps(self._world.found())) == after:
            second = LOOP.create_future()
            self._world.waiting.append(second)
            await second
        return Listing(token, read_found(self._world.found()))


class PlayedRouters(Routers):
    """Asks the world's routers instead of pods' addresses."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world

    async def read(self, pods: Iterable[RouterPod]) -> dict[str, RouterReport]:
        found = {pod.uid: self._world.router_report(pod) for pod in pods if pod.ip}
        return {uid: report for uid, report in found.items() if report is not None}


class PlayedServerCounts(ServerCounts):
    """Asks the world's servers."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world

    async def read(self, pods: Iterable[Pod], counters: Mapping[str, Counter]) -> Reading:
        counting = [pod for pod in pods if pod.is_ready and not pod.is_ending and pod.workload in counters]
        return Reading({pod.uid: {pod.workload: self._world.server_counts(pod)} for pod in counting})


class PlayedQueue(Queue[Key]):
    """Due times on the world's clock; `take` never waits."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world
        self.due: dict[Key, float] = {}

    async def wake(self, key: Key, delay_seconds: float = 0.0) -> None:
        self.due[key] = min(self.due.get(key, float("inf")), self._world.seconds + delay_seconds)

    async def take(self) -> Key:
        key = min(self.due, key=lambda key: self.due[key], default=None)
        if key is None or self.due[key] > self._world.seconds:
            raise NothingDueError
        del self.due[key]
        return key

    async def done(self, key: Key) -> None:
        """Passes follow one another here."""


LIVING: list[Operator] = []
"""Those that have not been closed."""


def close_all() -> None:
    """End what goes on between passes of all operators."""
    for operator in LIVING:
        operator._reconciler.close()
    LIVING.clear()
    LOOP.run_until_complete(asyncio.sleep(0))


class Operator:
    """One life of the operator in a world: cache, queue and reconciler, filled as at a start.

    lag_seconds: how late watches deliver. misses: kinds whose events never come.
    """

    def __init__(self, world: World, images: Images = IMAGES, *, lag_seconds: int = 0) -> None:
        self.world = world
        self.images = images
        self._lag_seconds = lag_seconds
        self.misses: set[str] = set()
        self._late: list[tuple[int, str, Json]] = []
        self.cache = Cache()
        self.queue = PlayedQueue(world)
        clock = Clock(world.now, lambda: float(world.seconds))
        LIVING.append(self)
        clients = Clients(world, PlayedAgents(world), PlayedRouters(world), PlayedServerCounts(world))
        self._reconciler = Reconciler(clients, self.cache, self.queue, images, clock)
        world.news()
        for kind, live in world.seen():
            if (key := self.cache.put(kind, live)) and kind == KIND:
                self.queue.due[key] = world.seconds

    def _delivered(self) -> list[tuple[str, Json]]:
        """What the watches deliver now."""
        now = self.world.seconds
        news = [(event, live) for event, live in self.world.news() if live["kind"] not in self.misses]
        self._late += [(now + self._lag_seconds, event, live) for event, live in news]
        due = [(event, live) for at, event, live in self._late if at <= now]
        self._late = [news for news in self._late if news[0] > now]
        return due

    async def pass_all(self) -> None:
        """Deliver the news and pass all keys that are due, until nothing is. Raises OperatorEndedError."""
        for _ in range(50):
            for event, live in self._delivered():
                key = (self.cache.drop if event == "DELETED" else self.cache.put)(live["kind"], live)
                if key is not None:
                    await self.queue.wake(key)
            for _ in range(5):  # those who wait for a listing get their turn
                await asyncio.sleep(0)
            try:
                await self._reconciler.work()
            except NothingDueError:
                if not self.world._news:
                    return
        raise AssertionError(f"the operator does not come to rest: {self.world.writes[-10:]}")


def run(operator: Operator, seconds: int = 60) -> None:
    """Let the world and the operator live for so long. Keeps the fewest ready pods that were seen in between."""
    LOOP.run_until_complete(_run(operator, seconds))


async def _run(operator: Operator, seconds: int) -> None:
    world = operator.world
    world.least_ready = sum(world.ready_by_version().values())
    for _ in range(seconds):
        await operator.pass_all()
        world.play()
        world.least_ready = min(world.least_ready, sum(world.ready_by_version().values()))
    await operator.pass_all()


def begin(spec: Mapping[str, Any], world: World | None = None, seconds: int = 30) -> tuple[World, Operator]:
    """A person applies a ModelDeployment in a world, an operator starts, and both live on for a while."""
    world = world or World()
    world.edit(spec)
    operator = Operator(world)
    run(operator, seconds)
    return world, operator


def until(operator: Operator, is_so: Callable[[], bool], seconds: int = 60) -> None:
    """Live on until it is so."""
    for _ in range(seconds):
        if is_so():
            return
        run(operator, 1)
    raise AssertionError(f"not within {seconds} s: {operator.world.deployment().get('status')}")


def live_on(operator: Operator, seconds: int) -> Operator:
    """Second by second; who ends is followed by another. Returns the one that lives."""
    for _ in range(seconds):
        try:
            run(operator, 1)
        except OperatorEndedError:
            operator = Operator(operator.world, operator.images)
    return operator


def writes_of(operator: Operator, seconds: int = 120) -> list[Write]:
    """What the operator writes in so many seconds."""
    before = len(operator.world.writes)
    run(operator, seconds)
    return operator.world.writes[before:]
