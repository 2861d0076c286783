"""`status`: the pictures, letter by letter, and what scripts read.

Written anew by: pytest tests/unit/cli --update-golden
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from slipway.cli.picture import SIGNS
from slipway.cli.view import GATE_REASONS
from slipway.decide.gates import SIGNATURE_CHANGED
from slipway_agent.model.errors import Reason
from tests.unit.cli import clusters
from tests.unit.cli.clusters import CANARY, STABLE, Cli, condition, model, serving

GOLDEN = Path(__file__).parent / "golden"
Json = dict[str, Any]


def first() -> Json:
    """Nothing serves yet."""
    why = "pod digits-2e1b4ccfb4-x2lq7 finds no node: nvidia.com/gpu is missing on 3 of 3 nodes. Free some, add a node"
    return model(
        status={
            "phase": "Deploying",
            "stable": None,
            "canary": {"revision": STABLE, "version": 2, "readyReplicas": 0, "strategy": "RollingUpdate"},
            "readyReplicas": 0,
            "replicas": 1,
            "ready": "0/2",
            "conditions": [
                condition("Ready", "False", "Unschedulable", why),
                condition("Promoted", "False", "InProgress", "the first revision starts"),
                condition("Degraded", "True", "Unschedulable", why),
            ],
        }
    )


def preparing() -> Json:
    """The canary's pods become ready, and its gates wait."""
    body = clusters.in_canary(
        stable=serving(STABLE, 2, weight=100),
        canary=serving(CANARY, 3, 0, weight=0, strategy="Canary"),
        step={"index": 0, "count": 4, "waitsFor": "1 canary pods to be ready (0 now)"},
        nextLook=clusters.ago(minutes=-7),
        verdict=None,
    )
    body["status"]["transitions"] = body["status"]["transitions"][:1]
    return body


def lagging() -> Json:
    """The routers do not give the desired weight yet."""
    body = clusters.in_canary(step={"index": 2, "count": 4, "waitsFor": "weight 25 to be in force"})
    body["status"]["canary"]["weightInForce"] = 5
    body["status"]["stable"]["weightInForce"] = 95
    return body


def pinned() -> Json:
    """A person went back to version 1."""
    message = f"revision {clusters.OLD} serves instead of {STABLE}, until the spec names another"
    return model(
        status={
            "pinned": {"revision": clusters.OLD, "insteadOf": STABLE},
            "stable": serving(clusters.OLD, 1),
            "lastCommand": clusters.command("rollback", clusters.OLD, accepted=True, message=message, minutes=2),
        }
    )


def refused() -> Json:
    """The operator refused a command; the last transition is longer than a line."""
    message = "the canary is in its last step: there is none to skip to"
    body = clusters.in_canary(lastCommand=clusters.command("skip", CANARY, accepted=False, message=message, minutes=2))
    long = f"back to revision {STABLE}: ErrorsRose: canary 7/139 errors, stable 0/1,363; e = 350 and more to be said"
    body["status"]["transitions"].append(clusters.transition("RolledBack", long, seconds=2))
    return body


def outdated() -> Json:
    """Two pods run an agent from before the operator's floor."""
    why = (
        "the agent is older than 0.2.0 (0.1.0) in 2 of 2 pods: digits-a, digits-b. They serve on; what was mended "
        "since is not in them. To replace them one by one, without losing a request: kubectl slipway refresh digits"
    )
    conditions = [*clusters.healthy(), condition("AgentsOutdated", "True", "AgentsTooOld", why)]
    return model(status={"conditions": conditions})


def refreshing() -> Json:
    """Pods are being replaced, and a new one doesn't come up."""
    broken = "ImagePullFailed: pod digits-c: image 'x:1' of container agent is not found"
    why = (
        f"pods of revision {STABLE} are replaced one by one after a refresh: 2 still to go, which serve until then; "
        f"{broken}. To go back to the pods before: kubectl slipway abort digits"
    )
    conditions = [*clusters.healthy(), condition("Reconciling", "True", "Refreshing", why)]
    conditions[3] = condition("Degraded", "True", "ImagePullFailed", broken.partition(": ")[2])
    return model(status={"conditions": conditions})


