"""What happened to the requests: every state of every object that says who gets them, in the order of the API server.

The API server's watches leave no state out, and resource versions are the order in which everything was written. What
is checked is what a client could have met: the routers' configuration and the Service as they stood between any two
writes, whoever made them and whoever died in between.
Must not import slipway.
"""

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from tests.apiserver import ApiServer, Manifest
from tests.simulation.routers import weights_in

from .scenarios import NAME

KINDS = ("ModelDeployment", "ConfigMap", "Service", "Deployment")
ROUTER = f"{NAME}-router"


@dataclass(frozen=True, slots=True)
class Seen:
    """An object as it stood from this resource version on; content None: it was deleted."""

    version: int
    kind: str
    name: str
    content: Manifest | None


@dataclass(slots=True)
class _Moment:
    """What stood at one moment. weights: workload → percent, as the routers are sent; None: they have no configuration.
    pods: workload → replicas. selected: the labels by which the Service finds pods."""

    weights: Mapping[str, int] | None = None
    pods: dict[str, int] = field(default_factory=dict)
    selected: Mapping[str, str] | None = None
    rejected: frozenset[str] = frozenset()

    def take(self, seen: Seen) -> None:
        content = seen.content or {}
        match seen.kind:
            case "ConfigMap" if seen.name == ROUTER:
                self.weights = weights_in(content) if content else None
            case "Service" if seen.name == NAME:
                self.selected = content["spec"]["selector"] if content else None
            case "Deployment" if seen.name != ROUTER:
                self.pods[seen.name.removeprefix(f"{NAME}-")] = content["spec"]["replicas"] if content else 0
            case "ModelDeployment":
                rejected = {each["revision"] for each in content.get("status", {}).get("rejected", [])}
                self.rejected = frozenset(rejected - _forgiven(content))

    def breaches(self) -> Iterable[str]:
        """What must never be."""
        if self.weights is not None:
            weighted = sorted(workload for workload, weight in self.weights.items() if weight)
            if sum(self.weights.values()) != 100:
                yield f"the weights {dict(self.weights)} don't sum to 100"
            if len(weighted) > 2:
                yield f"two canaries have weight: {dict(self.weights)}"
            for workload in self.rejected.intersection(weighted):
                yield f"{workload} is rejected and has weight: {dict(self.weights)}"
        if self.selected is None or self.selected["slipway.dev/model"] != NAME:
            return  # there is no Service, or it leads to the routers
        alone = self.selected.get("slipway.dev/revision")
        reached = [alone] if alone else [workload for workload, count in self.pods.items() if count]
        for workload in self.rejected.intersection(reached):
            yield f"{workload} is rejected and the Service leads to its pods"
        if len(reached) > 2:
            yield f"two canaries are behind the Service: {sorted(reached)}"


def _forgiven(model_deployment: Manifest) -> set[str]:
    """The revision that a person wants tried again, until status tells what came of that."""
    annotations = model_deployment.get("metadata", {}).get("annotations") or {}
    verb, _, rest = annotations.get("slipway.dev/command", "").partition("/")
    revision, _, name = rest.partition("/")
    is_done = model_deployment.get("status", {}).get("lastCommand", {}).get("id") == name
    return {revision} if verb == "retry" and not is_done else set()


def breaches(history: Iterable[Seen]) -> list[str]:
    """Where clients could have met what they must never meet, each with the resource version since when."""
    moment, found = _Moment(), []
    for seen in sorted(history, key=lambda seen: seen.version):
        moment.take(seen)
        found += [f"since {seen.version} ({seen.kind} {seen.name}): {breach}" for breach in moment.breaches()]
    return found


class History:
    """Watches as long as its `async with` block."""

    def __init__(self, api: ApiServer) -> None:
        self._api = api
        self._seen: dict[str, list[Seen]] = {}
        self._watching: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        for kind in KINDS:
            _, version = await self._api.list_all(kind, metadata_only=True)
            self._watching.append(asyncio.create_task(self._watch(kind, version)))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for watching in self._watching:
            watching.cancel()
        await asyncio.gather(*self._watching, return_exceptions=True)

    async def _watch(self, kind: str, version: str) -> None:
        """From the last state on that was seen, however often the server ends a watch."""
        while True:
            async for event, item in self._api.watch(kind, "", version):
                assert event in ("ADDED", "MODIFIED", "DELETED"), f"the watch of {kind} has a gap: {item}"
                metadata = item["metadata"]
                version = metadata["resourceVersion"]
                content = None if event == "DELETED" else item
                seen = Seen(int(version), kind, metadata["name"], content)
                self._seen.setdefault(metadata["namespace"], []).append(seen)

    def of(self, namespace: str) -> list[Seen]:
        """What was seen of a namespace so far; raises what ended a watch."""
        for watching in self._watching:
            if watching.done():
                watching.result()
        return self._seen.get(namespace, [])
