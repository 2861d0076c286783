"""How a revision gets to its pods: which workload it takes, when it may take one over, and what is written down."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from slipway.api.status import ModelDeploymentStatus, Pinned, RevisionStatus
from slipway.decide.discovery import resolve_version
from slipway.decide.placement import place
from slipway.model.revision import Revision
from slipway.model.workload import Workload
from slipway.observe.agent_reports import VERIFY, AgentReport, VersionReport
from slipway.observe.pods import Pod
from slipway.observe.snapshot import AgentOrders, Snapshot
from tests.unit.public_keys import P256
from tests.unit.specs import Json, deployment, merged, rendered_revision

OCI: Json = {"model": {"uri": "oci://registry/digits", "versions": {"1": "v1", "2": "v2"}}}
CUSTOM: Json = {"runtime": {"name": "Custom", "image": "i"}}


def kept(changes: Json | None = None, number: int = 1) -> Revision:
    """A revision as the history has it."""
    return rendered_revision(deployment(changes), number)


def snapshot(
    *revisions: Revision, workloads: dict[str, Workload] | None = None, pods: tuple[Pod, ...] = ()
) -> Snapshot:
    here = workloads or {revision.hash: Workload(revision.hash, 1, 1, 1) for revision in revisions}
    ordered = {name: AgentOrders("g", workload.revision) for name, workload in here.items()}
    return Snapshot({}, frozenset(), {each.hash: each for each in revisions}, here, {}, pods, ordered)


def status(stable: Revision | None = None, canary: Revision | None = None, **of_canary: Any) -> ModelDeploymentStatus:
    return ModelDeploymentStatus(
        stable=RevisionStatus(revision=stable.hash, version=stable.version) if stable else None,
        canary=RevisionStatus(revision=canary.hash, version=canary.version, **of_canary) if canary else None,
    )


def test_a_first_revision_has_a_carrier_called_like_it() -> None:
    placement = place(deployment(), snapshot(), status())
    assert placement.workload == placement.revision.hash
    assert placement.revision.number == 1


VERSION_2: Json = {"model": {"version": 2}}
SIGNED: Json = {"gates": {"signature": "Compatible"}}
TAKES_OVER = [
    pytest.param({}, VERSION_2, True, id="another version"),
    pytest.param({}, {**VERSION_2, "rollout": {"strategy": "InPlace"}}, True, id="InPlace asked for"),
    pytest.param({}, {**VERSION_2, "replicas": 5, "versionPolicy": {"all": {}}}, True, id="and what is no revision"),
    pytest.param({}, {**VERSION_2, "replicas": 2, "rollout": SIGNED}, False, id="a signature gate"),
    pytest.param(
        {}, {**VERSION_2, "replicas": 2, "rollout": {**SIGNED, "strategy": "InPlace"}}, True, id="and InPlace"
    ),
    pytest.param({}, {**VERSION_2, "replicas": 1, "rollout": {**SIGNED, "strategy": "InPlace"}}, False, id="one pod"),
    pytest.param({}, {**VERSION_2, "rollout": {"strategy": "RollingUpdate"}}, False, id="RollingUpdate asked for"),
    pytest.param({}, {**VERSION_2, "runtime": {"args": ["-x"]}}, False, id="arguments too"),
    pytest.param({}, {"model": {"version": 2, "uri": "pvc://models/other"}}, False, id="another place"),
    pytest.param({}, {"runtime": {"args": ["-x"]}, "rollout": {"strategy": "InPlace"}}, False, id="no other version"),
    pytest.param(OCI, merged(OCI, VERSION_2), True, id="an artifact that the agent pulls"),
    pytest.param(
        {**OCI, "storage": {"imageVolume": True}},
        {**merged(OCI, VERSION_2), "storage": {"imageVolume": True}},
        False,
        id="an image that the node mounts",
    ),
    pytest.param(CUSTOM, {**CUSTOM, **VERSION_2}, False, id="a server that loads nothing hot"),
]


@pytest.mark.parametrize(("before", "now", "is_in_place"), TAKES_OVER)
def test_a_revision_takes_over_where_nothing_but_the_version_differs(
    before: Json, now: Json, *, is_in_place: bool
) -> None:
    stable = kept(before)
    placement = place(deployment(now), snapshot(stable), status(stable))
    assert placement.workload == (stable.hash if is_in_place else placement.revision.hash)
    assert placement.revision.hash != stable.hash


def test_taken_over_in_place_the_pods_template_stays_to_the_letter() -> None:
    stable = replace(kept(), template=kept().template | {"of": "an older operator"})
    placement = place(deployment(VERSION_2), snapshot(stable), status(stable))
    assert placement.revision.template == stable.template


def test_a_kept_revision_with_another_template_rolls() -> None:
    """Back to version 1, whose pods an older operator rendered otherwise."""
    older = replace(kept(), template=kept().template | {"of": "an older operator"})
    stable = kept(VERSION_2, 2)
    world = snapshot(older, stable, workloads={stable.hash: Workload(stable.hash, 1, 1, 1)})
    placement = place(deployment(), world, status(stable))
    assert placement.revision == older
    assert placement.workload == older.hash


def test_a_carrier_that_has_the_revisions_name_and_carries_another_is_left_alone() -> None:
    first, second = kept(), kept(VERSION_2, 2)
    world = snapshot(first, second, workloads={first.hash: Workload(second.hash, 1, 1, 1)})
    asked = deployment({"rollout": {"strategy": "RollingUpdate"}})
    placement = place(asked, world, status(second))
    assert placement.revision == first
    assert placement.workload not in (first.hash, second.hash)
    again = snapshot(
        first,
        second,
        workloads={first.hash: Workload(second.hash, 1, 1, 1), placement.workload: Workload(first.hash, 1, 1, 0)},
    )
    assert place(asked, again, status(second, first)).workload == placement.workload


def no_room(workload: str) -> Pod:
    report = VersionReport(2, "Failed", "NotEnoughMemory", "needs 3.0 GiB, and 2.0 GiB are left", None)
    return Pod(
        "p", "u", workload, True, False, "198.18.0.1", None, None, AgentReport("g", (), (report,), None, serving=1)
    )


def test_without_memory_for_both_it_rolls_and_goes_on_rolling() -> None:
    stable = kept()
    canary = rendered_revision(deployment(VERSION_2), 2, stable)
    world = snapshot(
        stable,
        canary,
        workloads={stable.hash: Workload(canary.hash, 1, 1, 1, stable.hash)},
        pods=(no_room(stable.hash),),
    )
    placement = place(deployment(VERSION_2), world, status(stable, canary))
    assert placement.workload == canary.hash
    assert placement.rolls_because == "NotEnoughMemory: needs 3.0 GiB, and 2.0 GiB are left"
    later = snapshot(stable, canary)
    remembered = status(stable, canary, rolls_because=placement.rolls_because)
    assert place(deployment(VERSION_2), later, remembered) == placement
    # Before status was written, the new workload itself tells.
    assert place(deployment(VERSION_2), later, status(stable, canary)).workload == canary.hash


FOLLOWED: Json = {"model": {"version": None}}


def test_the_first_version_found_goes_to_the_pods_that_wait_for_it() -> None:
    waiting = kept(FOLLOWED)
    assert waiting.version == 0
    world = snapshot(waiting, workloads={waiting.hash: Workload(waiting.hash, 1, 1, 0)})
    asked = resolve_version(deployment(FOLLOWED), world, status(None, waiting), (1, 2))
    assert asked.spec.model.version == 2
    placement = place(asked, world, status(None, waiting))
    assert placement.workload == waiting.hash
    assert placement.revision.version == 2


def test_a_version_named_that_was_found_before_is_the_same_revision() -> None:
    world = snapshot(kept(FOLLOWED))
    found = resolve_version(deployment(FOLLOWED), world, status(), (2,))
    assert place(found, world, status()).revision.hash == kept(VERSION_2).hash


@pytest.mark.parametrize(
    ("listed", "stable", "canary", "version"),
    [
        ((), None, None, None),
        ((1, 4), None, None, 4),
        ((1, 4), 2, None, 4),
        ((1,), 2, None, 2),
        ((), 2, None, 2),
        ((1, 4), 2, 3, 3),
        ((1, 4), None, 3, 4),
        ((), None, 3, None),
    ],
)
def test_the_served_version_is_resolved(
    listed: tuple[int, ...], stable: int | None, canary: int | None, version: int | None
) -> None:
    revisions = {number: kept({"model": {"version": number}}) for number in (2, 3)}
    stored = status(revisions[stable] if stable else None, revisions[canary] if canary else None)
    asked = resolve_version(deployment(FOLLOWED), snapshot(*revisions.values()), stored, listed)
    assert asked.spec.model.version == version


@pytest.mark.parametrize(
    ("listed", "stable", "canary", "version"),
    [
        pytest.param((2, 3), 3, 2, 3, id="it is on its way: nothing is found but what was left"),
        pytest.param((2, 3), 2, None, 3, id="it serves: what was left is found again"),
        pytest.param((2,), 2, None, 3, id="it serves: what was left is gone from the place"),
        pytest.param((2, 3, 4), 3, 2, 3, id="a newer one waits for the rollback to end"),
        pytest.param((2, 3, 4), 2, None, 4, id="and then ends it"),
        pytest.param((2, 3, 4), 2, 4, 4, id="a newer one is on its way"),
    ],
)
def test_what_a_person_rolled_back_to_is_no_version_that_was_found(
    listed: tuple[int, ...], stable: int, canary: int | None, version: int
) -> None:
    revisions = {number: kept({"model": {"version": number}}) for number in (2, 3, 4)}
    pinned = Pinned(revision=revisions[2].hash, instead_of=revisions[3].hash)
    stored = status(revisions[stable], revisions[canary] if canary else None).model_copy(update={"pinned": pinned})
    asked = resolve_version(deployment(FOLLOWED), snapshot(*revisions.values()), stored, listed)
    assert asked.spec.model.version == version


def test_a_rollback_from_a_revision_that_is_no_longer_kept_counts_for_nothing() -> None:
    old = kept(VERSION_2)
    stored = status(old).model_copy(update={"pinned": Pinned(revision=old.hash, instead_of="gone")})
    assert resolve_version(deployment(FOLLOWED), snapshot(old), stored, (2, 3)).spec.model.version == 3


def test_versions_of_another_place_do_not_count() -> None:
    elsewhere = kept({"model": {"uri": "pvc://models/other", "version": 9}})
    asked = resolve_version(deployment(FOLLOWED), snapshot(elsewhere), status(elsewhere), ())
    assert asked.spec.model.version is None


VERIFIED: Json = {"storage": {"verify": "Require", "publicKeys": [P256]}}


@pytest.mark.parametrize(
    ("storage", "verifies", "is_in_place"),
    [(VERIFIED, False, False), (VERIFIED, True, True), ({}, False, True)],
    ids=["can't verify", "verifies", "nothing is to be verified"],
)
def test_a_pod_whose_agent_cant_verify_takes_nothing_up_in_place(
    storage: Json, *, verifies: bool, is_in_place: bool
) -> None:
    stable = kept()
    says = AgentReport("g", (), (), None, serving=1, abilities=frozenset({VERIFY} if verifies else ()))
    pod = Pod("p", "u", stable.hash, True, False, "198.18.0.1", None, None, says)
    placement = place(deployment({**storage, **VERSION_2}), snapshot(stable, pods=(pod,)), status(stable))
    assert placement.workload == (stable.hash if is_in_place else placement.revision.hash)
    assert ("AgentTooOld: the agent of pod p" in (placement.rolls_because or "")) is not is_in_place


def test_a_pod_whose_agent_cant_verify_serves_on_where_nothing_new_is_asked_for() -> None:
    stable = kept()
    pod = Pod("p", "u", stable.hash, True, False, "198.18.0.1", None, None, AgentReport("g", (), (), None, serving=1))
    assert place(deployment(VERIFIED), snapshot(stable, pods=(pod,)), status(stable)).workload == stable.hash
