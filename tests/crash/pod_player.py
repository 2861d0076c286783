"""Plays kubelet, agent and router for pods that no node runs: marks them ready and answers for them.

A pod made by the ReplicaSet controller gets an address of its own out of the network namespace's loopback, Running and
Ready. Nobody else marks pods (`up --played-pods`). The agent's /status is answered from the revision's ConfigMap as it
stands: everything named is Available, but for version BROKEN; versions 1 to 3 are found at the source. A router says
and counts what `played_router` plays, and reads its ConfigMap anew only when its pod is touched.
Must not import slipway.
"""

import asyncio
import itertools
import json
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Self

from aiohttp import web

from tests.apiserver import ApiServer, Manifest, RequestError

from .played_router import PlayedRouter

AGENT_PORT, ROUTER_PORT, STATS_PORT = 8081, 10080, 10090
OURS = "slipway.dev/model"
BROKEN = 99
FOUND = {"1": "first", "2": "second", "3": "third"}
ADDRESSES = "198.18.128.0/17"


def now_text() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def address_of(number: int) -> str:
    """The number-th address: 198.18.128.1 is the 0th."""
    high, low = divmod(number + 1, 256)
    return f"198.18.{128 + high}.{low}"


def running(containers: list[Manifest]) -> list[Manifest]:
    """The statuses of containers that run and are ready."""
    return [
        {
            "name": container["name"],
            "ready": True,
            "started": True,
            "restartCount": 0,
            "image": container["image"],
            "imageID": "",
            "state": {"running": {"startedAt": now_text()}},
        }
        for container in containers
    ]


