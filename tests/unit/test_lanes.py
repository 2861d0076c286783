"""tests/tools/lane: what it writes of a lane that was green."""

from __future__ import annotations

import importlib.util
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def lane() -> Any:
    loader = SourceFileLoader("slipway_lane", str(ROOT / "tests" / "tools" / "lane"))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def test_a_green_lane_gets_its_row_and_the_others_stay(lane: Any) -> None:
    table = (ROOT / "tests" / "lanes.md").read_text()
    after = lane.recorded("crash", table, "0123456789ab", "2026-01-02", "9:05")
    assert lane.cells_of("crash", after)[2:] == ["0123456789ab", "2026-01-02", "9:05"]
    changed = [line for line in after.splitlines() if line not in table.splitlines()]
    assert len(changed) == 1
    assert len(after.splitlines()) == len(table.splitlines())


def test_each_lane_of_the_makefile_has_a_row(lane: Any) -> None:
    table = (ROOT / "tests" / "lanes.md").read_text()
    lines = (ROOT / "Makefile").read_text().splitlines()
    targets = {line.split()[1] for line in lines if line.startswith("\t@$(TOOLS)/lane")}
    assert targets == {"crash", "matrix", "lifecycle"}
    for name in sorted(targets):
        lane.cells_of(name, table)


def test_an_unknown_lane_is_refused(lane: Any) -> None:
    with pytest.raises(SystemExit, match="no row for lane other"):
        lane.cells_of("other", "| crash | a | b | c | d |\n")
