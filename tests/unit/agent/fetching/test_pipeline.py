"""From fetched bytes to the repository: verified first, published by one rename, nothing left of what was refused."""

import errno
import io
import os
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from slipway_agent.config import Config, Source, key_name
from slipway_agent.fetching.pipeline import Job, fetch_version, open_source
from slipway_agent.model.errors import CancelledError, Reason, SpecError, TransientError
from slipway_agent.model.ledger import Ledger, Published, describe_bytes
from slipway_agent.servers.triton.config import TritonSpec
from slipway_agent.servers.triton.driver import TritonServer
from slipway_agent.sources.base import Progress
from slipway_agent.volume.digest import digest_path
from slipway_agent.volume.models_volume import ModelVolume
from tests.unit.agent.signing import BUNDLE, SigningKey, make_key

URI = "pvc://models/digits"


class Bench:
    """A source folder, a models volume and what is between them."""

    def __init__(self, tmp_path: Path) -> None:
        self.source, self.models = tmp_path / "source", tmp_path / "models"
        self.source.mkdir()
        self.volume = ModelVolume(self.models, "digits")
        self.server = TritonServer(self.volume, TritonSpec(), 3, None)

    def put(self, name: str, content: bytes = b"weights") -> None:
        (self.source / name).parent.mkdir(parents=True, exist_ok=True)
        (self.source / name).write_bytes(content)

    def fetch(
        self,
        version: int = 3,
        pin: str | None = None,
        progress: Progress | None = None,
        *,
        keys: tuple[SigningKey, ...] = (),
        standing: Published | None = None,
        cache: Path | None = None,
        **mapped: str,
    ) -> Published:
        versions = {int(name.removeprefix("v")): relative for name, relative in mapped.items()}
        place = Source(URI, str(self.source), versions, cache=str(cache) if cache is not None else None)
        config = Config("g", "Triton", "digits", place, 3, (3,))
        source = open_source(config, self.server)
        public = tuple(key.public for key in keys)
        job = Job(version, config.source.location(version), pin, public_keys=public, standing=standing)
        return fetch_version(job, source, self.volume, self.server, progress or Progress())

    def published(self, version: int = 3) -> dict[str, bytes]:
        folder = self.models / "repository" / "digits" / str(version)
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    def staged(self) -> list[Path]:
        return list((self.models / ".staging").iterdir())


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def zip_of(**files: bytes) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return packed.getvalue()


def test_a_folder_is_published_as_it_is(bench: Bench) -> None:
    bench.put("3/model.onnx")
    bench.put("3/model.onnx.data", b"external")
    published = bench.fetch()
    assert bench.published() == {"model.onnx": b"weights", "model.onnx.data": b"external"}
    assert published.sha256 == digest_path(bench.source / "3")
    assert published.size_bytes == len(b"weightsexternal")
    assert bench.staged() == []


def test_what_opens_a_url_is_not_in_the_ledger_which_the_server_reads(bench: Bench) -> None:
    bench.put("3/model.onnx")
    url = "https://user:word@store.example/3/model.onnx?X-Amz-Signature=abc"
    config = Config("g", "Triton", "digits", Source(URI, str(bench.source), {}), 3, (3,))
    source = open_source(config, bench.server)
    published = fetch_version(Job(3, url, None), source, bench.volume, bench.server, Progress())
    bench.volume.write_ledger(Ledger("digits", {3: published}))
    for path in bench.models.rglob("*"):
        assert path.is_dir() or not any(word in path.read_bytes() for word in (b"abc", b"word"))
    assert bench.volume.read_ledger().versions[3].location == published.location
    bench.volume.write_ledger(Ledger("digits", {3: Published(published.sha256, published.size_bytes, url)}))
    assert bench.volume.read_ledger().versions[3].location == published.location, "as an older agent wrote it"


@pytest.mark.parametrize("kind", ["link", "FIFO"])
def test_what_no_server_should_be_given_is_refused_whatever_brought_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Whoever unpacks or copies lets one through: it isn't published."""
    bench.put("3/model.onnx")

    def name_files(folder: Path, check: Callable[[], None]) -> None:
        place = folder / "labels.txt"
        place.symlink_to("/proc/self/environ") if kind == "link" else os.mkfifo(place)

    monkeypatch.setattr(bench.server, "name_files", name_files)
    with pytest.raises(SpecError, match=f"version 3 holds labels.txt, which is a {kind}") as refusal:
        bench.fetch()
    assert refusal.value.reason is Reason.UNSAFE_PATH
    assert bench.published() == {}
    assert bench.staged() == []


