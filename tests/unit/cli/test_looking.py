"""`history`, `diff` and `digest`."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from slipway.cli.digest import digest_of
from slipway.cli.history import changed_fields
from slipway_agent.volume.digest import digest_path
from tests.unit.cli import worlds
from tests.unit.cli.test_status import agree
from tests.unit.cli.worlds import CANARY, OLD, STABLE, Cli, model


@pytest.mark.parametrize("columns", [80, 120])
def test_history_tells_what_each_revision_changed(cli: Cli, request: pytest.FixtureRequest, columns: int) -> None:
    cli.world.models = [worlds.rolled_back()]
    shown = cli("history", "digits", columns=columns)
    assert shown.exit_code == 0, shown.output
    agree(request, f"history-{columns}", shown.stdout)


def test_history_for_scripts(cli: Cli) -> None:
    cli.world.models = [worlds.in_canary()]
    told = json.loads(cli("history", "digits", "-o", "json").stdout)["revisions"]
    assert [(each["revision"], each["number"], each["state"]) for each in told] == [
        (CANARY, 3, "canary"),
        (STABLE, 2, "stable"),
        (OLD, 1, ""),
    ]
    assert told[0]["changed"] == ["model.version", "resources.limits.cpu"]
    assert told[0]["digest"] == "3" * 64
    assert told[0]["created"] == worlds.ago(days=7)


def test_objects_of_others_are_no_history(cli: Cli) -> None:
    cli.world.models = [model()]
    cli.world.revisions = [*worlds.history(), {"metadata": {"name": "web-1"}, "revision": 1, "data": {"x": 1}}]
    assert len(cli("history", "digits").stdout.splitlines()) == 4


def test_a_model_without_history_says_so(cli: Cli) -> None:
    cli.world.models = [model()]
    cli.world.revisions = []
    assert "the operator has not read its spec" in cli("history", "digits").stdout
    assert cli("diff", "digits").exit_code == 1


def test_changes_are_named_by_the_shortest_path() -> None:
    before = {"runtime": {"name": "Triton", "args": ["a"]}, "batching": {"maxBatchSize": 8}}
    after = {"runtime": {"name": "Triton", "args": ["a", "b"]}, "warmup": {}}
    assert changed_fields(before, after) == ("batching", "runtime.args", "warmup")
    assert changed_fields(before, before) == ()


def test_diff_shows_what_the_canary_changes(cli: Cli) -> None:
    cli.world.models = [worlds.in_canary()]
    shown = cli("diff", "digits").stdout
    assert shown.splitlines()[:2] == [f"--- stable {STABLE} (version 2)", f"+++ canary {CANARY} (version 3)"]
    assert [line for line in shown.splitlines()[2:] if line[0] in "+-"] == [
        "-  version: 2",
        "+  version: 3",
        "-    cpu: '2'",
        "+    cpu: '4'",
    ]


def test_diff_of_one_revision_is_against_stable(cli: Cli) -> None:
    cli.world.models = [worlds.in_canary()]
    assert cli("diff", "digits", "1").stdout.splitlines()[:2] == [
        f"--- stable {STABLE} (version 2)",
        f"+++ {OLD} (version 1)",
    ]


def test_diff_of_two_is_from_the_first_to_the_second(cli: Cli) -> None:
    cli.world.models = [worlds.in_canary()]
    told = json.loads(cli("diff", "digits", "1", "canary", "-o", "json").stdout)
    assert told["before"]["choice"]["model"]["version"] == 1
    assert told["after"]["choice"]["model"]["version"] == 3
    assert told["changed"] == ["model.version", "resources"]


def test_diff_without_a_canary_is_against_the_spec(cli: Cli) -> None:
    cli.world.models = [model(resources={"limits": {"cpu": "2"}})]
    assert cli("diff", "digits").stdout.startswith("no difference: stable")
    cli.world.models = [model(resources={"limits": {"cpu": "3"}})]
    assert "+    cpu: '3'" in cli("diff", "digits").stdout.splitlines()


def test_diff_with_a_spec_that_cant_be_read_says_why(cli: Cli) -> None:
    cli.world.models = [model(runtime={"name": "Abacus"})]
    shown = cli("diff", "digits")
    assert shown.exit_code == 1
    assert "the spec can't be carried out (spec.runtime.name" in shown.stderr


# --- digest ---

NAMES = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=12).filter(
    lambda name: name not in (".", "..") and len(os.fsencode(name)) < 200
)
TREES = st.recursive(st.binary(max_size=40), lambda below: st.dictionaries(NAMES, below, max_size=4), max_leaves=10)
Tree = bytes | dict[str, "Tree"]


def write(tree: Tree, path: Path) -> None:
    if isinstance(tree, bytes):
        path.write_bytes(tree)
        return
    path.mkdir()
    for name, below in tree.items():
        write(below, path / name)


@given(tree=TREES)
def test_the_digest_is_the_agents(tree: Tree, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("tree") / "model"
    write(tree, path)
    assert digest_of(path) == digest_path(path)


def test_the_digest_of_a_folder_is_what_sha256sum_makes_of_it(cli: Cli, tmp_path: Path) -> None:
    folder = tmp_path / "1"
    write({"model.onnx": b"x", "a": {"b c": b"y", "back\\slash": b"z"}, "..data": b"not counted"}, folder)
    (folder / "link").symlink_to("model.onnx")
    (folder / "..data").unlink()
    command = "find -L . -type f -printf '%P\\0' | LC_ALL=C sort -z | xargs -0 -r sha256sum | sha256sum"
    expected = subprocess.run(["bash", "-c", command], cwd=folder, capture_output=True, check=True).stdout[:64]
    assert cli("digest", str(folder)).stdout == f"{expected.decode()}\n"


def test_the_digest_of_a_file_is_its_sha256(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "model.mar").write_bytes(b"bytes")
    shown = cli("digest", str(tmp_path / "model.mar"))
    assert shown.stdout == hashlib.sha256(b"bytes").hexdigest() + "\n"
    assert cli.targets == [], "a digest needs no cluster"


def test_several_digests_have_their_paths(cli: Cli, tmp_path: Path) -> None:
    for name in ("1", "2"):
        (tmp_path / name).write_bytes(name.encode())
    lines = cli("digest", str(tmp_path / "1"), str(tmp_path / "2")).stdout.splitlines()
    assert [line.split("  ")[1] for line in lines] == [str(tmp_path / "1"), str(tmp_path / "2")]


@pytest.mark.parametrize(("form", "read"), [("json", json.loads), ("yaml", yaml.safe_load)])
def test_digests_for_scripts(cli: Cli, tmp_path: Path, form: str, read: Callable[[str], object]) -> None:
    (tmp_path / "model.mar").write_bytes(b"bytes")
    path = str(tmp_path / "model.mar")
    expected = {"digests": [{"path": path, "sha256": hashlib.sha256(b"bytes").hexdigest()}]}
    assert read(cli("digest", path, "-o", form).stdout) == expected


def test_a_loop_of_links_ends_in_a_line(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path)
    shown = cli("digest", str(tmp_path))
    assert shown.exit_code == 1
    assert len(shown.stderr.splitlines()) == 1


def test_a_missing_path_is_not_found(cli: Cli, tmp_path: Path) -> None:
    shown = cli("digest", str(tmp_path / "none"))
    assert shown.exit_code == 3
    assert shown.stderr == f"slipway: there is no {tmp_path}/none\n"
