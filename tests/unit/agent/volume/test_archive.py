"""Unpacking never leaves its folder, whatever an archive says."""

import contextlib
import io
import tarfile
import tempfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slipway_agent.model.errors import Reason, SpecError
from slipway_agent.model.limits import DEFAULT_LIMITS, Budget, Limits, Room
from slipway_agent.volume.archive import archive_kind, unpack

ENDLESS = Room(1 << 40)


def budget(packed: bytes, limits: Limits = DEFAULT_LIMITS, room: Room = ENDLESS) -> Budget:
    return Budget("https://x/m", "version 3", len(packed), limits, room)


def tar_of(*members: tarfile.TarInfo, content: bytes = b"x") -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for member in members:
            if member.isreg():
                member.size = len(content)
            archive.addfile(member, io.BytesIO(content) if member.isreg() else None)
    return packed.getvalue()


def zip_of(*names: str, mode: int = 0, content: bytes = b"x") -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name in names:
            entry = zipfile.ZipInfo("x")
            entry.filename = name  # past ZipInfo's own cleaning, as an attacker's archive would be
            entry.external_attr = mode << 16
            archive.writestr(entry, content)
    return packed.getvalue()


def entry(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, link
    return member


def unpack_in(folder: Path, kind: str, packed: bytes, limits: Limits = DEFAULT_LIMITS, room: Room = ENDLESS) -> Path:
    (folder / "archive").write_bytes(packed)
    unpack(kind, folder / "archive", folder / "content", "https://x/m", budget(packed, limits, room))
    return folder / "content"


def found_in(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_zip_and_a_tar_give_the_same_files(tmp_path: Path) -> None:
    for kind, packed in (
        ("zip", zip_of("./model.onnx", "a/b/labels.txt", "__MACOSX/._model.onnx")),
        ("tar.gz", tar_of(entry("./model.onnx"), entry("a", tarfile.DIRTYPE), entry("a/b/labels.txt"))),
    ):
        folder = tmp_path / kind
        folder.mkdir()
        assert found_in(unpack_in(folder, kind, packed)) == {"model.onnx": b"x", "a/b/labels.txt": b"x"}


def test_links_inside_an_archive_become_files(tmp_path: Path) -> None:
    packed = tar_of(
        entry("v/latest.onnx", tarfile.SYMTYPE, "hop.onnx"),
        entry("v/hop.onnx", tarfile.SYMTYPE, "../blobs/1"),
        entry("blobs/1"),
        entry("hard", tarfile.LNKTYPE, "blobs/1"),
    )
    content = unpack_in(tmp_path, "tar.gz", packed)
    assert found_in(content) == dict.fromkeys(("blobs/1", "v/latest.onnx", "v/hop.onnx", "hard"), b"x")
    assert not any(path.is_symlink() for path in content.rglob("*"))


@pytest.mark.parametrize(
    "members",
    [
        [entry("../evil")],
        [entry("a/../../evil")],
        [entry("/evil")],
        [entry("a\\..\\evil")],
        [entry("C:evil")],
        [entry("link", tarfile.SYMTYPE, "/etc/passwd")],
        [entry("link", tarfile.SYMTYPE, "../../etc/passwd")],
        [entry("link", tarfile.SYMTYPE, "..")],
        [entry("hard", tarfile.LNKTYPE, "../../etc/passwd")],
        [entry("link", tarfile.SYMTYPE, "nowhere")],
        [entry("a", tarfile.SYMTYPE, "b"), entry("b", tarfile.SYMTYPE, "a")],
        [entry("d", tarfile.SYMTYPE, "."), entry("d/evil")],
        [entry("device", tarfile.CHRTYPE)],
        [entry("pipe", tarfile.FIFOTYPE)],
        [entry("a"), entry("./a")],
    ],
    ids=lambda members: members[0].name,
)
def test_an_unsafe_entry_is_refused_and_named(tmp_path: Path, members: list[tarfile.TarInfo]) -> None:
    with pytest.raises(SpecError) as refusal:
        unpack_in(tmp_path, "tar.gz", tar_of(*members))
    assert refusal.value.reason is Reason.UNSAFE_PATH
    assert "https://x/m: the entry " in refusal.value.message
    assert sorted(path.name for path in tmp_path.iterdir()) == ["archive", "content"]


@pytest.mark.parametrize("name", ["../evil", "/evil", "a/../../evil", "a\\..\\evil", "C:/evil"])
def test_an_unsafe_name_in_a_zip_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(SpecError) as refusal:
        unpack_in(tmp_path, "zip", zip_of(name))
    assert refusal.value.reason is Reason.UNSAFE_PATH


def test_a_link_in_a_zip_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError) as refusal:
        unpack_in(tmp_path, "zip", zip_of("link", mode=0o120777, content=b"/etc/passwd"))
    assert refusal.value.reason is Reason.UNSAFE_PATH


pieces = st.sampled_from(["..", ".", "a", "b", "", "/", "c\\d", "..\\", "\x00", "C:", "é"])
odd_names = st.lists(pieces, min_size=1, max_size=5).map("/".join)
kinds = st.sampled_from([tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE])


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(odd_names, kinds, odd_names), max_size=5))
def test_no_tar_escapes(members: list[tuple[str, bytes, str]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        outside = Path(name)
        inside = outside / "deep" / "deeper"
        inside.mkdir(parents=True)
        with contextlib.suppress(SpecError):
            unpack_in(inside, "tar.gz", tar_of(*[entry(*member) for member in members]))
        assert [path.name for path in outside.iterdir()] == ["deep"]
        assert [path.name for path in (outside / "deep").iterdir()] == ["deeper"]
        assert {path.name for path in inside.iterdir()} <= {"archive", "content"}
        assert not any(path.is_symlink() for path in inside.rglob("*"))


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
@pytest.mark.parametrize("damage", ["junk", "empty", "cut"])
def test_a_damaged_archive_is_refused_in_words(tmp_path: Path, kind: str, damage: str) -> None:
    whole = (
        zip_of("model.onnx", content=bytes(range(256)) * 400)
        if kind == "zip"
        else tar_of(entry("model.onnx"), content=bytes(range(256)) * 400)
    )
    packed = {"junk": b"no archive at all", "empty": b"", "cut": whole[: len(whole) // 2]}[damage]
    with pytest.raises(SpecError) as refusal:
        unpack_in(tmp_path, kind, packed)
    assert refusal.value.reason is Reason.UNSUPPORTED_ARCHIVE
    assert "can't be unpacked" in refusal.value.message


def test_a_name_that_is_file_and_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError) as refusal:
        unpack_in(tmp_path, "tar.gz", tar_of(entry("a"), entry("a/b")))
    assert refusal.value.reason is Reason.UNSUPPORTED_ARCHIVE


@pytest.mark.parametrize(
    ("name", "beginning", "kind"),
    [
        ("m.ZIP", b"", "zip"),
        ("m.tar.gz", b"", "tar.gz"),
        ("m.tgz", b"", "tar.gz"),
        ("m.onnx", b"PK\x03\x04", None),
        ("m.mar", b"PK\x03\x04", "zip"),
        ("m.MAR", b"\x1f\x8b\x08\x00", "tar.gz"),
        ("download", b"PK\x03\x04", "zip"),
        ("download", b"\x1f\x8b\x08\x00", "tar.gz"),
        ("download", b"\x08\x07\x12\x00", None),
    ],
)
def test_the_kind_follows_from_the_name_then_the_bytes(name: str, beginning: bytes, kind: str | None) -> None:
    assert archive_kind(name, beginning) == kind
