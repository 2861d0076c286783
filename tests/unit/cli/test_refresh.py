"""`refresh`: what is written, what is waited for, and how a fleet is gone through."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from slipway.cli.errors import CommandError, Exit
from tests.unit.cli import clusters
from tests.unit.cli.clusters import CANARY, STABLE, Cli, Time, agents, condition, healthy, model, says

Json = dict[str, Any]

OLD = "the agent is older than 0.2.0 (0.1.0) in 2 of 2 pods: a, b. They serve on; more words"
OFFER = "a refresh would change: image of agent x:1 becomes x:2. To do it, pod by pod: kubectl slipway refresh digits"
BROKEN = "pod c: image 'x:2' of container agent is not found"


def aged(name: str = "digits", namespace: str = "team-a", **status: Any) -> Json:
    """A ModelDeployment whose agents are too old."""
    conditions = [*healthy(), agents("True", "AgentsTooOld", OLD)]
    return model(name, namespace, status={"conditions": conditions} | status)


def offered(name: str) -> Json:
    return model(name, status={"conditions": [*healthy(), agents("False", "RefreshAvailable", OFFER)]})


def fresh(name: str) -> Json:
    return model(name, status={"conditions": [*healthy(), agents("False", "AsExpected")]})


@dataclass
class Rolling:
    """An operator that takes so many seconds for each refresh. broken: names whose new pods don't come up.

    begun: in their order; most: how many went on together.
    """

    cli: Cli
    seconds: float = 3
    broken: tuple[str, ...] = ()
    begun: list[str] = field(default_factory=list)
    most: int = 0
    _left: dict[str, float] = field(default_factory=dict)

    def take(self, body: Json, text: str) -> None:
        says(True, "pods are replaced")(body, text)
        name = body["metadata"]["name"]
        self.begun.append(name)
        self._left[name] = self.seconds
        self.most = max(self.most, len(self._left))
        reconciling = condition("Reconciling", "True", "Refreshing", "2 still to go")
        body["status"]["conditions"] = [*healthy(), reconciling, agents("True", "AgentsTooOld", OLD)]
        if name in self.broken:
            body["status"]["conditions"][3] = condition("Degraded", "True", "ImagePullFailed", BROKEN)

    def pass_second(self) -> None:
        for name in list(self._left):
            self._left[name] -= 1
            if self._left[name] <= 0 and name not in self.broken:
                del self._left[name]
                body = next(each for each in self.cli.cluster.models if each["metadata"]["name"] == name)
                body["status"]["conditions"] = [*healthy(), agents("False", "AsExpected")]


@pytest.fixture
def rolling(cli: Cli, time_of_test: Time) -> Rolling:
    found = Rolling(cli)
    cli.cluster.operator = found.take
    time_of_test.each_sleep = found.pass_second
    return found


# ---- one


def test_one_is_written_and_waited_for_until_all_its_pods_are_replaced(cli: Cli, rolling: Rolling) -> None:
    cli.cluster.models = [aged()]
    shown = cli("refresh", "digits")
    assert shown.exit_code == 0, shown.output
    assert shown.stdout == "digits: pods are replaced\ndigits: all pods are replaced; 2/2 ready\n"
    (written,) = cli.cluster.annotated
    assert written.startswith(f"slipway.dev/command=refresh/{STABLE}/")


def test_without_waiting_it_ends_at_the_answer(cli: Cli, rolling: Rolling, time_of_test: Time) -> None:
    cli.cluster.models = [aged()]
    shown = cli("refresh", "digits", "--no-wait")
    assert (shown.exit_code, shown.stdout, time_of_test.passed) == (0, "digits: pods are replaced\n", 0)


def test_new_pods_that_do_not_come_up_end_it_with_the_way_back(cli: Cli, rolling: Rolling) -> None:
    cli.cluster.models, rolling.broken = [aged()], ("digits",)
    shown = cli("refresh", "digits")
    assert shown.exit_code == 1
    assert "ImagePullFailed" in shown.stderr
    assert "kubectl slipway abort digits goes back" in shown.stderr


def test_a_trouble_that_was_there_before_does_not_end_it(cli: Cli, rolling: Rolling) -> None:
    cli.cluster.models, rolling.broken = [aged()], ("digits",)
    cli.cluster.models[0]["status"]["conditions"][3] = condition("Degraded", "True", "ImagePullFailed", BROKEN)
    assert cli("refresh", "digits", "--timeout", "20s").exit_code == 4


def test_one_that_waits_for_room_is_waited_for_and_then_times_out(cli: Cli, time_of_test: Time) -> None:
    cli.cluster.models = [aged()]

    def take(body: Json, text: str) -> None:
        says(True, "pods are replaced")(body, text)
        body["status"]["conditions"].append(condition("Reconciling", "True", "WaitingForCapacity", "no GPU"))
        body["status"]["conditions"][3] = condition("Degraded", "True", "Unschedulable", "no GPU")

    cli.cluster.operator = take
    shown = cli("refresh", "digits", "--timeout", "5m")
    assert shown.exit_code == 4
    assert time_of_test.passed == pytest.approx(300, abs=2)
    assert "the pods before serve until then" in shown.stderr


def test_one_whose_new_pod_has_a_bad_node_is_not_over(cli: Cli) -> None:
    cli.cluster.models = [aged()]

    def take(body: Json, text: str) -> None:
        says(True, "pods are replaced")(body, text)
        body["status"]["conditions"].append(condition("Reconciling", "True", "NodeCannotLoad", "disk full"))

    cli.cluster.operator = take
    assert cli("refresh", "digits", "--timeout", "20s").exit_code == 4


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (clusters.in_canary, f"revision {CANARY} is taking over"),
        (clusters.in_bake, f"revision {CANARY} bakes"),
        (clusters.in_bake_in_place, f"revision {CANARY} bakes"),
    ],
)
def test_in_a_rollout_or_a_bake_it_is_refused_before_anything_is_written(
    cli: Cli, make: Callable[[], Json], words: str
) -> None:
    cli.cluster.models = [make()]
    shown = cli("refresh", "digits")
    assert shown.exit_code == 1
    assert words in shown.stderr
    assert cli.cluster.annotated == []


def test_a_refusal_of_the_operator_is_printed_in_its_words(cli: Cli) -> None:
    cli.cluster.models = [aged()]
    cli.cluster.operator = says(False, "revision x is taking over")
    shown = cli("refresh", "digits")
    assert (shown.exit_code, shown.stdout) == (1, "")
    assert shown.stderr == "slipway: the operator does not refresh digits: revision x is taking over\n"


def test_another_command_in_the_middle_ends_the_waiting(cli: Cli, rolling: Rolling, time_of_test: Time) -> None:
    cli.cluster.models = [aged()]

    def abort() -> None:
        says(True, "back")(cli.cluster.models[0], f"abort/{STABLE}/other")

    time_of_test.each_sleep = abort
    shown = cli("refresh", "digits")
    assert shown.exit_code == 1
    assert "another command to digits came after refresh: abort" in shown.stderr


def test_a_dry_run_of_one_says_why_and_writes_nothing(cli: Cli) -> None:
    cli.cluster.models = [aged()]
    shown = cli("refresh", "digits", "--dry-run")
    assert shown.stdout == "digits: the agent is older than 0.2.0 (0.1.0) in 2 of 2 pods: a, b\n"
    assert cli.cluster.annotated == []


# ---- all


def test_all_takes_one_after_the_other_those_alone_that_have_something_to_refresh(cli: Cli, rolling: Rolling) -> None:
    cli.cluster.models = [aged("c"), fresh("b"), offered("a"), model("unheard")]
    shown = cli("refresh", "--all")
    assert shown.exit_code == 0, shown.output
    assert rolling.begun == ["a", "c"]
    assert rolling.most == 1
    assert shown.stdout == (
        "unheard: left out: the operator has not said how old its agents are\n"
        "a: begins\na: all pods are replaced; 2/2 ready\n"
        "c: begins\nc: all pods are replaced; 2/2 ready\n"
        "2 of 2 are refreshed\n"
    )


def test_so_many_go_together_and_no_more(cli: Cli, rolling: Rolling) -> None:
    cli.cluster.models = [aged(f"m{number}") for number in range(7)]
    shown = cli("refresh", "--all", "--at-once", "3")
    assert shown.exit_code == 0, shown.output
    assert (rolling.most, len(rolling.begun)) == (3, 7)


def test_at_the_first_whose_pods_do_not_come_up_it_stops(cli: Cli, rolling: Rolling) -> None:
    cli.cluster.models, rolling.broken = [aged(f"m{number}") for number in range(4)], ("m1",)
    shown = cli("refresh", "--all")
    assert shown.exit_code == 1
    assert rolling.begun == ["m0", "m1"]
    assert "the new pods of m1 don't come up: ImagePullFailed" in shown.stderr
    assert "1 of 4 are refreshed; 2 were not begun, and m1 may still be on the way" in shown.stderr


def test_what_is_under_way_is_left_out_and_told(cli: Cli, rolling: Rolling) -> None:
    busy = clusters.in_canary()
    busy["status"]["conditions"].append(agents("True", "AgentsTooOld", OLD))
    cli.cluster.models = [busy, aged("other")]
    shown = cli("refresh", "--all")
    assert shown.exit_code == 0
    assert rolling.begun == ["other"]
    assert f"digits: left out: revision {CANARY} is taking over" in shown.stdout


def test_a_dry_run_of_all_shows_which_and_why(cli: Cli) -> None:
    cli.cluster.models = [aged("a"), offered("b"), fresh("c")]
    shown = cli("refresh", "--all", "--dry-run")
    assert shown.stdout == (
        "a: the agent is older than 0.2.0 (0.1.0) in 2 of 2 pods: a, b\n"
        "b: a refresh would change: image of agent x:1 becomes x:2\n"
        "2 of 3 would be refreshed, 1 at a time\n"
    )
    assert cli.cluster.annotated == []


def test_of_all_namespaces_each_is_written_in_its_own(cli: Cli, rolling: Rolling) -> None:
    cli.cluster.models = [aged("a", "team-b"), aged("b", "team-a")]
    shown = cli("refresh", "--all", "-A")
    assert shown.exit_code == 0, shown.output
    assert "team-a/b: begins\nteam-a/b: all pods are replaced; 2/2 ready\nteam-b/a: begins\n" in shown.stdout


def test_with_nothing_to_refresh_it_says_so(cli: Cli) -> None:
    cli.cluster.models = [fresh("a")]
    shown = cli("refresh", "--all")
    assert (shown.exit_code, shown.stdout) == (0, "nothing to refresh in 1 ModelDeployments\n")


def test_control_c_ends_the_waiting_and_says_how_far_it_is(cli: Cli, rolling: Rolling, time_of_test: Time) -> None:
    cli.cluster.models = [aged("a"), aged("b")]

    def interrupt() -> None:
        raise KeyboardInterrupt

    time_of_test.each_sleep = interrupt
    shown = cli("refresh", "--all")
    assert shown.exit_code == 130
    assert shown.stdout.endswith("stopped: 0 of 2 are refreshed, 1 were not begun; a goes on in the cluster\n")


def test_an_api_server_that_is_away_for_a_moment_does_not_end_it(
    cli: Cli, rolling: Rolling, time_of_test: Time
) -> None:
    cli.cluster.models = [aged()]

    def away() -> None:
        rolling.pass_second()
        is_away = 1 <= time_of_test.passed < 3
        cli.cluster.failing = CommandError(Exit.NO_CLUSTER, "no answer", may_pass=True) if is_away else None

    time_of_test.each_sleep = away
    assert cli("refresh", "digits").exit_code == 0


@pytest.mark.parametrize(
    "words", [(), ("digits", "--all"), ("digits", "-A"), ("digits", "--at-once", "2"), ("--all", "--no-wait")]
)
def test_what_makes_no_sense_is_refused(cli: Cli, words: tuple[str, ...]) -> None:
    assert cli("refresh", *words).exit_code == 2
