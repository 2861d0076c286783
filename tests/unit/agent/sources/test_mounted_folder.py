"""Versions in a mounted folder: what is found, what is copied, and the user's words when it isn't there."""

import errno
import os
from pathlib import Path

import pytest

from slipway_agent.config import Source
from slipway_agent.model.errors import CancelledError, Reason, SpecError, TransientError, UnchangedError
from slipway_agent.servers.triton.config import detect_backend
from slipway_agent.sources.base import Fetched, Progress
from slipway_agent.sources.mounted_folder import PathSource
from slipway_agent.volume.digest import digest_path
from slipway_agent.volume.safe_open import Tree

URI = "pvc://models/digits"


def holds_model(folder: Path) -> bool:
    return folder.is_dir() and detect_backend([entry.name for entry in folder.iterdir()]) is not None


def source_of(root: Path, served: int = 3, **versions: str) -> PathSource:
    mapped = {int(name.removeprefix("v")): relative for name, relative in versions.items()}
    return PathSource(Source(URI, str(root), mapped), served, holds_model)


def put(place: Path, content: str = "weights") -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(content)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for version in (1, 3, 10):
        put(tmp_path / "source" / str(version) / "model.onnx", f"weights {version}")
    return tmp_path / "source"


@pytest.fixture
def staging(tmp_path: Path) -> Path:
    (tmp_path / "staging").mkdir()
    return tmp_path / "staging"


def fetch(source: PathSource, staging: Path, version: int = 3, refused: str | None = None) -> Fetched:
    return source.fetch(version, staging, Progress(), refused)


def test_only_canonical_folders_are_versions(root: Path) -> None:
    for name in ("v1", "01", "0", "-2", "latest", "2147483648", "20240115120000"):
        put(root / name / "model.onnx")
    put(root / "7")
    assert tuple(source_of(root).list_versions()) == (1, 3, 10)


@pytest.mark.parametrize(("uri", "version"), [("oci://registry/digits", 7), (URI, 3)])
def test_of_a_mounted_image_the_folder_models_is_the_model(root: Path, uri: str, version: int) -> None:
    put(root / "models" / "model.onnx", "of a modelcar")
    source = PathSource(Source(uri, str(root), {}), 7, holds_model)
    assert version in source.list_versions()
    assert (7 in source.list_versions()) == uri.startswith("oci://")


def test_a_mounted_image_without_such_a_folder_is_the_model_itself(root: Path, staging: Path) -> None:
    put(root / "image" / "model.onnx")
    (root / "image" / "models").symlink_to(root)
    source = PathSource(Source("oci://registry/digits", str(root / "image"), {}), 7, holds_model)
    assert tuple(source.list_versions()) == (7,)


def test_a_folder_is_copied_with_its_digest(root: Path, staging: Path) -> None:
    put(root / "3" / "deep" / "labels.txt", "labels")
    progress = Progress()
    fetched = source_of(root).fetch(3, staging, progress, None)
    assert fetched.sha256 == digest_path(root / "3") == digest_path(fetched.path)
    assert progress.fetched_bytes == progress.total_bytes == len("weights 3") + len("labels")


def test_a_mapped_file_is_copied_with_the_digest_of_its_bytes(root: Path, staging: Path) -> None:
    put(root / "runs" / "best.onnx", "best")
    fetched = fetch(source_of(root, v3="runs/best.onnx"), staging)
    assert (fetched.name, fetched.sha256) == ("best.onnx", digest_path(root / "runs" / "best.onnx"))
    assert fetched.path.read_text() == "best"
    assert tuple(source_of(root, v3="runs/best.onnx").list_versions()) == (3,)


@pytest.mark.parametrize("name", ["model.onnx", "digits-2026.onnx", "model.py"])
def test_a_uri_that_is_itself_a_model_is_the_served_version(tmp_path: Path, staging: Path, name: str) -> None:
    put(tmp_path / "model" / name)
    source = source_of(tmp_path / "model", served=7)
    assert tuple(source.list_versions()) == (7,)
    assert fetch(source, staging, 7).sha256 == digest_path(tmp_path / "model")
    with pytest.raises(SpecError, match="is itself one model, version 7"):
        fetch(source, staging, 6)


def test_a_uri_that_is_one_file_is_the_served_version(tmp_path: Path, staging: Path) -> None:
    put(tmp_path / "digits.zip")
    assert fetch(source_of(tmp_path / "digits.zip"), staging).name == "digits.zip"
    put(tmp_path / "README.md")
    with pytest.raises(SpecError) as refusal:
        fetch(source_of(tmp_path / "README.md"), staging)
    assert refusal.value.reason is Reason.UNSUPPORTED_ARCHIVE


