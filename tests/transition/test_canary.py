"""A canary by steps: the world before, passes of the operator, the world after, with clients that lose no request.

Each world has a router of two pods unless said otherwise; what is in force is what these have mounted. Each test ends
with the operator at rest.
"""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest

from slipway.model.names import REVISION_LABEL
from slipway.render.pod_template import Images
from tests.simulation.agents import LOAD_FAILED, SIGNATURE
from tests.transition.api_server import Write
from tests.transition.operators import Operator, live_on, run, until, writes_of
from tests.transition.test_transitions import stable_of
from tests.transition.world import World
from tests.unit.specs import IMAGES, NAME

Json = dict[str, Any]

BAKE_SECONDS = 8
DEADLINE_SECONDS = 20
STEPS: list[Json] = [{"weight": 25, "holdSeconds": 4}, {"weight": 50, "holdSeconds": 4}]
CANARY: Json = {
    "replicas": 2,
    "rollout": {
        "strategy": None,
        "steps": STEPS,
        "analysis": {"mode": "Off"},
        "bakeSeconds": BAKE_SECONDS,
        "progressDeadlineSeconds": DEADLINE_SECONDS,
    },
}
RESULT: Json = {"rollout": {"analysis": {"mode": "Enforce", "minRequests": 50, "margin": 0.1}}}
UNWRITTEN: Json = {"rollout": {"analysis": None}}
GOLDEN: Json = {"rollout": {"gates": {"golden": {"requests": [{"request": {"x": 1}, "response": {"y": 2}}]}}}}
LONG: Json = {"rollout": {"steps": [{"weight": 25, "holdSeconds": 600}]}}
OLD, NEW, NEWER = 1, 2, 3
VERSION_2: Json = {"model": {"version": NEW}}


def serving(*specs: Json, requests_per_second: float = 50) -> tuple[World, Operator]:
    """Version 1 serves through routers, and clients ask."""
    world = copy.deepcopy(_served(json.dumps(specs)))
    world.requests_per_second = requests_per_second
    return world, Operator(world)


@cache
def _served(specs: str) -> World:
    world = World()
    for spec in (CANARY, *json.loads(specs)):
        world.edit(spec)
    run(Operator(world), 15)
    assert world.conditions()["Promoted"] == ("True", "Promoted")
    world.waiting.clear()
    return world


def arriving(*specs: Json, weight: int = 25, **more: Any) -> tuple[World, Operator]:
    """Version 2 is at that weight, in force."""
    world, operator = serving(*specs, **more)
    arrive(operator, weight)
    return world, operator


def arrive(operator: Operator, weight: int = 25) -> None:
    """Version 2 is asked for, and comes to that weight."""
    operator.world.edit(VERSION_2)
    until(operator, lambda: weights(operator.world)[1] == weight)


def baking(*specs: Json) -> tuple[World, Operator, str]:
    """Version 2 has all requests, in bake. Returns its revision too."""
    world, operator = arriving(*specs)
    until(operator, lambda: phase(world) == "Baking")
    return world, operator, stable_of(world)


def replaced(*specs: Json) -> tuple[World, Operator, str]:
    """Version 2 has taken over. Returns the revision of the version before, too."""
    world, operator = serving(*specs)
    first = stable_of(world)
    world.edit(VERSION_2)
    until_ready(operator)
    return world, operator, first


def until_served(operator: Operator, seconds: int = 60) -> None:
    """Live on until the spec's revision is stable and at rest."""
    run(operator, 2)
    until(operator, lambda: operator.world.conditions()["Promoted"] == ("True", "Promoted"), seconds)


def until_ready(operator: Operator, seconds: int = 60) -> None:
    """Live on until the spec's revision serves and no other has pods."""
    world = operator.world

    def is_so() -> bool:
        served = {**status(world).get("stable", {})}.get("version")
        return (phase(world), served) == ("Ready", world.deployment()["spec"]["model"]["version"])

    until(operator, is_so, seconds)
    run(operator, 4)  # pods end


def status(world: World) -> Json:
    found: Json = world.deployment().get("status", {})
    return found


def weights(world: World) -> tuple[int | None, int | None]:
    """In force, of the stable revision and the canary."""
    stable, canary = status(world).get("stable") or {}, status(world).get("canary") or {}
    return stable.get("weightInForce"), canary.get("weightInForce")


def shares_of(world: World, revision: str) -> list[int]:
    """The weights that routers were sent for a revision, each change once."""
    sent = [routed[revision] for routed in world.routed if revision in routed]
    return [share for number, share in enumerate(sent) if number == 0 or share != sent[number - 1]]


def reasons(world: World) -> list[str]:
    return [each["reason"] for each in status(world)["transitions"]]


def pods_of(world: World, workload: str) -> set[str]:
    """The names of a workload's pods."""
    labelled = [pod["metadata"] for pod in world.pods() if pod["metadata"]["labels"].get(REVISION_LABEL) == workload]
    return {metadata["name"] for metadata in labelled}


def canary_of(world: World) -> str:
    found: str = status(world)["canary"]["revision"]
    return found


def phase(world: World) -> str:
    found: str = status(world).get("phase", "")
    return found


def assert_rested(world: World, operator: Operator, version: int, replicas: int = 2) -> None:
    """One version serves, alone, through routers; nothing more is written, and no client lost a request."""
    run(operator, 6)
    assert world.ready_by_version() == {version: replicas}
    assert status(world)["stable"]["version"] == version
    assert weights(world) == (100, None)
    assert "canary" not in status(world)
    assert "previous" not in status(world)
    assert world.named("Deployment") == sorted([f"{NAME}-{stable_of(world)}", f"{NAME}-router"])
    assert world.named("ConfigMap") == world.named("Deployment")
    assert world.lost == 0
    assert writes_of(operator, 30) == []


# ---- a version that is well


def test_a_better_version_is_promoted_by_steps() -> None:
    world, operator = serving()
    first = stable_of(world)
    pods = {pod["metadata"]["name"] for pod in world.pods()}
    world.edit(VERSION_2)
    until(operator, lambda: phase(world) == "Baking")
    assert world.ready_by_version() == {OLD: 2, NEW: 2}
    assert pods <= {pod["metadata"]["name"] for pod in world.pods()}
    promoted = [pod["metadata"]["name"] for pod in world.pods() if pod["metadata"]["name"] not in pods]
    run(operator, BAKE_SECONDS + 5)
    second = stable_of(world)
    assert shares_of(world, second) == [0, 25, 50, 100]
    assert all(sum(routed.values()) == 100 for routed in world.routed)
    assert world.routed[-1] == {second: 100}
    assert world.routed[0] == {first: 100}
    # What serves is what was judged: no pod of it was made a second time.
    assert [pod["metadata"]["name"] for pod in world.pods() if pod not in world.routers()] == promoted
    assert reasons(world) == ["Promoted", "Started", "Step", "Step", "Step", "Promoted", "Baked"]
    assert_rested(world, operator, NEW)


