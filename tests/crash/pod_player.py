"""Plays kubelet, agent and router for pods that no node runs: marks them ready and answers for them.

A pod made by the ReplicaSet controller gets an address of its own out of the network namespace's loopback, Running and
Ready. Nobody else marks pods (`up --played-pods`). What they are and say is tests/simulation's: an agent has the
revision's ConfigMap as it stands and loads at once what it orders, but for version BROKEN; a router reads its ConfigMap
anew only when its pod is nudged, and counts a traffic that never pauses, in which version FAILING answers nothing but
errors.
Must not import slipway.
"""

import asyncio
import itertools
import math
import subprocess
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import TracebackType
from typing import Self

from aiohttp import web

from tests.apiserver import ApiServer, Manifest, RequestError
from tests.simulation import pods
from tests.simulation.agents import ORDERS_KEY, Agent, Source
from tests.simulation.requests import Answering
from tests.simulation.routers import Router

AGENT_PORT, ROUTER_PORT, STATS_PORT = 8081, 10080, 10090
FAILING, BROKEN = 98, 99
REFUSED = {"reason": "LoadFailed", "permanent": True, "message": "the server says: no"}
SOURCE = Source(unlisted={FAILING}, broken={BROKEN: REFUSED})
ANSWERING = Answering(error_rate={FAILING: 1.0})
REQUESTS_PER_SECOND = 4000.0
ADDRESSES = "198.18.128.0/17"
DRAINED_SECONDS = 3600
"""Long after a pod has left the Service: nobody waits for that here."""
LOADED_SINCE = "2026-01-01T00:00:00Z"


def now_text() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def address_of(number: int) -> str:
    """The number-th address: 198.18.128.1 is the 0th."""
    high, low = divmod(number + 1, 256)
    return f"198.18.{128 + high}.{low}"


@dataclass(slots=True)
class Played:
    """A pod. workload: empty for a router's. A router's kubelet syncs its ConfigMap only when the pod is touched."""

    namespace: str
    model: str
    workload: str
    router: Router | None
    name: str = ""
    agent: Agent = field(default_factory=Agent)
    is_ready: bool = False
    counted_until: float = math.inf