def test_the_right_pin_publishes_and_a_wrong_one_never_does(bench: Bench) -> None:
    bench.put("3/model.onnx")
    with pytest.raises(SpecError) as refusal:
        bench.fetch(pin="a" * 64)
    assert refusal.value.reason is Reason.DIGEST_MISMATCH
    sha256 = digest_path(bench.source / "3")
    assert f"version 3 at {URI}/3 has sha256 {sha256}, and the spec pins {'a' * 64}" in refusal.value.message
    assert refusal.value.fingerprint is not None
    assert bench.published() == {}
    assert bench.staged() == []
    assert bench.fetch(pin=sha256).sha256 == sha256


def test_a_lone_onnx_file_of_any_name_gets_the_name_that_triton_looks_for(bench: Bench) -> None:
    bench.put("3/digits-v3.onnx")
    bench.fetch()
    assert bench.published() == {"digits-v3.onnx": b"weights", "model.onnx": b"weights"}


def test_a_single_file_becomes_a_folder(bench: Bench) -> None:
    bench.put("runs/best.onnx")
    bench.fetch(v3="runs/best.onnx")
    assert bench.published() == {"model.onnx": b"weights"}


@pytest.mark.parametrize(
    "files",
    [
        {"model.onnx": b"weights"},
        {"digits-3/model.onnx": b"weights"},
        {"export/digits-3/model.onnx": b"weights"},
    ],
)
def test_an_archives_wrapping_folders_are_taken_off(bench: Bench, files: dict[str, bytes]) -> None:
    packed = zip_of(**files)
    bench.put("3.zip", packed)
    published = bench.fetch(v3="3.zip")
    assert bench.published() == {"model.onnx": b"weights"}
    assert published.sha256 == digest_path(bench.source / "3.zip"), "the digest is the file's that the user can see"


def test_a_packed_triton_model_folder_keeps_its_config(bench: Bench) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name in ("digits/config.pbtxt", "digits/1/model.onnx"):
            member = tarfile.TarInfo(name)
            member.size = 2
            archive.addfile(member, io.BytesIO(b"a:"))
    bench.put("d.tar.gz", packed.getvalue())
    bench.fetch(v3="d.tar.gz")
    assert bench.published() == {"model.onnx": b"a:", "config.pbtxt": b"a:"}
    assert bench.volume.kept_config(3) == "a:"


def test_a_version_without_model_file_is_refused_with_what_it_holds(bench: Bench) -> None:
    bench.put("3/README.md")
    bench.put("3/weights.bin")
    with pytest.raises(SpecError) as refusal:
        bench.fetch()
    assert refusal.value.reason is Reason.NO_MODEL_FILE
    assert "it holds README.md, weights.bin. Put one of *.onnx, model.plan" in refusal.value.message
    assert bench.staged() == []


def test_an_empty_version_folder_is_refused(bench: Bench) -> None:
    (bench.source / "3").mkdir()
    with pytest.raises(SpecError, match="it holds nothing"):
        bench.fetch()


@pytest.mark.parametrize("name", ["notes.txt", "model.safetensors", "digits.rar"])
def test_a_file_of_another_kind_is_refused(bench: Bench, name: str) -> None:
    bench.put(name)
    with pytest.raises(SpecError) as refusal:
        bench.fetch(v3=name)
    assert refusal.value.reason is Reason.UNSUPPORTED_ARCHIVE


def test_an_unsafe_archive_leaves_nothing(bench: Bench) -> None:
    bench.put("3.zip", zip_of(**{"../evil": b"x", "model.onnx": b"x"}))
    with pytest.raises(SpecError) as refusal:
        bench.fetch(v3="3.zip")
    assert refusal.value.reason is Reason.UNSAFE_PATH
    assert bench.staged() == []


def test_a_zip_bomb_is_refused_before_it_is_unpacked(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.put("3.zip", zip_of(**{"model.onnx": b"\0" * 50_000_000}))

    class Usage:
        free = 40_000_000

    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage)
    with pytest.raises(SpecError) as refusal:
        bench.fetch(v3="3.zip")
    assert refusal.value.reason is Reason.DISK_FULL
    assert "version 3, unpacked, needs 47.7 MiB" in refusal.value.message


@pytest.mark.parametrize(
    ("number", "kind", "reason"),
    [(errno.ENOSPC, SpecError, Reason.DISK_FULL), (errno.EIO, TransientError, Reason.SOURCE_UNAVAILABLE)],
)
def test_a_volume_that_fails_is_said_so(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[SpecError | TransientError], reason: Reason
) -> None:
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    bench.put("3/model.onnx")
    monkeypatch.setattr(bench.volume, "publish", fail)
    with pytest.raises(kind) as failure:
        bench.fetch()
    assert failure.value.reason is reason
    assert bench.staged() == []