def test_with_analysis_a_version_that_is_well_is_promoted_by_evidence() -> None:
    world, operator = arriving(RESULT)
    until(operator, lambda: status(world).get("verdict", {}).get("result") == "Pass")
    until(operator, lambda: phase(world) == "Baking")
    run(operator, BAKE_SECONDS + 5)
    assert "evidence" not in status(world)
    assert_rested(world, operator, NEW)


def test_without_requests_nothing_that_is_judged_advances() -> None:
    world, operator = arriving(RESULT, requests_per_second=0)
    run(operator, 4 + DEADLINE_SECONDS - 3)
    assert weights(world) == (75, 25)
    assert status(world)["step"]["index"] == 1
    assert status(world)["step"]["waitsFor"].startswith("evidence")


@pytest.mark.parametrize("word", ["RollBack", "Hold"])
def test_the_deadline_does_with_missing_evidence_what_is_asked_of_it(word: str) -> None:
    analysis = {"rollout": {"analysis": {"mode": "Enforce", "minRequests": 50, "onInconclusive": word}}}
    world, operator = arriving(analysis, requests_per_second=0)
    run(operator, 4 + DEADLINE_SECONDS + 5)
    if word == "Hold":
        assert weights(world) == (75, 25)
        assert phase(world) == "RollingOut"
        return
    assert status(world)["rejected"][0]["reason"] == "Inconclusive"
    assert_rested(world, operator, OLD)


@pytest.mark.parametrize("strategy", [{}, {"rollout": {"steps": None, "strategy": "Canary"}}], ids=["steps", "Canary"])
def test_without_an_analysis_block_too_little_traffic_holds_beyond_the_deadline_and_says_what_is_missing(
    strategy: Json,
) -> None:
    world, operator = serving(UNWRITTEN, strategy, requests_per_second=0)
    world.edit(VERSION_2)
    until(operator, lambda: status(world).get("step", {}).get("index") == 1)
    run(operator, 60 + 2 * DEADLINE_SECONDS)
    assert (status(world)["step"]["index"], phase(world)) == (1, "RollingOut")
    promoted = next(each for each in status(world)["conditions"] if each["type"] == "Promoted")
    assert "canary answered none of the 100 requests that a step needs; needs 100 more" in promoted["message"]
    assert "mode Enforce and onInconclusive Hold" in promoted["message"]
    assert "mode Enforce and onInconclusive Hold" in status(world)["step"]["judging"]


@pytest.mark.parametrize("provider", ["Router", "Replicas"])
def test_without_an_analysis_block_a_version_that_is_well_is_promoted_by_evidence(provider: str) -> None:
    world, operator = serving(UNWRITTEN, {"traffic": {"provider": provider}})
    world.edit(VERSION_2)
    until(operator, lambda: status(world).get("verdict", {}).get("reason") == "NotWorse", 60)
    until(operator, lambda: phase(world) == "Baking", 120)
    assert status(world)["rejected"] == []


@pytest.mark.parametrize("provider", ["Router", "Replicas"])
def test_without_an_analysis_block_a_version_that_fails_one_request_of_seven_is_taken_back(provider: str) -> None:
    world, operator = serving(UNWRITTEN, {"traffic": {"provider": provider}})
    world.error_rate = {NEW: 0.14}
    world.edit(VERSION_2)
    until(operator, lambda: phase(world) == "RolledBack", 60)
    assert status(world)["rejected"][0]["reason"] == "ErrorsRose"


def test_with_analysis_off_the_same_version_is_promoted_and_status_says_that_nobody_judges() -> None:
    world, operator = arriving()
    world.error_rate = {NEW: 0.14}
    assert "nobody judges this rollout: spec.rollout.analysis.mode is Off" in status(world)["step"]["judging"]
    assert "verdict" not in status(world)
    until(operator, lambda: phase(world) == "Baking")


def counted_in(world: World) -> Json:
    """What the analysis counted."""
    found: Json = status(world)["evidence"]["counted"]
    return found


def test_what_speaks_against_a_canary_outlasts_an_edit_of_the_steps_and_the_step_counts_anew() -> None:
    world, operator = arriving(LONG, RESULT)
    world.error_rate = {NEW: 0.02}
    run(operator, 20)
    before = counted_in(world)
    assert before["step"][1][0] > 100
    world.edit({"rollout": {"steps": [{"weight": 25, "holdSeconds": 900}]}})
    run(operator, 2)
    after = counted_in(world)
    assert after["step"][1][0] < 50
    assert after["rollout"][1][0] >= before["rollout"][1][0]
    assert after["seconds"][0] >= before["seconds"][0]
    run(operator, 10)
    assert counted_in(world)["step"][1][0] > 50, "it starts anew once, not at each look"


def test_a_weight_that_reaches_one_router_late_is_waited_for() -> None:
    world, operator = serving({"rollout": {"progressDeadlineSeconds": 300}})
    world.is_deaf = True
    world.edit(VERSION_2)
    run(operator, 40)
    second = canary_of(world)
    assert shares_of(world, second) == [0]  # one router doesn't know it yet
    until(operator, lambda: 25 in shares_of(world, second), 90)
    run(operator, 30)
    # Routers that differ are no reason to take a weight back, and nothing advances before they agree.
    assert shares_of(world, second) == [0, 25]
    assert status(world)["step"]["waitsFor"] == "weight 25 to be in force"
    assert world.lost == 0


# ---- a version that is not


def assert_taken_back(world: World, operator: Operator, reason: str, words: str, revision: str = "") -> None:
    """The stable revision serves alone, and status says why."""
    [entry] = status(world)["rejected"]
    assert (entry["revision"], entry["reason"]) == (revision or entry["revision"], reason)
    assert words in entry["message"]
    assert world.conditions()["Promoted"] == ("False", "RolledBack")
    assert world.conditions()["Degraded"][0] == "True"
    assert words in world.message("Promoted")
    assert phase(world) == "RolledBack"
    assert_rested(world, operator, OLD)
    assert_never_again(world, entry["revision"])


def assert_never_again(world: World, revision: str) -> None:
    """Once its weight went back to 0, no configuration gives it any."""
    shares = [routed.get(revision, 0) for routed in world.routed]
    falls = [number for number in range(1, len(shares)) if shares[number] < shares[number - 1]]
    assert len(falls) <= 1
    assert not falls or not any(shares[falls[0] :])


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [({"error_rate": {NEW: 0.5}}, "ErrorsRose"), ({"milliseconds": {NEW: 900.0}}, "SlowerThanStable")],
)
def test_a_version_that_answers_worse_is_rolled_back_with_its_numbers(trouble: Json, reason: str) -> None:
    world, operator = serving(RESULT, {"rollout": {"steps": [{"weight": 25, "holdSeconds": 60}]}})
    happen(world, trouble)
    arrive(operator)
    revision = canary_of(world)
    until(operator, lambda: phase(world) == "RolledBack", 30)
    assert_taken_back(world, operator, reason, "canary", revision)


def happen(world: World, trouble: Json) -> None:
    for name, value in trouble.items():
        setattr(world, name, value)