class PodPlayer:
    """Runs as long as its `async with` block."""

    def __init__(self, api: ApiServer) -> None:
        self._api = api
        self._pods: dict[str, Played] = {}  # by address
        # In turn, as nodes give them out: one that was given back is another pod's only much later.
        self._addresses = map(address_of, itertools.cycle(range(32_000)))
        self._config_maps: dict[tuple[str, str], Manifest] = {}  # (namespace, name) → one of ours
        self._held: set[str] = set()  # namespaces
        self._unready: set[tuple[str, str]] = set()  # (namespace, name) of pods that stay so
        self._runner: web.AppRunner | None = None
        self._playing: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        # Makes the whole range this host's own, so that one server answers on each pod's address.
        route = ["ip", "route", "replace", "local", ADDRESSES, "dev", "lo"]
        await asyncio.to_thread(subprocess.run, route, check=True)
        application = web.Application()
        application.router.add_get("/status", self._answer_status)
        application.router.add_get("/listing", self._answer_listing)
        application.router.add_get("/", self._answer_routes)
        application.router.add_get("/stats/prometheus", self._answer_stats)
        self._runner = web.AppRunner(application)
        await self._runner.setup()
        for port in (AGENT_PORT, ROUTER_PORT, STATS_PORT):
            await web.TCPSite(self._runner, "0.0.0.0", port).start()
        self._playing = [asyncio.create_task(self._follow(kind)) for kind in ("ConfigMap", "Pod")]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for playing in self._playing:
            if playing.done():
                playing.result()
            playing.cancel()
        await asyncio.gather(*self._playing, return_exceptions=True)
        if self._runner is not None:
            await self._runner.cleanup()

    def hold(self, namespace: str) -> None:
        """A model's pods that come there from now on run and don't become ready, until `release`."""
        self._held.add(namespace)

    async def take_readiness(self, namespace: str, workload: str) -> None:
        """A workload's pods are unready until `release`, as while their agents start anew."""
        self.hold(namespace)
        for pod in await self._pods_in(namespace):
            if pod["metadata"]["labels"].get(pods.REVISION_LABEL) == workload:
                await self._mark(pod, pod["status"]["podIP"], is_ready_now=False)

    async def release(self, namespace: str, *, but: str = "") -> None:
        """All that are held become ready, but the pods of one workload that are there now."""
        self._held.discard(namespace)
        for pod in await self._pods_in(namespace):
            name = pod["metadata"]["name"]
            if pod["metadata"]["labels"].get(pods.REVISION_LABEL) == but:
                self._unready.add((namespace, name))
            else:
                self._unready.discard((namespace, name))
                await self._play(pod)

    async def _pods_in(self, namespace: str) -> list[Manifest]:
        items, _ = await self._api.list_all("Pod", selector=pods.MODEL_LABEL)
        return [pod for pod in items if pod["metadata"]["namespace"] == namespace]

    async def _follow(self, kind: str) -> None:
        while True:
            items, version = await self._api.list_all(kind, selector=pods.MODEL_LABEL)
            for item in items:
                await self._see(kind, "ADDED", item)
            async for event, item in self._api.watch(kind, "", version, selector=pods.MODEL_LABEL):
                if event == "ERROR":
                    break
                await self._see(kind, event, item)

    async def _see(self, kind: str, event: str, item: Manifest) -> None:
        if kind == "ConfigMap":
            name = (item["metadata"]["namespace"], item["metadata"]["name"])
            if event == "DELETED":
                self._config_maps.pop(name, None)
            else:
                self._config_maps[name] = item
        elif event == "DELETED":
            self._pods.pop(item.get("status", {}).get("podIP", ""), None)
        elif event in ("ADDED", "MODIFIED"):
            await self._play(item)

    async def _play(self, pod: Manifest) -> None:
        metadata = pod["metadata"]
        address = pod.get("status", {}).get("podIP") or next(a for a in self._addresses if a not in self._pods)
        model, workload = metadata["labels"][pods.MODEL_LABEL], metadata["labels"].get(pods.REVISION_LABEL, "")
        router = Router(pods.Mount(refresh_seconds=math.inf)) if pods.is_router(pod) else None
        made = Played(metadata["namespace"], model.removesuffix(pods.ROUTER_SUFFIX), workload, router, metadata["name"])
        played = self._pods.setdefault(address, made)
        played.is_ready = pods.is_ready(pod) and not pods.is_ending(pod)
        await self._sync_router(played, pods.nudge_of(pod, pods.ROUTER_CONFIG_ANNOTATION))
        if pods.is_ending(pod) or pods.is_ready(pod):
            return
        is_unready = (metadata["namespace"], metadata["name"]) in self._unready
        is_held = is_unready or (metadata["namespace"] in self._held and router is None)
        if not (is_held and pod.get("status", {}).get("podIP")):
            await self._mark(pod, address, is_ready_now=not is_held)

    async def _mark(self, pod: Manifest, address: str, *, is_ready_now: bool) -> None:
        """Its kubelet says so."""
        metadata = pod["metadata"]
        agents = [each["name"] for each in pod["spec"].get("initContainers", [])]
        containers = [each["name"] for each in pod["spec"]["containers"]]
        change = {"status": pods.running(*containers, agents=agents, ip=address, is_ready=is_ready_now, at=now_text())}
        try:
            await self._api.merge("Pod", metadata["namespace"], metadata["name"], change, subresource="status")
        except RequestError as error:
            if error.status not in (404, 409):  # gone, or changed meanwhile: another event follows
                raise

    async def _sync_router(self, played: Played, nudge: str | None) -> None:
        """A router reads its ConfigMap when it starts, and when its pod is touched: its kubelet syncs it then."""
        now = asyncio.get_running_loop().time()
        if played.router is None or not played.router.mount.is_due(nudge, now):
            return
        config_map = await self._api.read("ConfigMap", played.namespace, f"{played.model}-router")
        if config_map is not None:
            self._count(played, played.router, now)
            played.router.mount.read(config_map["data"], nudge, now)

    def _count(self, played: Played, router: Router, now: float) -> None:
        """The requests since a router was last asked or changed."""
        seconds, played.counted_until = max(0.0, now - played.counted_until), now
        for workload, requests in router.split(REQUESTS_PER_SECOND * seconds).items():
            agent = self._agent_of(played.namespace, played.model, workload)
            router.tally(workload).add(requests, (agent.orders or {}).get("served") or 0, ANSWERING)

    def _agent_of(self, namespace: str, model: str, workload: str, agent: Agent | None = None, pod: str = "") -> Agent:
        """An agent, of that pod or of none, that has the workload's orders as they stand."""
        agent = agent or Agent()
        config_map = self._config_maps.get((namespace, f"{model}-{workload}"))
        if config_map is not None and ORDERS_KEY in config_map["data"]:
            agent.read(config_map["data"], None, 0, pod)
        return agent

    def _pod_at(self, request: web.Request) -> Played:
        assert request.transport is not None
        address = request.transport.get_extra_info("sockname")[0]
        if address not in self._pods:
            raise web.HTTPNotFound
        return self._pods[address]

    async def _answer_status(self, request: web.Request) -> web.Response:
        played = self._pod_at(request)
        agent = self._agent_of(played.namespace, played.model, played.workload, played.agent, played.name)
        for now in (0, DRAINED_SECONDS):
            agent.follow(SOURCE, now)
        report = agent.report(SOURCE, LOADED_SINCE)
        return web.json_response(report) if report else web.Response(status=503)

    async def _answer_listing(self, request: web.Request) -> web.Response:
        if request.query.get("after") == "only":
            await asyncio.sleep(float(request.query.get("wait", "0")))
        return web.json_response({"token": "only", "found": SOURCE.found(), "error": None})

    async def _answer_routes(self, request: web.Request) -> web.Response:
        router = self._pod_at(request).router
        if router is None or router.answer is None:
            raise web.HTTPServiceUnavailable
        return web.json_response(router.answer)

    async def _answer_stats(self, request: web.Request) -> web.Response:
        played = self._pod_at(request)
        if played.router is None:
            raise web.HTTPNotFound
        self._count(played, played.router, asyncio.get_running_loop().time())
        ready: dict[str, int] = {}
        for pod in self._pods.values():
            if (pod.namespace, pod.model) == (played.namespace, played.model) and pod.is_ready and pod.router is None:
                ready[pod.workload] = ready.get(pod.workload, 0) + 1
        return web.Response(text=played.router.stats(ready))
