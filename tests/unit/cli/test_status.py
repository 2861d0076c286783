"""`status`: the pictures, letter by letter, and what scripts read.

Written anew by: pytest tests/unit/cli --update-golden
"""

from __future__ import annotations

import ast
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from slipway.cli.view import FINAL_REASONS, GATE_REASONS
from slipway.gates import SIGNATURE_CHANGED
from slipway_agent.model.errors import Reason
from tests.unit.cli import worlds
from tests.unit.cli.worlds import CANARY, STABLE, Cli, Time, condition, model

GOLDEN = Path(__file__).parent / "golden"
OPERATOR = Path(__file__).resolve().parents[3] / "operator" / "slipway"
Json = dict[str, Any]


def first() -> Json:
    """Nothing serves yet."""
    body = model(status={"phase": "Deploying", "stable": None, "readyReplicas": 0, "replicas": 1, "ready": "0/2"})
    body["status"]["canary"] = {"revision": STABLE, "version": 2, "readyReplicas": 0, "strategy": "RollingUpdate"}
    told = "pod digits-2e1b4ccfb4-x2lq7 finds no node: nvidia.com/gpu is missing on 3 of 3 nodes. Free some, add a node"
    body["status"]["conditions"] = [
        condition("Ready", "False", "Unschedulable", told),
        condition("Promoted", "False", "InProgress", "the first revision starts"),
        condition("Degraded", "True", "Unschedulable", told),
    ]
    return body


def preparing() -> Json:
    """The canary's pods become ready, and its gates wait."""
    body = worlds.in_canary()
    body["status"]["canary"] |= {"weightPercent": 0, "weightInForce": 0, "readyReplicas": 0}
    body["status"]["stable"] |= {"weightPercent": 100, "weightInForce": 100}
    body["status"]["step"] = {"index": 0, "count": 4, "waitsFor": "1 ready canary pods, 0 are"}
    body["status"]["nextLook"] = worlds.ago(minutes=-7)
    body["status"]["verdict"] = None
    body["status"]["transitions"] = body["status"]["transitions"][:1]
    return body


def lagging() -> Json:
    """The routers do not split as wanted yet."""
    body = worlds.in_canary()
    body["status"]["canary"]["weightInForce"] = 5
    body["status"]["stable"]["weightInForce"] = 95
    body["status"]["step"] = {"index": 2, "count": 4, "waitsFor": "weight 25 to be in force"}
    return body


def pinned() -> Json:
    """A person went back to version 1."""
    body = model(status={"pinned": {"revision": worlds.OLD, "insteadOf": STABLE}})
    body["status"]["stable"] |= {"revision": worlds.OLD, "version": 1}
    body["status"]["lastCommand"] = {
        "id": "x",
        "verb": "rollback",
        "revision": worlds.OLD,
        "at": worlds.ago(minutes=2),
        "accepted": True,
        "message": f"revision {worlds.OLD} serves instead of {STABLE}, until the spec names another",
    }
    return body


def refused() -> Json:
    """A person asked for what can't be; what happened last has more to say than a line holds."""
    body = worlds.in_canary()
    body["status"]["lastCommand"] = {
        "id": "x",
        "verb": "skip",
        "revision": CANARY,
        "at": worlds.ago(minutes=2),
        "accepted": False,
        "message": "the canary is in its last step: there is none to skip to",
    }
    told = f"back to revision {STABLE}: ErrorsRose: canary 7/139 errors, stable 0/1,363; e = 350 and more to be said"
    body["status"]["transitions"].append(
        {"at": worlds.ago(seconds=2), "revision": CANARY, "reason": "RolledBack", "message": told}
    )
    return body


def unseen() -> Json:
    """The operator has not looked at it."""
    body = model()
    del body["status"]
    return body


PICTURES: dict[str, Callable[[], Json]] = {
    "healthy": model,
    "canary": worlds.in_canary,
    "pause": worlds.at_pause,
    "bake": worlds.in_bake,
    "rolled-back": worlds.rolled_back,
    "first": first,
    "preparing": preparing,
    "lagging": lagging,
    "pinned": pinned,
    "refused": refused,
    "unseen": unseen,
}


def agree(request: pytest.FixtureRequest, name: str, text: str) -> None:
    """Compare with the committed picture, or write it."""
    path = GOLDEN / f"{name}.txt"
    if request.config.getoption("--update-golden", default=False):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert path.read_text() == text, "if that is meant: pytest tests/unit/cli --update-golden, and read the difference"


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("name", PICTURES)
def test_status_draws_what_a_person_needs(cli: Cli, request: pytest.FixtureRequest, name: str, columns: int) -> None:
    cli.world.models = [PICTURES[name]()]
    shown = cli("status", "digits", columns=columns)
    assert shown.exit_code == 0, shown.output
    assert max(map(len, shown.stdout.splitlines())) <= columns
    agree(request, f"status-{name}-{columns}", shown.stdout)


