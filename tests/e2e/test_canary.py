"""Real canaries on Triton under real traffic: good ones promoted, bad ones stopped by what is wrong with them.

The tests share one ModelDeployment (`served`), whose stable version is GOOD whenever a test begins; each adds pods of
its canary only. Clients ask through the Service all the time, and what they lose is counted.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import requests

from tests.e2e import models_spoiled as spoiled
from tests.e2e.ask import UnansweredError
from tests.e2e.generator import Loaded
from tests.e2e.install import Operator, install_operator
from tests.e2e.kube import Kube, Manifest, RefusedError
from tests.e2e.models import Digits
from tests.e2e.rollouts import (
    OWN_WORDS,
    QUICK_ANALYSIS,
    QUICK_STEPS,
    SLOW_STEPS,
    UNJUDGED,
    agreed_sample,
    asked,
    command,
    golden,
    lost,
    nothing_was_lost,
    prediction,
    rejected_of,
    some_trigger,
    status_of,
    then_baking,
    then_quiet,
    then_routed,
    then_status,
    then_weight,
    told,
)
from tests.e2e.stage import SMALL, Served, Stage, config_map_volume, eventually, is_ready, merged
from tests.e2e.test_rollout import needs_service, restarts

pytestmark = [pytest.mark.usefixtures("operator"), needs_service]

GOOD, BETTER, WRONG, FAILING, SLOW, UNLOADABLE, TALKATIVE, STRANGE, ALWAYS_FAILING = range(1, 10)
ROUNDS = 80
"""What every version computes for nothing, some 3 ms: without it, three times as slow would be a millisecond."""
BACK_SECONDS = 30.0
"""A tenth of the bake: on a machine that is busy with other things. How soon: make bench-rollout."""
HALF = {"steps": [{"weight": 50, "holdSeconds": 1}, {"weight": 100}]}
NEVER_PASSES = {"mode": "Enforce", "minRequests": 100_000, "margin": 0.01}
NEW_DEFAULTS = {"progressDeadlineSeconds": 900, "bakeSeconds": 200, "revisionHistoryLimit": 7}
"""Of spec.rollout, as another release may have them."""


@pytest.fixture(scope="module")
def deployed(module_stage: Stage, operator: object, digits: Digits) -> Served:
    """GOOD on one pod, behind routers."""
    good, better = (spoiled.working(digits.files[number], ROUNDS) for number in (1, 2))
    files = {
        GOOD: good,
        BETTER: better,
        WRONG: spoiled.wrong(good),
        FAILING: spoiled.failing(good),
        SLOW: spoiled.working(digits.files[1], 3 * ROUNDS + 60),
        UNLOADABLE: spoiled.NO_MODEL,
        TALKATIVE: spoiled.talkative(good),
        STRANGE: spoiled.another_signature(good),
        ALWAYS_FAILING: spoiled.failing(good, always=True),
    }
    module_stage.given_files("models", {f"digits-{number}": content for number, content in files.items()})
    volume = config_map_volume("models", {f"digits-{n}": f"digits/{n}/model.onnx" for n in files})
    return module_stage.given(
        "digits",
        "volume://models/digits",
        GOOD,
        [volume],
        resources=merged(SMALL, {"limits": {"memory": "512Mi"}}),
        rollout=rollout(digits),
    )


def rollout(digits: Digits, **changes: object) -> Manifest:
    """Quick steps, judged, no bake."""
    return {
        "strategy": None,
        "steps": QUICK_STEPS,
        "analysis": QUICK_ANALYSIS,
        "gates": {"golden": golden(digits)},
        "bakeSeconds": 0,
        "progressDeadlineSeconds": 60,
        "surge": None,
    } | changes


@pytest.fixture
def served(deployed: Served, digits: Digits) -> Served:
    """GOOD serves alone."""
    spec = {"model": {"version": GOOD}, "rollout": rollout(digits), "traffic": None, "replicas": 1}
    if (status_of(deployed).get("stable") or {"version": GOOD})["version"] != GOOD:
        # nobody asks now, so nothing could be judged
        deployed.when({"spec": spec}).when_spec(rollout={"steps": [{"weight": 100}], "analysis": UNJUDGED})
        then_quiet(deployed, GOOD)
    if merged(deployed.manifest, {"spec": spec}) != deployed.manifest:
        deployed.when({"spec": spec})
    deployed.then_ready()
    then_quiet(deployed, GOOD)
    then_routed(deployed)  # a connection that was opened before stays with its pod
    return deployed


def then_taken_back(served: Served, version: int, reason: str, *says: str, seconds: float = 60) -> Manifest:
    """Waits until the spec's revision is rejected and GOOD serves alone; returns what is held against it."""
    served.then("Promoted", "False", "RolledBack", says=says, seconds=seconds)
    status = then_quiet(served, GOOD)
    entry: Manifest = status["rejected"][-1]
    assert entry["reason"] == reason, entry
    for words in says:
        assert words in entry["message"], entry
    assert status["transitions"][-1]["reason"] == "RolledBack", status["transitions"]
    assert served.stored()["spec"]["model"]["version"] == version
    served.then("Ready", "True")
    return entry