@pytest.mark.parametrize(
    ("trouble", "reason", "words", "within_seconds"),
    [
        pytest.param({"wrong": {NEW}}, "GoldenFailed", "expected 0.9", (0, 60), id="wrong answers to golden requests"),
        pytest.param(
            {"signatures": {NEW: {"inputs": [], "outputs": []}}},
            "SignatureChanged",
            "input x is gone",
            (0, 60),
            id="another signature",
        ),
        pytest.param(
            {"slow": {NEW}},
            "ProgressDeadlineExceeded",
            "did not become ready",
            (DEADLINE_SECONDS - 2, DEADLINE_SECONDS + 4),
            id="never ready",
        ),
        pytest.param({"broken": {NEW: LOAD_FAILED}}, "LoadFailed", "no ONNX", (0, 6), id="refused by its server"),
    ],
)
def test_a_bad_version_gets_no_request_and_is_taken_back_in_its_time(
    trouble: Json, reason: str, words: str, within_seconds: tuple[int, int]
) -> None:
    world, operator = serving(*([GOLDEN] if "wrong" in trouble else []))
    happen(world, trouble)
    world.edit(VERSION_2)
    earliest, latest = within_seconds
    if earliest:
        run(operator, earliest)
        assert phase(world) == "RollingOut"
    until(operator, lambda: phase(world) == "RolledBack", latest - earliest)
    assert NEW not in world.answered
    revision = status(world)["rejected"][0]["revision"]
    assert all(routed.get(revision, 0) == 0 for routed in world.routed)
    assert_taken_back(world, operator, reason, words)


def test_a_canary_that_finds_no_gpu_waits_and_goes_on_when_there_is_one() -> None:
    world, operator = serving()
    happen(world, {"unschedulable": {NEW}})
    world.edit(VERSION_2)
    run(operator, DEADLINE_SECONDS + 30)
    assert world.conditions()["Reconciling"] == ("True", "WaitingForCapacity")
    assert "nvidia.com/gpu is missing on 1 of 1 nodes" in world.message("Promoted")
    assert status(world).get("rejected", []) == []
    world.unschedulable = set()
    until_ready(operator, 90)
    assert_rested(world, operator, NEW)


@pytest.mark.parametrize(
    ("replicas", "is_taken_back"),
    [
        pytest.param(8, False, id="one of two pods: its node is at fault"),
        pytest.param(4, True, id="its only pod: the version is"),
    ],
)
def test_one_node_that_cannot_load_takes_nothing_back_while_another_pod_serves(
    replicas: int, *, is_taken_back: bool
) -> None:
    world, operator = serving({"replicas": replicas}, LONG)
    before = {pod["metadata"]["name"] for pod in world.pods()}
    world.edit(VERSION_2)
    until(operator, lambda: len(world.pods()) > len(before))
    bad = max(pod["metadata"]["name"] for pod in world.pods() if pod["metadata"]["name"] not in before)
    world.on_bad_nodes = {bad}
    run(operator, DEADLINE_SECONDS - 5)
    assert (phase(world) == "RolledBack") is is_taken_back
    if not is_taken_back:
        assert world.conditions()["Degraded"] == ("True", "NodeCannotLoad")
        assert world.conditions()["Reconciling"] == ("True", "NodeCannotLoad")
        assert f"pod {bad} on node" in world.message("Degraded")
        world.on_bad_nodes = set()  # and somebody mends it
        until(operator, lambda: weights(world)[1] == 25)
        assert world.conditions()["Degraded"] == ("False", "AsExpected")


def test_the_first_version_gets_golden_requests_too() -> None:
    world = World(wrong={OLD}, requests_per_second=50)
    world.edit(CANARY)
    world.edit(GOLDEN)
    operator = Operator(world)
    run(operator, 20)
    assert world.conditions()["Ready"] == ("False", "GoldenFailed")
    assert world.answered == {}
    world.wrong = set()
    run(operator, 20)
    assert world.conditions()["Ready"] == ("True", "MinimumReplicasReady")


def test_where_evidence_is_only_shown_nothing_is_taken_back() -> None:
    world, operator = arriving({"rollout": {"analysis": {"mode": "Observe", "minRequests": 50}}})
    world.error_rate = {NEW: 0.5}
    until(operator, lambda: status(world).get("verdict", {}).get("result") == "Fail")
    until_ready(operator)
    assert_rested(world, operator, NEW)


ELSEWHERE: Json = {"rollout": {"gates": {"golden": {"configMap": {"name": "questions"}}}}}
QUESTIONS = {"golden.json": json.dumps([{"request": {"x": 1}, "response": {"y": 2}}])}


def test_golden_requests_may_stand_in_a_config_map() -> None:
    world, operator = serving(LONG)
    world.put_foreign("ConfigMap", "questions", data=QUESTIONS)
    world.edit(ELSEWHERE)
    world.wrong = {NEW}
    world.edit(VERSION_2)
    until(operator, lambda: phase(world) == "RolledBack")
    assert status(world)["rejected"][0]["reason"] == "GoldenFailed"
    assert shares_of(world, status(world)["rejected"][0]["revision"]) in ([], [0])
    world.lose("ConfigMap", "questions")
    assert_rested(world, operator, OLD)


def test_golden_requests_that_are_not_there_stop_a_new_version_and_nothing_else() -> None:
    world, operator = serving(LONG, {"rollout": {"progressDeadlineSeconds": 300}})
    world.edit({**ELSEWHERE, "model": {"version": NEW}, "replicas": 3})
    run(operator, 20)
    assert world.conditions()["Promoted"] == ("False", "GoldenUnreadable")
    assert "ConfigMap questions does not exist" in world.message("Promoted")
    assert world.ready_by_version() == {OLD: 3}
    world.put_foreign("ConfigMap", "questions", data=QUESTIONS)
    until(operator, lambda: weights(world)[1] == 25)
    assert world.agent_config(canary_of(world))["golden"]["requests"] == json.loads(QUESTIONS["golden.json"])
    assert world.lost == 0


def test_golden_requests_that_never_come_let_the_deadline_decide() -> None:
    world, operator = serving()
    world.edit({**ELSEWHERE, "model": {"version": NEW}})
    until(operator, lambda: phase(world) == "RolledBack", 5 * DEADLINE_SECONDS)
    assert status(world)["rejected"][0]["reason"] == "GoldenUnreadable"
    assert_rested(world, operator, OLD)


def test_golden_requests_that_go_in_mid_rollout_stop_nothing() -> None:
    world, operator = serving({"rollout": {"steps": [{"weight": 50, "holdSeconds": 600}]}})
    world.put_foreign("ConfigMap", "questions", data=QUESTIONS)
    world.edit(ELSEWHERE)
    world.edit(VERSION_2)
    until(operator, lambda: weights(world)[1] == 50)
    world.lose("ConfigMap", "questions")
    world.edit({"replicas": 3})
    run(operator, 10)
    assert world.ready_by_version() == {OLD: 3, NEW: 2}
    assert "golden" in world.agent_config(canary_of(world))
    world.command("promote", canary_of(world))
    until_ready(operator)
    assert_rested(world, operator, NEW, 3)


