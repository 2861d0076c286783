"""Plays kubelet and agent for pods that no node runs: marks them ready and answers for their agents.

A pod made by the ReplicaSet controller gets an address of its own out of the network namespace's loopback, Running and
Ready; a pod that the scheduler marks afterwards is marked again. The agent's /status is answered from the revision's
ConfigMap as it stands: everything named is Available.
Must not import slipway.
"""

import asyncio
import json
import subprocess
from datetime import UTC, datetime
from types import TracebackType
from typing import Self

from aiohttp import web

from tests.apiserver import ApiServer, Manifest, RequestError

AGENT_PORT = 8081
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
        self._pods: dict[str, tuple[str, str]] = {}  # address → (namespace, its revision's ConfigMap)
        self._runner: web.AppRunner | None = None
        self._playing: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        # Makes the whole range this host's own, so that one server answers on each pod's address.
        route = ["ip", "route", "replace", "local", ADDRESSES, "dev", "lo"]
        await asyncio.to_thread(subprocess.run, route, check=True)
        application = web.Application()
        application.router.add_get("/status", self._answer_status)
        self._runner = web.AppRunner(application)
        await self._runner.setup()
        await web.TCPSite(self._runner, "0.0.0.0", AGENT_PORT).start()
        self._playing = asyncio.create_task(self._play())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._playing is not None:
            if self._playing.done():
                self._playing.result()
            self._playing.cancel()
            await asyncio.gather(self._playing, return_exceptions=True)
        if self._runner is not None:
            await self._runner.cleanup()

    async def _play(self) -> None:
        while True:
            pods, version = await self._api.list_all("Pod")
            for pod in pods:
                await self._play_one(pod)
            async for event, pod in self._api.watch("Pod", "", version):
                if event in ("ADDED", "MODIFIED"):
                    await self._play_one(pod)
                elif event == "DELETED":
                    self._pods.pop(pod.get("status", {}).get("podIP", ""), None)
                elif event == "ERROR":
                    break

    async def _play_one(self, pod: Manifest) -> None:
        metadata, status = pod["metadata"], pod.get("status", {})
        address = status.get("podIP") or next(a for a in map(address_of, range(32_000)) if a not in self._pods)
        labels = metadata.get("labels", {})
        config_map = f"{labels.get('slipway.dev/model')}-{labels.get('slipway.dev/revision')}"
        self._pods[address] = (metadata["namespace"], config_map)
        conditions = {c["type"]: c["status"] for c in status.get("conditions", [])}
        is_played = conditions.get("Ready") == "True" and conditions.get("PodScheduled") == "True"
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

    async def _answer_status(self, request: web.Request) -> web.Response:
        assert request.transport is not None
        address = request.transport.get_extra_info("sockname")[0]
        if address not in self._pods:
            return web.Response(status=404)
        namespace, name = self._pods[address]
        config_map = await self._api.read("ConfigMap", namespace, name)
        if config_map is None:
            return web.Response(status=503)
        return web.json_response(report_of(json.loads(config_map["data"]["agent.json"])))


def report_of(config: Manifest) -> Manifest:
    """An agent's report (schema 1) once everything it was told to load is loaded."""
    versions = [
        {
            "version": version,
            "state": "Available",
            "reason": "",
            "message": "",
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
        "ready": True,
        "listed": config["load"],
        "versions": versions,
        "error": None,
    }