def test_a_fetch_called_off_publishes_nothing(bench: Bench) -> None:
    bench.put("3/model.onnx")
    progress = Progress()
    progress.cancel()
    with pytest.raises(CancelledError):
        bench.fetch(progress=progress)
    assert bench.published() == {}


def test_new_bytes_replace_old_ones_and_say_so(bench: Bench) -> None:
    bench.put("3/model.onnx")
    assert not bench.fetch().awaits_load
    bench.put("3/model.onnx", b"better")
    assert bench.fetch().awaits_load
    assert bench.published() == {"model.onnx": b"better"}


KEPT = b'label_filename: "labels.txt"  parameters { key: "env" value { string_value: "env" } }'


def test_the_models_own_config_comes_with_the_files_it_names(bench: Bench) -> None:
    bench.put("3/model.onnx")
    bench.put("config.pbtxt", KEPT)
    bench.put("labels.txt", b"zero")
    bench.put("env/bin/tool", b"tool")
    bench.put("warmup/raw", b"raw")
    bench.put("training.log", b"not for the server")
    bench.fetch()
    folder = bench.models / "repository" / "digits"
    assert sorted(path.name for path in folder.iterdir()) == ["3", "env", "labels.txt", "warmup"]
    assert (folder / "env" / "bin" / "tool").read_bytes() == b"tool"
    assert bench.volume.kept_config(3) == KEPT.decode()


def test_an_unchanged_file_beside_the_versions_is_left_alone(bench: Bench) -> None:
    bench.put("3/model.onnx")
    bench.put("config.pbtxt", KEPT)
    bench.put("labels.txt", b"zero")
    bench.fetch()
    place = bench.models / "repository" / "digits" / "labels.txt"
    before = place.stat()
    bench.put("labels.txt", b"zero")
    bench.fetch()
    assert (place.stat().st_ino, place.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_versions_own_config_comes_before_the_models(bench: Bench) -> None:
    bench.put("3/model.onnx")
    bench.put("config.pbtxt", b"max_batch_size: 1")
    bench.put("3/config.pbtxt", b"max_batch_size: 3")
    bench.fetch()
    assert bench.volume.kept_config(3) == "max_batch_size: 3"
    assert bench.volume.kept_config(2) == "max_batch_size: 1"


def test_the_ledger_vouches_only_for_what_is_whole(bench: Bench) -> None:
    for version in (1, 2, 3):
        bench.put(f"{version}/model.onnx")
    published = {version: bench.fetch(version) for version in (1, 2, 3)}
    bench.volume.write_ledger(Ledger("digits", {1: published[1], 2: published[2]}, standing=2))
    (bench.models / "repository" / "digits" / "2" / "model.onnx").write_bytes(b"")
    found = ModelVolume(bench.models, "digits").read_ledger()
    assert found == Ledger("digits", {1: published[1]}, standing=2)
    assert bench.published(1) != {}
    assert bench.published(2) == bench.published(3) == {}, "half written or unknown: fetched again"


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"model": "digits"}', '{"model": "digits", "versions": {"1": {}}}']
)
def test_a_ledger_that_cant_be_read_vouches_for_nothing(bench: Bench, content: str) -> None:
    (bench.models / ".agent" / "published.json").write_text(content)
    assert bench.volume.read_ledger() == Ledger("digits", {})


def test_only_partial_downloads_survive_a_restart(bench: Bench) -> None:
    for name in (
        "3/download.part",
        "3/download.json",
        "3/content/x",
        "4/copy/x",
        "5/download.json",
        "9.removed/x",
        "n.new",
    ):
        place = bench.models / ".staging" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text("x")
    bench.volume.clean_staging((3, 4))
    staging = bench.models / ".staging"
    left = sorted(str(path.relative_to(staging)) for path in staging.rglob("*"))
    assert left == ["3", "3/download.json", "3/download.part"]


def test_a_removed_version_is_gone_and_removing_it_again_is_no_error(bench: Bench) -> None:
    bench.put("3/model.onnx")
    bench.fetch()
    bench.volume.remove(3)
    bench.volume.remove(3)
    assert bench.published() == {}
    assert bench.staged() == []