def test_golden_requests_that_come_in_mid_rollout_and_cannot_be_read_leave_the_split_as_it_is() -> None:
    world, operator = arriving(LONG)
    world.edit(ELSEWHERE)
    run(operator, 10)
    assert weights(world) == (75, 25)
    assert all(sum(routed.values()) == 100 for routed in world.routed)
    assert world.lost == 0


def test_a_person_goes_back_whatever_the_gates_would_say() -> None:
    """The newer version gives more than the older one, and the older one knows nothing of today's questions."""
    world, operator = serving()
    first = stable_of(world)
    more = {"name": "z", "datatype": "FP32", "shape": [-1, 3]}
    world.signatures = {NEW: {**SIGNATURE, "outputs": [*SIGNATURE["outputs"], more]}}
    world.edit(VERSION_2)
    until_ready(operator)
    run(operator, BAKE_SECONDS + 5)
    world.edit(GOLDEN)
    world.wrong = {OLD}
    world.command("rollback", first)
    until(operator, lambda: phase(world) == "RolledBack" and stable_of(world) == first)
    assert status(world).get("rejected", []) == []
    assert_rested(world, operator, OLD)


def test_only_a_version_that_is_not_stable_gets_golden_requests() -> None:
    world, operator = serving(GOLDEN)
    assert "golden" not in world.agent_config(stable_of(world))
    world.edit(VERSION_2)
    run(operator, 2)
    assert "golden" in world.agent_config(canary_of(world))
    until_ready(operator)
    assert_rested(world, operator, NEW)
    assert "golden" not in world.agent_config(stable_of(world))


def test_a_version_whose_server_ends_under_traffic_is_taken_back_at_once() -> None:
    world, operator = arriving()
    revision = canary_of(world)
    world.crash(NEW)
    run(operator, 5)
    assert_taken_back(world, operator, "CanaryCrashed", "segmentation fault", revision)


@pytest.mark.parametrize(
    ("happens", "seconds", "reason", "words"),
    [
        pytest.param(lambda world, _: world.crash(NEW), 2, "CanaryCrashed", "in bake", id="its server ends"),
        pytest.param(
            lambda world, revision: world.command("abort", revision),
            6,
            "Aborted",
            "a person aborted it",
            id="a person aborts it",
        ),
    ],
)
def test_in_bake_the_old_version_comes_back_within_seconds(
    happens: Callable[[World, str], None], seconds: int, reason: str, words: str
) -> None:
    world, operator, revision = baking()
    happens(world, revision)
    run(operator, seconds)
    assert world.routed[-1].get(revision, 0) == 0
    assert status(world)["stable"]["version"] == OLD
    run(operator, 5)
    assert_taken_back(world, operator, reason, words, revision)


@pytest.mark.parametrize(
    "happens",
    [
        pytest.param(lambda world, _: happen(world, {"unschedulable": {NEW}}), id="its pods are drained"),
        pytest.param(lambda world, revision: world.lose("Deployment", f"{NAME}-{revision}"), id="its Deployment goes"),
    ],
)
def test_in_bake_pods_that_go_are_no_failure_and_the_old_version_answers_until_they_are_back(
    happens: Callable[[World, str], None],
) -> None:
    world, operator, revision = baking()
    happens(world, revision)
    run(operator, 10)
    assert status(world)["stable"]["version"] == NEW
    assert status(world).get("rejected", []) == []
    world.lost = 0  # those of the seconds without a ready pod
    run(operator, 5)
    assert world.lost == 0
    world.unschedulable = set()
    until_ready(operator, 90)
    assert_rested(world, operator, NEW)


def test_in_bake_errors_above_the_limit_bring_the_old_version_back() -> None:
    limits = {"rollout": {"analysis": {"maxErrorRate": 0.05}, "bakeSeconds": 60}}
    world, operator, revision = baking(RESULT, limits)
    world.error_rate = {NEW: 0.5}
    until(operator, lambda: status(world)["stable"]["version"] == OLD, 30)
    run(operator, 5)
    assert_taken_back(world, operator, status(world)["rejected"][0]["reason"], "in bake", revision)


# ---- a person


@pytest.mark.parametrize("is_a_step", [True, False])
def test_it_waits_at_a_pause_until_a_person_resumes(*, is_a_step: bool) -> None:
    if is_a_step:
        world, operator = serving({"rollout": {"steps": [{"weight": 25}, {"pause": {}}]}})
        world.edit(VERSION_2)
    else:
        world, operator = arriving()
        world.command("pause", canary_of(world))
    run(operator, 3 * DEADLINE_SECONDS)
    assert world.conditions()["Promoted"] == ("False", "Paused")
    assert phase(world) == "Paused"
    assert weights(world) == (75, 25)
    world.command("resume", canary_of(world), 2)
    until_ready(operator)
    assert status(world)["lastCommand"]["accepted"]
    assert_rested(world, operator, NEW)


def test_a_pause_with_a_duration_ends_by_itself() -> None:
    world, operator = serving({"rollout": {"steps": [{"weight": 25}, {"pause": {"durationSeconds": 10}}]}})
    arrive(operator)
    run(operator, 9)
    assert weights(world) == (75, 25)
    until_ready(operator, 40)
    assert_rested(world, operator, NEW)


def test_promote_goes_to_all_requests_at_once_with_all_pods_ready() -> None:
    world, operator = arriving(LONG)
    revision = canary_of(world)
    world.command("promote", revision)
    until(operator, lambda: phase(world) == "Baking", 12)
    assert stable_of(world) == revision
    until_ready(operator)
    assert_rested(world, operator, NEW)


def test_promote_while_it_prepares_still_waits_for_pods_and_gates() -> None:
    world, operator = serving(LONG)
    world.edit(VERSION_2)
    run(operator, 1)
    revision = canary_of(world)
    world.command("promote", revision)
    until(operator, lambda: phase(world) == "Baking", 20)
    # The weight waited for the pods that it takes: one of two was never given more than half.
    assert shares_of(world, revision)[:2] == [0, 100]
    until_ready(operator)
    assert_rested(world, operator, NEW)


def test_skip_goes_to_the_next_step() -> None:
    world, operator = arriving({"rollout": {"steps": [{"weight": 25, "holdSeconds": 600}, {"weight": 50}]}})
    world.command("skip", canary_of(world))
    until_ready(operator, 40)
    assert_rested(world, operator, NEW)


def test_skip_leaves_a_persons_pause_in_force() -> None:
    steps = [{"weight": 25, "holdSeconds": 600}, {"weight": 50, "holdSeconds": 1}, {"weight": 75, "holdSeconds": 1}]
    world, operator = arriving({"rollout": {"steps": steps}})
    revision = canary_of(world)
    world.command("pause", revision)
    run(operator, 3)
    world.command("skip", revision, 2)
    run(operator, 2 * DEADLINE_SECONDS)
    assert status(world)["lastCommand"]["accepted"]
    assert (phase(world), weights(world), status(world)["step"]["index"]) == ("Paused", (50, 50), 2)
    world.command("resume", revision, 3)
    until_ready(operator, 40)
    assert_rested(world, operator, NEW)


