"""The key between agent and server: made once for a workload, before its pods, and read nowhere but in its Secret.

The world refuses to let the operator read, list, change or delete a Secret (tests/transition/api_server.py).
"""

from __future__ import annotations

import base64
import copy
import json
import logging
from collections.abc import Callable
from typing import Any

import pytest
from prometheus_client import REGISTRY, generate_latest

from slipway.controller.kube import ClusterError, TransientError
from slipway.model.server_key import KEY_FIELD, KEY_VARIABLE, asked_secret
from slipway.render import pod_template
from tests.simulation.agents import LOAD_FAILED
from tests.transition.api_server import Write
from tests.transition.operators import Operator, begin, live_on, run, until, writes_of
from tests.transition.test_canary import status
from tests.transition.world import World
from tests.unit.specs import NAME

Json = dict[str, Any]

ROLLING: Json = {"replicas": 2, "rollout": {"strategy": "RollingUpdate", "bakeSeconds": 10}}
OTHER: Json = {"runtime": {"env": [{"name": "A", "value": "b"}]}}
"""Another revision, in pods of its own."""
AGED: Json = {"name": KEY_VARIABLE, "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}}
"""What releases before had in its place."""
FORBIDDEN = (
    'secrets is forbidden: User "system:serviceaccount:slipway-system:slipway" cannot create resource "secrets" in API '
    'group "" in the namespace "models"'
)


def secrets_of(world: World) -> dict[str, Json]:
    return {name: live for (kind, name), live in world.objects.items() if kind == "Secret"}


def value_of(secret: Json) -> str:
    value: str = secret["stringData"][KEY_FIELD]
    return value


def asked(world: World) -> dict[str, str | None]:
    """Deployment → the Secret that it asks for."""
    found = {name: live for (kind, name), live in world.objects.items() if kind == "Deployment"}
    return {name: asked_secret(live["spec"]["template"]) for name, live in found.items()}


def only_secret(world: World) -> str:
    (name,) = secrets_of(world)
    return name


def test_each_workload_has_a_random_key_of_its_own_that_goes_when_its_revision_is_forgotten() -> None:
    world, operator = begin({**ROLLING, "rollout": {**ROLLING["rollout"], "revisionHistoryLimit": 1}})
    first = only_secret(world)
    owners = {(owner["kind"], owner["uid"]) for owner in secrets_of(world)[first]["metadata"]["ownerReferences"]}
    (workload,) = world.named("Deployment")
    assert owners == {
        (kind, world.objects[kind, workload]["metadata"]["uid"]) for kind in ("ConfigMap", "ControllerRevision")
    }
    assert secrets_of(world)[first]["immutable"] is True
    world.edit(OTHER)
    until(operator, lambda: len(secrets_of(world)) == 2)
    values = {value_of(secret) for secret in secrets_of(world).values()}
    assert len(values) == 2
    assert {len(bytes.fromhex(value)) for value in values} == {32}
    run(operator, 60)
    world.edit({"runtime": {"env": [{"name": "A", "value": "c"}]}})
    run(operator, 60)
    assert first not in secrets_of(world)
    assert world.named("ControllerRevision") == sorted(name.rpartition("-key-")[0] for name in secrets_of(world))


def test_a_secret_stands_before_any_pod_asks_for_it() -> None:
    world, _ = begin(ROLLING, seconds=0)
    assert set(asked(world).values()) == set(secrets_of(world))
    made = [write.kind for write in world.writes if write.kind in ("Secret", "Deployment")]
    assert made == ["Secret", "Deployment"]


def test_in_place_the_workload_keeps_its_key_and_its_pods() -> None:
    world, operator = begin({"replicas": 2})
    secret, pods = only_secret(world), [pod["metadata"]["uid"] for pod in world.pods()]
    world.edit({"model": {"version": 2}})
    run(operator, 90)
    assert world.ready_by_version() == {2: 2}
    assert only_secret(world) == secret
    assert [pod["metadata"]["uid"] for pod in world.pods()] == pods
    assert writes_of(operator) == []


@pytest.mark.parametrize("after", [True, False])
def test_ended_at_any_write_each_workload_has_one_secret_and_the_next_life_writes_nothing(*, after: bool) -> None:
    served = begin(ROLLING)[0]
    undisturbed = copy.deepcopy(served)
    before = undisturbed.requests
    undisturbed.edit(OTHER)
    run(Operator(undisturbed), 40)
    for number in range(1, undisturbed.requests - before + 1):
        world = copy.deepcopy(served)
        world.end_at = (before + number, after)
        world.edit(OTHER)
        live_on(Operator(world), 60)
        assert set(secrets_of(world)) == set(secrets_of(undisturbed)), f"ended at write {number}"
        assert world.ready_by_version() == {1: 2}
        assert writes_of(Operator(world), 20) == []


def test_operators_that_each_end_at_their_first_write_go_beyond_the_secret() -> None:
    world = World()
    world.edit(ROLLING)
    for _ in range(20):
        world.end_at = (world.requests + 1, True)
        live_on(Operator(world), 1)
    world.end_at = None
    run(Operator(world), 30)
    assert world.ready_by_version() == {1: 2}
    assert [write.kind for write in world.writes].count("Secret") == 1


# ---- where it can be read


def rolled_back(world: World, operator: Operator) -> None:
    world.broken = {2: LOAD_FAILED}
    world.edit({"model": {"version": 2}, **OTHER})
    until(operator, lambda: bool(status(world).get("rejected")), 90)


def lost(world: World, operator: Operator) -> None:
    pods = {pod["metadata"]["name"] for pod in world.pods()}
    lose_and_restart(world)
    until(operator, lambda: not pods & {pod["metadata"]["name"] for pod in world.pods()}, 90)


def refused(world: World, operator: Operator) -> None:
    world.refuse = {("create", "Secret"): lambda name: ClusterError("create", 403, FORBIDDEN)}
    world.edit(OTHER)
    run(operator, 40)
    world.refuse = {}
    run(operator, 40)


@pytest.mark.parametrize("story", [rolled_back, lost, refused])
def test_a_key_is_in_no_other_object_report_event_log_line_or_metric(
    story: Callable[[World, Operator], None], caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    world, operator = begin(ROLLING)
    drawn = {value_of(secret) for secret in secrets_of(world).values()}
    story(world, operator)
    drawn |= {value_of(secret) for secret in secrets_of(world).values()}
    assert len(drawn) >= 2
    told = {
        "objects": [live for (kind, _), live in world.objects.items() if kind != "Secret"],
        "cached": operator.cache.children(("models", NAME)),
        "events": world.events,
        "reports": [world.report_of(pod["metadata"]["name"]) for pod in world.pods()],
        "log": [{**vars(record), "said": record.getMessage()} for record in caplog.records],
        "metrics": generate_latest(REGISTRY).decode(),
        "output": capfd.readouterr(),
    }
    assert told["log"]
    text = json.dumps(told, default=str)
    for value in drawn:
        for form in (value, base64.b64encode(value.encode()).decode(), base64.b64encode(bytes.fromhex(value)).decode()):
            assert form not in text


# ---- revisions of older releases


def test_a_revision_of_an_older_release_keeps_its_pods_and_gets_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as aged:
        aged.setattr(pod_template, "key_from", lambda secret: AGED)
        world = begin({"replicas": 2})[0]
    pods = [pod["metadata"]["uid"] for pod in world.pods()]
    successor = Operator(world)
    assert [each.verb for each in writes_of(successor)] == ["status"], "which says what a refresh would change"
    world.edit({"model": {"version": 2}})
    run(successor, 90)
    assert world.ready_by_version() == {2: 2}, "in place, by the template of the one before"
    assert [pod["metadata"]["uid"] for pod in world.pods()] == pods
    assert secrets_of(world) == {}
    world.edit(OTHER)
    run(successor, 90)
    assert world.ready_by_version() == {2: 2}
    assert set(asked(world).values()) == set(secrets_of(world)), "a new revision in pods of its own has one"


def test_a_server_without_an_api_to_lock_has_no_secret() -> None:
    world, _ = begin({"runtime": {"name": "TensorFlowServing"}})
    assert world.ready_by_version() == {1: 1}
    assert secrets_of(world) == {}
    assert KEY_VARIABLE not in json.dumps(world.state())


# ---- a Secret that is gone


def lose_and_restart(world: World) -> str:
    """Somebody deletes the Secret, and the containers of one pod start anew. Returns the pod's name."""
    world.lose("Secret", only_secret(world))
    name: str = world.pods()[0]["metadata"]["name"]
    world.starting_anew.add(name)
    return name


def test_a_lost_secret_is_no_matter_to_pods_that_run() -> None:
    world, operator = begin(ROLLING)
    world.lose("Secret", only_secret(world))
    assert writes_of(operator) == []
    assert world.ready_by_version() == {1: 2}


def test_where_a_pod_waits_for_a_lost_secret_another_is_made_and_all_pods_get_that() -> None:
    world, operator = begin(ROLLING)
    former = only_secret(world)
    value, pods = value_of(secrets_of(world)[former]), {pod["metadata"]["uid"] for pod in world.pods()}
    lose_and_restart(world)
    until(operator, lambda: not pods & {pod["metadata"]["uid"] for pod in world.pods()}, 90)
    until(operator, lambda: world.ready_by_version() == {1: 2})
    assert set(secrets_of(world)) == set(asked(world).values()) == {f"{former}-2"}
    assert value_of(secrets_of(world)[f"{former}-2"]) != value
    run(operator, 10)
    assert writes_of(operator) == []
    assert writes_of(Operator(world)) == []
    lose_and_restart(world)
    until(operator, lambda: set(secrets_of(world)) == {f"{former}-3"}, 90)


def test_what_a_pod_waits_for_is_said() -> None:
    world, operator = begin({"replicas": 1})
    world.refuse = {("create", "Secret"): lambda name: ClusterError("create", 403, FORBIDDEN)}
    secret = only_secret(world)
    lose_and_restart(world)
    run(operator, 40)
    assert world.conditions()["Ready"] == ("False", "KeyLost")
    assert secret in world.message("Ready")
    assert world.conditions()["Degraded"] == ("True", "SecretRefused")
    assert list(asked(world).values()) == [secret], "no pod is replaced for a Secret that isn't there"


def test_a_secret_that_a_kubelet_has_not_heard_of_yet_is_waited_for() -> None:
    world, operator = begin(ROLLING, seconds=0)
    (name, secret) = next(iter(secrets_of(world).items()))
    del world.objects["Secret", name]
    run(operator, 10)
    world.objects["Secret", name] = secret
    run(operator, 30)
    assert world.ready_by_version() == {1: 2}
    assert set(asked(world).values()) == {name}


def test_made_anew_it_takes_no_secret_of_a_deleted_namesake() -> None:
    world, operator = begin(ROLLING)
    former, value = only_secret(world), value_of(secrets_of(world)[only_secret(world)])
    world.delete_slowly(NAME)
    world.edit(ROLLING)
    run(operator, 10)
    world.holds_garbage = False
    run(operator, 120)
    assert world.ready_by_version() == {1: 2}
    (secret,) = secrets_of(world)
    assert secret != former
    assert set(asked(world).values()) == {secret}
    assert value_of(secrets_of(world)[secret]) != value


def test_what_was_left_behind_keeps_its_key() -> None:
    world, operator = begin(ROLLING)
    before, pods = copy.deepcopy(secrets_of(world)), [pod["metadata"]["uid"] for pod in world.pods()]
    world.orphan()
    world.edit(ROLLING)
    run(operator, 60)
    assert secrets_of(world) == before
    assert [pod["metadata"]["uid"] for pod in world.pods()] == pods
    assert writes_of(operator) == []


def test_a_secret_that_somebody_made_under_the_name_is_left_as_it_is() -> None:
    world = World()
    world.edit(ROLLING)
    reached, _ = begin(ROLLING)
    name = only_secret(reached)
    world.put_foreign("Secret", name, stringData={"theirs": "x"})
    theirs = copy.deepcopy(world.objects["Secret", name])
    operator = Operator(world)
    run(operator, 30)
    assert world.objects["Secret", name] == theirs
    assert "Secret" not in {write.kind for write in world.writes}


def test_a_deployment_whose_secret_somebody_changed_is_put_back() -> None:
    world, operator = begin(ROLLING)
    before, name = asked(world), next(iter(asked(world)))
    live = copy.deepcopy(world.objects["Deployment", name])
    for part in ("initContainers", "containers"):
        for container in live["spec"]["template"]["spec"][part]:
            for variable in container["env"]:
                if variable["name"] == KEY_VARIABLE:
                    variable["valueFrom"]["secretKeyRef"]["name"] = "theirs"
    world._store(live)
    run(operator, 20)
    assert asked(world) == before


# ---- refused


def test_where_secrets_may_not_be_made_what_serves_goes_on_and_the_chart_is_named() -> None:
    world, operator = begin(ROLLING)
    pods = [pod["metadata"]["uid"] for pod in world.pods()]
    world.refuse = {("create", "Secret"): lambda name: ClusterError("create", 403, FORBIDDEN)}
    world.edit(OTHER)
    asked_before = world.requests
    run(operator, 60)
    assert world.requests - asked_before < 15, "it is tried again now and then"
    assert world.ready_by_version() == {1: 2}
    assert [pod["metadata"]["uid"] for pod in world.pods()] == pods
    assert world.conditions()["Ready"] == ("True", "MinimumReplicasReady")
    assert world.conditions()["Degraded"] == ("True", "SecretRefused")
    for words in ("verb create on secrets", "helm upgrade", "those that serve go on"):
        assert words in world.message("Degraded")
    assert [event["reason"] for event in world.events].count("SecretRefused") == 1
    world.refuse = {}
    run(operator, 90)
    assert world.conditions()["Degraded"] == ("False", "AsExpected")
    assert set(asked(world).values()) <= set(secrets_of(world))
    assert not set(pods) & {pod["metadata"]["uid"] for pod in world.pods()}
    assert writes_of(operator) == []


@pytest.mark.parametrize("message", [FORBIDDEN, "exceeded quota: q, requested: secrets=1, used: 5"])
@pytest.mark.parametrize("steps", [[], [{"weight": 50, "holdSeconds": 1}]])
def test_a_revision_is_not_rejected_for_a_secret_that_may_not_be_made(message: str, steps: list[Json]) -> None:
    rollout: Json = {"progressDeadlineSeconds": 20, "bakeSeconds": 10}
    rollout |= {"steps": steps, "analysis": {"mode": "Off"}} if steps else {"strategy": "RollingUpdate"}
    world, operator = begin({"replicas": 2, "rollout": rollout})
    world.refuse = {("create", "Secret"): lambda name: ClusterError("create", 403, message)}
    world.edit(OTHER)
    run(operator, 120)
    assert not status(world).get("rejected")
    assert world.ready_by_version() == {1: 2}
    assert writes_of(operator, 60) == []
    world.refuse = {}
    until(operator, lambda: world.conditions()["Promoted"] == ("True", "Promoted"), 120)
    assert asked(world)[f"{NAME}-{status(world)['stable']['revision']}"] in secrets_of(world)


@pytest.mark.parametrize(
    ("error", "reason", "words"),
    [
        (
            ClusterError("create", 403, "exceeded quota: q, requested: secrets=1, used: 5"),
            "QuotaExceeded",
            "of secrets",
        ),
        (ClusterError("create", 403, 'admission webhook "w" denied it: no labels'), "SecretRefused", "no labels"),
        (TransientError("create", 500, 'failed calling webhook "w"'), "WriteFailed", f"Secret {NAME}-"),
    ],
)
def test_why_a_secret_cannot_be_made_is_said(error: Exception, reason: str, words: str) -> None:
    world = World()
    world.refuse = {("create", "Secret"): lambda name: error}
    begin(ROLLING, world, seconds=60)
    assert world.conditions()["Degraded"] == ("True", reason)
    assert words in world.message("Degraded")
    assert world.named("Deployment") == []


def test_while_the_deployment_is_refused_its_secret_is_made_once() -> None:
    world = World()
    world.refuse = {("create", "Deployment"): lambda name: ClusterError("create", 422, "no such field")}
    begin(ROLLING, world, seconds=60)
    begin({}, world, seconds=60)
    assert [write for write in world.writes if write.kind == "Secret"] == [
        Write("create", "Secret", only_secret(world))
    ]


def test_a_key_that_may_not_be_made_holds_up_neither_a_rollback_nor_the_number_of_pods(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as aged:
        aged.setattr(pod_template, "key_from", lambda secret: AGED)
        world, operator = begin(ROLLING)
        first = status(world)["stable"]["revision"]
        world.edit(OTHER)
        until(operator, lambda: status(world)["stable"]["revision"] != first and "previous" not in status(world), 90)
        until(operator, lambda: len(world.named("Deployment")) == 1)
    world.refuse = {("create", "Secret"): lambda name: ClusterError("create", 403, FORBIDDEN)}
    operator = Operator(world)
    second = status(world)["stable"]["revision"]
    world.command("refresh", second)
    run(operator, 30)
    assert world.conditions()["Degraded"] == ("True", "SecretRefused")
    assert world.conditions()["Reconciling"] == ("True", "Refreshing"), "or the command would tell that it is over"
    assert f"kubectl slipway abort {NAME}" in world.message("Reconciling")
    world.edit({"replicas": 3})
    until(operator, lambda: world.ready_by_version() == {1: 3}, 60)
    assert asked(world) == {f"{NAME}-{second}": None}, "with the pods that it had"
    world.command("rollback", first, 2)
    until(operator, lambda: status(world)["stable"]["revision"] == first, 90)
    run(operator, 60)
    assert world.named("Deployment") == [f"{NAME}-{first}"]
    assert world.conditions()["Degraded"] == ("True", "RolledBack")
    assert world.lost == 0
    assert writes_of(operator) == []


FULL = "exceeded quota: q, requested: count/secrets=1, used: count/secrets=2, limited: count/secrets=2"
"""What a full quota says of a Secret that is there already, too: it is asked before the storage is."""


def test_where_a_quota_is_full_a_deployment_that_somebody_deletes_comes_back_with_its_key() -> None:
    world, operator = begin(ROLLING)
    secrets = copy.deepcopy(secrets_of(world))
    world.refuse = {("create", "Secret"): lambda name: ClusterError("create", 403, FULL)}
    world.lose("Deployment", next(iter(asked(world))))
    until(operator, lambda: world.ready_by_version() == {1: 2}, 60)
    run(operator, 30)
    assert secrets_of(world) == secrets
    assert world.conditions()["Degraded"] == ("False", "AsExpected")
    assert writes_of(operator) == []


def test_where_a_quota_is_full_a_person_gets_back_to_a_revision_that_has_its_key() -> None:
    world, operator = begin(ROLLING)
    first = status(world)["stable"]["revision"]
    world.edit(OTHER)
    until(operator, lambda: status(world)["stable"]["revision"] != first and "previous" not in status(world), 90)
    until(operator, lambda: len(world.named("Deployment")) == 1)
    world.refuse = {("create", "Secret"): lambda name: ClusterError("create", 403, FULL)}
    world.command("rollback", first)
    until(operator, lambda: status(world)["stable"]["revision"] == first, 90)
    run(operator, 60)
    assert asked(world)[f"{NAME}-{first}"] in secrets_of(world)
    assert (world.ready_by_version(), world.lost) == ({1: 2}, 0)
    assert writes_of(operator) == []