def test_a_missing_uri_is_named_as_the_user_wrote_it(tmp_path: Path, staging: Path) -> None:
    source = source_of(tmp_path / "nowhere")
    for ask in (source.list_versions, lambda: fetch(source, staging)):
        with pytest.raises(SpecError) as refusal:
            ask()
        assert refusal.value.reason is Reason.SOURCE_NOT_FOUND
        assert refusal.value.message.startswith(f"{URI}: there is no such folder")
        assert str(tmp_path) not in refusal.value.message


def test_a_missing_version_is_said_with_those_there_are(root: Path, staging: Path) -> None:
    put(root / "v4" / "model.onnx")
    (root / "lost+found").mkdir()
    with pytest.raises(SpecError) as refusal:
        fetch(source_of(root, served=4), staging, 4)
    assert refusal.value.reason is Reason.VERSION_NOT_FOUND
    message = refusal.value.message
    assert f"{URI} has no version 4 (no folder {URI}/4); it has 1, 3, 10" in message
    assert "Folders that are no versions: v4; a version's name is a whole number" in message


def test_a_missing_mapped_path_is_named(root: Path, staging: Path) -> None:
    with pytest.raises(SpecError) as refusal:
        fetch(source_of(root, v3="runs/gone"), staging)
    assert refusal.value.reason is Reason.VERSION_NOT_FOUND
    assert f"{URI} has no runs/gone, which model.versions names for version 3" in refusal.value.message


def test_a_version_that_appears_later_is_found(root: Path, staging: Path) -> None:
    source = source_of(root, served=4)
    with pytest.raises(SpecError):
        fetch(source, staging, 4)
    put(root / "4" / "model.onnx")
    assert fetch(source, staging, 4).sha256 == digest_path(root / "4")


def test_links_within_the_model_are_followed(root: Path, staging: Path) -> None:
    put(root / "blobs" / "abc", "blob")
    (root / "3" / "model.onnx").unlink()
    (root / "3" / "model.onnx").symlink_to("../blobs/abc")
    (root / "2").symlink_to("3")
    fetched = fetch(source_of(root), staging, 2)
    assert (fetched.path / "model.onnx").read_text() == "blob"
    assert not (fetched.path / "model.onnx").is_symlink()


@pytest.mark.parametrize("target", ["/etc/passwd", "../../outside", "nowhere", "."])
def test_a_link_that_leads_out_or_nowhere_or_round_is_refused(root: Path, staging: Path, target: str) -> None:
    put(root.parent / "outside")
    (root / "3" / "link").symlink_to(target)
    with pytest.raises(SpecError) as refusal:
        fetch(source_of(root), staging)
    assert refusal.value.reason is Reason.UNSAFE_PATH
    assert f"{URI}/3" in refusal.value.message


def test_a_pipe_is_refused_and_not_waited_for(root: Path, staging: Path) -> None:
    os.mkfifo(root / "3" / "pipe")
    with pytest.raises(SpecError, match=r"/3/pipe is a FIFO, no ordinary file"):
        fetch(source_of(root), staging)


@pytest.mark.parametrize("target", ["/proc/self", "../..", "3/../../.."])
def test_the_uris_own_folder_as_a_link_out_of_its_volume_is_refused(root: Path, staging: Path, target: str) -> None:
    (root / "digits").symlink_to(target)
    source = PathSource(Source(URI, str(root / "digits"), {3: "environ"}), 3, holds_model)
    for ask in (source.list_versions, lambda: fetch(source, staging)):
        with pytest.raises(SpecError, match=f"{URI} is a link .* that leads out of its volume") as refusal:
            ask()
        assert refusal.value.reason is Reason.UNSAFE_PATH


def test_the_uris_own_folder_may_be_a_link_within_its_volume(root: Path, staging: Path) -> None:
    put(root / "releases" / "7" / "3" / "model.onnx", "released")
    (root / "digits").symlink_to("releases/7")
    source = PathSource(Source(URI, str(root / "digits"), {}), 3, holds_model)
    assert tuple(source.list_versions()) == (3,)
    assert (fetch(source, staging).path / "model.onnx").read_text() == "released"


def test_a_version_that_is_only_a_link_out_is_said_and_not_passed_over(root: Path, staging: Path) -> None:
    put(root.parent / "elsewhere" / "model.onnx")
    put(root / "one" / "README")
    (root / "one" / "3").symlink_to(root.parent / "elsewhere")
    source = source_of(root / "one")
    for ask in (source.list_versions, lambda: fetch(source, staging)):
        with pytest.raises(SpecError, match="digits/3 is a link") as refusal:
            ask()
        assert refusal.value.reason is Reason.UNSAFE_PATH