def test_abort_takes_it_back_and_retry_tries_it_again() -> None:
    world, operator = arriving()
    revision = canary_of(world)
    world.command("abort", revision)
    run(operator, 6)
    assert_taken_back(world, operator, "Aborted", "a person aborted it", revision)
    world.edit({"replicas": 3})
    run(operator, 10)
    assert world.ready_by_version() == {OLD: 3}  # a change of replicas never retries it
    world.command("retry", revision, 2)
    until_ready(operator)
    assert_rested(world, operator, NEW, 3)


def test_promote_in_bake_ends_it() -> None:
    world, operator, revision = baking({"rollout": {"bakeSeconds": 600}})
    world.command("promote", revision)
    run(operator, 6)
    assert phase(world) == "Ready"
    assert_rested(world, operator, NEW)


def test_rollback_serves_a_revision_of_the_history_until_the_spec_names_another() -> None:
    world, operator, first = replaced()
    second = stable_of(world)
    world.command("rollback", first)
    until(operator, lambda: phase(world) == "RolledBack", 40)
    assert status(world)["pinned"] == {"revision": first, "insteadOf": second}
    assert world.conditions()["Promoted"] == ("False", "RolledBack")
    assert "a person rolled back" in world.message("Promoted")
    assert_rested(world, operator, OLD)
    world.edit({"replicas": 3})
    run(operator, 15)
    assert world.ready_by_version() == {OLD: 3}
    world.edit({"model": {"version": NEWER}})
    until_ready(operator)
    assert "pinned" not in status(world)
    assert_rested(world, operator, NEWER, 3)


def test_a_rollback_to_a_revision_that_does_not_serve_leaves_what_serves_and_is_not_tried_again() -> None:
    world, operator, first = replaced()
    world.broken = {OLD: LOAD_FAILED}
    world.command("rollback", first)
    run(operator, 15)
    made = len([write for write in world.writes if write.kind == "Deployment" and write.verb == "create"])
    run(operator, 3 * DEADLINE_SECONDS)
    assert len([write for write in world.writes if write.kind == "Deployment" and write.verb == "create"]) == made
    assert phase(world) == "RolledBack"
    assert "LoadFailed" in world.message("Promoted")
    assert_rested(world, operator, NEW)


def test_a_command_is_carried_out_once_and_only_on_the_revision_that_it_names() -> None:
    world, operator = arriving(LONG)
    world.command("abort", stable_of(world))
    run(operator, 3)
    assert weights(world) == (75, 25)
    last = status(world)["lastCommand"]
    assert (last["accepted"], last["verb"]) == (False, "abort")
    world.command("pause", canary_of(world), 2)
    run(operator, 3)
    world.command("resume", canary_of(world), 3)
    run(operator, 3)
    assert phase(world) == "RollingOut"  # the annotation still stands, and pauses nothing again
    reborn = Operator(world)
    run(reborn, 3)
    assert phase(world) == "RollingOut"


def test_a_command_that_stands_is_not_carried_out_again_by_an_operator_that_starts() -> None:
    steps = [{"weight": weight, "holdSeconds": 600} for weight in (25, 50, 75)]
    world, operator = arriving({"rollout": {"steps": steps}})
    world.command("skip", canary_of(world))
    until(operator, lambda: weights(world) == (50, 50))
    last = status(world)["lastCommand"]
    assert (last["verb"], last["accepted"]) == ("skip", True)
    reborn = Operator(world)
    run(reborn, 10)
    assert weights(world) == (50, 50)
    assert status(world)["lastCommand"] == last


def test_a_retry_that_fails_is_not_a_retry_for_ever() -> None:
    world, operator = serving()
    world.broken = {NEW: LOAD_FAILED}
    world.edit(VERSION_2)
    until(operator, lambda: phase(world) == "RolledBack")
    world.command("retry", status(world)["rejected"][0]["revision"])
    run(operator, 2)
    until(operator, lambda: phase(world) == "RolledBack")
    run(operator, 10)
    made = len([write for write in world.writes if write.kind == "Deployment" and write.verb == "create"])
    run(Operator(world), 3 * DEADLINE_SECONDS)
    assert len([write for write in world.writes if write.kind == "Deployment" and write.verb == "create"]) == made
    assert phase(world) == "RolledBack"


BACK: list[tuple[str, list[Json]]] = [
    ("two back", [{"model": {"version": NEW}}, {"model": {"version": NEWER}}]),
    ("to another image", [{"runtime": {"image": "triton:next"}}]),
    ("to another place", [{"model": {"uri": "pvc://models/elsewhere"}}]),
    ("to other limits", [{"resources": {"limits": {"memory": "3Gi"}}}, {"model": {"version": NEW}}]),
]


@pytest.mark.parametrize("strategy", [None, "RollingUpdate", "InPlace"])
@pytest.mark.parametrize(("back", "edits"), BACK, ids=[name for name, _ in BACK])
def test_a_person_goes_back_to_any_revision_of_the_history(back: str, edits: list[Json], strategy: str | None) -> None:
    how = [] if strategy is None else [{"rollout": {"steps": None, "strategy": strategy}}]
    world, operator = serving(*how)
    first, before = stable_of(world), world.agent_config(stable_of(world))
    for edit in edits:
        world.edit(edit)
        until_served(operator)
    assert stable_of(world) != first
    world.command("rollback", first)
    until(operator, lambda: phase(world) == "RolledBack" and stable_of(world) == first, 90)
    run(operator, BAKE_SECONDS + 10)
    assert world.ready_by_version() == {OLD: 2}
    workload = status(world)["stable"].get("workload") or first
    assert world.agent_config(workload)["source"] == before["source"]
    assert world.lost == 0
    assert writes_of(operator, 30) == []


# ---- TensorFlow Serving's labels


TENSORFLOW: Json = {"runtime": {"name": "TensorFlowServing"}}


@pytest.mark.parametrize(("verb", "ends"), [("promote", "Baking"), ("abort", "RolledBack")])
def test_labels_follow_a_canary_by_steps(verb: str, ends: str) -> None:
    world, operator = serving(TENSORFLOW, LONG)
    first = stable_of(world)
    assert world.agent_config(first)["labels"] == {"stable": OLD}
    arrive(operator)
    second = canary_of(world)
    assert world.agent_config(first)["labels"] == {"stable": OLD}
    assert world.agent_config(second)["labels"] == {"stable": NEW, "canary": NEW}
    world.command(verb, second)
    until(operator, lambda: phase(world) == ends)
    if verb == "abort":
        assert world.agent_config(first)["labels"] == {"stable": OLD}
    else:
        run(operator, 1)
        assert world.agent_config(second)["labels"] == {"stable": NEW}