def then_nobody_saw(loaded: Loaded, version: int) -> None:
    """Asserts, of a load that is over, that the version answered nobody and nothing was lost."""
    nothing_was_lost(loaded)
    assert loaded.by()[str(version)] == 0, loaded.by()


def poison(served: Served, digits: Digits) -> None:
    """One client sends what a TALKATIVE version dies of, until it has died of it."""
    image = np.array([spoiled.triggering(agreed_sample(digits).image)], np.float32)
    with served.asked() as ask:

        def has_died() -> bool:
            try:
                ask.rest.infer_json({"image": image})
            except (requests.ConnectionError, UnansweredError):
                return True
            return False

        eventually("the canary dies of it", has_died)


def by_version(served: Served) -> dict[int, str]:
    """Served version → revision, of all that is known."""
    known = {}
    for revision in served.children("ControllerRevision"):
        choice = revision["data"].get("choice") or {}
        number = (choice.get("model") or {}).get("version")
        if number is not None:
            known[int(number)] = revision["metadata"]["name"].removeprefix(f"{served.name}-")
    return known


# --- good ones


@pytest.mark.alone  # load of which nothing may be lost
def test_a_better_version_is_promoted_step_by_step_and_no_request_is_lost(served: Served, digits: Digits) -> None:
    before = restarts(served.pods())
    with told(served) as story, asked(served, prediction(digits)) as loaded:
        served.when_spec(model={"version": BETTER}, rollout={"bakeSeconds": 5})
        revision = then_baking(served, BETTER)
        loaded.until("only the better one answers", lambda: loaded.answers(str(BETTER)) > 0)
        # the version before stays warm: back is a matter of weights
        assert before.items() <= restarts(served.pods()).items()
        served.then("Promoted", "True", "Promoted")
        then_quiet(served, BETTER)
        loaded.more(100)
    nothing_was_lost(loaded)
    assert story.weights(revision) == [0, 20, 50, 100]
    assert set(loaded.by()) == {str(GOOD), str(BETTER)}
    last = [record.answers[-1] for record in loaded.records.values()]
    assert last == [str(BETTER)] * len(last)
    reasons = [one["reason"] for one in status_of(served)["transitions"] if one["revision"] == revision]
    assert [one for one in reasons if one != "Step"] == ["Started", "Promoted", "Baked"], reasons


@pytest.mark.alone  # load of which nothing may be lost
def test_back_in_bake_takes_seconds_and_loses_nothing(served: Served, digits: Digits) -> None:
    served.when_spec(
        model={"version": BETTER}, rollout={"bakeSeconds": 300, "steps": [{"weight": 100}], "analysis": UNJUDGED}
    )
    then_baking(served, BETTER)
    with asked(served, prediction(digits)) as loaded:
        begin = time.monotonic()
        served.when_spec(model={"version": GOOD})
        loaded.alone(str(GOOD), seconds=BACK_SECONDS)
        assert time.monotonic() - begin < BACK_SECONDS
        served.then("Promoted", "True")
        then_quiet(served, GOOD)
    nothing_was_lost(loaded)
    assert rejected_of(status_of(served), by_version(served)[BETTER]) is None


# --- bad ones: stopped before any live traffic