def test_a_configmaps_mount_is_a_model(root: Path, staging: Path) -> None:
    put(root / "map" / "..2026" / "model.py", "x = 1")
    (root / "map" / "..data").symlink_to("..2026")
    (root / "map" / "model.py").symlink_to("..data/model.py")
    source = source_of(root / "map")
    assert tuple(source.list_versions()) == (3,)
    assert [path.name for path in fetch(source, staging).path.iterdir()] == ["model.py"]


def test_a_file_that_grows_for_ever_is_not_copied_for_ever(
    root: Path, staging: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Growing(Progress):
        def add(self, count_bytes: int) -> None:
            with (root / "3" / "model.onnx").open("ab") as file:
                file.write(b"more" * 100)

    with pytest.raises(TransientError, match="changed while it was copied"):
        source_of(root).fetch(3, staging, Growing(), None)


def test_what_a_crash_left_is_overwritten(root: Path, staging: Path) -> None:
    put(staging / "copy" / "stale.bin")
    assert [path.name for path in fetch(source_of(root), staging).path.iterdir()] == ["model.onnx"]


def test_a_file_that_changes_while_it_is_copied_is_copied_again(
    root: Path, staging: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Growing(Progress):
        def add(self, count_bytes: int) -> None:
            put(root / "3" / "model.onnx", "other weights, and longer")

    with pytest.raises(TransientError, match="changed while it was copied"):
        source_of(root).fetch(3, staging, Growing(), None)


def test_bytes_that_were_refused_are_not_copied_twice(root: Path, staging: Path) -> None:
    source = source_of(root)
    first = fetch(source, staging)
    with pytest.raises(UnchangedError):
        fetch(source, staging, refused=first.fingerprint)
    put(root / "3" / "model.onnx", "corrected")
    assert fetch(source, staging, refused=first.fingerprint).sha256 == digest_path(root / "3")


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.EACCES, Reason.ACCESS_DENIED),
        (errno.ENOSPC, Reason.DISK_FULL),
        (errno.EIO, Reason.SOURCE_UNAVAILABLE),
        (errno.ESTALE, Reason.SOURCE_UNAVAILABLE),
    ],
)
def test_errors_of_the_file_system_are_told_apart(
    root: Path, staging: Path, monkeypatch: pytest.MonkeyPatch, number: int, reason: Reason
) -> None:
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number), str(root / "3" / "model.onnx"))

    source = source_of(root)
    monkeypatch.setattr(source, "_copy", fail)
    with pytest.raises((SpecError, TransientError)) as failure:
        fetch(source, staging)
    assert failure.value.reason is reason
    assert URI in failure.value.message
    assert str(root) not in failure.value.message


def test_a_version_larger_than_the_disk_is_refused_before_it_is_copied(
    root: Path, staging: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("slipway_agent.volume.models_volume.SPARE_BYTES", 2**60)
    with pytest.raises(SpecError) as refusal:
        fetch(source_of(root), staging)
    assert refusal.value.reason is Reason.DISK_FULL
    assert not (staging / "copy").exists()


def test_a_copy_can_be_called_off(root: Path, staging: Path) -> None:
    progress = Progress()
    progress.cancel()
    with pytest.raises(CancelledError):
        source_of(root).fetch(3, staging, progress, None)


def test_the_models_own_config_is_offered_only_beside_versions(root: Path) -> None:
    assert source_of(root).model_folder() is None
    put(root / "config.pbtxt")
    assert source_of(root).model_folder() == Tree(root, shown=URI)
    put(root / "model.onnx")
    assert source_of(root).model_folder() is None, "itself a model: the file is the version's own"


def test_a_copy_with_times_of_its_own_is_the_same_version_and_other_bytes_are_not(root: Path, tmp_path: Path) -> None:
    """Each pod has its own copy of a ConfigMap."""
    copy = tmp_path / "copy"
    for version in (1, 3, 10):
        put(copy / str(version) / "model.onnx", f"weights {version}")
        os.utime(copy / str(version) / "model.onnx", (1, version))
    assert source_of(copy).list_versions() == source_of(root).list_versions()
    put(copy / "3" / "model.onnx", "weights four")
    changed, known = source_of(copy).list_versions(), source_of(root).list_versions()
    assert [version for version in known if changed[version] != known[version]] == [3]


def test_large_files_are_not_read_to_be_listed(root: Path) -> None:
    large = root / "3" / "model.onnx"
    large.write_bytes(bytes(2 << 20))
    os.utime(large, (1, 1))
    before = source_of(root).list_versions()
    os.utime(large, (1, 2))
    after = source_of(root).list_versions()
    assert [version for version in before if before[version] != after[version]] == [3]
