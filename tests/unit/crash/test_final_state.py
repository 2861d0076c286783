"""The crash tests' comparison: what must differ between two runs is left out, and nothing else is."""

import copy
from typing import Any

import pytest

from tests.crash.final_state import difference, normalise

Objects = dict[str, list[dict[str, Any]]]


def world(namespace: str, uid: str) -> Objects:
    """A ModelDeployment with one Deployment, as two runs would leave it: other uid, times, namespace."""
    bakes = "bakes until 20:58:30 UTC, asked for since 20:13 UTC"
    if namespace != "a-1":
        bakes = "bakes until 20:59:14 UTC, asked for since 20:14 UTC"
    owner = {"kind": "ModelDeployment", "name": "digits", "uid": uid}
    of_template = "899c6bcd4" if namespace == "a-1" else "589575bf64"
    secret = "digits-1-key-" + ("0a1b2" if namespace == "a-1" else "3c4d5")
    return {
        "ModelDeployment": [
            {
                "metadata": {"name": "digits", "namespace": namespace, "uid": uid, "generation": 2},
                "status": {
                    "settled": f"hash of {uid}",
                    "progressSince": "2026-01-01T00:00:00Z" if namespace == "a-1" else "2026-01-01T00:00:07Z",
                    "conditions": [
                        {"type": "Ready", "status": "True"},
                        {"type": "Promoted", "status": "True", "message": bakes},
                    ],
                },
            }
        ],
        "Deployment": [
            {
                "metadata": {"name": "digits-1", "namespace": namespace, "uid": f"{uid}-d", "ownerReferences": [owner]},
                "spec": {"replicas": 2, "template": {"from": {"name": secret}}},
            }
        ],
        "ReplicaSet": [
            {
                "metadata": {
                    "name": f"digits-1-{of_template}",
                    "namespace": namespace,
                    "uid": f"{uid}-r",
                    "labels": {"pod-template-hash": of_template},
                },
                "spec": {"template": {"metadata": {"labels": {"pod-template-hash": of_template}}}},
            }
        ],
        "Secret": [
            {
                "metadata": {
                    "name": secret,
                    "namespace": namespace,
                    "uid": f"{uid}-s",
                    "ownerReferences": [{**owner}],
                },
                "data": {"slipway-server-key": f"drawn by {uid}"},
            }
        ],
        "ConfigMap": [{"metadata": {"name": "kube-root-ca.crt", "namespace": namespace, "uid": f"{uid}-c"}}],
    }


def compare(other: Objects) -> str:
    return difference(normalise(world("a-1", "u1"), "a-1"), normalise(other, "b-2"))


def test_two_runs_that_ended_alike_are_the_same() -> None:
    assert compare(world("b-2", "u2")) == ""


def test_the_order_of_conditions_tells_nothing() -> None:
    other = world("b-2", "u2")
    other["ModelDeployment"][0]["status"]["conditions"].reverse()
    assert compare(other) == ""


def orphan(objects: Objects) -> None:
    objects["Deployment"][0]["metadata"]["ownerReferences"][0]["uid"] = "a former one's"


def duplicate(objects: Objects) -> None:
    objects["Deployment"].append(copy.deepcopy(objects["Deployment"][0]))
    objects["Deployment"][1]["metadata"]["name"] = "digits-2"


def left_out(objects: Objects) -> None:
    objects["Deployment"].clear()


def orphaned_secret(objects: Objects) -> None:
    objects["Secret"][0]["metadata"]["ownerReferences"][0]["uid"] = "a former one's"


def no_secret(objects: Objects) -> None:
    objects["Secret"].clear()


def without_a_key(objects: Objects) -> None:
    objects["Secret"][0]["data"].clear()


def another_template(objects: Objects) -> None:
    objects["ReplicaSet"].append(copy.deepcopy(objects["ReplicaSet"][0]))
    objects["ReplicaSet"][1]["metadata"] |= {"name": "digits-1-777", "labels": {"pod-template-hash": "777"}}


def half_scaled(objects: Objects) -> None:
    objects["Deployment"][0]["spec"]["replicas"] = 1


def not_settled(objects: Objects) -> None:
    del objects["ModelDeployment"][0]["status"]["settled"]


def not_ready(objects: Objects) -> None:
    objects["ModelDeployment"][0]["status"]["conditions"][0]["status"] = "False"


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (orphan, "ORPHAN"),
        (duplicate, "Deployment/digits-2"),
        (left_out, "Deployment/digits-1"),
        (orphaned_secret, "ORPHAN"),
        (no_secret, "Secret/digits-1-key"),
        (without_a_key, '"slipway-server-key"'),
        (half_scaled, '"replicas": 1'),
        (another_template, "ReplicaSet/digits-1-TEMPLATE2"),
        (not_settled, '"settled"'),
        (not_ready, '"status": "False"'),
    ],
)
def test_what_a_crash_may_leave_behind_is_a_difference(damage: Any, words: str) -> None:
    other = world("b-2", "u2")
    damage(other)
    assert words in compare(other)


def test_a_secret_that_no_pod_asks_for_any_more_goes_in_its_time() -> None:
    other = world("b-2", "u2")
    former = copy.deepcopy(other["Secret"][0])
    former["metadata"] |= {"name": "digits-0-key-3c4d5", "uid": "u2-f"}
    other["Secret"].append(former)
    assert compare(other) == ""
    former["metadata"]["ownerReferences"][0]["uid"] = "a former one's"
    assert "ORPHAN" in compare(other)


def rolled_back(number: int, *reasons: str) -> Objects:
    """The same, where a canary was taken back after so many requests."""
    objects = world("a-1", "u1") if number == 1 else world("b-2", "u2")
    why = f"canary {number}/1,2{number}0 errors, stable 0/3{number} at 12:00:0{number}"
    objects["ModelDeployment"][0]["status"] |= {
        "transitions": [{"at": "", "reason": reason, "revision": "0d9e7c4f11", "message": why} for reason in reasons],
        "rejected": [{"revision": "0d9e7c4f11", "message": why}],
        "conditions": [{"type": "Promoted", "status": "False", "message": f"revision 0d9e7c4f11 failed: {why}"}],
    }
    return objects


def test_numbers_of_requests_and_what_began_between_two_lives_are_left_out() -> None:
    one = normalise(rolled_back(1, "Started", "Step", "RolledBack"), "a-1")
    assert difference(one, normalise(rolled_back(2, "RolledBack"), "b-2")) == ""
    assert "RolledBack" in difference(one, normalise(rolled_back(2, "Started", "Step"), "b-2"))
    other = rolled_back(2, "RolledBack")
    other["ModelDeployment"][0]["status"]["rejected"][0]["revision"] = "0d9e7c4f12"
    assert "0d9e7c4f12" in difference(one, normalise(other, "b-2"))


def test_a_router_s_generation_is_left_out_and_what_it_names_is_not() -> None:
    def routed(namespace: str, generation: str, weight: int) -> Objects:
        objects = world(namespace, namespace)
        objects["ConfigMap"].append(
            {
                "metadata": {
                    "name": "digits-router",
                    "namespace": namespace,
                    "uid": "r",
                    "annotations": {"slipway.dev/routed": generation},
                },
                "data": {"routes.json": f"{generation} sends {weight} percent to digits-abc.{namespace}.svc"},
            }
        )
        return objects

    one = normalise(routed("a-1", "0123456789", 25), "a-1")
    assert difference(one, normalise(routed("b-2", "abcdefabcd", 25), "b-2")) == ""
    assert "50 percent" in difference(one, normalise(routed("b-2", "abcdefabcd", 50), "b-2"))