class PodPlayer:
    """Runs as long as its `async with` block."""

    def __init__(self, api: ApiServer) -> None:
        self._api = api
        self._pods: dict[str, Played] = {}  # by address
        # In turn, as nodes give them out: one that was given back is another pod's only much later.
        self._addresses = map(address_of, itertools.cycle(range(32_000)))
        self._orders: dict[tuple[str, str], Manifest] = {}  # (namespace, name) → a ConfigMap of ours
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

    async def _follow(self, kind: str) -> None:
        while True:
            items, version = await self._api.list_all(kind, selector=OURS)
            for item in items:
                await self._see(kind, "ADDED", item)
            async for event, item in self._api.watch(kind, "", version, selector=OURS):
                if event == "ERROR":
                    break
                await self._see(kind, event, item)

    async def _see(self, kind: str, event: str, item: Manifest) -> None:
        if kind == "ConfigMap":
            name = (item["metadata"]["namespace"], item["metadata"]["name"])
            if event == "DELETED":
                self._orders.pop(name, None)
            else:
                self._orders[name] = item
        elif event == "DELETED":
            self._pods.pop(item.get("status", {}).get("podIP", ""), None)
        elif event in ("ADDED", "MODIFIED"):
            await self._play(item)

    async def _play(self, pod: Manifest) -> None:
        metadata, status = pod["metadata"], pod.get("status", {})
        address = status.get("podIP") or next(a for a in self._addresses if a not in self._pods)
        labels = metadata.get("labels", {})
        model, _, role = labels["slipway.dev/model"].partition(".")
        workload = labels.get("slipway.dev/revision", "")
        played = self._pods.setdefault(
            address, Played(metadata["namespace"], model, workload, PlayedRouter() if role == "router" else None)
        )
        is_played = any((c["type"], c["status"]) == ("Ready", "True") for c in status.get("conditions", []))
        played.is_ready = is_played and "deletionTimestamp" not in metadata
        if played.router is not None:
            await self._tell(played, (metadata.get("annotations") or {}).get("slipway.dev/router-config", ""))
        if metadata.get("deletionTimestamp") or is_played:
            return
        ready = [
            {"type": kind, "status": "True", "lastTransitionTime": now_text()}
            for kind in ("PodScheduled", "Initialized", "ContainersReady", "Ready")
        ]
        change = {
            "status": {
                "phase": "Running",
                "podIP": address,
                "podIPs": [{"ip": address}],
                "startTime": now_text(),
                "conditions": ready,
                "initContainerStatuses": running(pod["spec"].get("initContainers", [])),
                "containerStatuses": running(pod["spec"]["containers"]),
            }
        }
        try:
            await self._api.merge("Pod", metadata["namespace"], metadata["name"], change, subresource="status")
        except RequestError as error:
            if error.status not in (404, 409):  # gone, or changed meanwhile: another event follows
                raise

    async def _tell(self, played: "Played", nudge: str) -> None:
        """A router reads its ConfigMap when it starts, and when its pod is touched: its kubelet syncs it then."""
        if played.router is None or (played.router.told and played.nudge == nudge):
            return
        config_map = await self._api.read("ConfigMap", played.namespace, f"{played.model}-router")
        if config_map is not None:
            played.nudge = nudge
            played.router.read(config_map, self._versions_of(played), asyncio.get_running_loop().time())

    def _versions_of(self, played: "Played") -> dict[str, int | None]:
        """Workload → the version that its pods serve."""
        prefix = f"{played.model}-"
        return {
            name.removeprefix(prefix): json.loads(orders["data"]["agent.json"])["served"]
            for (namespace, name), orders in self._orders.items()
            if namespace == played.namespace and name.startswith(prefix) and "agent.json" in orders["data"]
        }

    def _asked(self, request: web.Request) -> "Played":
        assert request.transport is not None
        address = request.transport.get_extra_info("sockname")[0]
        if address not in self._pods:
            raise web.HTTPNotFound
        return self._pods[address]

    async def _answer_status(self, request: web.Request) -> web.Response:
        played = self._asked(request)
        orders = self._orders.get((played.namespace, f"{played.model}-{played.workload}"))
        if orders is None:
            return web.Response(status=503)
        return web.json_response(report_of(json.loads(orders["data"]["agent.json"])))

    async def _answer_listing(self, request: web.Request) -> web.Response:
        if request.query.get("after") == "only":
            await asyncio.sleep(float(request.query.get("wait", "0")))
        return web.json_response({"token": "only", "found": FOUND, "error": None})

    async def _answer_routes(self, request: web.Request) -> web.Response:
        router = self._asked(request).router
        if router is None or not router.told:
            raise web.HTTPServiceUnavailable
        return web.Response(text=router.told)

    async def _answer_stats(self, request: web.Request) -> web.Response:
        played = self._asked(request)
        if played.router is None:
            raise web.HTTPNotFound
        played.router.count(self._versions_of(played), asyncio.get_running_loop().time())
        ready: dict[str, int] = {}
        for pod in self._pods.values():
            if (pod.namespace, pod.model) == (played.namespace, played.model) and pod.is_ready and pod.router is None:
                ready[pod.workload] = ready.get(pod.workload, 0) + 1
        return web.Response(text=played.router.stats(ready))


@dataclass(slots=True)
class Played:
    """A pod. workload: empty for a router's. nudge: the annotation at which it last read its configuration."""

    namespace: str
    model: str
    workload: str
    router: PlayedRouter | None
    is_ready: bool = False
    nudge: str = ""


def report_of(config: Manifest) -> Manifest:
    """An agent's report (schema 1) once everything it was told to load is loaded, or has failed."""
    loaded = [version for version in config["load"] if version != BROKEN]
    versions = [
        {
            "version": version,
            "state": "Available" if version in loaded else "Failed",
            "reason": "" if version in loaded else "LoadFailed",
            "message": "" if version in loaded else "the server says: no",
            "sha256": config.get("sha256", {}).get(str(version)) or f"{version:064x}",
            "bytes": 1000,
            "fetchedBytes": 1000,
            "since": "2026-01-01T00:00:00Z",
        }
        for version in config["load"]
    ]
    return {
        "schema": 1,
        "generation": config["generation"],
        "served": config["served"],
        "ready": config["served"] in loaded,
        "serving": max(loaded, default=None),
        "listed": [int(version) for version in FOUND],
        "found": FOUND,
        "versions": versions,
        "error": None,
    }
