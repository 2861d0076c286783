"""The builds of images: a tag says what is in an image, and nothing else; and the two command lines."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from slipway_images import building, engines, images
from tests.e2e.images.command_line import ALL_IMAGES

ROOT = Path(__file__).resolve().parents[3]
PRODUCT = ROOT / "serving-images" / "build"
WITH_TESTS = ROOT / "tests" / "e2e" / "images" / "build"
BOX = images.Image("box", "box", docker_flavor="official")


@pytest.fixture
def box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of image `box`, in a tree and with a cache of its own."""
    monkeypatch.setenv("SLIPWAY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(images, "ROOT", tmp_path)
    images.reference.cache_clear()
    (tmp_path / "box").mkdir()
    (tmp_path / "box" / "Dockerfile").write_text("FROM scratch\n")
    return tmp_path / "box"


def tag(image: images.Image = BOX) -> str:
    images.reference.cache_clear()
    name, _, found = images.reference(image).rpartition(":")
    assert name == "slipway.dev/box"
    return found


def test_tag_is_twelve_hex_digits_and_stays(box: Path) -> None:
    first = tag()
    assert len(first) == 12
    assert int(first, 16) >= 0
    assert tag() == first


def test_tag_changes_with_content_name_and_mode(box: Path) -> None:
    seen = {tag()}
    file = box / "file"
    for change in (
        lambda: file.write_text("a"),
        lambda: file.write_text("b"),
        lambda: file.chmod(0o755),
        lambda: file.rename(box / "other"),
    ):
        change()
        seen.add(tag())
    assert len(seen) == 5


def test_tag_changes_with_the_sources_of_its_program(box: Path) -> None:
    sources = box.parent / "go" / "tool"
    sources.mkdir(parents=True)
    image = images.Image("box", "box", docker_flavor="official", programs=images.Programs(sources, Path))
    seen = {tag(image)}
    for text in ("module a", "module b"):
        (sources / "go.mod").write_text(text)
        seen.add(tag(image))
    assert len(seen) == 3


@pytest.mark.parametrize("name", ["README.md", "__pycache__/a.pyc", "b.pyc"])
def test_what_does_not_reach_the_image_does_not_change_its_tag(box: Path, name: str) -> None:
    before = tag()
    (box / name).parent.mkdir(exist_ok=True)
    (box / name).write_text("anything")
    assert tag() == before


def test_dockerignores_leave_out_what_the_tag_leaves_out() -> None:
    for image in ALL_IMAGES:
        ignored = (ROOT / image.folder / ".dockerignore").read_text().splitlines()
        assert {"**/__pycache__", "**/*.pyc", "**/README.md"} <= set(ignored), image.name


def test_missing_tools_are_named_with_the_command_that_installs_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.delenv("SLIPWAY_ENGINE", raising=False)
    with pytest.raises(images.BuildError, match="apt-get install buildah debootstrap"):
        engines.engine()


def test_failure_is_one_line_with_the_logs_tail(box: Path) -> None:
    log = engines.Log("box")
    with pytest.raises(images.BuildError) as failure:
        log.run(["sh", "-c", "for i in $(seq 40); do echo line $i; done; exit 3"], "build")
    first, *tail = str(failure.value).splitlines()
    assert first == f"box: build failed (exit status 3); the whole log: {log.path}"
    assert tail[-1].strip() == "line 40"
    assert len(tail) == engines.LOG_TAIL_LINES


def ran(program: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(program), *arguments], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("program", [PRODUCT, WITH_TESTS], ids=["product", "with tests"])
def test_unknown_image_is_refused_with_the_known_ones(program: Path) -> None:
    done = ran(program, "tags", "tritn")
    assert done.returncode == 1
    assert done.stderr.startswith("error: no image is called 'tritn'; there are: operator, agent, triton, torchserve, ")


def asked(program: Path, question: str) -> Any:
    done = ran(program, question)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def named(values: Any) -> dict[str, str]:
    return {name: f"{image['repository']}:{image['tag']}" for name, image in values["images"].items()}


def test_chart_values_name_the_images_of_the_tree() -> None:
    tags, values = asked(PRODUCT, "tags"), named(asked(PRODUCT, "values"))
    assert values.keys() == {"operator", "agent", "triton", "torchserve", "onnxruntime", "router"}
    assert values == tags


def test_only_tests_get_the_stand_in_for_tensorflow_serving() -> None:
    tags = asked(WITH_TESTS, "tags")
    stand_in = {"tensorflow-serving": tags["test-tensorflow-serving"]}
    assert named(asked(WITH_TESTS, "values")) == named(asked(PRODUCT, "values")) | stand_in


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["with-roots", "triton"], "name a command after --"),
        (["with-roots", "--", "true"], "name the images"),
        (["with-roots", "tritn", "--", "true"], "no image is called 'tritn'"),
    ],
)
def test_roots_want_known_images_and_a_command(arguments: list[str], words: str) -> None:
    done = ran(WITH_TESTS, *arguments)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert words in done.stderr


def test_the_product_imports_nothing_of_the_tests() -> None:
    sources = [path for folder in ("operator", "serving-images", "examples") for path in (ROOT / folder).rglob("*")]
    programs = [path for path in sources if path.suffix == ".py" or (path.is_file() and path.name == "build")]
    found = [str(path) for path in programs if re.search(r"^\s*(from|import) tests\b", path.read_text(), re.MULTILINE)]
    assert len(programs) > 100
    assert found == []


def test_an_archive_that_another_checkout_may_load_stays_for_a_while(box: Path) -> None:
    class Builder(engines.Docker):
        def build(self, image: images.Image, secrets: object, log: object) -> None:
            images.partial(image).write_text("archive")

    images.archive_folder().mkdir(parents=True)
    young, old = (images.archive_folder() / f"box-{digit * 12}.tar" for digit in "ab")
    young.write_text("")
    old.write_text("")
    os.utime(old, (0, 0))
    building.build_one(BOX, Builder(), {})
    assert (images.archive(BOX).exists(), young.exists(), old.exists()) == (True, True, False)


def test_a_root_is_in_use_as_long_as_its_process_runs() -> None:
    assert engines.is_held(f"slipway-root-test-s3-{os.getpid()}")
    assert not engines.is_held("slipway-root-test-s3-999999999")
    assert not engines.is_held(f"buildah-working-container-{os.getpid()}")
