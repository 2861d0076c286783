"""Listing again: what a gap in a watch has kept from the cache is found, and nothing that is newer is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

import pytest

from slipway.api.v1alpha1 import KIND
from slipway.cache import Cache, Key
from slipway.cluster import Cluster
from slipway.manifests import MODEL_LABEL
from slipway.relist import compare, list_children

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
    asyncio.run(list_children(cast("Cluster", Listing(service(5))), cache, ()))
    kinds = {child["kind"] for child in cache.children(DIGITS)}
    assert kinds == {"ControllerRevision", "ConfigMap", "Service", "Deployment", "Pod", "PodDisruptionBudget"}
