"""Lists everything: all children before the first pass, and everything again now and then.

A pass that misses a child would write it again, so no pass starts before all are listed. And a watch that has a gap
(the API server forgets after some minutes; kopf then lists anew) tells of no deletion that fell into it: the second
look finds what is gone, and whatever else a watch may have kept from us.
"""

from __future__ import annotations

import asyncio
import logging

from slipway.api.v1alpha1 import KIND
from slipway.cache import Cache, Key, owner_key
from slipway.cluster import Cluster, ClusterError
from slipway.manifests import MODEL_LABEL
from slipway.queue import Queue

log = logging.getLogger("slipway")

CHILD_KINDS = ("ControllerRevision", "ConfigMap", "Service", "PodDisruptionBudget", "Deployment", "Pod")
RELIST_SECONDS = 600.0


async def list_children(cluster: Cluster, cache: Cache, namespaces: tuple[str, ...]) -> None:
    """Fill the cache with everything under our label. Raises ClusterError."""

    async def list_one(kind: str, namespace: str | None) -> None:
        async for item in cluster.list_all(kind, namespace, MODEL_LABEL):
            cache.put(kind, item)

    await asyncio.gather(*(list_one(kind, namespace) for kind in CHILD_KINDS for namespace in namespaces or (None,)))


async def relist(cluster: Cluster, cache: Cache, queue: Queue[Key], namespaces: tuple[str, ...]) -> None:
    """List everything again, for ever, and wake whose objects are other than the watches have shown."""
    while True:
        await asyncio.sleep(RELIST_SECONDS)
        for kind in (KIND, *CHILD_KINDS):
            try:
                for key in await compare(cluster, cache, kind, namespaces):
                    await queue.wake(key)
            except ClusterError as error:
                log.warning("listing again has to wait", extra={"kind": kind, "error": str(error)})


async def compare(cluster: Cluster, cache: Cache, kind: str, namespaces: tuple[str, ...]) -> set[Key]:
    """Bring the cache up to what the API server holds of one kind. Returns whose objects were other than cached.

    What was cached before the listing began, is not in it (or now under another's label) and has not changed meanwhile
    is gone: a listing shows everything that was there when it was asked for.
    """
    missing = cache.versions(kind)
    changed: set[Key] = set()
    for namespace in namespaces or (None,):
        async for item in cluster.list_all(kind, namespace, "" if kind == KIND else MODEL_LABEL):
            slot = (item["metadata"]["namespace"], item["metadata"]["name"])
            owner = cache.put(kind, item)
            if owner is not None:
                changed.add(owner)
            if slot in missing and missing[slot][0] == owner_key(kind, item):
                del missing[slot]
    return changed | {key for slot, (key, version) in missing.items() if cache.lose(kind, key, slot[1], version)}
