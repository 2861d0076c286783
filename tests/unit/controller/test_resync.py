"""Listing again: what a gap in a watch has kept from the cache is found, and nothing that is newer is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

import pytest

from slipway.api.v1alpha1 import KIND
from slipway.controller import resync as relist
from slipway.controller.cache import Cache, Key
from slipway.controller.kube import Cluster
from slipway.controller.resync import FirstListing, close_gap, compare, list_children, slot_of
from slipway.controller.workqueue import Queue
from slipway.model.names import MODEL_LABEL

Json = dict[str, Any]
DIGITS: Key = ("team", "digits")


def service(version: int, model: str = "digits", name: str = "digits", **spec: Any) -> Json:
    meta = {"namespace": "team", "name": name, "resourceVersion": str(version), "labels": {MODEL_LABEL: model}}
    return {"metadata": meta, "spec": spec}


class Listing:
    """A cluster that holds these objects of every kind; `meanwhile` happens when half of a listing is out."""

    def __init__(self, *held: Json, meanwhile: Callable[[], object] = lambda: None) -> None:
        self.held, self.meanwhile = held, meanwhile

    async def list_all(self, kind: str, namespace: str | None, selector: str) -> AsyncIterator[Json]:
        self.meanwhile()
        for item in self.held:
            yield item


def compared(cache: Cache, listing: Listing, kind: str = "Service") -> set[Key]:
    return asyncio.run(compare(cast("Cluster", listing), cache, kind, ()))


@pytest.mark.parametrize(
    ("cached", "held", "changed", "left"),
    [
        pytest.param([], [], set(), [], id="nothing is nothing"),
        pytest.param([service(5)], [service(5)], set(), ["digits"], id="as it was"),
        pytest.param([service(5)], [], {DIGITS}, [], id="deleted in a gap"),
        pytest.param([], [service(5)], {DIGITS}, ["digits"], id="made in a gap"),
        pytest.param([service(5, port=1)], [service(6, port=2)], {DIGITS}, ["digits"], id="changed in a gap"),
        pytest.param(
            [service(5)], [service(6, model="other")], {DIGITS, ("team", "other")}, [], id="moved under another's label"
        ),
    ],
)
def test_what_a_gap_kept_is_found(cached: list[Json], held: list[Json], changed: set[Key], left: list[str]) -> None:
    cache = Cache()
    for item in cached:
        cache.put("Service", item)
    assert compared(cache, Listing(*held)) == changed
    assert [child["metadata"]["name"] for child in cache.children(DIGITS)] == left
    assert compared(cache, Listing(*held)) == set()


def test_what_is_made_during_a_listing_is_not_lost() -> None:
    cache = Cache()
    assert compared(cache, Listing(meanwhile=lambda: cache.put("Service", service(7)))) == set()
    assert cache.children(DIGITS)


def test_what_changes_during_a_listing_is_not_lost() -> None:
    cache = Cache()
    cache.put("Service", service(5, port=1))
    assert compared(cache, Listing(meanwhile=lambda: cache.put("Service", service(7, port=2)))) == set()
    assert cache.children(DIGITS)[0]["spec"] == {"port": 2}


def test_a_modeldeployment_deleted_in_a_gap_is_forgotten() -> None:
    cache = Cache()
    cache.put(KIND, service(5))
    assert compared(cache, Listing(), KIND) == {DIGITS}
    assert cache.deployment(DIGITS) is None


def test_all_children_are_there_before_the_first_pass() -> None:
    cache = Cache()
    asyncio.run(list_children(cast("Cluster", Listing(service(5))), cache, (), FirstListing()))
    kinds = {child["kind"] for child in cache.children(DIGITS)}
    of_pods = {"PodDisruptionBudget", "NetworkPolicy"}
    assert kinds == {"ControllerRevision", "ConfigMap", "Service", "Deployment", "Pod", *of_pods}


SHOWN = ("as it was", "before it is listed", "deleted")
KEPT = service(5, name="digits-kept")


async def closed(held: tuple[Json, ...], shown: str) -> tuple[int, list[str], int]:
    """A start in which two Services are listed, of which watches show the one that is kept, somehow.

    held: what the API server holds by then. Returns how often it was asked again, what is cached then, and how many
    ModelDeployments were woken.
    """
    cache, queue, first, asked = Cache(), Queue[Key](), FirstListing(), 0
    if shown == "before it is listed":
        first.note_watched(slot_of("Service", KEPT))
    for item in (service(5), KEPT):
        cache.put("Service", item)
        first.note_listed(slot_of("Service", item))
    first.end()
    if shown != "before it is listed":
        first.note_watched(slot_of("Service", KEPT))
    if shown == "deleted":
        cache.drop("Service", service(6, name="digits-kept"))

    def ask() -> None:
        nonlocal asked
        asked += 1
        if asked == 2:  # its watch begins late
            first.note_watched(slot_of("Service", service(5)))

    await close_gap(cast("Cluster", Listing(*held, meanwhile=ask)), cache, queue, (), first)
    return asked, [child["metadata"]["name"] for child in cache.children(DIGITS)], len(queue)


@pytest.mark.parametrize("shown", SHOWN)
def test_what_was_deleted_before_the_watches_began_is_forgotten(shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relist, "GAP_SECONDS", 0.0)
    kept = [] if shown == "deleted" else [KEPT]
    assert asyncio.run(closed(tuple(kept), shown)) == (1, [item["metadata"]["name"] for item in kept], 1)


@pytest.mark.parametrize("shown", SHOWN)
def test_what_watches_show_late_is_kept(shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relist, "GAP_SECONDS", 0.0)
    kept = [] if shown == "deleted" else [KEPT]
    names = sorted(item["metadata"]["name"] for item in (service(5), *kept))
    assert asyncio.run(closed((service(5), *kept), shown)) == (2, names, 0)


def test_where_watches_show_everything_nobody_is_asked() -> None:
    first = FirstListing()
    first.note_listed(slot_of("Service", KEPT))
    first.note_watched(slot_of("Service", KEPT))
    first.end()
    first.note_watched(slot_of("Service", service(5)))  # made meanwhile
    asyncio.run(close_gap(cast("Cluster", None), Cache(), Queue[Key](), (), first))
