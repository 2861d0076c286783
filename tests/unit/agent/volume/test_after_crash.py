"""A node crashes: files keep their size and lose what they held, and the ledger says that they are verified."""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from slipway_agent import node
from slipway_agent.model.ledger import Ledger, Published
from slipway_agent.reporting.log import Log
from slipway_agent.volume import after_crash
from slipway_agent.volume.after_crash import SEALS, digest_slowly, seal, verify_again
from slipway_agent.volume.digest import digest_path
from slipway_agent.volume.models_volume import LEDGER, ModelVolume
from slipway_agent.volume.safe_open import Tree


class Node:
    """A models volume on a node that can be started anew."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.models, self._boot, self.log = folder / "models", folder / "boot_id", io.StringIO()
        monkeypatch.setattr(node, "BOOT_ID", self._boot)
        self._boot.write_text("first\n")
        self.volume = ModelVolume(self.models, "digits")
        self.published: dict[int, Published] = {}

    def publish(self, version: int, *, is_sealed: bool = True) -> None:
        folder = self.models / "repository" / "digits" / str(version)
        (folder / "weights").mkdir(parents=True)
        (folder / "model.onnx").write_text(f"version {version}")
        (folder / "weights" / "1.bin").write_bytes(b"x" * 3_000_000)
        self.published[version] = Published("a" * 63 + str(version), 3_000_009, f"digits/{version}")
        self.volume.write_ledger(Ledger("digits", self.published, standing=version))
        if is_sealed:
            seal(self.models, "digits", {each: published.sha256 for each, published in self.published.items()})

    def crash(self) -> None:
        self._boot.write_text("second\n")

    def file(self, version: int) -> Path:
        return self.models / "repository" / "digits" / str(version) / "model.onnx"

    def start_agent(self) -> Ledger:
        self.steps = sum(1 for _ in verify_again(self.models, Log({}, self.log)))
        return ModelVolume(self.models, "digits").read_ledger()

    def messages(self) -> list[str]:
        return [json.loads(line)["message"] for line in self.log.getvalue().splitlines()]


@pytest.fixture
def pod(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    return Node(tmp_path, monkeypatch)


def test_another_start_of_the_agent_alone_reads_no_file_again(pod: Node) -> None:
    pod.publish(3, is_sealed=False)
    assert pod.start_agent() == Ledger("digits", pod.published, standing=3)
    assert (pod.steps, pod.messages()) == (0, [])


def test_after_the_nodes_crash_whole_versions_are_verified_and_kept(pod: Node) -> None:
    pod.publish(2)
    pod.publish(3)
    pod.crash()
    assert pod.start_agent() == Ledger("digits", pod.published, standing=3)
    assert pod.steps >= 2 * 3, "it gives way often enough to say that it lives"
    assert pod.file(3).read_text() == "version 3"
    pod.steps = 0
    assert pod.start_agent().versions == pod.published
    assert pod.steps == 0, "once"


@pytest.mark.parametrize(
    "harm",
    [
        lambda file: file.write_bytes(b"\0" * len(file.read_bytes())),
        lambda file: file.write_bytes(b""),
        lambda file: file.unlink(),
        lambda file: file.with_name("another").write_text(""),
    ],
    ids=["zeros of the same size", "empty", "gone", "one more"],
)
def test_after_the_nodes_crash_a_version_of_other_bytes_is_fetched_again(
    pod: Node, harm: Callable[[Path], object]
) -> None:
    pod.publish(2)
    pod.publish(3)
    harm(pod.file(3))
    pod.crash()
    assert pod.start_agent().versions == {2: pod.published[2]}
    assert not pod.file(3).exists(), "no server may start with it"
    assert pod.file(2).exists()


def test_a_version_whose_files_were_not_sealed_is_fetched_again(pod: Node) -> None:
    pod.publish(3, is_sealed=False)
    pod.crash()
    assert pod.start_agent().versions == {}
    assert not pod.file(3).exists()


def test_a_seal_of_other_bytes_under_the_number_is_none(pod: Node) -> None:
    pod.publish(3)
    pod.published[3] = Published("b" * 64, 3_000_009, "digits/3")
    pod.volume.write_ledger(Ledger("digits", pod.published))
    pod.crash()
    assert pod.start_agent().versions == {}


def test_downloads_that_had_begun_begin_anew(pod: Node) -> None:
    pod.publish(3)
    download = pod.volume.staging(4) / "download"
    download.mkdir()
    pod.start_agent()
    assert download.exists()
    pod.crash()
    pod.start_agent()
    assert not download.exists()


@pytest.mark.parametrize("left", [b"\0" * 90, b"\xff\xfe\x80 model"], ids=["zeros", "what was there before"])
def test_what_the_crash_left_of_a_servers_configuration_is_written_anew(pod: Node, left: bytes) -> None:
    for name in ("models.config", "config.pbtxt"):
        pod.volume.write_in_repository(name, "name: 'digits'")
        (pod.volume.repository / name).write_bytes(left)
        pod.volume.read_in_repository(name)
        pod.volume.write_in_repository(name, "name: 'digits'")
        assert (pod.volume.repository / name).read_text() == "name: 'digits'"


def test_files_beside_the_versions_are_on_the_disk_before_a_ledger_is(
    pod: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "origin").mkdir()
    (tmp_path / "origin" / "config.pbtxt").write_text('label_filename: "labels.txt"')
    (tmp_path / "origin" / "labels.txt").write_text("zero")
    flushed: dict[int, int] = {}  # inode → its bytes then

    def flush(file: int) -> None:
        status = os.fstat(file)
        flushed[status.st_ino] = status.st_size

    monkeypatch.setattr(os, "fsync", flush)
    pod.volume.keep_model_files(Tree(tmp_path / "origin"))
    kept = pod.volume.repository / "labels.txt"
    assert kept.read_text() == "zero"
    assert flushed[kept.stat().st_ino] == len("zero")


def test_a_ledger_that_nobody_verified_vouches_for_nothing(pod: Node) -> None:
    pod.publish(3)
    pod.crash()
    assert ModelVolume(pod.models, "digits").read_ledger() == Ledger("digits", {})


@pytest.mark.parametrize("text", ["", "[]", '{"versions": {"x": 1}}', '{"versions": []}', '{"versions": {"3": null}}'])
def test_a_ledger_that_cant_be_read_costs_a_fetch(pod: Node, text: str) -> None:
    pod.publish(3)
    (pod.models / ".agent" / LEDGER).write_text(text)
    assert pod.start_agent() == Ledger("digits", {})


def test_a_seal_is_made_once_for_the_same_bytes(pod: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    pod.publish(3)
    before = (pod.models / ".agent" / SEALS).read_text()
    monkeypatch.setattr(after_crash, "digest_slowly", None)  # would be called, and fail
    seal(pod.models, "digits", {3: pod.published[3].sha256})
    assert (pod.models / ".agent" / SEALS).read_text() == before
    seal(pod.models, "digits", {})
    assert json.loads((pod.models / ".agent" / SEALS).read_text()) == {}, "what went needs none"


def test_the_slow_digest_is_the_digest(tmp_path: Path) -> None:
    (tmp_path / "v" / "deep").mkdir(parents=True)
    (tmp_path / "v" / "a").write_text("x")
    (tmp_path / "v" / "deep" / "b").write_text("y")
    steps = digest_slowly(tmp_path / "v")
    found: str | None = None
    while True:
        try:
            next(steps)
        except StopIteration as end:
            found = end.value
            break
    assert found == digest_path(tmp_path / "v")
    shutil.rmtree(tmp_path / "v")
    with pytest.raises(StopIteration) as ended:
        next(digest_slowly(tmp_path / "v"))
    assert ended.value.value is None
