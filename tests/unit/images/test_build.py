"""serving-images/build: a tag says what is in an image, and nothing else."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
PROGRAM = ROOT / "serving-images" / "build"


@pytest.fixture
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The program as a module, over a tree and a cache of its own."""
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setenv("SLIPWAY_CACHE", str(tmp_path / "cache"))
    loader = SourceFileLoader("slipway_image_build", str(PROGRAM))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[loader.name] = module
    loader.exec_module(module)
    vars(module)["ROOT"] = tmp_path
    (tmp_path / "box").mkdir()
    (tmp_path / "box" / "Dockerfile").write_text("FROM scratch\n")
    yield module
    del sys.modules[loader.name]


def tag(build: Any) -> str:
    build.reference.cache_clear()
    reference: str = build.reference(build.Image("box", "box", docker_flavor="official"))
    name, _, found = reference.rpartition(":")
    assert name == "slipway.dev/box"
    return found


def test_tag_is_twelve_hex_digits_and_stays(build: Any) -> None:
    first = tag(build)
    assert len(first) == 12
    assert int(first, 16) >= 0
    assert tag(build) == first


def test_tag_changes_with_content_name_and_mode(build: Any, tmp_path: Path) -> None:
    seen = {tag(build)}
    file = tmp_path / "box" / "file"
    for change in (
        lambda: file.write_text("a"),
        lambda: file.write_text("b"),
        lambda: file.chmod(0o755),
        lambda: file.rename(tmp_path / "box" / "other"),
    ):
        change()
        seen.add(tag(build))
    assert len(seen) == 5


def test_tag_changes_with_the_go_module_of_its_program(build: Any, tmp_path: Path) -> None:
    vars(build)["GO_MODULES"] = tmp_path / "go"
    module = tmp_path / "go" / "tool"
    module.mkdir(parents=True)
    image = build.Image("box", "box", docker_flavor="official", go_module="tool")
    seen = {build.reference(image)}
    for text in ("module a", "module b"):
        (module / "go.mod").write_text(text)
        build.reference.cache_clear()
        seen.add(build.reference(image))
    assert len(seen) == 3


@pytest.mark.parametrize("name", ["README.md", "__pycache__/a.pyc", "b.pyc"])
def test_what_does_not_reach_the_image_does_not_change_its_tag(build: Any, tmp_path: Path, name: str) -> None:
    before = tag(build)
    (tmp_path / "box" / name).parent.mkdir(exist_ok=True)
    (tmp_path / "box" / name).write_text("anything")
    assert tag(build) == before


def test_dockerignores_leave_out_what_the_tag_leaves_out(build: Any) -> None:
    for image in build.IMAGES:
        ignored = (ROOT / image.folder / ".dockerignore").read_text().splitlines()
        assert {"**/__pycache__", "**/*.pyc", "**/README.md"} <= set(ignored), image.name


def test_missing_tools_are_named_with_the_command_that_installs_them(
    build: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.delenv("SLIPWAY_ENGINE", raising=False)
    with pytest.raises(build.BuildError, match="apt-get install buildah debootstrap"):
        build.engine()


def test_failure_is_one_line_with_the_logs_tail(build: Any) -> None:
    log = build.Log("box")
    with pytest.raises(build.BuildError) as failure:
        log.run(["sh", "-c", "for i in $(seq 40); do echo line $i; done; exit 3"], "build")
    first, *tail = str(failure.value).splitlines()
    assert first == f"box: build failed (exit status 3); the whole log: {log.path}"
    assert tail[-1].strip() == "line 40"
    assert len(tail) == build.LOG_TAIL_LINES


def test_unknown_image_is_refused_with_the_known_ones() -> None:
    done = subprocess.run([sys.executable, str(PROGRAM), "tags", "tritn"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: no image is called 'tritn'; there are: operator, agent, triton, torchserve, ")


def asked(*question: str) -> Any:
    done = subprocess.run([sys.executable, str(PROGRAM), *question], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def named(values: Any) -> dict[str, str]:
    return {name: f"{image['repository']}:{image['tag']}" for name, image in values["images"].items()}


def test_chart_values_name_the_images_of_the_tree() -> None:
    tags, values = asked("tags"), named(asked("values"))
    assert values.keys() == {"operator", "agent", "triton", "torchserve", "onnxruntime", "router"}
    assert values == {name: tag for name, tag in tags.items() if not name.startswith("test-")}


def test_only_tests_get_the_stand_in_for_tensorflow_serving() -> None:
    tags = asked("tags")
    assert "tensorflow-serving" not in named(asked("values"))
    assert named(asked("values", "--tests"))["tensorflow-serving"] == tags["test-tensorflow-serving"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["with-roots", "triton"], "name a command after --"),
        (["with-roots", "tritn", "--", "true"], "no image is called 'tritn'"),
    ],
)
def test_roots_want_known_images_and_a_command(arguments: list[str], words: str) -> None:
    done = subprocess.run([sys.executable, str(PROGRAM), *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert words in done.stderr


def test_an_archive_that_another_checkout_may_load_stays_for_a_while(
    build: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Builder:
        def build(self, image: Any, secrets: object, log: object) -> None:
            build.partial(image).write_text("archive")

    image = build.Image("box", "box", docker_flavor="official")
    build.archive_folder().mkdir(parents=True)
    young, old = (build.archive_folder() / f"box-{digit * 12}.tar" for digit in "ab")
    young.write_text("")
    old.write_text("")
    os.utime(old, (0, 0))
    build.build_one(image, Builder(), {})
    assert (build.archive(image).exists(), young.exists(), old.exists()) == (True, True, False)


def test_a_root_is_in_use_as_long_as_its_process_runs(build: Any) -> None:
    assert build.is_root_in_use(f"slipway-root-test-s3-{os.getpid()}")
    assert not build.is_root_in_use("slipway-root-test-s3-999999999")
    assert not build.is_root_in_use(f"buildah-working-container-{os.getpid()}")
