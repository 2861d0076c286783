"""What users write, and every object that comes of it, as files to read side by side.

`<case>.yaml` is the ModelDeployment; with `---` between them, the specs that it had one after the other, each of which
served before the next one came. All children, as a cluster keeps them in the middle of the last rollout (`-bake`,
`-rolled-back`: at its end; `network-policy`: with that value of the chart), stand in
`smallest.rendered.yaml`; of every other case `<case>.rendered.diff` holds what differs from that, in the form that
tests/golden/difference.py describes. Written anew by: pytest tests/golden --update-golden
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from slipway.api import parse
from slipway.api.status import ModelDeploymentStatus
from slipway.decide.inputs import gather_inputs
from slipway.decide.placement import new_revision
from slipway.decide.steps import wants_split
from slipway.model.revision import Assignment, Revision
from slipway.model.rollout import Plan, Promotion
from slipway.model.rollout_state import RolloutState
from slipway.observe.snapshot import Snapshot
from slipway.render.desired import render
from slipway.render.network_policy import Peers
from slipway.render.pod_template import Images, with_template
from tests.golden.difference import check

Json = dict[str, Any]

CASES = Path(__file__).parent / "cases"
SMALLEST = CASES / "smallest.rendered.yaml"
WHOLE = ("smallest", SMALLEST.stem)
IMAGES = Images(
    agent="slipway.dev/agent:golden",
    servers={
        "Triton": "slipway.dev/triton:golden",
        "TensorFlowServing": "tensorflow/serving:golden",
        "TorchServe": "slipway.dev/torchserve:golden",
        "ONNXRuntime": "slipway.dev/onnxruntime:golden",
    },
    router="slipway.dev/router:golden",
    pull_policy="IfNotPresent",
)
OPERATOR: Json = {
    "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "slipway-system"}},
    "podSelector": {"matchLabels": {"app.kubernetes.io/name": "slipway", "app.kubernetes.io/component": "operator"}},
}
PEERS = Peers(
    clients=({"namespaceSelector": {"matchLabels": {"team": "web"}}}, {"podSelector": {}}),
    operator=(OPERATOR,),
    metrics=({"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}},),
)
LISTED = (1, 2, 3, 4)


class _Readable(yaml.SafeDumper):
    """Text of several lines as a block, no anchors: for eyes and diffs."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Readable.add_representer(str, _text)


def moment_of(case: str, stable: str, new: str, replicas: int) -> Plan:
    """The plan in the middle of a rollout that splits requests, in its bake, or after it was rolled back."""
    own = {name: Assignment(name) for name in (stable, new)}
    if case.endswith("-bake"):
        state, weights = RolloutState(new, previous=stable), {new: 100, stable: 0}
        return Plan(state, {new: replicas, stable: replicas}, own, Promotion.IN_PROGRESS, weights)
    if case.endswith("-rolled-back"):
        back = {stable: own[stable]}
        return Plan(RolloutState(stable), {stable: replicas}, back, Promotion.ROLLED_BACK, {stable: 100})
    return Plan(
        RolloutState(stable, new), {stable: replicas, new: 1}, own, Promotion.IN_PROGRESS, {stable: 75, new: 25}
    )


def rendered(case: str, bodies: list[Json]) -> list[Json]:
    """All children in the rollout from the spec before to the last one."""
    kept: dict[str, Revision] = {}
    for body in bodies[:-1]:
        earlier = with_template(parse(body), new_revision(parse(body), len(kept) + 1), IMAGES)
        kept[earlier.hash] = earlier
    deployment = parse(bodies[-1])
    replicas = deployment.spec.replicas
    snapshot = Snapshot({}, frozenset(), kept, {}, {}, (), {})
    inputs = replace(gather_inputs(deployment, snapshot, ModelDeploymentStatus(), {}, None), listed=LISTED)
    desired = inputs.placement.revision
    if kept:
        stable = max(kept.values(), key=lambda revision: revision.number)
        plan = moment_of(case, stable.hash, desired.hash, replicas)
        if not wants_split(deployment):
            plan = replace(plan, weights=None)
    else:
        orders = {desired.hash: Assignment(desired.hash)}
        plan = Plan(RolloutState(None, desired.hash), {desired.hash: replicas}, orders, Promotion.IN_PROGRESS)
    images = replace(IMAGES, peers=PEERS) if case.startswith("network-policy") else IMAGES
    children = [child.manifest for child in render(inputs, plan, snapshot, images).children]
    templates = {child["metadata"]["name"]: child["data"]["template"] for child in children if "revision" in child}
    for child in children:
        if child["kind"] == "Deployment" and child["metadata"]["name"] in templates:  # written once, for those who read
            assert child["spec"]["template"] == templates[child["metadata"]["name"]]
            child["spec"]["template"] = "as in its ControllerRevision"
    return children


def text_of(case: str) -> str:
    bodies = list(yaml.safe_load_all((CASES / f"{case}.yaml").read_text()))
    for body in bodies:
        body["metadata"] |= {"namespace": "models", "uid": "00000000-0000-4000-8000-000000000001"}
    text: str = yaml.dump_all(rendered(case, bodies), Dumper=_Readable, sort_keys=False, width=120)
    return text


@pytest.mark.parametrize(
    "case", ["smallest", *sorted(path.stem for path in CASES.glob("*.yaml") if path.stem not in WHOLE)]
)
def test_rendered_as_committed(case: str, request: pytest.FixtureRequest) -> None:
    update = request.config.getoption("--update-golden", default=False)
    if case == "smallest":
        check(text_of(case), SMALLEST, update=update)
    else:
        check(text_of(case), CASES / f"{case}.rendered.diff", SMALLEST, update=update)


def test_every_golden_file_has_its_case() -> None:
    for golden in CASES.glob("*.rendered.*"):
        assert (CASES / golden.name.replace(golden.suffix, ".yaml").replace(".rendered", "")).exists(), golden.name
