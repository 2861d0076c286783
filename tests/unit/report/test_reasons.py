"""Reasons are API: each one that can appear in a condition is explained in docs/conditions.md."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from slipway.model.rollout import Promotion
from slipway_agent.model.errors import Reason

ROOT = Path(__file__).resolve().parents[3]
EXPLAINED = set(re.findall(r"`([A-Z][A-Za-z]+)`", (ROOT / "docs" / "conditions.md").read_text()))
PLACES = {"Trouble": 0, "SpecError": 0, "Cause": 0, "_condition": 2}


def reasons(file: Path) -> set[str]:
    """The constants that stand where a reason goes."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
            continue
        place = PLACES.get(node.func.id, -1)
        candidates = [node.args[place]] if 0 <= place < len(node.args) else []
        candidates += [keyword.value for keyword in node.keywords if keyword.arg == "reason"]
        found |= {c.value for c in candidates if isinstance(c, ast.Constant) and isinstance(c.value, str)}
    return found - {""}


ROOMS = ("api", "controller", "decide", "observe", "render", "report", "runtimes")
FILES = [file for room in ROOMS for file in sorted((ROOT / "operator" / "slipway" / room).rglob("*.py"))]
OURS = set().union(*(reasons(file) for file in FILES))
FOUND = OURS | set(Promotion) | set(Reason)


def test_reasons_are_found_in_the_code() -> None:
    assert {"InvalidSpec", "Unschedulable", "NameConflict", "MinimumReplicasReady", "RolledBack"} <= FOUND


@pytest.mark.parametrize("reason", sorted(FOUND))
def test_every_reason_is_explained(reason: str) -> None:
    assert reason in EXPLAINED
