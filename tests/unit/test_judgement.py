"""What `make judgement` counts, and what its table says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests import judgement
from tests.judgement import KEPT_IN, Story, Trial, keep, read_trials, table

Json = dict[str, Any]


def status(stable: str | None, *told: tuple[str, str, str | None], rejected: str = "") -> Json:
    """told: reason, revision, because."""
    return {
        "stable": {"revision": stable} if stable else None,
        "transitions": [{"reason": reason, "revision": of, "because": why} for reason, of, why in told],
        "rejected": [{"revision": "new", "reason": rejected, "message": "m"}] if rejected else [],
    }


FIRST = ("Promoted", "old", "First")


@pytest.mark.parametrize(
    ("heard", "promotions"),
    [
        pytest.param([], [], id="nothing"),
        pytest.param([status("old", FIRST), status("old", FIRST)], ["First"], id="the first one, once"),
        pytest.param([status("old", FIRST), status(None), status("old")], ["First"], id="a status is lost"),
        pytest.param([status("old", FIRST), status("new", FIRST)], ["First", ""], id="nothing is told of the second"),
        pytest.param(
            [status("old", FIRST), status("new", FIRST, ("Promoted", "new", None))], ["First", ""], id="no reason"
        ),
        pytest.param(
            [status("old", FIRST), status("new", FIRST, ("Promoted", "new", "StepsDone"))],
            ["First", "StepsDone"],
            id="a named reason",
        ),
        pytest.param(
            [status("new", ("Promoted", "new", "First")), status("old", ("RolledBack", "new", None))],
            ["First"],
            id="taken back in bake",
        ),
    ],
)
def test_a_story_holds_why_each_revision_became_stable(heard: list[Json], promotions: list[str]) -> None:
    story = Story()
    for each in heard:
        story.hear(each)
    assert story.promotions == promotions


def test_a_rejection_is_heard_once() -> None:
    story = Story()
    for _ in range(2):
        story.hear(status("old", FIRST, rejected="Unschedulable"))
    assert story.rejections == ["new: Unschedulable: m"]


def test_the_table_sums_up_each_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEPT_IN, str(tmp_path / "trials"))
    keep(Trial("here", 3, ["First", "StepsDone"]))
    keep(Trial("there", 1, ["First", ""], ["new: Unschedulable: m"]))
    _, here, there = table(read_trials(tmp_path / "trials")).splitlines()
    assert here.split() == ["here", "1", "3", "2:", "1", "First,", "1", "StepsDone", "0", "0"]
    assert there.split() == ["there", "1", "1", "2:", "1", "First", "1", "1"]


def test_where_nobody_asked_nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(judgement.KEPT_IN, raising=False)
    keep(Trial("here", 3, ["First"]))