@pytest.mark.alone  # load of which nothing may be lost
@pytest.mark.parametrize(
    ("version", "change", "reason", "words"),
    [
        pytest.param(WRONG, {}, "GoldenFailed", "a known digit", id="it answers wrongly"),
        pytest.param(
            STRANGE, {"rollout": {"gates": None}}, "SignatureChanged", "probabilities", id="another signature"
        ),
        pytest.param(UNLOADABLE, {}, "LoadFailed", "not an ONNX model", id="it never becomes ready"),
    ],
)
def test_a_bad_version_is_stopped_before_anybody_sees_it(
    served: Served, digits: Digits, version: int, change: Manifest, reason: str, words: str
) -> None:
    with asked(served, prediction(digits)) as loaded:
        served.when_spec(model={"version": version}, **change)
        then_taken_back(served, version, reason, words)
    then_nobody_saw(loaded, version)


@pytest.mark.alone  # load of which nothing may be lost
def test_pods_that_never_become_ready_are_given_up_at_the_deadline(served: Served, digits: Digits) -> None:
    gate = [{"conditionType": "e2e.slipway.dev/never"}]
    with asked(served, prediction(digits)) as loaded:
        served.when_spec(
            model={"version": BETTER},
            podTemplate={"spec": {"readinessGates": gate}},
            rollout={"progressDeadlineSeconds": 10},
        )
        try:
            then_taken_back(served, BETTER, "ProgressDeadlineExceeded", "within spec.rollout.progressDeadlineSeconds")
        finally:
            served.when_spec(model={"version": GOOD}, podTemplate={"spec": {"readinessGates": None}})
    then_nobody_saw(loaded, BETTER)


def test_a_canary_without_a_gpu_to_spare_is_said_so_by_name_and_number(served: Served, digits: Digits) -> None:
    nodes = len(served.kube.list_("Node"))
    says = ["nvidia.com/gpu", f"{nodes} of {nodes} nodes"]
    served.when_spec(
        model={"version": BETTER},
        resources={"limits": {"nvidia.com/gpu": 1}},
        rollout={"progressDeadlineSeconds": 10, "capacityDeadlineSeconds": 15},
    )
    try:
        served.then("Degraded", "True", "Unschedulable", says=says)
        served.then("Reconciling", "True", "WaitingForCapacity", says=says)
        served.then("Ready", "True")
        # The other deadline was over first, and didn't count.
        served.then("Promoted", "False", "InProgress", says=["capacityDeadlineSeconds"])
        assert not served.stored()["status"].get("rejected")
    finally:
        served.when_spec(
            model={"version": GOOD},
            resources={"limits": {"nvidia.com/gpu": None}},
            rollout={"capacityDeadlineSeconds": None},
        )


# --- bad ones: rolled back by what live traffic shows


@pytest.mark.alone  # load of which nothing may be lost
def test_a_version_that_fails_five_percent_is_rolled_back_by_the_numbers(served: Served, digits: Digits) -> None:
    with told(served) as story, asked(served, some_trigger(digits), rate=60) as loaded:
        served.when_spec(model={"version": FAILING}, rollout=HALF | {"analysis": NEVER_PASSES})
        entry = then_taken_back(served, FAILING, "ErrorsRose", "canary", "stable", "errors")
        loaded.more(100)
    assert lost(loaded, OWN_WORDS) == []
    assert lost(loaded), "the canary never failed"
    assert 100 not in story.weights(entry["revision"])
    failed = story.first(lambda status: (status.get("verdict") or {}).get("result") == "Fail")
    assert failed is not None
    for kind, record in loaded.records.items():
        late = [words for due, words in record.failures if due > failed + 2]
        assert not late, f"{kind}: requests failed more than 2 s after the verdict: {late[:3]}"


@pytest.mark.alone  # compares latencies of some milliseconds
def test_a_version_three_times_slower_is_rolled_back_by_the_numbers(served: Served, digits: Digits) -> None:
    slowly = HALF | {"progressDeadlineSeconds": 180, "analysis": NEVER_PASSES}
    with asked(served, prediction(digits), rate=60) as loaded:
        served.when_spec(model={"version": SLOW}, rollout=slowly)
        # a machine that is busy with other things makes stable slow, too
        then_taken_back(served, SLOW, "SlowerThanStable", "canary", "stable", "ms", seconds=150)
    nothing_was_lost(loaded)
    assert loaded.by()[str(SLOW)] > 0


@pytest.mark.alone  # load of which nothing may be lost
def test_a_version_that_crashes_after_some_traffic_is_rolled_back(served: Served, digits: Digits) -> None:
    with asked(served, prediction(digits), rate=50) as loaded:
        served.when_spec(model={"version": TALKATIVE}, rollout={"steps": SLOW_STEPS})
        then_weight(served, 20)
        loaded.more(50, str(TALKATIVE))
        poison(served, digits)
        died = time.monotonic()
        then_taken_back(served, TALKATIVE, "CanaryCrashed", "OOMKilled")
        loaded.more(50, str(GOOD))
    for kind, record in loaded.records.items():
        late = [words for due, words in record.failures if not died - 2 < due < died + 5]
        assert not late, f"{kind}: {late[:3]}"


