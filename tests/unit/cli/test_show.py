"""`history` and `diff`."""

from __future__ import annotations

import json

import pytest

from slipway.cli.history import changed_fields
from tests.unit.cli import clusters
from tests.unit.cli.clusters import CANARY, OLD, STABLE, Cli, model
from tests.unit.cli.test_status import agree


@pytest.mark.parametrize("columns", [80, 120])
def test_history_tells_what_each_revision_changed(cli: Cli, request: pytest.FixtureRequest, columns: int) -> None:
    cli.cluster.models = [clusters.rolled_back()]
    shown = cli("history", "digits", columns=columns)
    assert shown.exit_code == 0, shown.output
    agree(request, f"history-{columns}", shown.stdout)


def test_history_for_scripts(cli: Cli) -> None:
    cli.cluster.models = [clusters.in_canary()]
    document = json.loads(cli("history", "digits", "-o", "json").stdout)["revisions"]
    assert [(each["revision"], each["number"], each["state"]) for each in document] == [
        (CANARY, 3, "canary"),
        (STABLE, 2, "stable"),
        (OLD, 1, ""),
    ]
    assert document[0]["changed"] == ["model.version", "resources.limits.cpu"]
    assert document[0]["digest"] == "3" * 64
    assert document[0]["created"] == clusters.ago(days=7)


def test_objects_of_others_are_no_history(cli: Cli) -> None:
    cli.cluster.models = [model()]
    cli.cluster.revisions = [*clusters.history(), {"metadata": {"name": "web-1"}, "revision": 1, "data": {"x": 1}}]
    assert len(cli("history", "digits").stdout.splitlines()) == 4


def test_a_model_without_history_says_so(cli: Cli) -> None:
    cli.cluster.models = [model()]
    cli.cluster.revisions = []
    assert "the operator has not read the spec" in cli("history", "digits").stdout
    assert cli("diff", "digits").exit_code == 1


def test_changes_are_named_by_the_shortest_path() -> None:
    before = {"runtime": {"name": "Triton", "args": ["a"]}, "batching": {"maxBatchSize": 8}}
    after = {"runtime": {"name": "Triton", "args": ["a", "b"]}, "warmup": {}}
    assert changed_fields(before, after) == ("batching", "runtime.args", "warmup")
    assert changed_fields(before, before) == ()


def test_diff_shows_what_the_canary_changes(cli: Cli) -> None:
    cli.cluster.models = [clusters.in_canary()]
    shown = cli("diff", "digits").stdout
    assert shown.splitlines()[:2] == [f"--- stable {STABLE} (version 2)", f"+++ canary {CANARY} (version 3)"]
    assert [line for line in shown.splitlines()[2:] if line[0] in "+-"] == [
        "-  version: 2",
        "+  version: 3",
        "-    cpu: '2'",
        "+    cpu: '4'",
    ]


def test_diff_of_one_revision_is_against_stable(cli: Cli) -> None:
    cli.cluster.models = [clusters.in_canary()]
    assert cli("diff", "digits", "1").stdout.splitlines()[:2] == [
        f"--- stable {STABLE} (version 2)",
        f"+++ {OLD} (version 1)",
    ]


def test_diff_of_two_is_from_the_first_to_the_second(cli: Cli) -> None:
    cli.cluster.models = [clusters.in_canary()]
    document = json.loads(cli("diff", "digits", "1", "canary", "-o", "json").stdout)
    assert document["before"]["choice"]["model"]["version"] == 1
    assert document["after"]["choice"]["model"]["version"] == 3
    assert document["changed"] == ["model.version", "resources"]


def test_diff_without_a_canary_is_against_the_spec(cli: Cli) -> None:
    cli.cluster.models = [model(resources={"limits": {"cpu": "2"}})]
    assert cli("diff", "digits").stdout.startswith("no difference: stable")
    cli.cluster.models = [model(resources={"limits": {"cpu": "3"}})]
    assert "+    cpu: '3'" in cli("diff", "digits").stdout.splitlines()


@pytest.mark.parametrize("left_by", ["rollback", "abort"])
def test_diff_where_versions_are_found_is_against_the_one_that_was_left(cli: Cli, left_by: str) -> None:
    body = clusters.rolled_back()
    body["spec"]["model"] = {"uri": "s3://models/digits"}
    if left_by == "rollback":
        body["status"] |= {"rejected": [], "pinned": {"revision": STABLE, "insteadOf": CANARY}}
    body["spec"]["resources"] = {"limits": {"cpu": "4"}}
    cli.cluster.models = [body]
    shown = cli("diff", "digits").stdout.splitlines()
    assert shown[0] == f"--- stable {STABLE} (version 2)"
    assert "+  version: 3" in shown


def test_diff_with_a_spec_that_cant_be_read_says_why(cli: Cli) -> None:
    cli.cluster.models = [model(runtime={"name": "Abacus"})]
    shown = cli("diff", "digits")
    assert shown.exit_code == 1
    assert "the spec is invalid (spec.runtime.name" in shown.stderr
