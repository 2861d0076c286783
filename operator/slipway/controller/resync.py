"""Lists everything: all children before the first pass, and everything again now and then.

A pass that misses a child would write it again, so no pass starts before all are listed. And a watch that has a gap
(the API server forgets after some minutes; kopf then lists anew) tells of no deletion that fell into it: the second
look finds what is gone, and whatever else a watch may have kept from us.
The first such gap is our own: kopf's watches begin with listings of their own, a moment later. What is deleted between
the two is in the first and in no event, and would be waited for until the next look.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Mapping
from typing import Any

from slipway.api.v1alpha1 import KIND
from slipway.controller.cache import Cache, Key, owner_key
from slipway.controller.kube import Cluster, ClusterError
from slipway.controller.workqueue import Queue
from slipway.model.names import MODEL_LABEL

log = logging.getLogger("slipway")

CHILD_KINDS = (
    *("ControllerRevision", "ConfigMap", "Service", "PodDisruptionBudget", "NetworkPolicy"),
    *("Deployment", "Pod"),
)
RELIST_SECONDS = 600.0
GAP_SECONDS = 1.0
MAX_GAP_SECONDS = 30.0

Slot = tuple[str, str, str]
"""Kind, namespace and name of a child."""


class FirstListing:
    """What the listing at the start has shown, and no watch yet."""

    def __init__(self) -> None:
        self._listed: set[Slot] = set()
        self._watched: set[Slot] = set()  # shown by a watch before it was listed
        self._is_over = False

    def note_listed(self, slot: Slot) -> None:
        """The listing shows it."""
        if slot in self._watched:
            self._watched.remove(slot)
        else:
            self._listed.add(slot)

    def note_watched(self, slot: Slot) -> None:
        """A watch shows it, or tells that it is gone."""
        if slot in self._listed:
            self._listed.remove(slot)
        elif not self._is_over:
            self._watched.add(slot)

    def end(self) -> None:
        """Everything is listed."""
        self._is_over = True
        self._watched.clear()

    def keep(self, there: Collection[Slot]) -> None:
        """What isn't there any more will be shown by no watch."""
        self._listed.intersection_update(there)

    @property
    def unwatched(self) -> frozenset[Slot]:
        """Listed, and not shown by a watch."""
        return frozenset(self._listed)


async def list_children(cluster: Cluster, cache: Cache, namespaces: tuple[str, ...], listing: FirstListing) -> None:
    """Fill the cache with everything under our label. Raises ClusterError."""

    async def list_one(kind: str, namespace: str | None) -> None:
        async for item in cluster.list_all(kind, namespace, MODEL_LABEL):
            cache.put(kind, item)
            listing.note_listed(slot_of(kind, item))

    await asyncio.gather(*(list_one(kind, namespace) for kind in CHILD_KINDS for namespace in namespaces or (None,)))
    listing.end()


def slot_of(kind: str, body: Mapping[str, Any]) -> Slot:
    """The slot of an object."""
    return kind, body["metadata"]["namespace"], body["metadata"]["name"]


async def close_gap(
    cluster: Cluster, cache: Cache, queue: Queue[Key], namespaces: tuple[str, ...], listing: FirstListing
) -> None:
    """Find what was deleted between our listing, which is over, and those of the watches; then all is shown by these.

    While they go on showing more, nothing is asked; where nothing was deleted, nothing ever is.
    """
    pause = GAP_SECONDS
    before: frozenset[Slot] | None = None
    while unwatched := listing.unwatched:
        if unwatched == before:
            kinds = {kind for kind, _, _ in unwatched}
            if await compare_kinds(cluster, cache, queue, tuple(sorted(kinds)), namespaces):
                listing.keep({(kind, *place) for kind in kinds for place in cache.versions(kind)})
            pause = min(MAX_GAP_SECONDS, 2 * pause)
        before = unwatched
        await asyncio.sleep(pause)


async def relist(cluster: Cluster, cache: Cache, queue: Queue[Key], namespaces: tuple[str, ...]) -> None:
    """List everything again, for ever, and wake whose objects are other than the watches have shown."""
    while True:
        await asyncio.sleep(RELIST_SECONDS)
        await compare_kinds(cluster, cache, queue, (KIND, *CHILD_KINDS), namespaces)


async def compare_kinds(
    cluster: Cluster, cache: Cache, queue: Queue[Key], kinds: tuple[str, ...], namespaces: tuple[str, ...]
) -> bool:
    """Compare kind by kind, and wake whose objects were other than cached. Returns whether all could be listed."""
    are_listed = True
    for kind in kinds:
        try:
            for key in await compare(cluster, cache, kind, namespaces):
                await queue.wake(key)
        except ClusterError as error:
            log.warning("listing again has to wait", extra={"kind": kind, "error": str(error)})
            are_listed = False
    return are_listed


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
