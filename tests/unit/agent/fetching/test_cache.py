"""Replicas share what one of them fetched, and a cache that fails costs no version."""

import hashlib
import itertools
import os
import shutil
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from slipway_agent.config import Source
from slipway_agent.fetching import cache as cache_module
from slipway_agent.fetching.cache import CachedSource
from slipway_agent.model.errors import CancelledError, Reason, SpecError, TransientError, UnchangedError
from slipway_agent.sources.base import Fetched, Progress
from slipway_agent.volume.digest import digest_path
from slipway_agent.volume.safe_open import Tree

FILES = {"model.onnx": b"weights" * 1000, "variables/data": b"more"}


class Store:
    """What is behind the cache: counts how often it is asked."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] | bytes = dict(FILES)
        self.stamp: str | None = "one"
        self.seconds = 0.0
        self.failures: list[Exception] = []
        self.fetches = 0
        self.listings = 0
        self.beside: Path | None = None
        self.most_at_once = self._at_once = 0
        self._lock = threading.Lock()

    def list_versions(self) -> Mapping[int, str | None]:
        self.listings += 1
        return {3: self.stamp}

    def model_folder(self) -> Tree | None:
        return Tree(self.beside) if self.beside is not None else None

    def fetch(
        self, version: int, staging: Path, progress: Progress, refused: str | None, known: str | None = None
    ) -> Fetched:
        with self._lock:
            self.fetches += 1
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
            failure = self.failures.pop(0) if self.failures else None
        until = time.monotonic() + self.seconds
        while time.monotonic() < until:
            progress.check()
            time.sleep(0.01)
        with self._lock:
            self._at_once -= 1
        if failure is not None:
            raise failure
        place = staging / "download"
        if isinstance(self.files, bytes):
            place.write_bytes(self.files)
            return Fetched(place, hashlib.sha256(self.files).hexdigest(), "3.zip", self.stamp)
        for name, content in self.files.items():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).write_bytes(content)
        return Fetched(place, digest_path(place), "3", self.stamp)


class Replicas:
    """Agents of one model's pods, each with a volume of its own and the same cache."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cache = folder / "cache"
        self.store = Store()
        self.said: list[str] = []
        self.kept: set[str] = set()
        self._numbers = itertools.count(1)

    def source(self, uri: str = "s3://models/digits") -> CachedSource:
        place = Source(uri, None, cache=str(self.cache))
        return CachedSource(self.store, place, self._say, lambda: self.kept)

    def fetch(
        self,
        known: str | None = None,
        refused: str | None = None,
        progress: Progress | None = None,
        uri: str = "s3://models/digits",
    ) -> Fetched:
        staging = self.folder / f"pod-{next(self._numbers)}"
        staging.mkdir()
        return self.source(uri).fetch(3, staging, progress or Progress(), refused, known)

    def _say(self, message: str, **fields: object) -> None:
        self.said.append(f"{message} {fields}")

    def entry(self, sha256: str) -> Path:
        return self.cache / "entries" / sha256


@pytest.fixture
def replicas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Replicas:
    monkeypatch.setattr(cache_module, "POLL_SECONDS", 0.01)
    return Replicas(tmp_path)


def content(fetched: Fetched) -> dict[str, bytes]:
    return {
        str(path.relative_to(fetched.path)): path.read_bytes() for path in fetched.path.rglob("*") if path.is_file()
    }