def unseen() -> Json:
    """The operator has not looked at it."""
    body = model()
    del body["status"]
    return body


PICTURES: dict[str, Callable[[], Json]] = {
    "healthy": model,
    "canary": clusters.in_canary,
    "pause": clusters.at_pause,
    "bake": clusters.in_bake,
    "bake-in-place": clusters.in_bake_in_place,
    "rolled-back": clusters.rolled_back,
    "first": first,
    "preparing": preparing,
    "lagging": lagging,
    "pinned": pinned,
    "refused": refused,
    "unseen": unseen,
    "outdated": outdated,
    "refreshing": refreshing,
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
    cli.cluster.models = [PICTURES[name]()]
    shown = cli("status", "digits", columns=columns)
    assert shown.exit_code == 0, shown.output
    assert max(map(len, shown.stdout.splitlines())) <= columns
    agree(request, f"status-{name}-{columns}", shown.stdout)


@pytest.mark.parametrize("name", ["canary", "preparing", "rolled-back"])
@pytest.mark.parametrize("locale", ["C", "POSIX"])
def test_in_a_c_locale_signs_are_ascii(cli: Cli, request: pytest.FixtureRequest, name: str, locale: str) -> None:
    cli.cluster.models = [PICTURES[name]()]
    shown = cli("status", "digits", columns=80, locale=locale).stdout
    assert shown.isascii()
    assert max(map(len, shown.splitlines())) <= 80
    agree(request, f"status-{name}-ascii", shown)


@pytest.mark.parametrize(
    ("name", "gates_line"),
    [
        ("canary", "gates     ok golden   ok signature"),
        ("preparing", "gates     -- golden   -- signature"),
        ("rolled-back", "gates     FAILED golden"),
    ],
)
def test_in_ascii_a_gate_that_passed_does_not_look_like_one_that_failed(cli: Cli, name: str, gates_line: str) -> None:
    cli.cluster.models = [PICTURES[name]()]
    assert gates_line in cli("status", "digits", locale="C").stdout.splitlines()


@pytest.mark.parametrize("place", [0, 1], ids=["unicode", "ascii"])
def test_signs_of_one_kind_differ(place: int) -> None:
    for kind in (("on", "taking over", "warm"), ("done", "current", "next"), ("done", "failed", "waiting")):
        assert len({SIGNS[name][place] for name in kind}) == len(kind)
    assert all(signs[1].isascii() for signs in SIGNS.values())


def test_in_ascii_a_long_line_is_cut_with_dots(cli: Cli) -> None:
    cli.cluster.models = [refused()]
    lines = cli("status", "digits", columns=80, locale="C").stdout.splitlines()
    [cut] = [line for line in lines if "RolledBack" in line and "ago" in line]
    assert len(cut) == 80
    assert cut.endswith("...")


def test_a_pipe_gets_long_lines_and_no_colours(cli: Cli) -> None:
    cli.cluster.models = [clusters.rolled_back()]
    shown = cli("status", "digits", columns=None)
    assert "\x1b" not in shown.stdout
    assert any("golden request 2 of 8" in line and "tolerance" in line for line in shown.stdout.splitlines())
    assert not [line for line in shown.stdout.splitlines() if line != line.rstrip()]


def test_that_nobody_judges_is_shown(cli: Cli) -> None:
    words = "nobody judges this rollout: spec.rollout.analysis.mode is Off"
    step = {"index": 2, "count": 4, "waitsFor": "step 3", "judging": words}
    cli.cluster.models = [clusters.in_canary(step=step, verdict=None)]
    assert words in cli("status", "digits", columns=None).stdout


def test_a_narrow_terminal_shows_revisions_whole(cli: Cli) -> None:
    cli.cluster.models = [clusters.in_canary()]
    shown = cli("status", "digits", columns=50).stdout
    assert max(map(len, shown.splitlines())) <= 50
    assert STABLE in shown
    assert CANARY in shown


@pytest.mark.parametrize("columns", [80, 120])
def test_the_list_tells_what_is_under_way_and_what_is_wrong(
    cli: Cli, request: pytest.FixtureRequest, columns: int
) -> None:
    cli.cluster.models = [clusters.in_canary(), clusters.rolled_back(), first(), clusters.in_bake()]
    for number, body in enumerate(cli.cluster.models):
        body["metadata"]["name"] = f"digits-{number}"
    shown = cli("status", columns=columns)
    assert shown.exit_code == 0
    agree(request, f"list-{columns}", shown.stdout)


def test_all_namespaces_are_listed_with_theirs(cli: Cli) -> None:
    cli.cluster.models = [model("digits", "team-b"), model("digits", "team-a")]
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
    cli.cluster.models = [clusters.in_canary()]
    document = json.loads(cli("status", "digits", "-o", "json").stdout)
    assert [(each["role"], each["weightPercent"], each["weightInForce"]) for each in document["revisions"]] == [
        ("stable", 75, 75),
        ("canary", 25, 25),
    ]
    assert [(step["weightPercent"], step["stage"], step["leftSeconds"]) for step in document["steps"]] == [
        (5, "done", None),
        (25, "current", 18),
        (None, "next", None),
        (100, "next", None),
    ]
    assert document["verdict"]["result"] == "Inconclusive"
    assert document["outcome"] == "running"
    assert document["next"][0] == "kubectl slipway promote digits"
    assert yaml.safe_load(cli("status", "digits", "-o", "yaml").stdout) == document


def test_the_json_keeps_its_fields_whatever_the_state(cli: Cli) -> None:
    documents = []
    for make in PICTURES.values():
        cli.cluster.models = [make()]
        documents.append(json.loads(cli("status", "digits", "-o", "json").stdout))
    assert len({tuple(sorted(document)) for document in documents}) == 1


def test_gates_that_are_there_by_default_are_shown(cli: Cli) -> None:
    body = clusters.in_canary()
    del body["spec"]["rollout"]["gates"]
    cli.cluster.models = [body]
    assert json.loads(cli("status", "digits", "-o", "json").stdout)["gates"] == [
        {"name": "signature", "state": "passed"}
    ]
    body["spec"]["runtime"] = {"name": "TorchServe"}
    assert json.loads(cli("status", "digits", "-o", "json").stdout)["gates"] == []


def gates(cli: Cli, body: Json) -> dict[str, str]:
    """Gate → its state, as scripts read it."""
    cli.cluster.models = [body]
    return {each["name"]: each["state"] for each in json.loads(cli("status", "digits", "-o", "json").stdout)["gates"]}


def rejected_for(reason: str) -> Json:
    body = clusters.rolled_back()
    body["status"]["rejected"][0]["reason"] = reason
    return body


def rejected_before(make: Callable[[], Json]) -> Json:
    """The same revision again, with other bytes: what is held against the old ones is still remembered."""
    body = make()
    body["status"]["rejected"] = clusters.rolled_back()["status"]["rejected"]
    return body


def not_looked_at() -> Json:
    """Another spec has been written, which may be another revision."""
    body = clusters.rolled_back()
    body["metadata"]["generation"] = 4
    return body


def unreadable() -> Json:
    """What is remembered was held against an earlier spec."""
    body = clusters.rolled_back()
    body["status"]["conditions"][1] = condition("Promoted", "False", "InvalidSpec", "spec.replicas: -1")
    return body


def pinned_and_rejected(revision: str) -> Json:
    """A person's rollback, and one of the two revisions was rejected."""
    body = clusters.rolled_back()
    body["status"]["pinned"] = {"revision": clusters.OLD, "insteadOf": CANARY}
    body["status"]["rejected"][0]["revision"] = revision
    return body


def without_gates() -> Json:
    body = clusters.rolled_back()
    body["spec"]["rollout"]["gates"] = {"signature": "Ignore"}
    return body


@pytest.mark.parametrize(
    ("body", "states"),
    [
        pytest.param(model(), {}, id="at rest"),
        pytest.param(preparing(), {"golden": "waiting", "signature": "waiting"}, id="a canary prepares"),
        pytest.param(clusters.in_canary(), {"golden": "passed", "signature": "passed"}, id="a canary has requests"),
        pytest.param(clusters.in_bake(), {}, id="in bake"),
        pytest.param(rejected_for("GoldenFailed"), {"golden": "failed"}, id="rejected for its answers"),
        pytest.param(rejected_for("GoldenUnreadable"), {"golden": "failed"}, id="rejected for its golden file"),
        pytest.param(rejected_for("SignatureChanged"), {"signature": "failed"}, id="rejected for its signature"),
        pytest.param(rejected_for("ErrorsRose"), {}, id="rejected for what no gate asks"),
        pytest.param(without_gates(), {}, id="a gate that the spec has no more"),
        pytest.param(
            rejected_before(preparing),
            {"golden": "waiting", "signature": "waiting"},
            id="tried again, gates wait",
        ),
        pytest.param(
            rejected_before(clusters.in_canary), {"golden": "passed", "signature": "passed"}, id="tried again, passed"
        ),
        pytest.param(rejected_before(clusters.in_bake), {}, id="tried again, in bake"),
        pytest.param(not_looked_at(), {}, id="a spec that is not looked at yet"),
        pytest.param(unreadable(), {}, id="a spec that can't be read"),
        pytest.param(pinned_and_rejected(CANARY), {"golden": "failed"}, id="a rollback from what was rejected"),
        pytest.param(pinned_and_rejected(clusters.OLD), {}, id="a rollback whose target was rejected"),
    ],
)
def test_gates_are_waited_for_then_passed_or_what_the_revision_was_rejected_for(
    cli: Cli, body: Json, states: dict[str, str]
) -> None:
    assert gates(cli, body) == states


def test_gates_fail_for_reasons_that_there_are() -> None:
    assert set(GATE_REASONS) <= {*Reason, SIGNATURE_CHANGED}


def test_the_runtime_is_the_serving_ones_and_not_the_specs(cli: Cli) -> None:
    body = clusters.in_canary(runtime="TorchServe")
    cli.cluster.models = [body]
    assert cli("status").stdout.splitlines()[1].split()[:3] == ["digits", "TorchServe", "2"]
    assert "TorchServe" in cli("status", "digits").stdout.splitlines()[1]
    assert json.loads(cli("status", "digits", "-o", "json").stdout)["runtime"] == "TorchServe"


def test_hints_can_be_typed_as_they_stand(cli: Cli) -> None:
    cli.cluster.models = [clusters.at_pause()]
    shown = cli("status", "digits", "-n", "team-a", "--context", "prod").stdout
    assert "kubectl slipway resume digits -n team-a --context prod" in shown


def test_flags_before_the_command_count_too(cli: Cli) -> None:
    cli.cluster.models = [model("digits", "team-b")]
    assert cli("-n", "team-b", "--context", "prod", "status", "digits").exit_code == 0
    assert (cli.connections[-1].namespace, cli.connections[-1].context) == ("team-b", "prod")


def reconciling(reason: str, message: str) -> Json:
    """A canary prepares, with that condition beside the others."""
    body = preparing()
    body["status"]["conditions"].append(condition("Reconciling", "True", reason, message))
    return body


@pytest.mark.parametrize(
    ("reason", "is_shown"),
    [
        pytest.param("InProgress", False, id="the steps say it"),
        pytest.param("Paused", False, id="the step says it"),
        pytest.param("WaitingForCapacity", True, id="what it waits for"),
        pytest.param("NodeCannotLoad", True, id="a node to look at"),
    ],
)
def test_that_a_revision_is_on_its_way_is_said_once_and_what_it_waits_for_always(
    cli: Cli, reason: str, *, is_shown: bool
) -> None:
    cli.cluster.models = [reconciling(reason, "pod p finds no node, since 02:13 UTC")]
    assert ("since 02:13 UTC" in cli("status", "digits").stdout) is is_shown