def test_a_pipe_gets_long_lines_and_no_colours(cli: Cli) -> None:
    cli.world.models = [worlds.rolled_back()]
    shown = cli("status", "digits", columns=None)
    assert "\x1b" not in shown.stdout
    assert any("golden request 2 of 8" in line and "tolerance" in line for line in shown.stdout.splitlines())
    assert not [line for line in shown.stdout.splitlines() if line != line.rstrip()]


def test_a_narrow_terminal_shows_revisions_whole(cli: Cli) -> None:
    cli.world.models = [worlds.in_canary()]
    shown = cli("status", "digits", columns=50).stdout
    assert max(map(len, shown.splitlines())) <= 50
    assert STABLE in shown
    assert CANARY in shown


@pytest.mark.parametrize("columns", [80, 120])
def test_the_list_tells_what_is_under_way_and_what_is_wrong(
    cli: Cli, request: pytest.FixtureRequest, columns: int
) -> None:
    cli.world.models = [worlds.in_canary(), worlds.rolled_back(), first(), worlds.in_bake()]
    for number, body in enumerate(cli.world.models):
        body["metadata"]["name"] = f"digits-{number}"
    shown = cli("status", columns=columns)
    assert shown.exit_code == 0
    agree(request, f"list-{columns}", shown.stdout)


def test_all_namespaces_are_listed_with_theirs(cli: Cli) -> None:
    cli.world.models = [model("digits", "team-b"), model("digits", "team-a")]
    lines = cli("status", "-A").stdout.splitlines()
    assert [line.split()[:2] for line in lines] == [
        ["NAMESPACE", "NAME"],
        ["team-a", "digits"],
        ["team-b", "digits"],
    ]
    assert len(cli("status", "-n", "team-b").stdout.splitlines()) == 2


def test_an_empty_namespace_is_said(cli: Cli) -> None:
    assert cli("status").stdout == "no ModelDeployment in namespace team-a\n"


def test_the_json_has_every_number_of_the_picture(cli: Cli) -> None:
    cli.world.models = [worlds.in_canary()]
    told = json.loads(cli("status", "digits", "-o", "json").stdout)
    assert [(each["role"], each["weightPercent"], each["weightInForce"]) for each in told["revisions"]] == [
        ("stable", 75, 75),
        ("canary", 25, 25),
    ]
    assert [(step["weightPercent"], step["stage"], step["leftSeconds"]) for step in told["steps"]] == [
        (5, "done", None),
        (25, "current", 18),
        (None, "next", None),
        (100, "next", None),
    ]
    assert told["verdict"]["result"] == "Inconclusive"
    assert told["outcome"] == "running"
    assert told["next"][0] == "kubectl slipway promote digits"
    assert yaml.safe_load(cli("status", "digits", "-o", "yaml").stdout) == told


def test_the_json_keeps_its_fields_whatever_the_state(cli: Cli) -> None:
    documents = []
    for make in PICTURES.values():
        cli.world.models = [make()]
        documents.append(json.loads(cli("status", "digits", "-o", "json").stdout))
    assert len({tuple(sorted(document)) for document in documents}) == 1


def test_gates_that_are_there_by_default_are_shown(cli: Cli) -> None:
    body = worlds.in_canary()
    del body["spec"]["rollout"]["gates"]
    cli.world.models = [body]
    assert json.loads(cli("status", "digits", "-o", "json").stdout)["gates"] == [
        {"name": "signature", "state": "passed"}
    ]
    body["spec"]["runtime"] = {"name": "TorchServe"}
    assert json.loads(cli("status", "digits", "-o", "json").stdout)["gates"] == []


def gates(cli: Cli, body: Json) -> dict[str, str]:
    """Gate → its state, as scripts read it."""
    cli.world.models = [body]
    return {each["name"]: each["state"] for each in json.loads(cli("status", "digits", "-o", "json").stdout)["gates"]}


def rejected_for(reason: str) -> Json:
    body = worlds.rolled_back()
    body["status"]["rejected"][0]["reason"] = reason
    return body


def rejected_before(make: Callable[[], Json]) -> Json:
    """The same revision again, with other bytes: what is held against the old ones is still remembered."""
    body = make()
    body["status"]["rejected"] = worlds.rolled_back()["status"]["rejected"]
    return body