def test_labels_of_a_version_that_arrives_in_place_move_once_it_serves() -> None:
    world, operator = serving(
        {**TENSORFLOW, "rollout": {"steps": None, "strategy": "InPlace"}, "model": {"labels": {"best": OLD}}}
    )
    home = stable_of(world)
    world.slow = {NEW}
    world.edit(VERSION_2)
    run(operator, 5)
    assert world.agent_config(home)["turn"]["labels"] == {"best": OLD, "stable": OLD, "canary": NEW}
    # Whoever asks for it in a pod whose turn hasn't come gets an answer there, too.
    assert world.agent_config(home)["labels"] == {"best": OLD, "stable": OLD, "canary": OLD}
    world.slow = set()
    until(operator, lambda: status(world)["stable"]["version"] == NEW)
    run(operator, 1)
    assert world.agent_config(home)["labels"] == {"best": OLD, "stable": NEW}


# ---- what else may happen on the way


def test_stable_pods_that_are_lost_in_mid_rollout_come_back_and_the_canary_goes_on() -> None:
    world, operator = serving({"replicas": 3}, LONG)
    arrive(operator)
    lost = next(pod for pod in world.pods() if pod["metadata"]["labels"][REVISION_LABEL] == stable_of(world))
    world.end(lost)
    run(operator, 10)
    assert world.ready_by_version() == {OLD: 3, NEW: 1}
    assert weights(world) == (75, 25)
    assert status(world)["step"]["index"] == 1


def test_events_tell_a_promotion_and_a_rollback_in_order() -> None:
    world, operator = serving()
    begun = len(world.events)
    world.edit(VERSION_2)
    until_ready(operator)
    found = [event["reason"] for event in world.events[begun:]]
    assert found == [
        "InProgress",
        "RolloutStarted",
        *3 * ["RolloutStep"],
        "RolloutPromoted",
        "Promoted",
        "RolloutBaked",
    ]
    begun = len(world.events)
    world.broken = {NEWER: LOAD_FAILED}
    world.edit({"model": {"version": NEWER}})
    until(operator, lambda: phase(world) == "RolledBack")
    found = [event["reason"] for event in world.events[begun:]]
    assert found[:2] == ["InProgress", "RolloutStarted"]
    assert "RolledBack" in found


# ---- the spec changes on the way


def test_a_new_spec_in_mid_rollout_replaces_the_canary() -> None:
    world, operator = arriving(LONG)
    second = canary_of(world)
    world.edit({"model": {"version": NEWER}})
    run(operator, 2)
    assert canary_of(world) != second
    until(operator, lambda: weights(world)[1] == 25)
    for routed in world.routed:
        assert len([share for share in routed.values() if share]) <= 2
    assert f"{NAME}-{second}" not in world.named("Deployment")
    world.command("promote", canary_of(world))
    until_ready(operator)
    assert_rested(world, operator, NEWER)
    assert_never_again(world, second)


def test_a_canary_that_comes_back_at_once_waits_until_its_former_pods_end() -> None:
    world, operator = arriving()
    revision, former = canary_of(world), pods_of(world, canary_of(world))
    world.holds_garbage = True  # the pods of a Deployment that was deleted stay as they are
    world.edit({"model": {"version": NEWER}})
    until(operator, lambda: f"{NAME}-{revision}" not in world.named("Deployment"))
    world.edit(VERSION_2)
    run(operator, 5)

    assert f"{NAME}-{revision}" not in world.named("Deployment")
    assert shares_of(world, revision)[-1] == 0
    assert "FormerPodsLeft" in world.message("Promoted")

    world.holds_garbage = False
    until_ready(operator)
    assert former.isdisjoint(pods_of(world, revision))
    assert world.lost == 0


def test_a_new_spec_in_bake_waits_for_its_end() -> None:
    world, operator, second = baking()
    world.edit({"model": {"version": NEWER}})
    run(operator, BAKE_SECONDS - 2)
    assert stable_of(world) == second
    assert "canary" not in status(world)
    assert "the bake of the stable revision" in world.message("Promoted") or phase(world) == "Baking"
    until_ready(operator)
    assert_rested(world, operator, NEWER)


def test_a_bake_that_fails_while_a_new_spec_waits_is_told_as_a_rollback_and_the_new_one_takes_over() -> None:
    world, operator, second = baking({"rollout": {"bakeSeconds": 600}})
    world.edit({"model": {"version": NEWER}})
    run(operator, 2)
    world.crash(NEW)
    until(operator, lambda: status(world)["stable"]["version"] == OLD)
    last = [each for each in status(world)["transitions"] if each["reason"] == "RolledBack"][-1]
    assert last["revision"] == second
    assert "CanaryCrashed: in bake, " in last["message"]
    assert any(event["reason"] == "RolledBack" and event["type"] == "Warning" for event in world.events)
    until(operator, lambda: status(world)["stable"]["version"] == NEWER)


def test_a_found_version_waits_for_the_end_of_the_rollout() -> None:
    world, operator = serving({"model": {"version": None}})
    until(operator, lambda: status(world).get("stable", {}).get("version") == NEWER)
    world.at_source.add(4)
    until(operator, lambda: weights(world)[1] == 25)
    fourth = canary_of(world)
    world.at_source.add(5)
    for _ in range(30):
        run(operator, 1)
        assert status(world).get("canary", {}).get("revision") in (fourth, None)
        if phase(world) == "Baking":
            break
    until(operator, lambda: status(world)["stable"]["version"] == 5)
    run(operator, BAKE_SECONDS + 5)
    assert_rested(world, operator, 5)


def test_set_back_in_mid_rollout_it_is_a_rollback_at_once() -> None:
    world, operator = arriving(LONG)
    revision = stable_of(world)
    assert_set_back(world, operator, {revision: 100})
    assert world.conditions()["Promoted"] == ("True", "Promoted")


def test_set_back_in_bake_it_is_a_rollback_at_once() -> None:
    world, operator, revision = baking({"rollout": {"bakeSeconds": 600}})
    assert_set_back(world, operator, {revision: 0})


def assert_set_back(world: World, operator: Operator, weights: dict[str, int]) -> None:
    """The spec names the old version again: a second later the routers have these weights, and it serves alone."""
    world.edit({"model": {"version": OLD}})
    run(operator, 1)
    assert weights.items() <= world.routed[-1].items()
    run(operator, 4)
    assert_rested(world, operator, OLD)


@pytest.mark.parametrize("replicas", [1, 4])
def test_scaled_in_mid_rollout_the_weight_stays_and_pods_follow(replicas: int) -> None:
    world, operator = arriving(LONG)
    world.edit({"replicas": replicas})
    run(operator, 10)
    assert weights(world) == (75, 25)
    assert world.ready_by_version() == {OLD: replicas, NEW: 1}
    world.command("promote", canary_of(world))
    until_ready(operator)
    assert_rested(world, operator, NEW, replicas)