@pytest.mark.alone  # load of which nothing may be lost
def test_a_bake_that_fails_is_back_in_seconds(served: Served, digits: Digits) -> None:
    steps = [{"weight": 100}]
    served.when_spec(model={"version": TALKATIVE}, rollout={"steps": steps, "analysis": UNJUDGED, "bakeSeconds": 300})
    then_baking(served, TALKATIVE)
    with asked(served, prediction(digits), rate=50) as loaded:
        poison(served, digits)
        died = time.monotonic()
        served.then("Promoted", "False", "RolledBack", says=["in bake"], seconds=BACK_SECONDS)
        loaded.more(50, str(GOOD), seconds=BACK_SECONDS)
        assert time.monotonic() - died < BACK_SECONDS
    status = then_quiet(served, GOOD)
    assert status["rejected"][-1]["reason"] in ("CanaryCrashed", "NoReadyPods")


# --- a person's word, and a spec that changes in mid-rollout


def test_commands_of_a_person_are_carried_out_once(served: Served, digits: Digits) -> None:
    served.when_spec(model={"version": BETTER}, rollout={"steps": SLOW_STEPS, "analysis": UNJUDGED, "bakeSeconds": 300})
    revision = then_weight(served, 20)

    assert command(served, "pause", revision)["accepted"]
    served.then("Promoted", "False", "Paused")
    assert command(served, "resume", revision)["accepted"]
    served.then("Promoted", "False", "InProgress")
    assert command(served, "skip", revision)["accepted"]
    assert then_weight(served, 50) == revision
    assert not command(served, "abort", "0123456789")["accepted"]
    assert then_weight(served, 50) == revision
    assert command(served, "promote", revision)["accepted"]
    then_baking(served, BETTER)
    assert command(served, "abort", revision)["accepted"]
    then_taken_back(served, BETTER, "Aborted")

    # not by another number of pods, only by a person: and then from the first step
    served.when_spec(replicas=2).then("Ready", "True")
    assert status_of(served).get("canary") is None
    assert command(served, "retry", revision)["accepted"]
    assert then_weight(served, 20) == revision
    assert command(served, "abort", revision)["accepted"]
    then_taken_back(served, BETTER, "Aborted")


@pytest.mark.alone  # load of which nothing may be lost
def test_rollback_to_a_revision_of_the_history_serves_it_until_the_spec_names_another(
    served: Served, digits: Digits
) -> None:
    # The tests before made more revisions than are kept by default, and GOOD is the oldest of them.
    one_step = {"steps": [{"weight": 100}], "analysis": UNJUDGED, "revisionHistoryLimit": 20}
    served.when_spec(model={"version": BETTER}, rollout=one_step)
    then_quiet(served, BETTER)
    good = by_version(served)[GOOD]
    with asked(served, prediction(digits)) as loaded:
        assert command(served, "rollback", good)["accepted"]
        served.then("Promoted", "False", "RolledBack", says=[good])
        then_quiet(served, GOOD)
        assert served.stored()["spec"]["model"]["version"] == BETTER
        loaded.more(20, str(GOOD))
    nothing_was_lost(loaded)
    assert status_of(served)["pinned"]["revision"] == good
    served.when_spec(model={"version": FAILING})
    then_quiet(served, FAILING)
    assert not status_of(served).get("pinned")


@pytest.mark.alone  # load of which nothing may be lost
def test_the_spec_set_back_in_mid_rollout_is_a_rollback_at_once(served: Served, digits: Digits) -> None:
    with asked(served, prediction(digits)) as loaded:
        served.when_spec(model={"version": BETTER}, rollout={"steps": SLOW_STEPS})
        revision = then_weight(served, 20)
        loaded.more(10, str(BETTER))
        served.when_spec(model={"version": GOOD})
        served.then("Promoted", "True", seconds=BACK_SECONDS)
        then_quiet(served, GOOD)
        loaded.more(50)
    nothing_was_lost(loaded)
    assert rejected_of(status_of(served), revision) is None