def not_looked_at() -> Json:
    """Another spec has been written, which may be another revision."""
    body = worlds.rolled_back()
    body["metadata"]["generation"] = 4
    return body


def unreadable() -> Json:
    """What is remembered was held against an earlier spec."""
    body = worlds.rolled_back()
    body["status"]["conditions"][1] = condition("Promoted", "False", "InvalidSpec", "spec.replicas: -1")
    return body


def pinned_and_rejected(revision: str) -> Json:
    """A person's rollback, and one of the two revisions was rejected."""
    body = worlds.rolled_back()
    body["status"]["pinned"] = {"revision": worlds.OLD, "insteadOf": CANARY}
    body["status"]["rejected"][0]["revision"] = revision
    return body


def without_gates() -> Json:
    body = worlds.rolled_back()
    body["spec"]["rollout"]["gates"] = {"signature": "Ignore"}
    return body


@pytest.mark.parametrize(
    ("body", "states"),
    [
        pytest.param(model(), {}, id="at rest"),
        pytest.param(preparing(), {"golden": "waiting", "signature": "waiting"}, id="a canary prepares"),
        pytest.param(worlds.in_canary(), {"golden": "passed", "signature": "passed"}, id="a canary has requests"),
        pytest.param(worlds.in_bake(), {}, id="in bake"),
        pytest.param(rejected_for("GoldenFailed"), {"golden": "failed"}, id="rejected for its answers"),
        pytest.param(rejected_for("GoldenUnreadable"), {"golden": "failed"}, id="rejected for its golden file"),
        pytest.param(rejected_for("SignatureChanged"), {"signature": "failed"}, id="rejected for its signature"),
        pytest.param(rejected_for("ErrorsRose"), {}, id="rejected for what no gate asks"),
        pytest.param(without_gates(), {}, id="a gate that the spec has no more"),
        pytest.param(
            rejected_before(preparing), {"golden": "waiting", "signature": "waiting"}, id="tried again, not asked yet"
        ),
        pytest.param(
            rejected_before(worlds.in_canary), {"golden": "passed", "signature": "passed"}, id="tried again, passed"
        ),
        pytest.param(rejected_before(worlds.in_bake), {}, id="tried again, in bake"),
        pytest.param(not_looked_at(), {}, id="a spec that is not looked at yet"),
        pytest.param(unreadable(), {}, id="a spec that can't be read"),
        pytest.param(pinned_and_rejected(CANARY), {"golden": "failed"}, id="a rollback from what was rejected"),
        pytest.param(pinned_and_rejected(worlds.OLD), {}, id="a rollback whose target was rejected"),
    ],
)
def test_gates_are_waited_for_then_passed_or_what_the_revision_was_rejected_for(
    cli: Cli, body: Json, states: dict[str, str]
) -> None:
    assert gates(cli, body) == states


def test_gates_fail_for_reasons_that_there_are() -> None:
    assert set(GATE_REASONS) <= {*Reason, SIGNATURE_CHANGED}


def test_hints_can_be_typed_as_they_stand(cli: Cli) -> None:
    cli.world.models = [worlds.at_pause()]
    shown = cli("status", "digits", "-n", "team-a", "--context", "prod").stdout
    assert "kubectl slipway resume digits -n team-a --context prod" in shown


def test_flags_before_the_command_count_too(cli: Cli) -> None:
    cli.world.models = [model("digits", "team-b")]
    assert cli("-n", "team-b", "--context", "prod", "status", "digits").exit_code == 0
    assert (cli.targets[-1].namespace, cli.targets[-1].context) == ("team-b", "prod")


# --- waiting ---


def finish(cli: Cli, time: Time, after: int, body: Json) -> None:
    """The rollout comes to this after so many looks."""
    looks = 0

    def look() -> None:
        nonlocal looks
        looks += 1
        if looks == after:
            cli.world.models = [body]

    time.each_sleep = look


def test_wait_ends_well_when_promoted(cli: Cli, time_of_test: Time) -> None:
    cli.world.models = [worlds.in_canary()]
    finish(cli, time_of_test, 3, model())
    shown = cli("status", "digits", "--wait")
    assert shown.exit_code == 0, shown.output
    assert shown.stdout.splitlines() == [
        f"digits: {CANARY} (version 3) is taking over, step 2 of 4 at 25 %",
        f"digits: {STABLE} (version 2) serves",
    ]


