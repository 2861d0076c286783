"""Any two neighbouring releases of operator and agent work together, both ways.

What older ones say was recorded by running them (tests/neighbours/contract.py); today's is said by today's code.
Orders and answers may gain keys, since both sides pass by what they don't know; they never lose one or change what it
says.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from slipway import __version__
from slipway.observe.agent_reports import AGENT_FLOOR, OUT, QUESTION, SIGNATURES, TURN, VERIFY, read_report
from slipway_agent import __version__ as agent_version
from slipway_agent.reporting.report import ABILITIES
from tests.neighbours import contract
from tests.simulation.agents import AGENT

Json = dict[str, Any]

OLDER: dict[str, Json] = {path.stem: json.loads(path.read_text()) for path in sorted(contract.RECORDED.glob("*.json"))}
NO_TURNS, TURNS = OLDER["2a2ac08"], OLDER["5b2f5f9"]
"""Before and after agents learnt to go over in turn; neither tells its release."""


@pytest.fixture(scope="module")
def today() -> Json:
    spoken: Json = json.loads(json.dumps(contract.spoken()))
    return spoken


def lost(before: Any, after: Any, path: str = "") -> list[str]:
    """What was said before and isn't said so any more."""
    if isinstance(before, dict) and isinstance(after, dict):
        return [each for key in before for each in lost(before[key], after.get(key, "nothing"), f"{path}.{key}")]
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        return [
            each for at, pair in enumerate(zip(before, after, strict=True)) for each in lost(*pair, f"{path}[{at}]")
        ]
    return [] if before == after else [f"{path}: {before!r} → {after!r}"]


def same_case(before: Json, after: Json) -> list[str]:
    """Cases that both have, and that speak of the same thing: golden cases change with what they show."""
    return [case for case in before if case in after and before[case]["model"] == after[case]["model"]]


# ---- a new operator, an older agent


@pytest.mark.parametrize("older", OLDER)
def test_a_new_operators_orders_have_all_that_an_older_agent_reads(older: str, today: Json) -> None:
    before = OLDER[older]["orders"]
    cases = same_case(before, today["orders"])
    assert len(cases) > 8
    for case in cases:
        was, now = (
            {key: value for key, value in each[case].items() if key != "generation"}
            for each in (before, today["orders"])
        )
        assert lost(was, now) == [], case


@pytest.mark.parametrize("older", OLDER)
def test_an_older_agent_passes_by_keys_that_it_does_not_know(older: str) -> None:
    assert OLDER[older]["passesBy"]
    assert all(OLDER[older]["passesBy"].values())
    assert not any("refused" in read for read in OLDER[older]["readings"].values())


@pytest.mark.parametrize("older", OLDER)
@pytest.mark.parametrize("phase", TURNS["reports"])
def test_a_new_operator_reads_an_older_agent_in_each_phase(older: str, phase: str) -> None:
    answer = OLDER[older]["reports"][phase]
    report = read_report(answer)
    assert report is not None
    assert report.is_below_floor
    assert [each.state for each in report.versions] == [each["state"] for each in answer["versions"]]
    assert report.serving == answer["serving"]
    assert (report.trouble is not None) == (phase == "refused")
    assert (report.golden is not None) == (phase == "golden")
    assert report.wants_traffic == answer.get("traffic")


def test_what_an_older_agent_can_do_is_known_by_its_answers() -> None:
    abilities = {older: read_report(spoken["reports"]["served"]) for older, spoken in OLDER.items()}
    found = {older: report.abilities for older, report in abilities.items() if report is not None}
    assert found == {"2a2ac08": {SIGNATURES}, "5b2f5f9": {SIGNATURES, TURN, OUT, QUESTION}}


# ---- an older operator, a new agent


@pytest.mark.parametrize("older", OLDER)
def test_a_new_agent_reads_an_older_operators_orders_as_that_ones_agent_did(older: str) -> None:
    now = json.loads(json.dumps(contract.readings(OLDER[older]["orders"])))
    for case, read in OLDER[older]["readings"].items():
        assert lost(read, now[case]) == [], case


@pytest.mark.parametrize("older", OLDER)
@pytest.mark.parametrize("phase", TURNS["reports"])
def test_a_new_agents_answer_has_all_that_an_older_operator_reads(older: str, phase: str, today: Json) -> None:
    assert lost(OLDER[older]["reports"][phase], today["reports"][phase]) == []


# ---- and the newer one


def test_a_new_agent_passes_by_keys_that_it_does_not_know(today: Json) -> None:
    assert set(today["passesBy"]) == {"top", "source", "golden", "turn"}
    assert all(today["passesBy"].values())


def test_a_new_operator_passes_by_what_a_later_agent_says(today: Json) -> None:
    answer = today["reports"]["served"]
    later = answer | {"more": [1], "agent": {"release": "9.0.0", "abilities": [*ABILITIES, "fly"], "more": {}}}
    one, other = read_report(answer), read_report(later)
    assert one is not None
    assert other is not None
    assert not other.is_below_floor
    assert other.abilities == one.abilities | {"fly"}
    assert other.versions == one.versions


def test_a_new_agent_says_its_release_and_what_it_can_do(today: Json) -> None:
    report = read_report(today["reports"]["silent"])
    assert report is not None
    assert report.release == agent_version == __version__
    assert report.abilities == {SIGNATURES, TURN, OUT, QUESTION, VERIFY} == set(ABILITIES)
    assert list(ABILITIES) == sorted(ABILITIES)
    assert not report.is_below_floor
    assert AGENT["abilities"] == list(ABILITIES)


@pytest.mark.parametrize(
    ("release", "is_below"),
    [
        ("", True),
        ("what", True),
        ("0.0.9", True),
        ("0.0.10", True),
        (AGENT_FLOOR, False),
        (f"{AGENT_FLOOR}rc1", False),
        ("0.10.0", False),
        ("12.0.0", False),
    ],
)
def test_the_floor_is_compared_by_numbers(release: str, is_below: bool) -> None:
    report = read_report({"generation": "g", "agent": {"release": release, "abilities": []}})
    assert report is not None
    assert report.is_below_floor is is_below


@pytest.mark.parametrize("agent", [None, "0.1.0", [], {"release": 1}, {"abilities": "turn"}, {"abilities": None}])
def test_what_an_agent_says_of_itself_and_cannot_be_read_costs_no_report(agent: Any) -> None:
    report = read_report({"generation": "g", "traffic": True, "agent": agent})
    assert report is not None
    assert (report.release, set(report.abilities)) == ("", {TURN})


def test_the_floor_is_no_later_than_the_operators_own_release() -> None:
    assert [int(part) for part in AGENT_FLOOR.split(".")] <= [int(part) for part in __version__.split(".")]
