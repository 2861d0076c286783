"""An object store with a long history: what counts is one version's objects, and no more than those are held."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from slipway_agent.config import Source
from slipway_agent.model.errors import Reason, SpecError
from slipway_agent.sources import object_store
from slipway_agent.sources.base import Progress
from slipway_agent.sources.object_store import ObjectSource, StoredObject


class Shelf:
    """A store of straw that counts what it lists."""

    def __init__(self, *keys: str) -> None:
        self.objects = {key: key.encode() for key in keys}
        self.reads: list[str] = []

    def list_objects(self, bucket: str, prefix: str) -> Iterator[StoredObject]:
        for key in sorted(self.objects):
            if key == prefix or key.startswith(f"{prefix}/") or not prefix:
                yield StoredObject(key, len(self.objects[key]), hashlib.sha256(self.objects[key]).hexdigest())

    def read(self, bucket: str, wanted: StoredObject, begin: int, end: int) -> Iterator[bytes]:
        self.reads.append(wanted.key)
        yield self.objects[wanted.key][begin:end]


def holds_model(folder: Path) -> bool:
    return (folder / "model.onnx").is_file()


def source_of(shelf: Shelf, uri: str = "s3://models/digits") -> ObjectSource:
    return ObjectSource(Source(uri, None), shelf, 3, holds_model)


def files_of(version: int | str, count: int = 3) -> list[str]:
    return [f"digits/{version}/{name}" for name in ["model.onnx", *(f"part-{each}" for each in range(count - 1))]]


@pytest.fixture
def staging(tmp_path: Path) -> Path:
    (tmp_path / "staging").mkdir()
    return tmp_path / "staging"


@pytest.fixture(autouse=True)
def four_objects_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_store, "OBJECTS_LIMIT", 4)


def refusal(source: ObjectSource, staging: Path, version: int | None = None) -> SpecError:
    with pytest.raises(SpecError) as refused:
        source.list_versions() if version is None else source.fetch(version, staging, Progress(), None)
    return refused.value


def test_versions_together_may_hold_more_than_one_may(staging: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf = Shelf(*files_of(3), *files_of(10), *files_of("2024-01-15", 9), "digits/3-notes/a")
    source = source_of(shelf)
    found = source.list_versions()
    assert list(found) == [3, 10]
    fetched = source.fetch(10, staging, Progress(), None)
    assert {path.name for path in fetched.path.iterdir()} == {"model.onnx", "part-0", "part-1"}
    assert fetched.fingerprint == found[10]
    monkeypatch.setattr(object_store, "OBJECTS_LIMIT", 1000)
    assert source_of(shelf).list_versions() == found, "the stamps must not change when the history grows"


def test_a_bucket_of_its_own_is_read_by_the_version_too(staging: Path) -> None:
    shelf = Shelf(*(key.removeprefix("digits/") for key in [*files_of(1), *files_of(2)]))
    source = source_of(shelf, "s3://models")
    assert list(source.list_versions()) == [1, 2]
    assert source.fetch(2, staging, Progress(), None).sha256


def test_a_version_without_its_model_is_not_listed_in_a_long_history() -> None:
    shelf = Shelf(*files_of(3), "digits/4/part-0", "digits/4/part-1")
    assert list(source_of(shelf).list_versions()) == [3]


def test_a_version_of_too_many_objects_is_named(staging: Path) -> None:
    source = source_of(Shelf(*files_of(3), *files_of(4, 5)))
    for refused in (refusal(source, staging), refusal(source, staging, 4)):
        assert refused.reason is Reason.UNSUPPORTED_ARCHIVE
        assert refused.message.startswith("s3://models/digits/4 holds more than 4 objects, and a version may have that")
    assert source.fetch(3, staging, Progress(), None).sha256


def test_a_version_that_isnt_in_a_long_history_is_missed_in_the_same_words(staging: Path) -> None:
    refused = refusal(source_of(Shelf(*files_of(3), *files_of(10), *files_of("v4"))), staging, 4)
    assert refused.reason is Reason.VERSION_NOT_FOUND
    assert (
        "it has 3, 10. Folders that are no versions: v4; a version's name is a whole number from 1" in refused.message
    )


def test_a_heap_of_objects_without_versions_is_refused_as_what_it_is(staging: Path) -> None:
    refused = refusal(source_of(Shelf(*(f"digits/{name}.png" for name in "abcdef"))), staging)
    assert refused.reason is Reason.UNSUPPORTED_ARCHIVE
    assert "more than 4 objects and no folder that is named by a version" in refused.message


def test_beside_the_versions_only_what_the_models_config_names_is_fetched(staging: Path) -> None:
    shelf = Shelf(*files_of(3), *files_of(20240115120000), "digits/labels.txt", "digits/warmup/x", "digits/README.md")
    shelf.objects["digits/config.pbtxt"] = b'label_filename: "labels.txt"'
    source = source_of(shelf)
    source.fetch(3, staging, Progress(), None)
    beside = source.model_folder()
    assert beside is not None
    assert set(beside.list_files()) == {"config.pbtxt", "labels.txt", "warmup/x"}
    assert not [key for key in shelf.reads if "2024" in key or "README" in key]


def test_a_number_above_the_apis_is_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    shelf = Shelf(*files_of(2147483647), *files_of(2147483648))
    assert list(source_of(shelf).list_versions()) == [2147483647]
    monkeypatch.setattr(object_store, "OBJECTS_LIMIT", 1000)
    assert list(source_of(shelf).list_versions()) == [2147483647]