def test_wait_tells_what_happens_meanwhile_once(cli: Cli, time_of_test: Time) -> None:
    cli.world.models = [worlds.in_canary()]
    after = worlds.at_pause()
    after["status"]["transitions"].append(
        {"at": worlds.ago(), "revision": CANARY, "reason": "Step", "message": "step 3 of 4 begins: weight 25"}
    )
    finish(cli, time_of_test, 2, after)
    shown = cli("status", "digits", "--wait", "--timeout", "6s")
    assert shown.exit_code == 4
    assert [line for line in shown.stdout.splitlines() if "begins" in line] == [
        f"{worlds.ago()} {CANARY} Step: step 3 of 4 begins: weight 25"
    ]
    assert "paused: resume it; it has not ended within 6 s" in shown.stderr


def test_wait_fails_when_taken_back(cli: Cli, time_of_test: Time) -> None:
    cli.world.models = [worlds.in_canary()]
    finish(cli, time_of_test, 2, worlds.rolled_back())
    shown = cli("status", "digits", "--wait")
    assert shown.exit_code == 1
    assert "RolledBack: revision 9c01fe2233 was taken back: golden request 2 of 8" in shown.stderr


MAY_PASS = {"NameConflict", "QuotaExceeded", "Refused", "GoldenUnreadable"}
"""What stands in the way outside the spec: the operator looks again by itself, so that a script goes on waiting."""


def spec_errors() -> set[str]:
    """The reasons of every SpecError that the operator raises; one that is no constant can't be told here."""
    found = set()
    for file in OPERATOR.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "SpecError":
                found.add(ast.literal_eval(node.args[0]))
    return found


def test_every_error_of_a_spec_ends_a_wait_or_may_pass() -> None:
    assert spec_errors() - MAY_PASS == FINAL_REASONS - {"RolledBack"}
    assert spec_errors() >= MAY_PASS


def cannot_be_carried_out(reason: str) -> Json:
    body = model()
    body["status"]["conditions"][1] = condition("Promoted", "False", reason, "spec.x is wrong; write y")
    return body


@pytest.mark.parametrize("reason", sorted(spec_errors() - MAY_PASS))
def test_wait_fails_when_the_spec_cannot_be_carried_out(cli: Cli, time_of_test: Time, reason: str) -> None:
    cli.world.models = [worlds.in_canary()]
    finish(cli, time_of_test, 2, cannot_be_carried_out(reason))
    shown = cli("status", "digits", "--wait")
    assert shown.exit_code == 1
    assert f"{reason}: spec.x is wrong; write y" in shown.stderr


@pytest.mark.parametrize("reason", sorted(MAY_PASS))
def test_wait_goes_on_while_what_stands_in_the_way_may_pass(cli: Cli, time_of_test: Time, reason: str) -> None:
    cli.world.models = [cannot_be_carried_out(reason)]
    assert cli("status", "digits", "--wait", "--timeout", "3s").exit_code == 4


def test_wait_does_not_take_the_last_rollout_for_this_one(cli: Cli) -> None:
    """A spec that was written a moment ago is not promoted because the one before it was."""
    body = model()
    body["metadata"]["generation"] = 4
    cli.world.models = [body]
    shown = cli("status", "digits", "--wait", "--timeout", "3s")
    assert shown.exit_code == 4
    assert "has not acted on the spec yet" in shown.stderr


def test_wait_lasts_through_bake(cli: Cli, time_of_test: Time) -> None:
    cli.world.models = [worlds.in_bake()]
    assert cli("status", "digits", "--wait", "--timeout", "3s").exit_code == 4


def test_wait_prints_the_document_when_it_ends(cli: Cli, time_of_test: Time) -> None:
    cli.world.models = [worlds.in_canary()]
    finish(cli, time_of_test, 2, worlds.rolled_back())
    shown = cli("status", "digits", "--wait", "-o", "json")
    assert shown.exit_code == 1
    assert json.loads(shown.stdout)["outcome"] == "failed"


def test_a_silent_api_server_is_waited_for(cli: Cli, time_of_test: Time) -> None:
    from slipway.cli.endings import CommandError, Exit

    cli.world.models = [model()]
    broken = CommandError(Exit.NO_CLUSTER, "no answer from https://192.0.2.1: it takes too long", may_pass=True)

    def begin() -> None:
        cli.world.failing = broken if time_of_test.passed < 10 else None

    cli.world.models[0]["metadata"]["generation"] = 4
    time_of_test.each_sleep = begin
    shown = cli("status", "digits", "--wait", "--timeout", "20s")
    assert shown.exit_code == 4
    assert time_of_test.passed >= 20
