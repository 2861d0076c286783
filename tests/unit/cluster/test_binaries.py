"""The cache key of compiled programs: changes with everything that changes the program, and with nothing else."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from tests.e2e.cluster.binaries import CONTAINERD, HELM, KUBE, NODE_MODULES, RUNC, STORE_MODULES, GoModule, cache_key
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
    keys.add(cache_key(replace(RUNC, is_static=True), "go1.26.8", folder))
    (folder / "main.go").write_text("package main // changed\n")
    keys.add(cache_key(RUNC, "go1.26.8", folder))
    assert len(keys) == 5


@pytest.mark.parametrize("module", [*NODE_MODULES, *STORE_MODULES], ids=lambda module: str(module.name))
def test_every_module_is_pinned_by_its_sums(module: GoModule) -> None:
    assert (GO_MODULES / module.name / "go.sum").stat().st_size > 0


@pytest.mark.parametrize(
    ("module", "path"),
    [(KUBE, "k8s.io/kubernetes"), (HELM, "helm.sh/helm/v3"), (CONTAINERD, "github.com/containerd/containerd/v2")],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_version_a_program_tells_is_the_one_it_is_made_of(module: GoModule, path: str) -> None:
    told = re.search(r"ersion=(v[0-9.]+)", module.link_flags[0])
    required = re.search(rf"{path} (v[0-9.]+)", (GO_MODULES / module.name / "go.mod").read_text())
    assert told is not None
    assert required is not None
    assert told[1] == required[1]