def test_scaled_to_zero_in_mid_rollout_nothing_serves_and_the_spec_stands() -> None:
    world, operator = arriving(LONG)
    world.requests_per_second = 0
    world.edit({"replicas": 0})
    run(operator, 10)
    assert world.ready_by_version() == {}
    assert phase(world) == "ScaledToZero"
    assert status(world)["stable"]["version"] == OLD
    world.edit({"replicas": 2})
    run(operator, 15)
    assert status(world)["stable"]["version"] == OLD
    assert weights(world) == (75, 25)
    world.command("promote", canary_of(world))
    until_ready(operator)
    assert_rested(world, operator, NEW)


@pytest.mark.parametrize("is_paused", [False, True])
def test_stable_without_a_ready_pod_in_mid_rollout_is_no_promotion(*, is_paused: bool) -> None:
    world, operator = arriving(LONG)
    world.requests_per_second = 0
    if is_paused:
        world.command("pause", canary_of(world))
        run(operator, 2)
    split = weights(world)
    world.unschedulable = {OLD}
    run(operator, 10)
    assert status(world)["stable"]["version"] == OLD
    assert world.conditions()["Degraded"] == ("True", "StableUnavailable")
    assert weights(world) == (0, 100)
    world.unschedulable = set()
    run(operator, 15)
    assert (status(world)["stable"]["version"], weights(world)) == (OLD, split)
    assert world.conditions()["Degraded"] == ("False", "AsExpected")


def test_steps_that_are_taken_out_of_a_paused_rollout_do_not_promote_it() -> None:
    world, operator = arriving({"rollout": {"steps": [{"weight": 25}, {"pause": {}}]}})
    run(operator, 10)
    assert phase(world) == "Paused"
    world.edit({"rollout": None})
    run(operator, 30)
    assert status(world)["stable"]["version"] == OLD
    assert phase(world) == "Paused"
    world.command("resume", canary_of(world))
    until_ready(operator, 90)
    assert world.ready_by_version() == {NEW: 2}
    assert world.lost == 0


def test_stable_without_a_ready_pod_is_replaced_at_once() -> None:
    world, operator = serving(LONG)
    world.unschedulable = {OLD}
    run(operator, 2)
    world.edit(VERSION_2)
    run(operator, 10)
    world.lost = 0
    assert status(world)["stable"]["version"] == NEW
    assert_rested(world, operator, NEW)


@pytest.mark.parametrize("is_deaf", [False, True])
def test_while_one_router_sends_requests_to_pods_that_are_gone_it_is_not_ready(*, is_deaf: bool) -> None:
    world, operator = serving(LONG, {"replicas": 1})
    [pod] = [pod for pod in world.pods() if status(world)["stable"]["revision"] in pod["metadata"]["name"]]
    world.unschedulable = {OLD}
    world.lose("Pod", pod["metadata"]["name"])
    run(operator, 1)
    world.is_deaf = is_deaf
    world.edit(VERSION_2)
    for _ in range(30):
        was_ready, lost = world.conditions()["Ready"][0], world.lost
        run(operator, 1)
        assert (was_ready, world.lost > lost) != ("True", True)
        world.is_deaf = False
    assert world.conditions()["Ready"][0] == "True"


def test_a_canary_pod_that_is_lost_sends_requests_to_stable_until_it_is_back() -> None:
    world, operator = arriving(LONG)
    [pod] = [pod for pod in world.pods() if canary_of(world) in pod["metadata"]["name"]]
    world.lose("Pod", pod["metadata"]["name"])
    run(operator, 1)
    revision = canary_of(world)
    world.lost = 0
    assert world.routed[-1][revision] == 0
    until(operator, lambda: weights(world)[1] == 25, 15)
    assert shares_of(world, revision) == [0, 25, 0, 25]
    assert world.lost == 0


# ---- who splits


def test_routers_that_do_not_answer_change_no_weight() -> None:
    world, operator = arriving(LONG)
    before = len(world.routed)
    run(operator, 2 * DEADLINE_SECONDS)
    world.are_silent = True
    run(operator, DEADLINE_SECONDS)
    world.are_silent = False
    run(operator, 3)
    assert len(world.routed) == before
    assert weights(world) == (75, 25)
    assert phase(world) == "RollingOut"


@pytest.mark.parametrize("provider", ["Router", "Replicas"])
@pytest.mark.parametrize("begins", ["Paused", "Baking"])
def test_whoever_does_not_answer_for_a_moment_leaves_status_as_it_is(begins: str, provider: str) -> None:
    steps = [{"weight": 25}, {"pause": {}}] if begins == "Paused" else [{"weight": 25}]
    world, operator = serving({"rollout": {"steps": steps, "bakeSeconds": 600}, "traffic": {"provider": provider}})
    world.edit(VERSION_2)
    until(operator, lambda: phase(world) == begins and "settled" in status(world))
    run(operator, 5)
    before = status(world)
    world.writes.clear()
    pods = sorted(pod["metadata"]["name"] for pod in world.pods())
    assert len(pods) >= 3
    for quiet in itertools.chain.from_iterable(itertools.combinations(pods, n) for n in range(len(pods) + 1)):
        world.quiet = set(quiet)
        run(Operator(world), 1)  # a new one, which remembers nothing
        assert status(world) == before, quiet
        assert world.writes == []


def test_a_version_that_was_taken_back_while_no_agent_answered_is_tried_again_with_other_bytes() -> None:
    world, operator = arriving(LONG)
    world.are_mute = True
    world.command("abort", canary_of(world))
    run(operator, 3)
    world.are_mute = False
    assert phase(world) == "RolledBack"
    run(operator, 10)
    assert phase(world) == "RolledBack"

    world.changed = {NEW: "second"}
    run(operator, 10)
    assert status(world)["canary"]["version"] == NEW


@pytest.mark.parametrize("seconds", [0, 1, 2, 3])
def test_a_router_that_starts_while_a_version_is_taken_back_finds_its_pods(seconds: int) -> None:
    world, operator = arriving(LONG)
    world.end(world.routers()[0])
    run(operator, seconds)
    world.command("abort", canary_of(world))
    run(operator, 15)
    assert phase(world) == "RolledBack"
    assert_rested(world, operator, OLD)


def test_without_routers_clients_reach_stable_and_the_rollout_goes_on_when_they_are_back() -> None:
    world, operator = arriving(LONG)
    world.lose("Deployment", f"{NAME}-router")
    run(operator, 3)
    world.lost = 0
    run(operator, 10)
    assert world.lost == 0
    assert weights(world) == (75, 25)
    world.command("promote", canary_of(world))
    until_ready(operator)
    assert_rested(world, operator, NEW)


REPLICAS: Json = {"traffic": {"provider": "Replicas"}}


def test_by_replicas_the_ratio_of_pods_splits_and_the_selector_makes_all() -> None:
    world, operator = serving({"replicas": 3}, REPLICAS)
    assert world.named("Deployment") == [f"{NAME}-{stable_of(world)}"]
    world.edit(VERSION_2)
    until(operator, lambda: weights(world) == (75, 25))
    assert world.ready_by_version() == {OLD: 3, NEW: 1}
    until(operator, lambda: weights(world) == (50, 50))
    until_ready(operator)
    assert world.ready_by_version() == {NEW: 3}
    assert weights(world) == (100, None)
    assert world.lost == 0
    assert writes_of(operator, 30) == []


