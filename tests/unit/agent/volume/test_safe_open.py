"""Folders that others write to: what stays inside is read, and nothing else is followed, opened or waited on."""

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from slipway_agent.model.errors import SpecError
from slipway_agent.volume import safe_open
from slipway_agent.volume.models_volume import ModelVolume, link_or_copy
from slipway_agent.volume.safe_open import Tree, UnsafeError, open_ordinary, read_whole, require_plain

SHOWN = "pvc://models/digits"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    put(tmp_path / "secret", "the agent's own")
    put(tmp_path / "root" / "3" / "model.onnx", "weights")
    put(tmp_path / "root" / "blobs" / "a", "blob")
    return tmp_path / "root"


def put(place: Path, content: str) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(content)


def tree(root: Path) -> Tree:
    return Tree(root, shown=SHOWN)


@pytest.mark.parametrize(
    ("link", "target", "read"),
    [
        ("3/m", "../blobs/a", "3/m"),  # a Hugging Face snapshot
        ("latest", "3", "latest/model.onnx"),
        ("latest", "./3/../3/", "latest/model.onnx"),
        ("3/deep", "../blobs/../blobs", "3/deep/a"),
    ],
)
def test_links_that_stay_inside_are_followed(root: Path, link: str, target: str, read: str) -> None:
    (root / link).symlink_to(target)
    with tree(root).open_file(read) as file:
        assert file.read() in (b"weights", b"blob")


def test_a_kubelets_generations_are_read_by_their_links(root: Path) -> None:
    put(root / "..2026" / "model.py", "x")
    (root / "..data").symlink_to("..2026")
    (root / "model.py").symlink_to("..data/model.py")
    assert tree(root).read_small("model.py", 10) == b"x"
    assert set(tree(root).list_files()) == {"3/model.onnx", "blobs/a", "model.py"}


@pytest.mark.parametrize(
    "target",
    ["/etc/hostname", "/proc/self/environ", "../../secret", "../3/../../secret", "../blobs/up/secret", "/"],
)
def test_links_that_lead_out_are_refused_by_name(root: Path, target: str) -> None:
    (root / "blobs" / "up").symlink_to("../..")
    (root / "3" / "link").symlink_to(target)
    for look in (tree(root).open_file, tree(root).look, tree(root).list_names):
        with pytest.raises(UnsafeError) as refusal:
            look("3/link")
        assert f"{SHOWN}/3/link is a link (to {target}) that leads out of {SHOWN}" in str(refusal.value) or (
            "is a link (to ../..)" in str(refusal.value)
        )
    with pytest.raises(UnsafeError):
        list(tree(root).list_files())


def test_an_absolute_link_to_the_inside_is_refused_too(root: Path) -> None:
    """It means this place in one container alone."""
    (root / "3" / "link").symlink_to(root / "blobs" / "a")
    with pytest.raises(UnsafeError, match="by a relative path that stays inside"):
        tree(root).open_file("3/link")


@pytest.mark.parametrize("path", ["..", "3/../..", "3/../../root/3/model.onnx", "../secret"])
def test_a_path_of_ones_own_doesnt_lead_out_either(root: Path, path: str) -> None:
    with pytest.raises(UnsafeError):
        tree(root).look(path)


def make_socket(place: Path) -> None:
    here = os.getcwd()
    os.chdir(place.parent)  # a socket's path is short
    try:
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(place.name)
    finally:
        os.chdir(here)


@pytest.mark.parametrize(("make", "words"), [(os.mkfifo, "a FIFO"), (make_socket, "a socket")], ids=["FIFO", "socket"])
@pytest.mark.parametrize("by", ["itself", "a link"])
def test_what_is_no_file_is_named_and_not_waited_on(
    root: Path, make: Callable[[Path], None], words: str, by: str
) -> None:
    make(root / "3" / "thing")
    name = "3/thing"
    if by == "a link":
        (root / "3" / "link").symlink_to("thing")
        name = "3/link"
    with pytest.raises(UnsafeError, match=words):
        tree(root).open_file(name)
    with pytest.raises(UnsafeError, match=words):
        list(tree(root).list_files())


def test_a_ring_and_a_link_to_the_folder_above_end(root: Path) -> None:
    (root / "a").symlink_to("b")
    (root / "b").symlink_to("a")
    with pytest.raises(UnsafeError, match="ring of links"):
        tree(root).look("a")
    for name in ("a", "b"):
        (root / name).unlink()
    (root / "3" / "up").symlink_to("..")
    with pytest.raises(UnsafeError, match="3/up is a link to a folder that holds it"):
        list(tree(root).list_files())


