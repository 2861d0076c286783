"""`digest`: the agents' digest, without an agent and without a cluster."""

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
from slipway_agent.volume.digest import digest_path
from tests.unit.cli.clusters import Cli

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
    assert cli.connections == [], "a digest needs no cluster"


def test_several_digests_have_their_paths(cli: Cli, tmp_path: Path) -> None:
    for name in ("1", "2"):
        (tmp_path / name).write_bytes(name.encode())
    lines = cli("digest", str(tmp_path / "1"), str(tmp_path / "2")).stdout.splitlines()
    assert [line.split("  ")[1] for line in lines] == [str(tmp_path / "1"), str(tmp_path / "2")]


@pytest.mark.parametrize(("format", "read"), [("json", json.loads), ("yaml", yaml.safe_load)])
def test_digests_for_scripts(cli: Cli, tmp_path: Path, format: str, read: Callable[[str], object]) -> None:
    (tmp_path / "model.mar").write_bytes(b"bytes")
    path = str(tmp_path / "model.mar")
    expected = {"digests": [{"path": path, "sha256": hashlib.sha256(b"bytes").hexdigest()}]}
    assert read(cli("digest", path, "-o", format).stdout) == expected


def test_a_loop_of_links_ends_in_a_line(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path)
    shown = cli("digest", str(tmp_path))
    assert shown.exit_code == 1
    assert len(shown.stderr.splitlines()) == 1


def test_a_pipe_is_an_error_and_not_waited_on(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    os.mkfifo(tmp_path / "model" / "pipe")
    shown = cli("digest", str(tmp_path / "model"))
    assert shown.exit_code == 1
    assert "pipe" in shown.stderr
    assert "no ordinary file" in shown.stderr
    with pytest.raises(OSError, match="no ordinary file"):
        digest_path(tmp_path / "model")


def test_a_missing_path_is_not_found(cli: Cli, tmp_path: Path) -> None:
    shown = cli("digest", str(tmp_path / "none"))
    assert shown.exit_code == 3
    assert shown.stderr == f"slipway: there is no {tmp_path}/none\n"
