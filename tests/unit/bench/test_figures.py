"""What the controller benchmark computes: writes re-named, writes counted, percentiles, goals."""

import json

import pytest

from tests.bench.controller.audit import count_by_kind, parse_write
from tests.bench.controller.figures import Figure, render_table
from tests.bench.controller.workload import RecordedWrite, children_of, name_of, settled_writes
from tests.bench.figures import Goal, percentile

APPLY = "application/apply-patch+yaml"
USER = "system:serviceaccount:bench:operator"


def write(path: str, body: str = "{}", method: str = "PATCH") -> RecordedWrite:
    return RecordedWrite(method, path, APPLY, body)


DEPLOYMENT = write("/apis/apps/v1/namespaces/bench/deployments/bench-00000-abc?force=true", '{"owner": "uid-0"}')
STATUS = "/apis/slipway.dev/v1alpha1/namespaces/bench/modeldeployments/bench-00000/status?force=true"


def test_a_renamed_write_has_the_new_name_and_owner_and_the_same_length() -> None:
    renamed = DEPLOYMENT.renamed(name_of(0), "uid-0", name_of(417), "uid-9")
    assert renamed.path == "/apis/apps/v1/namespaces/bench/deployments/bench-00417-abc?force=true"
    assert renamed.body == '{"owner": "uid-9"}'


def test_only_the_last_write_to_each_object_is_replayed_and_the_status_comes_last() -> None:
    event = write("/api/v1/namespaces/bench/events", method="POST")
    recording = [write(STATUS, "1"), DEPLOYMENT, event, write(STATUS, "2")]
    assert settled_writes(recording) == [DEPLOYMENT, write(STATUS, "2")]
    assert children_of(recording) == [("Deployment", "bench-00000-abc")]


@pytest.mark.parametrize(
    ("change", "is_counted"),
    [
        ({}, True),
        ({"verb": "get"}, False),
        ({"user": {"username": "someone else"}}, False),
        ({"stage": "ResponseStarted"}, False),
        ({"objectRef": {"resource": "selfsubjectaccessreviews"}}, False),
        ({"verb": "create", "requestURI": "/api/v1/namespaces/a/secrets?fieldManager=slipway&dryRun=All"}, False),
    ],
)
def test_a_write_is_what_the_operator_changed(change: dict[str, object], is_counted: bool) -> None:
    event = {
        "user": {"username": USER},
        "verb": "patch",
        "stage": "ResponseComplete",
        "stageTimestamp": "2026-01-01T00:00:00.000000Z",
        "objectRef": {"resource": "modeldeployments", "subresource": "status", "name": "digits"},
        "responseStatus": {"code": 200},
    }
    parsed = parse_write(json.dumps(event | change).encode(), USER)
    assert (parsed is not None) is is_counted
    if parsed is not None:
        assert count_by_kind([parsed, parsed]) == {"patch modeldeployments/status": 2}


@pytest.mark.parametrize(("percent", "value"), [(50, 2.0), (75, 3.0), (99, 4.0), (100, 4.0)])
def test_a_percentile_is_a_measured_value_that_so_many_do_not_exceed(percent: float, value: float) -> None:
    assert percentile([4.0, 1.0, 3.0, 2.0], percent) == value


@pytest.mark.parametrize(
    ("measured", "goal", "met"),
    [
        (7.0, Goal("at most", 7), "yes"),
        (7.01, Goal("at most", 7), "NO"),
        (0.79, Goal("at least", 0.8), "NO"),
        (None, Goal("at most", 7), "-"),
        (1.0, None, "-"),
    ],
)
def test_the_table_says_whether_a_goal_is_met(measured: float | None, goal: Goal | None, met: str) -> None:
    row = render_table([Figure("figure", measured, 2, goal)]).splitlines()[2]
    assert row.split("|")[4].strip() == met