@pytest.mark.alone  # load of which nothing may be lost
def test_a_new_spec_replaces_the_canary_and_scaling_goes_on_beside_it(served: Served, digits: Digits) -> None:
    with told(served) as story, asked(served, prediction(digits)) as loaded:
        served.when_spec(model={"version": BETTER}, rollout={"steps": SLOW_STEPS})
        first = then_weight(served, 20)
        served.when_spec(replicas=2)
        served.then("Ready", "True")
        then_status(
            served,
            "both revisions have their pods",
            lambda status: True if status["stable"]["readyReplicas"] == 2 else None,
        )
        assert then_weight(served, 20) == first
        served.when_spec(model={"version": FAILING})
        second = then_weight(served, 20)
        assert second != first
        served.when_spec(model={"version": GOOD}, replicas=1)
        then_quiet(served, GOOD)
    nothing_was_lost(loaded)
    # never two canaries with traffic: the first one's weight is gone before the second one's comes
    last_of_first = max(m for m, status in story.seen if (status.get("canary") or {}).get("revision") == first)
    first_of_second = story.first(lambda s: (s.get("canary") or {}).get("revision") == second)
    assert first_of_second is not None
    assert last_of_first < first_of_second


def test_a_new_spec_in_bake_waits_for_its_end(served: Served, digits: Digits) -> None:
    steps = [{"weight": 100}]
    served.when_spec(model={"version": BETTER}, rollout={"steps": steps, "analysis": UNJUDGED, "bakeSeconds": 8})
    better = then_baking(served, BETTER)
    served.when_spec(model={"version": FAILING})
    status = then_status(served, "it is seen", lambda status: status)
    assert status["stable"]["revision"] == better
    assert not status.get("canary")
    then_quiet(served, FAILING)


def test_a_stable_without_a_ready_pod_is_replaced_at_once(stage: Stage, kube: Kube, digits: Digits) -> None:
    (node, *_) = [one["metadata"]["name"] for one in kube.list_("Node")]
    mark = f"e2e.slipway.dev/{stage.namespace}"
    pointer = "/metadata/labels/" + mark.replace("/", "~1")
    kube.patch("Node", node, None, [{"op": "add", "path": pointer, "value": "here"}])
    try:
        stage.given_digits(digits)
        volume = config_map_volume("models", {f"digits-{n}": f"digits/{n}/model.onnx" for n in (1, 2)})
        served = stage.given(
            "digits",
            "volume://models/digits",
            1,
            podTemplate={"spec": {"volumes": [volume], "nodeSelector": {mark: "here"}}},
            rollout={"steps": SLOW_STEPS, "analysis": UNJUDGED},
        ).then_ready()
    finally:
        kube.patch("Node", node, None, [{"op": "remove", "path": pointer}])
    kube.delete("Pod", served.pods()[0]["metadata"]["name"], stage.namespace)
    served.then("Ready", "False")
    served.when_spec(model={"version": 2}, podTemplate={"spec": {"nodeSelector": None}})
    served.then_ready(seconds=60)
    served.then_answers(digits, 2)


LONG = {"steps": [{"weight": 20, "holdSeconds": 3600}, {"pause": {}}, {"weight": 100}], "analysis": UNJUDGED}


def then_goes_on(served: Served, canary: str, stable: str) -> None:
    """Waits until the canary has its step's share again, beside the same stable revision; nothing is rejected."""
    assert then_weight(served, 20) == canary
    status = status_of(served)
    assert (status["stable"]["revision"], status["step"]["index"]) == (stable, 1)
    assert not status.get("rejected")


def test_a_drain_of_stables_only_pod_promotes_nothing_and_the_canary_answers_meanwhile(served: Served) -> None:
    served.when_spec(model={"version": BETTER}, rollout=LONG)
    canary, stable = then_weight(served, 20), status_of(served)["stable"]
    (pod,) = [pod for pod in served.pods() if pod["metadata"]["labels"]["slipway.dev/revision"] == stable["workload"]]
    served.kube.delete("Pod", pod["metadata"]["name"], served.namespace)
    served.then("Degraded", "True", "StableUnavailable")
    then_weight(served, 100)
    then_goes_on(served, canary, stable["revision"])
    served.then("Degraded", "False")


