"""Gates of a new version: what counts as another signature, and what is said, waited for and let through."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipway.api.v1alpha1 import Golden, SpecError
from slipway.decide.gates import compare, judge_gates
from slipway.model.signals import OPEN, GateState
from slipway.model.signature import GoldenReport, Signature, Tensor
from slipway.observe.agent_reports import REFUSALS, SIGNATURES, AgentReport, VersionReport, read_report
from slipway.observe.pods import Pod
from slipway.render.agent_orders import golden_orders
from slipway.runtimes import RUNTIMES
from slipway_agent.config import parse_config
from slipway_agent.model.golden import GoldenRequest
from slipway_agent.servers.by_runtime import KINDS
from tests.unit.specs import deployment

STEPS = {"rollout": {"steps": [{"weight": 10}]}}


def tensor(name: str, datatype: str = "FP32", shape: Sequence[int] | None = (-1, 4), optional: bool = False) -> Tensor:
    return Tensor(name, datatype, None if shape is None else tuple(shape), optional)


def signature(*inputs: Tensor, outputs: Sequence[Tensor] = (tensor("y"),)) -> Signature:
    return Signature(inputs, tuple(outputs))


X, Y = tensor("x"), tensor("y")
OLD = signature(X)

CHANGES: dict[str, tuple[Signature, Signature, tuple[str, ...]]] = {
    "nothing": (OLD, OLD, ()),
    "order": (signature(X, tensor("z")), signature(tensor("z"), X), ()),
    "an input is gone": (signature(X, tensor("z")), OLD, ("input z is gone",)),
    "a new input that clients don't send": (
        OLD,
        signature(X, tensor("z", "INT64", (-1,))),
        ("input z (INT64 [any]) is new, and clients don't send it",),
    ),
    "a new input that may be left out": (OLD, signature(X, tensor("z", optional=True)), ()),
    "one that can't be left out any more": (
        signature(tensor("x", optional=True)),
        OLD,
        ("input x can't be left out any more",),
    ),
    "an input by another name": (OLD, signature(tensor("z")), ("input x is called z now",)),
    "another input of another kind": (
        OLD,
        signature(tensor("z", "INT64")),
        ("input x is gone", "input z (INT64 [any, 4]) is new, and clients don't send it"),
    ),
    "an input of another type": (OLD, signature(tensor("x", "FP64")), ("input x is FP64, was FP32",)),
    "an input that takes any size where it took one": (
        signature(tensor("x", shape=(8, 4))),
        signature(tensor("x", shape=(-1, 4))),
        (),
    ),
    "an input that takes one size where it took any": (
        OLD,
        signature(tensor("x", shape=(8, 4))),
        ("input x takes [8, 4], was [any, 4]",),
    ),
    "an input of another size": (
        OLD,
        signature(tensor("x", shape=(-1, 5))),
        ("input x takes [any, 5], was [any, 4]",),
    ),
    "an input of another rank": (OLD, signature(tensor("x", shape=(4,))), ("input x takes [4], was [any, 4]",)),
    "an input that takes any shape": (OLD, signature(tensor("x", shape=None)), ()),
    "an input that took any shape": (
        signature(tensor("x", shape=None)),
        OLD,
        ("input x takes [any, 4], was any shape",),
    ),
    "a scalar": (signature(tensor("x", shape=())), OLD, ("input x takes [any, 4], was []",)),
    "one more output": (OLD, signature(X, outputs=(Y, tensor("z"))), ()),
    "an output is gone": (signature(X, outputs=(Y, tensor("z"))), OLD, ("output z is gone",)),
    "an output of another type": (
        OLD,
        signature(X, outputs=(tensor("y", "FP64"),)),
        ("output y is FP64, was FP32",),
    ),
    "an output of another size": (
        OLD,
        signature(X, outputs=(tensor("y", shape=(-1, 5)),)),
        ("output y has [any, 5], was [any, 4]",),
    ),
    "an output of another rank": (
        OLD,
        signature(X, outputs=(tensor("y", shape=(4,)),)),
        ("output y has [4], was [any, 4]",),
    ),
    "a batch that was fixed and is open, in and out": (
        signature(tensor("x", shape=(1, 4)), outputs=(tensor("y", shape=(1, 4)),)),
        OLD,
        (),
    ),
    "an output of which nothing is known": (OLD, signature(X, outputs=(tensor("y", shape=None),)), ()),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_clients_of_the_old_version_would_miss(name: str) -> None:
    old, new, missed = CHANGES[name]
    assert compare(old, new) == missed


tensors = st.builds(
    tensor,
    st.sampled_from("abc"),
    st.sampled_from(["FP32", "INT64"]),
    st.none() | st.lists(st.sampled_from([-1, 1, 4]), max_size=3),
    st.booleans(),
)
named = st.lists(tensors, max_size=4, unique_by=lambda each: each.name)
signatures = st.builds(lambda inputs, outputs: Signature(tuple(inputs), tuple(outputs)), named, named)


@given(signatures)
def test_a_signature_is_compatible_with_itself(one: Signature) -> None:
    assert compare(one, one) == ()


@given(signatures, signatures)
def test_what_is_added_for_nobody_changes_nothing(old: Signature, new: Signature) -> None:
    more = Signature(
        (*new.inputs, tensor("d", optional=True)),
        (*new.outputs, tensor("d")),
    )
    assert compare(old, more) == compare(old, new)


# The verdict


def pod(
    version: int,
    told: Mapping[int, Signature | None] | None,
    *,
    is_ready: bool = True,
    state: str = "Available",
    name: str = "digits-1",
) -> Pod:
    """told: None: its agent is too old to tell signatures."""
    report = AgentReport(
        generation="g",
        listed=(),
        versions=(VersionReport(version, state, "", "", None),),
        trouble=None,
        signatures=told or {},
        abilities=frozenset({SIGNATURES} if told is not None else ()),
    )
    return Pod(name, f"uid-{name}", "workload", is_ready, False, "10.0.0.1", None, None, report)


STABLE = [pod(2, {2: OLD})]
OTHER = signature(tensor("x", "INT64"))


def verdict(canary: Sequence[Pod], stable: Sequence[Pod] = STABLE, **changes: Any) -> tuple[GateState, str, str]:
    found = judge_gates(deployment(STEPS | changes).spec, 2, stable, 3, canary)
    return found.state, found.reason, found.message


def test_the_same_signature_passes() -> None:
    assert judge_gates(deployment(STEPS).spec, 2, STABLE, 3, [pod(3, {3: OLD})]) == OPEN


def test_another_signature_stops_and_says_what_differs_and_what_to_do() -> None:
    assert verdict([pod(3, {3: None}), pod(3, {3: OTHER})]) == (
        GateState.FAILED,
        "SignatureChanged",
        "clients of what serves now can't use version 3 beside version 2: input x is INT64, was FP32. Serve it as "
        "another ModelDeployment, or set spec.rollout.gates.signature: Ignore to let it through",
    )


def test_another_signature_of_the_same_version_is_said_so() -> None:
    found = judge_gates(deployment(STEPS).spec, 3, [pod(3, {3: OLD})], 3, [pod(3, {3: OTHER})])
    assert "can't use version 3 as the new revision serves it: input x" in found.message


def test_of_many_differences_the_first_are_said() -> None:
    many = signature(*(tensor(f"x{number}" + "y" * 200) for number in range(30)))
    state, _, message = verdict([pod(3, {3: OLD})], [pod(2, {2: many})])
    assert state is GateState.FAILED
    assert "; and 23 more. Serve it" in message
    assert len(message) < 1500


def test_what_a_person_lets_through_passes() -> None:
    ignoring: Any = {"rollout": STEPS["rollout"] | {"gates": {"signature": "Ignore"}}}
    assert verdict([pod(3, {3: OTHER})], **ignoring)[0] is GateState.PASSED


def test_without_steps_signatures_are_compared_only_when_the_spec_says_so() -> None:
    canary = [pod(3, {3: OTHER})]
    assert verdict(canary, rollout={})[0] is GateState.PASSED
    assert verdict(canary, rollout={"strategy": "Canary"})[0] is GateState.FAILED
    assert verdict(canary, rollout={"gates": {"signature": "Compatible"}})[0] is GateState.FAILED


def test_a_first_version_has_nothing_to_be_compared_with() -> None:
    canary = [pod(3, {3: OTHER})]
    assert judge_gates(deployment(STEPS).spec, None, [], 3, canary) == OPEN
    assert judge_gates(deployment(STEPS).spec, 2, [], 3, canary) == OPEN


def test_a_signature_that_is_about_to_be_told_is_waited_for() -> None:
    assert verdict([pod(3, {})]) == (GateState.WAITING, "", "the signature of version 3 is being read")
    assert verdict([pod(3, {3: OLD})], [pod(2, {})])[0] is GateState.WAITING


def test_a_pod_whose_agent_doesnt_answer_is_waited_for_where_the_others_do() -> None:
    silent = replace(pod(3, {}), report=None)
    assert verdict([silent]) == (GateState.WAITING, "", "the agent of pod digits-1 hasn't answered yet")
    assert verdict([silent], [replace(STABLE[0], report=None)])[0] is GateState.PASSED


@pytest.mark.parametrize(
    ("stable", "canary", "version"),
    [
        (STABLE, [pod(3, None)], 3),
        (STABLE, [pod(3, {3: None})], 3),
        ([pod(2, None)], [pod(3, {})], 2),
        ([pod(2, {2: None})], [pod(3, {3: OLD})], 2),
        ([pod(2, {}, state="Unloading")], [pod(3, {3: OLD})], 2),
    ],
)
def test_what_nobody_tells_is_not_waited_for(stable: Sequence[Pod], canary: Sequence[Pod], version: int) -> None:
    state, reason, message = verdict(canary, stable)
    assert (state, reason) == (GateState.PASSED, "")
    assert message == f"signatures aren't compared: the server doesn't tell version {version}'s"


def test_pods_that_arent_ready_yet_hold_nothing_up_here() -> None:
    assert verdict([pod(3, {}, is_ready=False)])[0] is GateState.PASSED
    assert verdict([])[0] is GateState.PASSED
    assert verdict([pod(3, {3: OTHER}, is_ready=False)])[0] is GateState.FAILED


def held(canary: Sequence[Pod], stable: Sequence[Pod] = STABLE) -> tuple[GateState, str]:
    """The pods of the new version are out of the Service meanwhile."""
    spec = deployment({"rollout": {"gates": {"signature": "Compatible"}}}).spec
    found = judge_gates(spec, 2, stable, 3, canary, is_held=True)
    return found.state, found.message


def test_held_pods_are_judged_though_they_arent_ready() -> None:
    assert held([pod(3, {3: OLD}, is_ready=False)]) == (GateState.PASSED, "")
    assert held([pod(3, {3: OTHER}, is_ready=False)])[0] is GateState.FAILED


@pytest.mark.parametrize(
    ("canary", "stable", "message"),
    [
        ([], STABLE, "version 3 isn't loaded in any pod yet"),
        ([replace(pod(3, {}), report=None)], STABLE, "version 3 isn't loaded in any pod yet"),
        ([pod(3, {}, state="Loading")], STABLE, "version 3 isn't loaded in any pod yet"),
        ([pod(3, {}, is_ready=False)], STABLE, "the signature of version 3 is being read"),
        ([pod(3, {3: OLD})], [pod(2, {})], "the signature of version 2 is being read"),
        ([pod(3, {3: OLD})], [replace(pod(2, {}), report=None)], "the agent of pod digits-1 hasn't answered yet"),
    ],
)
def test_held_pods_wait_for_what_is_still_to_be_told(
    canary: Sequence[Pod], stable: Sequence[Pod], message: str
) -> None:
    assert held(canary, stable) == (GateState.WAITING, message)


@pytest.mark.parametrize(
    ("canary", "stable", "version"),
    [
        ([pod(3, None, is_ready=False)], STABLE, 3),
        ([pod(3, {3: None}, is_ready=False)], STABLE, 3),
        ([pod(3, {3: OLD}, is_ready=False)], [pod(2, None)], 2),
        ([pod(3, {3: OLD}, is_ready=False)], [pod(2, {}, state="Failed", is_ready=False)], 2),
    ],
)
def test_held_pods_dont_wait_for_what_nobody_tells(canary: Sequence[Pod], stable: Sequence[Pod], version: int) -> None:
    said = f"signatures aren't compared: the server doesn't tell version {version}'s"
    assert held(canary, stable) == (GateState.PASSED, said)


def test_torchserve_refuses_the_comparison_it_cant_make() -> None:
    def refusals(**gates: Any) -> tuple[str, ...]:
        spec = deployment({"runtime": {"name": "TorchServe"}, "rollout": {"gates": gates} | STEPS["rollout"]}).spec
        assert judge_gates(spec, 2, STABLE, 3, [pod(3, {3: OTHER})]).state is (
            GateState.FAILED if gates.get("signature") == "Compatible" else GateState.PASSED
        )
        return RUNTIMES["TorchServe"].refusals(spec)

    (said,) = refusals(signature="Compatible")
    assert said.startswith("spec.rollout.gates.signature: TorchServe doesn't tell")
    assert refusals(signature="Ignore") == refusals() == ()
    custom = {"runtime": {"name": "Custom", "image": "a"}, "rollout": {"gates": {"signature": "Compatible"}}}
    assert RUNTIMES["Custom"].refusals(deployment(custom).spec) == ()


# What agents say


def test_signatures_and_golden_requests_are_read_from_a_report() -> None:
    told = {
        "inputs": [
            {"name": "x", "datatype": "FP32", "shape": [-1, 4]},
            {"name": "z", "datatype": "BYTES", "shape": None, "optional": True},
        ],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 4]}],
    }
    report = read_report(
        {
            "generation": "g",
            "versions": [],
            "signatures": {"3": told, "2": None, "1": {"inputs": "what"}},
            "golden": {"version": 3, "state": "Passed", "message": "3 of 3 answered as expected, slowest 2.1 ms"},
        }
    )
    assert report is not None
    assert SIGNATURES in report.abilities
    assert report.signatures == {3: signature(X, tensor("z", "BYTES", None, optional=True)), 2: None, 1: None}
    assert report.golden == GoldenReport(3, "Passed", "3 of 3 answered as expected, slowest 2.1 ms")


@pytest.mark.parametrize("said", [{}, {"signatures": None, "golden": None}, {"golden": {"state": 1}}])
def test_an_older_agent_tells_neither(said: dict[str, Any]) -> None:
    report = read_report({"generation": "g", "versions": []} | said)
    assert report is not None
    assert (report.signatures, report.abilities, report.golden) == ({}, frozenset(), None)


def test_failed_golden_requests_speak_of_the_versions_bytes() -> None:
    assert {"GoldenFailed", "GoldenUnreadable"} <= REFUSALS


# What agents are asked to ask


def golden_of(**golden: Any) -> Golden:
    found = deployment({"rollout": {"gates": {"golden": golden}}}).spec.rollout.gates
    assert found is not None
    assert found.golden is not None
    return found.golden


ASKED = {"request": {"x": [1]}, "response": [0.1, {"label": None}], "maxLatencyMilliseconds": 50}


@pytest.mark.parametrize(
    ("golden", "data", "read"),
    [
        (golden_of(requests=[ASKED, {"name": "n", "request": {}, "response": 7}]), None, 2),
        (golden_of(file="tests/golden.json", tolerance={"absolute": 0, "relative": 0.5}), None, 0),
        (golden_of(configMap={"name": "c"}), {"golden.json": json.dumps([ASKED] * 64)}, 64),
    ],
)
def test_agents_read_the_golden_requests_that_the_operator_writes(
    golden: Golden, data: Mapping[str, str] | None, read: int
) -> None:
    config = {
        "schema": 1,
        "generation": "g",
        "runtime": "Triton",
        "model": "digits",
        "source": {"uri": "pvc://models/digits", "path": "/source"},
        "served": 3,
        "load": [3],
        "golden": golden_orders(golden, data),
    }
    told = parse_config(json.dumps(config), KINDS).golden
    assert told is not None
    assert (len(told.requests), told.file) == (read, golden.file)
    tolerance = golden.tolerance
    assert (told.tolerance.absolute, told.tolerance.relative) == (tolerance.absolute, tolerance.relative)
    if told.requests:
        first = told.requests[0]
        assert first == GoldenRequest(None, ASKED["request"], ASKED["response"], 50)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (None, "ConfigMap c does not exist"),
        ({"other": "[]"}, "has no key golden.json; it has other"),
        ({"golden.json": "{"}, "Invalid JSON"),
        ({"golden.json": "[]"}, "at least 1 item"),
        ({"golden.json": json.dumps([ASKED] * 65)}, "at most 64 items"),
        ({"golden.json": '[{"request": {}}]'}, "0.response: Field required"),
    ],
)
def test_a_config_map_that_agents_couldnt_use_is_refused_by_the_operator(
    data: Mapping[str, str] | None, words: str
) -> None:
    with pytest.raises(SpecError) as refused:
        golden_orders(golden_of(configMap={"name": "c"}), data)
    assert refused.value.reason == "GoldenUnreadable"
    assert words in refused.value.message