@pytest.mark.parametrize(
    ("count", "words"), [(0, "0 B"), (512, "512 B"), (1536, "1.5 KiB"), (5 * 2**30, "5.0 GiB"), (2**51, "2048.0 TiB")]
)
def test_bytes_are_said_in_a_persons_units(count: int, words: str) -> None:
    assert describe_bytes(count) == words


# signed


@pytest.fixture
def key(tmp_path: Path) -> SigningKey:
    return make_key(tmp_path, "ours")


def refuse(bench: Bench, key: SigningKey, path: str = "3") -> SpecError:
    with pytest.raises(SpecError) as refusal:
        bench.fetch(keys=(key,), v3=path)
    assert bench.staged() == []
    return refusal.value


def test_what_is_signed_is_published_with_the_name_of_its_key(bench: Bench, key: SigningKey) -> None:
    bench.put("3/weights-v3.onnx")
    key.sign(bench.source / "3")
    published = bench.fetch(keys=(key,))
    assert published.signed_by == key_name(key.public)
    assert set(bench.published()) == {"weights-v3.onnx", "model.onnx", BUNDLE}, "renamed after it was verified"


def test_what_isnt_signed_is_never_published_and_its_bytes_are_remembered(bench: Bench, key: SigningKey) -> None:
    bench.put("3/model.onnx")
    refusal = refuse(bench, key)
    assert refusal.reason is Reason.NOT_SIGNED
    assert refusal.fingerprint is not None
    assert bench.published() == {}
    key.sign(bench.source / "3")
    bench.put("3/model.py")
    assert refuse(bench, key).reason is Reason.VERIFICATION_FAILED
    assert bench.published() == {}


def test_without_keys_nothing_is_verified(bench: Bench) -> None:
    bench.put("3/model.onnx")
    bench.put("3/model.sig", b"nonsense")
    assert bench.fetch().signed_by is None


def test_an_archive_of_a_signed_folder_is_as_good_as_the_folder(bench: Bench, key: SigningKey, tmp_path: Path) -> None:
    folder = tmp_path / "digits"
    (folder / "1").mkdir(parents=True)
    (folder / "1" / "model.onnx").write_bytes(b"weights")
    (folder / "config.pbtxt").write_text("a:")
    key.sign(folder)
    with tarfile.open(bench.source / "d.tar.gz", mode="w:gz") as archive:
        archive.add(folder, "digits")
    assert bench.fetch(keys=(key,), v3="d.tar.gz").signed_by == key_name(key.public)
    assert bench.published() == {"model.onnx": b"weights", "config.pbtxt": b"a:"}


def test_a_single_file_has_no_place_for_a_bundle(bench: Bench, key: SigningKey) -> None:
    bench.put("runs/best.onnx")
    assert refuse(bench, key, "runs/best.onnx").reason is Reason.NOT_SIGNED


def test_a_config_beside_the_versions_which_no_bundle_covers_is_refused(bench: Bench, key: SigningKey) -> None:
    bench.put("3/model.onnx")
    bench.put("config.pbtxt", b"max_batch_size: 8")
    key.sign(bench.source / "3")
    assert "config.pbtxt beside the version folders is covered by no bundle" in refuse(bench, key).message


def test_a_copy_in_the_cache_is_verified_like_any_other(bench: Bench, key: SigningKey, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    bench.put("3/model.onnx")
    published = bench.fetch(cache=cache)
    with pytest.raises(SpecError) as refusal:
        bench.fetch(keys=(key,), cache=cache, pin=published.sha256)
    assert refusal.value.reason is Reason.NOT_SIGNED


def test_bytes_that_serve_are_verified_without_being_published_again(bench: Bench, key: SigningKey) -> None:
    bench.put("3/model.onnx")
    key.sign(bench.source / "3")
    standing = bench.fetch()
    before = (bench.models / "repository" / "digits" / "3").stat().st_ino
    verified = bench.fetch(keys=(key,), standing=standing)
    assert (verified.signed_by, verified.sha256) == (key_name(key.public), standing.sha256)
    assert not verified.awaits_load
    assert (bench.models / "repository" / "digits" / "3").stat().st_ino == before
    assert bench.staged() == []


def test_a_config_that_nobody_signed_goes_when_what_it_came_with_is_verified(bench: Bench, key: SigningKey) -> None:
    bench.put("3/model.onnx")
    bench.put("config.pbtxt", b"max_batch_size: 8")
    key.sign(bench.source / "3")
    standing = bench.fetch()
    assert bench.volume.kept_config(3) is not None
    (bench.source / "config.pbtxt").unlink()
    assert bench.fetch(keys=(key,), standing=standing).awaits_load
    assert bench.volume.kept_config(3) is None