def test_scaled_to_zero_and_back_a_rollout_goes_on_where_it_was(served: Served) -> None:
    served.when_spec(model={"version": BETTER}, rollout=LONG)
    canary, stable = then_weight(served, 20), status_of(served)["stable"]["revision"]
    served.when_spec(replicas=0)
    served.then("Ready", "False", "ScaledToZero")
    served.when_spec(replicas=1)
    then_goes_on(served, canary, stable)


def test_an_edit_that_cannot_be_read_leaves_a_canary_that_can_be_aborted(served: Served) -> None:
    served.when_spec(model={"version": BETTER}, rollout=LONG)
    canary = then_weight(served, 20)
    served.when_spec(rollout={"steps": [{"weight": 20}, {"weight": 10}]})
    served.then("Promoted", "False", "InvalidSpec")
    assert then_weight(served, 20) == canary
    assert command(served, "abort", canary)["accepted"]
    then_status(served, "it is taken back", lambda status: True if not status.get("canary") else None)
    served.when_spec(rollout=LONG)


# --- another release


@contextmanager
def other_defaults(kube: Kube) -> Iterator[None]:
    """The CRD with NEW_DEFAULTS, and an operator with other images by default: none of them exists."""
    name = "modeldeployments.slipway.dev"
    place = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/rollout/properties"
    found = kube.get("CustomResourceDefinition", name)
    assert found is not None
    fields = found["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["rollout"]
    before = {field: fields["properties"][field]["default"] for field in NEW_DEFAULTS}

    def set_to(defaults: dict[str, int]) -> None:
        change = [{"op": "add", "path": f"{place}/{field}/default", "value": n} for field, n in defaults.items()]
        kube.patch("CustomResourceDefinition", name, None, change)

    set_to(NEW_DEFAULTS)
    try:
        install_operator(tags=dict.fromkeys(("agent", "triton", "router"), "of-another-release"))
        yield
    finally:
        set_to(before)
        install_operator()


def processes(served: Served) -> dict[str, int]:
    """Pod, of models and routers, to how often its containers started again."""
    return {
        pod["metadata"]["name"]: sum(
            one["restartCount"]
            for kind in ("initContainerStatuses", "containerStatuses")
            for one in pod["status"].get(kind) or []
        )
        for pod in [*served.pods(), *routers(served)]
    }


@pytest.mark.alone  # replaces the operator
def test_an_upgrade_of_the_operator_starts_no_rollout_and_restarts_no_pod(served: Served, kube: Kube) -> None:
    before, revision = processes(served), status_of(served)["stable"]["revision"]
    templates = {one["metadata"]["name"]: one["spec"]["template"] for one in served.children("Deployment")}
    with other_defaults(kube):
        served.when_spec(rollout={"progressDeadlineSeconds": 61})
        served.then("Promoted", "True")  # of this generation: the new operator has looked
        status = status_of(served)
        assert (status["stable"]["revision"], status.get("canary")) == (revision, None)
        assert processes(served) == before
        assert templates == {one["metadata"]["name"]: one["spec"]["template"] for one in served.children("Deployment")}
    assert processes(served) == before


# --- routers


def routers(served: Served) -> list[Manifest]:
    found = served.kube.list_("Pod", served.namespace, labels=f"slipway.dev/model={served.name}.router")
    return [pod for pod in found if not pod["metadata"].get("deletionTimestamp")]


def lose_a_router(served: Served) -> None:
    """One is deleted and gone, and another has come."""
    victim = routers(served)[0]["metadata"]["name"]
    served.kube.delete("Pod", victim, served.namespace)
    served.kube.wait_gone("Pod", victim, served.namespace, seconds=90)
    then_two_routers(served)


def then_two_routers(served: Served) -> None:
    def are_two(pods: list[Manifest]) -> bool | None:
        there = [pod for pod in pods if not pod["metadata"].get("deletionTimestamp")]
        return True if [is_ready(pod) for pod in there] == [True, True] else None

    labels = f"slipway.dev/model={served.name}.router"
    served.kube.wait_list("Pod", served.namespace, "two routers are ready", are_two, labels=labels)


@pytest.mark.alone  # load of which nothing may be lost
def test_a_router_pod_that_is_deleted_loses_no_request(served: Served, digits: Digits) -> None:
    with asked(served, prediction(digits)) as loaded:
        served.when_spec(model={"version": BETTER}, rollout={"steps": SLOW_STEPS})
        then_weight(served, 20)
        lose_a_router(served)
        loaded.more(100)
    nothing_was_lost(loaded, ended_pods=1)
    share = loaded.by()[str(BETTER)] / loaded.by().total()
    assert 0.05 < share < 0.35, loaded.by()


@pytest.mark.alone  # ends the operator
def test_routers_split_on_while_no_operator_runs(served: Served, digits: Digits, operator: Operator) -> None:
    served.when_spec(model={"version": BETTER}, rollout={"steps": SLOW_STEPS})
    revision = then_weight(served, 20)
    with operator.down(), asked(served, prediction(digits)) as loaded:
        lose_a_router(served)
        loaded.more(200)
    nothing_was_lost(loaded, ended_pods=1)
    share = loaded.by()[str(BETTER)] / loaded.by().total()
    assert 0.1 < share < 0.3, loaded.by()
    assert then_weight(served, 20) == revision


def test_an_eviction_leaves_a_router(served: Served) -> None:
    """As by kubectl drain: the second goes once another has come for the first."""
    first, second = (pod["metadata"]["name"] for pod in routers(served))

    def allows_one(budget: Manifest | None) -> bool | None:
        return True if budget and budget.get("status", {}).get("disruptionsAllowed") == 1 else None

    served.kube.wait("PodDisruptionBudget", f"{served.name}-router", served.namespace, "one may go", allows_one)

    def evict(pod: str) -> None:
        path = f"/api/v1/namespaces/{served.namespace}/pods/{pod}"
        eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod}}
        served.kube.request("POST", f"{path}/eviction", json=eviction)

    evict(first)
    with pytest.raises(RefusedError, match="disruption budget"):
        evict(second)
    then_two_routers(served)