def test_links_that_multiply_end_at_a_count(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(safe_open, "ENTRIES_LIMIT", 500)
    for level in range(20):  # 2^20 paths, no ring, no file
        folder = root / "bomb" / str(level)
        folder.mkdir(parents=True)
        for side in ("a", "b"):
            (folder / side).symlink_to(f"../{level + 1}")
    (root / "bomb" / "20").mkdir()
    with pytest.raises(UnsafeError, match="more than 500 files and folders, links followed"):
        list(tree(root).list_files("bomb/0"))


def test_folders_deeper_than_any_model_end(root: Path) -> None:
    place = root / "deep"
    for _ in range(safe_open.DEPTH_LIMIT + 2):
        place = place / "d"
    place.mkdir(parents=True)
    with pytest.raises(UnsafeError, match="folders more than 64 deep"):
        list(tree(root).list_files("deep"))


def test_the_folder_itself_may_be_a_link_within_its_volume_and_no_further(tmp_path: Path, root: Path) -> None:
    (root / "latest").symlink_to("3")
    assert Tree(root, "latest", SHOWN).read_small("model.onnx", 10) == b"weights"
    for name, target in (("out", "/proc/self"), ("up", ".."), ("round", "3/../../root")):
        (root / name).symlink_to(target)
        with pytest.raises(UnsafeError, match=f"{SHOWN} is a link .* leads out of its volume"):
            Tree(root, name, SHOWN).list_names()


def test_below_such_a_link_the_folder_is_the_bound(root: Path) -> None:
    (root / "latest").symlink_to("3")
    (root / "3" / "out").symlink_to("../blobs/a")
    with pytest.raises(UnsafeError, match=f"leads out of {SHOWN}/latest"):
        Tree(root, "latest", f"{SHOWN}/latest").open_file("out")


def test_a_name_that_is_exchanged_between_look_and_open_reads_what_was_looked_at(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The descriptor is what was looked at: whoever is quicker than the agent wins nothing."""
    secret = root.parent / "secret"
    real = os.fstat

    def exchange(file: int) -> os.stat_result:
        status = real(file)
        place = root / "3" / "model.onnx"
        if os.readlink(f"/proc/self/fd/{file}") == str(place):
            place.unlink()
            place.symlink_to(secret)
        return status

    monkeypatch.setattr(os, "fstat", exchange)
    with tree(root).open_file("3/model.onnx") as file:
        assert file.read() == b"weights"


def test_a_small_file_is_read_to_its_limit(root: Path) -> None:
    assert tree(root).read_small("blobs/a", 4) == b"blob"
    with pytest.raises(UnsafeError, match="blobs/a has more than 3 bytes"):
        tree(root).read_small("blobs/a", 3)


def test_where_nothing_may_be_a_link_none_is_followed_or_written_through(root: Path) -> None:
    (root / "link").symlink_to("blobs")
    (root / "3" / "name").symlink_to("../../secret")
    strict = Tree(root, shown="the cache", follows=False)
    with pytest.raises(UnsafeError, match="and none is followed here"):
        strict.open_file("link/a")
    for path in ("link/new", "3/name"):
        with pytest.raises((NotADirectoryError, FileExistsError)):
            strict.create(path)
    strict.write_small("3/name", "written")
    assert (root.parent / "secret").read_text() == "the agent's own"
    assert (root / "3" / "name").read_text() == "written"
    strict.remove("link")
    assert (root / "blobs" / "a").exists()
    assert not (root / "link").is_symlink()


def test_folders_are_made_renamed_touched_and_removed_by_name(root: Path) -> None:
    strict = Tree(root, follows=False)
    strict.write_small("new/deep/note", "x")
    strict.rename("new/deep", "entries/deep")
    os.utime(root / "entries" / "deep" / "note", (1, 1))
    strict.touch("entries/deep/note")
    assert strict.look("entries/deep/note").st_mtime > 1
    strict.remove("entries")
    strict.remove("entries")
    assert not strict.is_folder("entries")


def test_what_servers_are_given_is_plain(root: Path, tmp_path: Path) -> None:
    require_plain(root, "version 3")
    volume = ModelVolume(tmp_path / "models", "digits")
    (root / "3" / "link").symlink_to("/proc/self/environ")
    with pytest.raises(UnsafeError, match="version 3 holds link, which is a link, no ordinary file"):
        volume.publish(3, root / "3")
    assert not (volume.repository / "3").exists()
    with pytest.raises(UnsafeError, match="no ordinary file"):
        link_or_copy(root / "3" / "link", root / "3" / "second")


@pytest.mark.parametrize("target", ["/proc/self/environ", "../secret", "labels.fifo"])
def test_a_link_that_a_models_config_names_is_refused(root: Path, tmp_path: Path, target: str) -> None:
    os.mkfifo(root / "labels.fifo")
    put(root / "config.pbtxt", 'label_filename: "labels.txt"')
    (root / "labels.txt").symlink_to(target)
    volume = ModelVolume(tmp_path / "models", "digits")
    with pytest.raises(UnsafeError, match=r"labels\.(txt|fifo)"):
        volume.keep_model_files(tree(root))
    assert not (volume.repository / "labels.txt").exists()
    (root / "labels.txt").unlink()
    (root / "labels.txt").symlink_to("blobs/a")
    volume.keep_model_files(tree(root))
    assert (volume.repository / "labels.txt").read_text() == "blob"
    assert not (volume.repository / "labels.txt").is_symlink()


def test_a_configuration_larger_than_any_is_named_and_not_read(root: Path, tmp_path: Path) -> None:
    volume = ModelVolume(tmp_path / "models", "digits")
    place = volume.repository / "3" / "config.pbtxt"
    put(place, "")
    os.truncate(place, 1 << 40)  # sparse: a read of it would end the agent
    with pytest.raises(SpecError, match=r"version 3: config.pbtxt has more than 1048576 bytes"):
        volume.kept_config(3)
    with pytest.raises(UnsafeError, match=r"more than 100 bytes") as refusal:
        read_whole(place, 100)
    assert refusal.value.is_too_much


def test_a_file_of_ones_own_may_be_a_link_and_no_pipe(root: Path) -> None:
    (root / "link").symlink_to("blobs/a")
    with open_ordinary(root / "link") as file:
        assert file.read() == b"blob"
    os.mkfifo(root / "pipe")
    with pytest.raises(UnsafeError, match="a FIFO"):
        open_ordinary(root / "pipe")
    with pytest.raises(IsADirectoryError):
        open_ordinary(root)
