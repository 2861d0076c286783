"""What a person sees who works with kubectl alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.install import ROOT
from tests.e2e.kube import kubectl
from tests.e2e.stage import Served, Stage

EXAMPLES = ROOT / "examples"

pytestmark = pytest.mark.usefixtures("operator")


def test_get_shows_the_columns_that_matter(digits_served: Served) -> None:
    shown = Stage(digits_served.kube, digits_served.namespace).kubectl("get", "mdep", "digits")
    assert shown.status == 0, shown.err
    head, row = shown.out.splitlines()
    assert head.split() == ["NAME", "RUNTIME", "VERSION", "CANARY", "WEIGHT", "READY", "STATUS", "AGE"]
    assert row.split()[:5] == ["digits", "Triton", "2", "1/1", "Ready"]


def test_get_all_includes_modeldeployments(digits_served: Served) -> None:
    shown = Stage(digits_served.kube, digits_served.namespace).kubectl("get", "all", "-o", "name")
    assert "modeldeployment.slipway.dev/digits" in shown.out.split()


@pytest.mark.parametrize(
    ("field", "words"),
    [
        ("modeldeployment.spec.model.uri", ["pvc://", "https://"]),
        ("mdep.spec.versionPolicy", ["latest", "specific", "all"]),
        ("modeldeployment.spec.replicas", ["Pods that serve"]),
        ("modeldeployment.status.conditions", ["observedGeneration"]),
        ("modeldeployment.spec.podTemplate.spec", ["volumes"]),
    ],
)
def test_explain_tells_what_a_field_means(field: str, words: list[str]) -> None:
    shown = kubectl("explain", field)
    assert shown.status == 0, shown.err
    for word in words:
        assert word in shown.out


@pytest.mark.parametrize("condition", ["Ready", "Promoted", "VersionsReady", "Degraded=False"])
def test_wait_works_on_conditions(digits_served: Served, condition: str) -> None:
    stage = Stage(digits_served.kube, digits_served.namespace)
    done = stage.kubectl("wait", "mdep/digits", f"--for=condition={condition}", "--timeout=30s")
    assert done.status == 0, done.err


def test_describe_tells_what_happened(digits_served: Served) -> None:
    shown = Stage(digits_served.kube, digits_served.namespace).kubectl("describe", "mdep", "digits")
    assert shown.status == 0, shown.err
    assert "MinimumReplicasReady" in shown.out
    events = shown.out.partition("Events:")[2]
    assert "MinimumReplicasReady" in events


def test_events_come_on_change_only(quiet_stage: Stage) -> None:
    served = quiet_stage.given("digits", "volume://models/digits", 9, [], replicas=0)  # without that volume
    served.then("Degraded", "True", "InvalidSpec")
    for minutes in (601, 602, 603):
        served.when_spec(rollout={"progressDeadlineSeconds": minutes})
        served.then("Degraded", "True", "InvalidSpec")
    events = [
        event
        for event in quiet_stage.kube.list_("Event", quiet_stage.namespace)
        if event["involvedObject"]["kind"] == "ModelDeployment" and event["reason"] == "InvalidSpec"
    ]
    assert len(events) == 1
    assert events[0]["type"] == "Warning"
    quiet_stage.kube.delete("ModelDeployment", served.name, served.namespace)


@pytest.mark.parametrize("path", sorted(EXAMPLES.rglob("*.yaml")), ids=lambda path: path.name)
def test_every_example_is_accepted(quiet_stage: Stage, path: Path) -> None:
    done = quiet_stage.kubectl("apply", "--dry-run=server", "-f", str(path))
    assert done.status == 0, done.err
    assert "modeldeployment.slipway.dev/" in done.out
