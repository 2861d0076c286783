"""Children at the API server: what differs is written, what is no longer rendered is deleted, pods are nudged.

Invariant: nothing that another owns is written or deleted; every answer goes into the cache, so that the next pass
works on nothing older than what was written.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

from slipway.api import SpecError
from slipway.controller.cache import Cache, Key
from slipway.controller.kube import Cluster, ClusterError, TransientError
from slipway.controller.pacing import Pacing
from slipway.model.names import CONFIG_ANNOTATION, ROUTER_CONFIG_ANNOTATION
from slipway.model.revision import Json
from slipway.model.workload import Trouble
from slipway.observe.pods import Pod, revision_of
from slipway.observe.router_reports import RouterPod
from slipway.observe.snapshot import Snapshot, is_owned, was_owned
from slipway.render.desired import Rendered
from slipway.render.drift import differs
from slipway.render.objects import Child

log = logging.getLogger("slipway")

PRUNED_KINDS = ("Deployment", "ConfigMap", "Service", "ControllerRevision", "PodDisruptionBudget")


class NamespaceGoesError(ClusterError):
    """The namespace is being deleted, and the ModelDeployment with it: nothing is left to do."""


class Children:
    """The children of all ModelDeployments."""

    def __init__(self, cluster: Cluster, cache: Cache, pacing: Pacing) -> None:
        self._cluster = cluster
        self._cache = cache
        self._pacing = pacing

    async def apply(self, key: Key, uid: str, rendered: Rendered, snapshot: Snapshot) -> tuple[Trouble | None, int]:
        """Apply what differs, in order. Returns what stands in the way, and the number of writes.

        Raises NamespaceGoesError, TransientError.
        """
        writes = 0
        for child in rendered.children:
            try:
                answer = await self._write(child, snapshot.live.get((child.kind, child.name)), key, uid)
            except SpecError as error:
                if child.is_optional:
                    log.warning("left out", extra={"key": "/".join(key), "child": child.name, "error": error.message})
                    continue
                return Trouble(error.reason, error.message), writes
            if answer is not None:
                writes += 1
                self._cache.put(child.kind, answer)
                log.debug("applied", extra={"key": "/".join(key), "kind": child.kind, "child": child.name})
        return None, writes

    async def _write(self, child: Child, live: Json | None, key: Key, uid: str) -> Json | None:
        """Create or correct one child. Returns the API server's answer; None: nothing had to be written.

        Raises SpecError when another has the name, or when the API server will not have the object.
        """
        try:
            return await (self._create(child, key, uid) if live is None else self._correct(child, live))
        except TransientError:
            raise
        except ClusterError as error:
            if error.status == 403 and "being terminated" in error.message:
                raise NamespaceGoesError(str(error), error.status, error.message) from error
            raise _refused(child, error) from error

    async def _create(self, child: Child, key: Key, uid: str) -> Json | None:
        """Create one child; one that exists after all is corrected where it is ours."""
        created = await self._cluster.create(child.manifest)
        if created is not None:
            return created
        what = f"create {child.kind} {child.name}"
        live = await self._cluster.read(child.kind, key[0], child.name)
        if live is None:
            raise TransientError(what, 409, "it has just been deleted")
        if not is_owned(live, uid):
            if was_owned(live, key[1]):
                raise TransientError(what, 409, "that of a deleted ModelDeployment of this name is still there")
            raise _name_conflict(child, key)
        self._cache.put(child.kind, live)  # ours: the watch is late with it
        return await self._correct(child, live)

    async def _correct(self, child: Child, live: Json) -> Json | None:
        """Apply one child where it differs."""
        if not differs(child.manifest, {**live, "apiVersion": child.manifest["apiVersion"]}):
            return None
        return await self._cluster.apply(child.manifest, live["metadata"]["uid"])

    async def prune(self, key: Key, rendered: Rendered, snapshot: Snapshot) -> None:
        """Delete what is ours and no longer rendered."""
        wanted = {(child.kind, child.name) for child in rendered.children}
        for (kind, name), live in snapshot.live.items():
            if revision_of(live) in rendered.unreadable:
                continue
            if kind == "Service" and revision_of(live) and snapshot.routers.pods and rendered.router_generation is None:
                continue  # routers that end still find the pods by it, for the clients that they still have
            if kind in PRUNED_KINDS and (kind, name) not in wanted and "deletionTimestamp" not in live["metadata"]:
                await self._cluster.delete(kind, key[0], name, live["metadata"]["uid"])
                log.debug("pruned", extra={"key": "/".join(key), "kind": kind, "child": name})

    async def nudge(self, key: Key, rendered: Rendered, snapshot: Snapshot) -> int:
        """Make kubelets refresh the configuration of pods that have an older one. Returns the number of writes.

        A pod update makes the kubelet sync its volumes at once, where it would take up to a minute by itself. The two
        watches race, so the value is written anew each time until the new generation is reported.
        """
        writes = 0
        for pod, annotation, generation in _outdated(rendered, snapshot):
            value = self._pacing.nudge(pod, generation)
            if value is None:
                continue
            answer = await self._cluster.annotate_pod(key[0], pod.name, annotation, value)
            if answer is not None:
                self._cache.put("Pod", answer)
            writes += 1
        return writes


def _outdated(rendered: Rendered, snapshot: Snapshot) -> Iterator[tuple[Pod | RouterPod, str, str]]:
    """Pods whose agents or routers still have an older configuration: the pod, its annotation, the generation."""
    for pod in snapshot.pods:
        generation = rendered.configured.get(pod.workload)
        if pod.is_ending or pod.report is None or generation is None or pod.report.generation == generation:
            continue
        yield pod, CONFIG_ANNOTATION, generation
    generation = rendered.router_generation
    for router in snapshot.routers.pods:
        heard = snapshot.routers.reports.get(router.uid)
        if router.is_ending or generation is None or (heard is not None and heard.generation == generation):
            continue
        if heard is None and snapshot.routers.generation in (None, generation):
            continue  # one that starts mounts what is there; but what changes meanwhile must reach it
        yield router, ROUTER_CONFIG_ANNOTATION, generation


def _name_conflict(child: Child, key: Key) -> SpecError:
    return SpecError(
        "NameConflict",
        f"{child.kind} {child.name} exists in namespace {key[0]} and is not this ModelDeployment's. It is left as it "
        f"is: delete or rename it, or give the ModelDeployment another name",
    )


def _refused(child: Child, error: ClusterError) -> SpecError:
    if "exceeded quota" in error.message:
        return SpecError("QuotaExceeded", f"{child.kind} {child.name}: {error.message}. Raise the ResourceQuota")
    return SpecError(
        "Refused",
        f"the API server refuses {child.kind} {child.name}: {error.message}. Correct the part of the spec that it "
        "names (resources, runtime or podTemplate)",
    )