@pytest.mark.alone  # load of which nothing may be lost
def test_switching_the_provider_and_removing_the_steps_lose_no_request(served: Served, digits: Digits) -> None:
    """Router → Replicas → Router → no steps → steps, one after the other, under the same load."""
    with asked(served, prediction(digits)) as loaded:
        served.when_spec(traffic={"provider": "Replicas"})
        then_routed(served, is_routed=False)
        then_no_routers(served)
        served.when_spec(traffic=None)
        then_routed(served)
        served.when_spec(rollout={"steps": None, "analysis": None, "gates": None})
        served.then("Promoted", "True")
        then_no_routers(served)
        served.when_spec(rollout=rollout(digits))
        then_routed(served)
        loaded.more(50)
    # a router on its way out may close a kept connection: two of them went, twice
    nothing_was_lost(loaded, ended_pods=4)
    assert set(loaded.by()) == {str(GOOD)}


def then_no_routers(served: Served) -> None:
    labels = f"slipway.dev/model={served.name}.router"
    served.kube.wait_list(
        "Pod", served.namespace, "no router is left", lambda pods: None if pods else True, labels=labels, seconds=90
    )


@pytest.mark.alone  # load of which nothing may be lost
def test_replicas_split_by_pods_and_say_which_weights_they_cannot_reach(served: Served, digits: Digits) -> None:
    with told(served) as story, asked(served, prediction(digits)) as loaded:
        served.when_spec(
            model={"version": BETTER},
            traffic={"provider": "Replicas"},
            rollout={"steps": [{"weight": 20, "holdSeconds": 2}, {"weight": 100}], "analysis": UNJUDGED},
        )
        revision = then_weight_in_force(served, 50)
        assert "20" in status_of(served)["traffic"]["message"]
        served.then("Promoted", "True")
        then_quiet(served, BETTER)
    nothing_was_lost(loaded, ended_pods=3)
    assert set(story.weights(revision)) <= {0, 50, 100}


@pytest.mark.alone  # load of which nothing may be lost
def test_where_pods_split_the_servers_own_counts_are_judged(served: Served, digits: Digits) -> None:
    judged = HALF | {"analysis": NEVER_PASSES}
    with asked(served, some_trigger(digits), rate=60) as loaded:
        served.when_spec(model={"version": FAILING}, traffic={"provider": "Replicas"}, rollout=judged)
        then_taken_back(served, FAILING, "ErrorsRose", "canary", "stable", "errors")
        loaded.more(50)
    assert lost(loaded, OWN_WORDS) == []
    assert lost(loaded), "the canary never failed"


def then_weight_in_force(served: Served, weight: int) -> str:
    def is_so(status: Manifest) -> str | None:
        canary = status.get("canary") or {}
        return str(canary["revision"]) if canary.get("weightInForce") == weight else None

    return then_status(served, f"weight {weight} is in force", is_so)
