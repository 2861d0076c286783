"""The crash tests' comparison: what must differ between two runs is left out, and nothing else is."""

import copy
from typing import Any

import pytest

from tests.crash.final_state import difference, normalise

Objects = dict[str, list[dict[str, Any]]]


def world(namespace: str, uid: str) -> Objects:
    """A ModelDeployment with one Deployment, as two runs would leave it: other uid, times, namespace."""
    owner = {"kind": "ModelDeployment", "name": "digits", "uid": uid}
    return {
        "ModelDeployment": [
            {
                "metadata": {"name": "digits", "namespace": namespace, "uid": uid, "generation": 2},
                "status": {
                    "settled": f"hash of {uid}",
                    "progressSince": "2026-01-01T00:00:00Z" if namespace == "a-1" else "2026-01-01T00:00:07Z",
                    "conditions": [{"type": "Ready", "status": "True"}, {"type": "Promoted", "status": "True"}],
                },
            }
        ],
        "Deployment": [
            {
                "metadata": {"name": "digits-1", "namespace": namespace, "uid": f"{uid}-d", "ownerReferences": [owner]},
                "spec": {"replicas": 2},
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


def half_scaled(objects: Objects) -> None:
    objects["Deployment"][0]["spec"]["replicas"] = 1


def not_ready(objects: Objects) -> None:
    objects["ModelDeployment"][0]["status"]["conditions"][0]["status"] = "False"


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (orphan, "ORPHAN"),
        (duplicate, "Deployment/digits-2"),
        (left_out, "Deployment/digits-1"),
        (half_scaled, '"replicas": 1'),
        (not_ready, '"status": "False"'),
    ],
)
def test_what_a_crash_may_leave_behind_is_a_difference(damage: Any, words: str) -> None:
    other = world("b-2", "u2")
    damage(other)
    assert words in compare(other)
