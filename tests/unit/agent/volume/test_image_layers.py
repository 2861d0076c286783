"""Layers of an image become one folder, whatever they hold, and nothing outside it."""

import gzip
import io
import os
import tarfile
from pathlib import Path

import pytest

from slipway_agent.model.errors import Reason, SpecError
from slipway_agent.model.limits import DEFAULT_LIMITS, Budget, Limits, Room
from slipway_agent.volume.image_layers import Layers


def tar_of(*members: tuple[str, bytes | None, bytes, str]) -> bytes:
    """(name, content, kind, link target) in order."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, content, kind, target in members:
            member = tarfile.TarInfo(name)
            member.type, member.linkname, member.size = kind, target, len(content or b"")
            archive.addfile(member, io.BytesIO(content or b""))
    return packed.getvalue()


def file(name: str, content: bytes = b"") -> tuple[str, bytes | None, bytes, str]:
    return name, content, tarfile.REGTYPE, ""


def folder(name: str) -> tuple[str, bytes | None, bytes, str]:
    return name, None, tarfile.DIRTYPE, ""


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tuple[str, bytes | None, bytes, str]:
    return name, None, kind, target


WHERE = "oci://registry/digits:v3"


def applied(tmp_path: Path, *layers: bytes, limits: Limits = DEFAULT_LIMITS) -> Path:
    budget = Budget(WHERE, WHERE, sum(map(len, layers)), limits, Room(1 << 40))
    image = Layers(tmp_path / "content", WHERE, budget)
    for number, layer in enumerate(layers):
        (tmp_path / f"{number}.blob").write_bytes(layer)
        image.apply(tmp_path / f"{number}.blob")
    return image.finish()


def content(place: Path) -> dict[str, bytes]:
    assert not any(path.is_symlink() for path in place.rglob("*"))
    return {str(path.relative_to(place)): path.read_bytes() for path in place.rglob("*") if path.is_file()}


def test_later_layers_win(tmp_path: Path) -> None:
    place = applied(tmp_path, tar_of(file("a", b"1"), file("b", b"1")), gzip.compress(tar_of(file("a", b"2"))))
    assert content(place) == {"a": b"2", "b": b"1"}


def test_a_whiteout_removes_a_file_or_a_folder_of_the_layers_below(tmp_path: Path) -> None:
    below = tar_of(file("a"), file("folder/x"), file("folder/y"), file("kept/z"))
    place = applied(tmp_path, below, tar_of(file(".wh.a"), file(".wh.folder"), file("kept/.wh.none")))
    assert content(place) == {"kept/z": b""}


@pytest.mark.parametrize("is_first", [True, False])
def test_an_opaque_whiteout_spares_what_its_own_layer_brings(tmp_path: Path, is_first: bool) -> None:
    mine, marker = file("folder/new/n", b"n"), file("folder/.wh..wh..opq")
    above = tar_of(*([marker, mine] if is_first else [mine, marker]))
    place = applied(tmp_path, tar_of(file("folder/old"), file("folder/new/o"), file("other")), above)
    assert content(place) == {"folder/new/n": b"n", "other": b""}


def test_files_and_folders_give_way_to_each_other(tmp_path: Path) -> None:
    place = applied(tmp_path, tar_of(file("a/b"), file("c", b"c")), tar_of(file("a", b"a"), file("c/d", b"d")))
    assert content(place) == {"a": b"a", "c/d": b"d"}


def test_names_are_read_from_the_root(tmp_path: Path) -> None:
    place = applied(tmp_path, tar_of(folder("./"), file("/x/a", b"1"), file("./x/b", b"2")))
    assert content(place) == {"x/a": b"1", "x/b": b"2"}


def test_links_to_files_become_second_names(tmp_path: Path) -> None:
    layer = tar_of(
        link("first", "/x/real"),
        link("x/second", "../first"),
        file("x/real", b"r"),
        link("third", "x/real", tarfile.LNKTYPE),
    )
    assert content(applied(tmp_path, layer)) == dict.fromkeys(["first", "x/second", "x/real", "third"], b"r")


def test_a_replaced_file_leaves_its_second_name_alone(tmp_path: Path) -> None:
    below = tar_of(file("a", b"old"), link("b", "a", tarfile.LNKTYPE))
    assert content(applied(tmp_path, below, tar_of(file("a", b"new")))) == {"a": b"new", "b": b"old"}


def test_a_link_that_a_later_layer_replaces_or_removes_is_gone(tmp_path: Path) -> None:
    below = tar_of(link("a", "/nowhere"), link("b", "/nowhere"), link("c/d", "/nowhere"))
    place = applied(tmp_path, below, tar_of(file("a", b"a"), file(".wh.b"), file(".wh.c")))
    assert content(place) == {"a": b"a"}


def test_the_folder_models_is_the_model_and_the_rest_of_the_image_doesnt_matter(tmp_path: Path) -> None:
    layer = tar_of(
        link("bin", "usr/bin"),
        ("dev/null", None, tarfile.CHRTYPE, ""),
        file("usr/bin/sh"),
        file("models/1/m.onnx", b"m"),
    )
    place = applied(tmp_path, layer)
    assert place.name == "models"
    assert content(place) == {"1/m.onnx": b"m"}


@pytest.mark.parametrize(
    ("member", "words"),
    [
        (link("models/x", "/nowhere"), "models/x is a link to nowhere"),
        (link("models/x", "../../../etc/passwd"), "models/x is a link to etc/passwd"),
        (link("models/x", "absent", tarfile.LNKTYPE), "models/x is a link to absent"),
        (("models/x", None, tarfile.FIFOTYPE, ""), "models/x is a device, pipe or socket"),
        (file("models/../../x"), "leads out of the image"),
    ],
)
def test_what_the_model_lacks_is_refused(
    tmp_path: Path, member: tuple[str, bytes | None, bytes, str], words: str
) -> None:
    with pytest.raises(SpecError, match=words) as refusal:
        applied(tmp_path, tar_of(file("models/model.onnx"), member))
    assert refusal.value.reason is Reason.UNSAFE_PATH
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (b"\x28\xb5\x2f\xfdrest", "zstd"),
        (gzip.compress(tar_of(file("a", os.urandom(99_999))))[:5000], "can't be unpacked"),
        (b"no tar at all" * 100, "can't be unpacked"),
        (tar_of(file("a", b"x" * 9999))[:1000], "can't be unpacked"),
    ],
)
def test_a_damaged_layer_is_refused(tmp_path: Path, layer: bytes, words: str) -> None:
    with pytest.raises(SpecError, match=words) as refusal:
        applied(tmp_path, layer)
    assert refusal.value.reason is Reason.UNSUPPORTED_ARCHIVE


def test_too_many_entries_are_refused_with_the_field_that_raises_the_limit(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"more than 3 files .* spec\.storage\.limits\.entries"):
        applied(tmp_path, tar_of(*(file(str(number)) for number in range(4))), limits=Limits(entries=3))


@pytest.mark.parametrize("name", [".wh...", ".wh..", ".wh.", "a/.wh..."])
def test_a_whiteout_of_the_folder_itself_or_the_one_above_removes_nothing(tmp_path: Path, name: str) -> None:
    (tmp_path / "beside").write_text("kept")
    with pytest.raises(SpecError) as refusal:
        applied(tmp_path, tar_of(file("a/b")), tar_of(file(name)))
    assert refusal.value.reason is Reason.UNSAFE_PATH
    assert (tmp_path / "beside").read_text() == "kept"
    assert (tmp_path / "content/a/b").is_file()


@pytest.mark.parametrize(
    "members",
    [
        [link("a", "models/m"), file("a/b")],
        [link("a", "models/m"), link("a/b", "models/m")],
        [link("a/b", "models/m"), link("a", "models/m"), folder("a")],
        [file("a/b"), link("a", "a/b", tarfile.LNKTYPE)],
        [file("a"), link("a/b", "a", tarfile.LNKTYPE)],
    ],
)
def test_a_name_that_is_a_link_and_a_folder_by_turns_ends_as_the_last_one(
    tmp_path: Path, members: list[tuple[str, bytes | None, bytes, str]]
) -> None:
    assert content(applied(tmp_path, tar_of(file("models/m", b"m"), *members))) == {"m": b"m"}