@pytest.mark.parametrize("stamp", ["one", None])
def test_ten_replicas_download_once(replicas: Replicas, stamp: str | None) -> None:
    replicas.store.seconds, replicas.store.stamp = 0.3, stamp
    found: list[Fetched] = []
    threads = [threading.Thread(target=lambda: found.append(replicas.fetch())) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert replicas.store.fetches == 1
    assert [content(each) for each in found] == [FILES] * 10
    assert len({each.path for each in found}) == 10
    assert len({(each.sha256, each.fingerprint) for each in found}) == 1
    assert list((replicas.cache / "leases").iterdir()) == []
    assert list((replicas.cache / "incoming").iterdir()) == []


def test_a_known_digest_needs_no_network(replicas: Replicas) -> None:
    sha256 = replicas.fetch().sha256
    replicas.store.failures = [TransientError("the store is down")] * 5
    listings = replicas.store.listings
    fetched = replicas.fetch(known=sha256)
    assert content(fetched) == FILES
    assert fetched.sha256 == sha256
    assert (replicas.store.fetches, replicas.store.listings) == (1, listings)


def test_other_bytes_at_the_same_place_are_fetched(replicas: Replicas) -> None:
    first = replicas.fetch()
    replicas.store.stamp, replicas.store.files = "two", {"model.onnx": b"new"}
    second = replicas.fetch()
    assert content(second) == {"model.onnx": b"new"}
    assert content(replicas.fetch()) == {"model.onnx": b"new"}
    assert replicas.store.fetches == 2
    assert content(replicas.fetch(known=first.sha256)) == FILES, "the history's copies stay"


def test_a_place_without_stamp_is_asked_again_by_a_later_pod(replicas: Replicas) -> None:
    replicas.store.stamp = None
    replicas.fetch()
    replicas.store.files = {"model.onnx": b"new"}
    assert content(replicas.fetch()) == {"model.onnx": b"new"}


def test_a_single_file_keeps_its_name(replicas: Replicas) -> None:
    replicas.store.files = b"packed"
    replicas.fetch()
    fetched = replicas.fetch()
    assert (fetched.path.read_bytes(), fetched.name, replicas.store.fetches) == (b"packed", "3.zip", 1)


def test_the_models_own_config_comes_along(replicas: Replicas, tmp_path: Path) -> None:
    replicas.store.beside = tmp_path / "beside"
    replicas.store.beside.mkdir()
    (replicas.store.beside / "config.pbtxt").write_text("backend")
    replicas.fetch()
    replicas.store.beside = None
    source = replicas.source()
    (tmp_path / "pod").mkdir()
    source.fetch(3, tmp_path / "pod", Progress(), None)
    beside = source.model_folder()
    assert beside is not None
    assert beside.read_small("config.pbtxt", 100) == b"backend"


def test_bytes_that_were_refused_are_not_fetched_twice(replicas: Replicas) -> None:
    fetched = replicas.fetch()
    for known in (None, fetched.sha256):
        with pytest.raises(UnchangedError):
            replicas.fetch(refused="one", known=known)
    assert replicas.store.fetches == 1


@pytest.mark.parametrize("damage", ["other bytes", "a byte less", "a file less", "no content"])
def test_a_damaged_entry_is_noticed_removed_and_fetched_again(replicas: Replicas, damage: str) -> None:
    sha256 = replicas.fetch().sha256
    place = replicas.entry(sha256) / "content" / "model.onnx"
    match damage:
        case "other bytes":
            place.write_bytes(b"WEIGHTS" * 1000)
        case "a byte less":
            os.truncate(place, 10)
        case "a file less":
            place.unlink()
        case _:
            (replicas.entry(sha256) / "content").rename(replicas.cache / "lost")
    assert content(replicas.fetch(known=sha256)) == FILES
    assert replicas.store.fetches == 2
    assert replicas.said
    if damage != "no content":
        assert "damaged" in replicas.said[0]
        assert content(replicas.fetch(known=sha256)) == FILES
        assert replicas.store.fetches == 2, "the repaired entry serves"


@pytest.mark.parametrize("kind", ["link", "FIFO"])
@pytest.mark.parametrize("what", ["about.json", "content/model.onnx", "content"])
def test_an_entry_that_another_made_of_links_or_pipes_is_not_read(
    replicas: Replicas, tmp_path: Path, kind: str, what: str
) -> None:
    known = replicas.fetch().sha256
    place = replicas.entry(known) / what
    if kind == "FIFO" and what == "content":
        shutil.rmtree(place)
        os.mkfifo(place)
    else:
        aside = tmp_path / "aside"
        place.rename(aside)
        place.symlink_to(aside) if kind == "link" else os.mkfifo(place)
    assert content(replicas.fetch(known)) == FILES
    assert replicas.store.fetches == 2


@pytest.mark.parametrize("what", ["leases", "places", "entries", "incoming"])
def test_a_folder_of_the_cache_that_is_a_link_costs_a_download_and_nothing_where_it_leads(
    replicas: Replicas, tmp_path: Path, what: str
) -> None:
    known = replicas.fetch().sha256
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "3").mkdir(parents=True)
    (elsewhere / "3" / "model.onnx").write_bytes(b"served")
    os.utime(elsewhere / "3", (1, 1))
    shutil.rmtree(replicas.cache / what, ignore_errors=True)
    (replicas.cache / what).symlink_to(elsewhere)
    replicas.store.files = {"model.onnx": b"others"}
    replicas.store.stamp = "two"
    assert content(replicas.fetch()) == {"model.onnx": b"others"}
    assert [path.name for path in elsewhere.rglob("*")] == ["3", "model.onnx"]
    assert known


