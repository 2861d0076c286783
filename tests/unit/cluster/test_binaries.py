"""The cache key of compiled programs: changes with everything that changes the program, and with nothing else."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.e2e.cluster.binaries import NODE_MODULES, RUNC, cache_key
from tests.e2e.cluster.layout import GO_MODULES


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "go.mod").write_text("module x\n")
    (tmp_path / "main.go").write_text("package main\n")
    return tmp_path


def test_key_stays_while_nothing_changes(folder: Path) -> None:
    before = cache_key(RUNC, "go1.26.8", folder)
    (folder / "README.md").write_text("not compiled\n")
    assert cache_key(RUNC, "go1.26.8", folder) == before


def test_key_changes_with_source_compiler_and_flags(folder: Path) -> None:
    keys = {cache_key(RUNC, "go1.26.8", folder), cache_key(RUNC, "go1.27.0", folder)}
    keys.add(cache_key(replace(RUNC, tags=()), "go1.26.8", folder))
    (folder / "main.go").write_text("package main // changed\n")
    keys.add(cache_key(RUNC, "go1.26.8", folder))
    assert len(keys) == 4


@pytest.mark.parametrize("module", NODE_MODULES, ids=lambda module: str(module.name))
def test_every_module_is_pinned_by_its_sums(module: object) -> None:
    name = getattr(module, "name", "")
    assert (GO_MODULES / name / "go.mod").read_text().startswith("module ")
    assert (GO_MODULES / name / "go.sum").stat().st_size > 0