def test_by_replicas_a_version_that_fails_gets_no_new_request_before_its_pods_go() -> None:
    world, operator = arriving({"replicas": 3}, REPLICAS)
    revision = canary_of(world)
    world.command("abort", revision)
    run(operator, 8)
    assert world.ready_by_version() == {OLD: 3}
    assert status(world)["rejected"][0]["revision"] == revision
    assert world.lost == 0


def test_by_replicas_the_servers_own_counts_judge() -> None:
    world, operator = serving({"replicas": 3}, REPLICAS, RESULT, LONG)
    world.error_rate = {NEW: 0.5}
    world.edit(VERSION_2)
    until(operator, lambda: phase(world) == "RolledBack")
    assert status(world)["rejected"][0]["reason"] == "ErrorsRose"
    run(operator, 8)
    assert world.ready_by_version() == {OLD: 3}


@pytest.mark.parametrize("is_on_the_way", [False, True])
def test_the_provider_is_switched_there_and_back_without_a_lost_request(*, is_on_the_way: bool) -> None:
    world, operator = arriving(LONG, {"replicas": 3}) if is_on_the_way else serving({"replicas": 3})
    world.edit(REPLICAS)
    run(operator, 15)
    assert f"{NAME}-router" not in world.named("Deployment")
    assert world.routers() == []
    assert weights(world) == ((75, 25) if is_on_the_way else (100, None))
    world.edit({"traffic": None})
    run(operator, 15)
    assert len(world.routers()) == 2
    assert weights(world) == ((75, 25) if is_on_the_way else (100, None))
    assert status(world)["traffic"]["serviceTarget"] == "Router"
    assert world.lost == 0


def test_steps_are_added_and_removed_without_a_lost_request_or_a_new_pod() -> None:
    world, operator = serving({"rollout": {"steps": None}})
    pods = [pod["metadata"]["name"] for pod in world.pods()]
    assert world.routers() == []
    world.edit(CANARY)
    run(operator, 15)
    assert weights(world) == (100, None)
    assert len(world.routers()) == 2
    world.edit({"rollout": {"steps": None}})
    run(operator, 15)
    assert [pod["metadata"]["name"] for pod in world.pods()] == pods
    assert world.named("Deployment") == [f"{NAME}-{stable_of(world)}"]
    assert world.lost == 0
    assert writes_of(operator, 30) == []


def test_steps_are_removed_in_mid_rollout_and_it_goes_on_pod_by_pod() -> None:
    world, operator = arriving(LONG)
    world.edit({"rollout": {"steps": None}})
    until_ready(operator)
    assert world.ready_by_version() == {NEW: 2}
    assert world.lost == 0
    assert writes_of(operator, 30) == []


def test_steps_are_added_in_mid_rollout_and_no_capacity_is_lost() -> None:
    world, operator = serving({"replicas": 4, "rollout": {"steps": None, "strategy": "RollingUpdate"}})
    world.edit(VERSION_2)
    until(operator, lambda: world.ready_by_version().get(NEW, 0) >= 2)
    world.edit({"rollout": {**CANARY["rollout"], **LONG["rollout"]}})
    for _ in range(20):
        run(operator, 1)
        assert sum(world.ready_by_version().values()) >= 4
    assert weights(world)[1] == 25
    assert world.lost == 0


def test_with_swap_no_more_pods_than_replicas_are_made() -> None:
    world, operator = serving({"replicas": 3, "rollout": {"surge": "Swap"}})
    world.edit(VERSION_2)
    for _ in range(60):
        run(operator, 1)
        models = [pod for pod in world.pods() if pod not in world.routers()]
        assert len(models) <= 3 or phase(world) == "Ready"
    assert_rested(world, operator, NEW, 3)


def test_with_swap_pods_of_the_canary_count_in_the_place_of_those_that_made_room() -> None:
    world, operator = serving({"replicas": 4, "rollout": {"steps": [{"weight": 75}, {"pause": {}}], "surge": "Swap"}})
    world.edit(VERSION_2)
    until(operator, lambda: phase(world) == "Paused")
    assert world.ready_by_version() == {OLD: 1, NEW: 3}
    assert world.conditions()["Ready"] == ("True", "MinimumReplicasReady")
    assert status(world)["ready"] == "4/4"
    assert status(world)["stable"]["readyReplicas"] == 1


# ---- the operator


def test_an_operator_with_other_default_images_writes_nothing_but_what_a_refresh_would_change() -> None:
    world, operator = serving()
    run(operator, 15)
    newer = Images(
        agent="agent:2", servers=dict.fromkeys(IMAGES.servers, "server:2"), pull_policy="Always", router="r:2"
    )
    assert writes_of(Operator(world, newer), 30) == [Write("status", "ModelDeployment", NAME)]
    assert writes_of(Operator(world, newer), 30) == []
    world, operator = arriving({"rollout": {"steps": [{"weight": 25}, {"pause": {}}]}})
    run(operator, 15)
    assert phase(world) == "Paused"
    assert [write for write in writes_of(Operator(world, newer), 30) if write.verb != "status"] == []


def test_a_restarted_operator_goes_on_from_status_alone() -> None:
    world, operator = arriving(RESULT, {"rollout": {"steps": [{"weight": 25, "holdSeconds": 10}]}})
    for _ in range(60):
        operator = Operator(world)
        run(operator, 1)
    until_ready(operator)
    assert_rested(world, operator, NEW)


def test_with_status_lost_the_canary_begins_anew_and_what_serves_is_kept() -> None:
    world, operator = arriving()
    world.lose_status()
    until_ready(operator, 90)
    assert_rested(world, operator, NEW)


SHORT: Json = {"rollout": {"steps": [{"weight": 50}], "bakeSeconds": 2}}
ENDS: dict[str, Callable[[World], None]] = {
    "promoted": lambda world: None,
    "rolled back": lambda world: world.crash(NEW),
}


@pytest.mark.parametrize("name", list(ENDS))
def test_ended_after_any_write_the_next_operator_comes_to_the_same_end(name: str) -> None:
    expected, writes = _live(name, None)
    assert writes > 20
    for number in range(1, writes + 1):
        reached, _ = _live(name, number)
        assert reached == expected, f"ended at write {number}"


def _live(name: str, end_after: int | None) -> tuple[Json, int]:
    """Version 2 arrives, and ends as it does; the operator's process ends after that write."""
    world, operator = serving(SHORT)
    before, has_happened = world.requests, False
    world.end_at = (before + end_after, True) if end_after else None
    world.edit(VERSION_2)
    for _ in range(20):
        operator = live_on(operator, 1)
        if not has_happened and world.answered.get(NEW):
            has_happened = True
            ENDS[name](world)
    revision = next(iter(set(world.routed[-2]) - {stable_of(world)}), "")
    if name == "rolled back":
        assert_never_again(world, revision)
    assert world.lost == 0
    return world.state(), world.requests - before