def test_a_lease_that_is_a_pipe_is_not_waited_for(replicas: Replicas) -> None:
    replicas.fetch()
    place = next((replicas.cache / "places").iterdir())
    os.mkfifo(replicas.cache / "leases" / place.stem)
    place.unlink()
    assert content(replicas.fetch()) == FILES


def test_an_entry_with_more_bytes_than_it_says_is_removed(replicas: Replicas) -> None:
    known = replicas.fetch().sha256
    with (replicas.entry(known) / "content" / "model.onnx").open("ab") as file:
        file.truncate(1 << 30)
    assert content(replicas.fetch(known)) == FILES
    assert replicas.store.fetches == 2


def test_a_url_is_kept_without_what_opens_it(replicas: Replicas) -> None:
    known = replicas.fetch(uri="https://user:word@host/digits?X-Amz-Signature=abc").sha256
    written = [path.read_text() for path in replicas.cache.rglob("*.json")]
    assert len(written) == 2
    assert not any("abc" in text or "word" in text for text in written)
    assert replicas.fetch(known, uri="https://user:word@host/digits?X-Amz-Signature=abc").sha256 == known


@pytest.mark.parametrize("where", ["leases", "entries", "places"])
def test_an_unwritable_cache_is_said_once_and_done_without(replicas: Replicas, where: str) -> None:
    replicas.cache.mkdir()
    (replicas.cache / where).write_text("a file where a folder should be")
    source = replicas.source()
    for number in range(3):
        staging = replicas.folder / f"direct-{number}"
        staging.mkdir()
        assert content(source.fetch(3, staging, Progress(), None)) == FILES
    assert len(replicas.said) == 1
    assert "cache can't be used" in replicas.said[0]


def test_a_cache_that_isnt_there_is_done_without(replicas: Replicas, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    replicas.cache = tmp_path / "file" / "cache"
    assert content(replicas.fetch()) == FILES
    assert len(replicas.said) == 1


def test_replicas_dont_queue_for_a_cache_that_is_full(replicas: Replicas, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "SPARE_BYTES", 2**60)
    replicas.store.seconds = 0.3
    threads = [threading.Thread(target=replicas.fetch) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert replicas.store.fetches == 5
    assert replicas.store.most_at_once > 1, "one after the other"
    assert any("it has no room" in line for line in replicas.said)


def test_a_failed_fetch_hands_the_lease_on(replicas: Replicas) -> None:
    replicas.store.seconds, replicas.store.failures = 0.2, [TransientError("cut")]
    outcomes: list[object] = []

    def fetch() -> None:
        try:
            outcomes.append(content(replicas.fetch()))
        except TransientError as failure:
            outcomes.append(failure.message)

    threads = [threading.Thread(target=fetch) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert replicas.store.fetches == 2
    assert outcomes.count(FILES) == 2
    assert outcomes.count("cut") == 1


def test_an_error_of_the_source_is_passed_on(replicas: Replicas) -> None:
    replicas.store.failures = [SpecError(Reason.ACCESS_DENIED, "no")]
    with pytest.raises(SpecError, match="no"):
        replicas.fetch()
    assert list((replicas.cache / "leases").iterdir()) == []


def hold_lease(replicas: Replicas) -> Path:
    """As an agent that ended in mid-fetch leaves it."""
    replicas.fetch()
    (place,) = (replicas.cache / "places").iterdir()
    place.unlink()
    lease = replicas.cache / "leases" / place.stem
    lease.write_text("a dead agent")
    return lease


def test_a_stale_lease_is_taken_over(replicas: Replicas, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "STALE_SECONDS", 0.3)
    lease = hold_lease(replicas)
    assert content(replicas.fetch()) == FILES
    assert not lease.exists()


def test_a_lease_that_is_touched_is_waited_for(replicas: Replicas, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "STALE_SECONDS", 0.3)
    monkeypatch.setattr(cache_module, "BEAT_SECONDS", 0.05)
    replicas.store.seconds = 1.0
    threads = [threading.Thread(target=replicas.fetch) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert replicas.store.fetches == 1


def test_waiting_for_another_replica_can_be_called_off(replicas: Replicas) -> None:
    hold_lease(replicas)
    progress = Progress()
    threading.Timer(0.1, progress.cancel).start()
    with pytest.raises(CancelledError):
        replicas.fetch(progress=progress)


def test_room_is_made_by_what_no_kept_version_names_and_by_nothing_else(
    replicas: Replicas, monkeypatch: pytest.MonkeyPatch
) -> None:
    digests = {}
    for name, uri in (("kept", "s3://a/a"), ("old", "s3://a/a"), ("recent", "s3://a/a"), ("others", "s3://b/b")):
        replicas.store.stamp, replicas.store.files = name, {"model.onnx": name.encode()}
        digests[name] = replicas.fetch(uri=uri).sha256
        if name != "recent":
            os.utime(replicas.entry(digests[name]), (1, 1))
    replicas.kept = {digests["kept"]}
    monkeypatch.setattr(
        cache_module.Cache, "_has_room", lambda self, wanted: not replicas.entry(digests["old"]).exists()
    )
    replicas.store.stamp, replicas.store.files = "new", {"model.onnx": b"new"}
    new = replicas.fetch(uri="s3://a/a").sha256
    left = {path.name for path in (replicas.cache / "entries").iterdir()}
    assert left == {digests["kept"], digests["recent"], digests["others"], new}


def test_where_nothing_is_known_to_be_kept_nothing_is_removed(
    replicas: Replicas, monkeypatch: pytest.MonkeyPatch
) -> None:
    sha256 = replicas.fetch().sha256
    os.utime(replicas.entry(sha256), (1, 1))
    monkeypatch.setattr(cache_module.Cache, "_has_room", lambda self, wanted: False)
    replicas.store.stamp, replicas.store.files = "new", {"model.onnx": b"new"}
    assert content(replicas.fetch()) == {"model.onnx": b"new"}
    assert [path.name for path in (replicas.cache / "entries").iterdir()] == [sha256]


def test_a_pod_without_room_says_so(replicas: Replicas, monkeypatch: pytest.MonkeyPatch) -> None:
    replicas.fetch()
    monkeypatch.setattr("slipway_agent.volume.models_volume.SPARE_BYTES", 2**60)
    with pytest.raises(SpecError) as refusal:
        replicas.fetch()
    assert refusal.value.reason is Reason.DISK_FULL


def test_what_a_place_names_is_never_a_path(replicas: Replicas, tmp_path: Path) -> None:
    replicas.fetch()
    (note,) = (replicas.cache / "places").iterdir()
    note.write_text('{"sha256": "../../pod-1"}')
    assert content(replicas.fetch()) == FILES
    assert (tmp_path / "pod-1").exists()
