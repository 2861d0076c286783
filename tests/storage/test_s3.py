"""s3:// against a real S3 server, with and without a network that fails."""

import hashlib
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import cast

import pytest

from slipway_agent.config import Source
from slipway_agent.model.errors import CancelledError, Reason, SpecError, TransientError, UnchangedError
from slipway_agent.servers.torchserve.driver import TorchServer
from slipway_agent.sources import object_store, ordered_download
from slipway_agent.sources.base import Fetched, Progress
from slipway_agent.sources.object_store import ChangedError, ObjectSource
from slipway_agent.sources.s3 import S3
from slipway_agent.volume.digest import digest_of_files, digest_path
from tests.storage.faults import Answer, Faults, proxy
from tests.storage.outcome import content, refusal
from tests.storage.servers import BUCKET, S3Server

MIB = 1 << 20
LARGE = os.urandom(MIB) * 20 + b"the end"  # three parts


def holds_model(folder: Path) -> bool:
    return (folder / "model.onnx").is_file()


def source_of(place: Source, served: int | None = None, read_seconds: float = 5.0) -> ObjectSource:
    return ObjectSource(place, S3(place, read_seconds), served, holds_model)


def fetch(place: Source, staging: Path, version: int = 3, refused: str | None = None) -> Fetched:
    return source_of(place).fetch(version, staging, Progress(), refused)


# what is listed


def test_version_folders_are_listed_with_stamps(place: Source, s3: S3Server, prefix: str) -> None:
    for version in (3, 10):
        s3.put(f"{prefix}/{version}/model.onnx", str(version).encode())
    s3.put(f"{prefix}-old/7/model.onnx")
    found = source_of(place).list_versions()
    assert list(found) == [3, 10]
    assert len(set(found.values())) == 2
    assert all(found.values())


@pytest.mark.parametrize("names", [["multiplier.mar"], ["MAR-INF/MANIFEST.json", "handler.py", "weights/a/b/c.pt"]])
def test_a_version_is_listed_that_its_server_knows_by_a_whole_archive_or_a_nested_file(
    place: Source, s3: S3Server, prefix: str, names: list[str]
) -> None:
    for name in names:
        s3.put(f"{prefix}/3/{name}")
    s3.put(f"{prefix}/4/handler.py")
    torchserve = partial(TorchServer.holds_model, cast(TorchServer, None))
    assert list(ObjectSource(place, S3(place), None, torchserve).list_versions()) == [3]


@pytest.mark.parametrize("name", ["v4", "04", "0", "latest"])
def test_other_folders_are_no_versions(place: Source, s3: S3Server, prefix: str, name: str) -> None:
    s3.put(f"{prefix}/3/model.onnx")
    s3.put(f"{prefix}/{name}/model.onnx")
    assert list(source_of(place).list_versions()) == [3]
    message = refusal(lambda: source_of(place).fetch(4, Path(), Progress(), None), Reason.VERSION_NOT_FOUND)
    assert f"it has 3. Folders that are no versions: {name}" in message


def test_a_version_without_its_model_yet_is_not_listed(place: Source, s3: S3Server, prefix: str) -> None:
    s3.put(f"{prefix}/3/model.onnx")
    s3.put(f"{prefix}/4/vocabulary.txt")
    source = source_of(place)
    assert list(source.list_versions()) == [3]
    s3.put(f"{prefix}/4/export/model.onnx")
    assert list(source.list_versions()) == [3]
    s3.put(f"{prefix}/4/model.onnx")
    assert list(source.list_versions()) == [3, 4]


def test_a_stamp_changes_with_the_bytes_and_only_then(place: Source, s3: S3Server, prefix: str) -> None:
    s3.put(f"{prefix}/3/model.onnx", b"one")
    source = source_of(place)
    before = source.list_versions()
    assert source.list_versions() == before
    s3.put(f"{prefix}/3/model.onnx", b"two")
    changed = source.list_versions()
    assert changed != before
    s3.put(f"{prefix}/3/more", b"")
    assert source.list_versions() != changed


def test_many_objects_are_listed_page_by_page(place: Source, s3: S3Server, prefix: str) -> None:
    for number in range(1100):
        s3.put(f"{prefix}/3/part-{number}", b"")
    s3.put(f"{prefix}/3/model.onnx")
    assert len(list(S3(place).list_objects(BUCKET, prefix))) == 1101
    assert list(source_of(place).list_versions()) == [3]


def test_a_history_of_more_objects_than_a_version_may_have_is_read_by_the_version(
    place: Source, s3: S3Server, prefix: str, staging: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key in ("3/model.onnx", "3/a/b", "10/model.onnx", "10/a/b", "4-notes/a", "v4/model.onnx"):
        s3.put(f"{prefix}/{key}", key.encode())
    found = source_of(place).list_versions()
    monkeypatch.setattr(object_store, "OBJECTS_LIMIT", 2)
    assert source_of(place).list_versions() == found
    assert list(found) == [3, 10]
    assert content(fetch(place, staging, 10)) == {"model.onnx": b"10/model.onnx", "a/b": b"10/a/b"}
    s3.put(f"{prefix}/10/c")
    assert f"{prefix}/10 holds more than 2 objects" in refusal(
        source_of(place).list_versions, Reason.UNSUPPORTED_ARCHIVE
    )


def test_a_uri_that_is_itself_a_model_is_the_named_version(
    place: Source, s3: S3Server, prefix: str, staging: Path
) -> None:
    s3.put(f"{prefix}/model.onnx", b"itself")
    assert list(source_of(place).list_versions()) == [1]
    assert list(source_of(place, served=7).list_versions()) == [7]
    assert content(source_of(place, 7).fetch(7, staging, Progress(), None)) == {"model.onnx": b"itself"}
    assert "is itself one model" in refusal(lambda: fetch(place, staging), Reason.VERSION_NOT_FOUND)


def test_a_uri_may_be_one_object(place: Source, s3: S3Server, prefix: str, staging: Path) -> None:
    s3.put(f"{prefix}/best.onnx", b"single")
    single = replace(place, uri=f"{place.uri}/best.onnx")
    assert list(source_of(single).list_versions()) == [1]
    fetched = fetch(single, staging, 1)
    assert (fetched.path.read_bytes(), fetched.name) == (b"single", "best.onnx")
    assert fetched.sha256 == hashlib.sha256(b"single").hexdigest(), "the digest is the file's that the user can see"


def test_any_layout_is_mapped_to_numbers(place: Source, s3: S3Server, prefix: str, staging: Path) -> None:
    s3.put(f"{prefix}/runs/best/model.onnx", b"folder")
    s3.put(f"{prefix}/3.zip", b"packed")
    s3.put(f"{prefix}-other/model.onnx", b"elsewhere")
    mapped = replace(place, versions={1: "runs/best", 3: "3.zip", 4: f"{place.uri}-other", 5: "missing"})
    found = source_of(mapped).list_versions()
    assert [found[version] is not None for version in (1, 3, 4, 5)] == [True, True, True, False]
    assert content(fetch(mapped, staging, 1)) == {"model.onnx": b"folder"}
    packed = fetch(mapped, staging, 3)
    assert (packed.path.read_bytes(), packed.name) == (b"packed", "3.zip")
    assert content(fetch(mapped, staging, 4)) == {"model.onnx": b"elsewhere"}
    assert "which model.versions names for version 5" in refusal(
        lambda: fetch(mapped, staging, 5), Reason.VERSION_NOT_FOUND
    )


def test_the_models_own_config_comes_along(place: Source, s3: S3Server, prefix: str, staging: Path) -> None:
    config = b"output { label_filename: 'labels.txt' }"
    s3.put(f"{prefix}/config.pbtxt", config)
    s3.put(f"{prefix}/labels.txt", b"zero")
    s3.put(f"{prefix}/notes.txt", b"not named by it")
    s3.put(f"{prefix}/3/model.onnx")
    source = source_of(place)
    assert content(source.fetch(3, staging, Progress(), None)) == {"model.onnx": b"weights"}
    beside = source.model_folder()
    assert beside is not None
    assert {name: beside.read_small(name, 1000) for name in beside.list_names()} == {
        "config.pbtxt": config,
        "labels.txt": b"zero",
    }


# what is fetched


def test_a_folder_is_fetched_whole_with_its_digest(place: Source, s3: S3Server, prefix: str, staging: Path) -> None:
    files = {"model.onnx": LARGE, "variables/a b+ü%20.bin": b"x" * 9, "empty": b"", "z/1/2/3": b"deep"}
    for name, body in files.items():
        s3.put(f"{prefix}/3/{name}", body)
    progress = Progress()
    fetched = source_of(place).fetch(3, staging, progress, None)
    assert content(fetched) == files
    assert fetched.sha256 == digest_path(fetched.path)
    assert fetched.fingerprint == source_of(place).list_versions()[3]
    assert progress.fetched_bytes == progress.total_bytes == sum(map(len, files.values()))


def test_bytes_that_were_refused_are_not_fetched_twice(
    faulty_place: Source, s3: S3Server, faulty: Faults, prefix: str, staging: Path
) -> None:
    s3.put(f"{prefix}/3/model.onnx")
    fingerprint = fetch(faulty_place, staging).fingerprint
    faulty.requests.clear()
    with pytest.raises(UnchangedError):
        fetch(faulty_place, staging, refused=fingerprint)
    assert faulty.bodies("model.onnx") == 0


def test_names_that_begin_with_two_dots_are_left_out(place: Source, s3: S3Server, prefix: str, staging: Path) -> None:
    s3.put(f"{prefix}/3/model.onnx")
    s3.put(f"{prefix}/3/..data/model.onnx")
    assert content(fetch(place, staging)) == {"model.onnx": b"weights"}


# what goes wrong on the way


def test_a_cut_download_goes_on_where_it_broke(
    faulty_place: Source, s3: S3Server, faulty: Faults, prefix: str, staging: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ordered_download, "WINDOW", 1)  # one connection, so that the cuts fall where they should
    s3.put(f"{prefix}/3/model.onnx", LARGE)
    s3.put(f"{prefix}/3/a-first", b"first")
    faulty.cuts_after_bytes = [5, 3 * MIB, 6 * MIB]
    for _ in range(2):
        with pytest.raises(TransientError, match="goes on"):
            fetch(faulty_place, staging)
    sent_before = faulty.sent_bytes
    progress = Progress()
    fetched = source_of(faulty_place).fetch(3, staging, progress, None)
    assert content(fetched) == {"a-first": b"first", "model.onnx": LARGE}
    assert fetched.sha256 == digest_path(fetched.path)
    assert faulty.sent_bytes - sent_before < len(LARGE) - 6 * MIB, "what was there was fetched again"
    assert progress.received_bytes < len(LARGE) - 6 * MIB


def test_parts_side_by_side_survive_a_cut(
    faulty_place: Source, s3: S3Server, faulty: Faults, prefix: str, staging: Path
) -> None:
    s3.put(f"{prefix}/3/model.onnx", LARGE)
    faulty.cuts_after_bytes = [MIB, 2 * MIB, 100_000]
    with pytest.raises(TransientError):
        fetch(faulty_place, staging)
    faulty.cuts_after_bytes = []
    assert content(fetch(faulty_place, staging)) == {"model.onnx": LARGE}


def test_an_object_replaced_in_mid_download_is_never_mixed(
    faulty_place: Source, s3: S3Server, faulty: Faults, prefix: str, staging: Path
) -> None:
    s3.put(f"{prefix}/3/model.onnx", LARGE)
    other = LARGE[::-1]

    def replace_it(path: str) -> None:
        if "model.onnx" in path and faulty.bodies("model.onnx") == 2:
            s3.put(f"{prefix}/3/model.onnx", other)

    faulty.on_request = replace_it
    with pytest.raises(TransientError, match="changed while it was fetched"):
        fetch(faulty_place, staging)
    assert content(fetch(faulty_place, staging)) == {"model.onnx": other}


def test_an_object_deleted_in_mid_download_is_a_change_and_then_a_version_that_isnt_there(
    faulty_place: Source, s3: S3Server, faulty: Faults, prefix: str, staging: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ordered_download, "WINDOW", 1)  # one connection, so that the first part is there when it goes
    s3.put(f"{prefix}/2/model.onnx")
    s3.put(f"{prefix}/3/model.onnx", LARGE)

    def delete_it(path: str) -> None:
        if "3/model.onnx" in path and faulty.bodies("3/model.onnx") == 2:
            s3.delete(f"{prefix}/3/model.onnx")

    faulty.on_request = delete_it
    with pytest.raises(TransientError, match=r"/3 changed while it was fetched; it is fetched from the start"):
        fetch(faulty_place, staging)
    assert list(staging.iterdir()) == [], "what was fetched is of no use to anybody"
    message = refusal(lambda: fetch(faulty_place, staging), Reason.VERSION_NOT_FOUND)
    assert f"{faulty_place.uri} has no version 3" in message


def test_reading_an_object_that_was_deleted_since_it_was_listed_is_a_change(
    place: Source, s3: S3Server, prefix: str
) -> None:
    s3.put(f"{prefix}/3/model.onnx")
    store = S3(place)
    [listed] = store.list_objects(BUCKET, prefix)
    s3.delete(listed.key)
    with pytest.raises(ChangedError):
        list(store.read(BUCKET, listed, 0, listed.size_bytes))


def test_a_store_that_ignores_if_match_is_seen_through(
    faulty_place: Source, s3: S3Server, faulty: Faults, prefix: str, staging: Path
) -> None:
    s3.put(f"{prefix}/3/model.onnx", b"weights")
    headers = (
        ("ETag", '"another"'),
        ("Content-Range", "bytes 0-6/7"),
        ("Last-Modified", "Sat, 21 Nov 2026 00:00:00 GMT"),
    )

    def answer_others(path: str) -> None:
        if "model.onnx" in path:
            faulty.answers = [Answer(206, b"WEIGHTS", headers)]

    faulty.on_request = answer_others
    with pytest.raises(TransientError, match="changed while it was fetched"):
        fetch(faulty_place, staging)
    faulty.on_request = None
    assert content(fetch(faulty_place, staging)) == {"model.onnx": b"weights"}


def test_a_file_added_in_mid_download_is_noticed(
    faulty_place: Source, s3: S3Server, faulty: Faults, prefix: str, staging: Path
) -> None:
    s3.put(f"{prefix}/3/model.onnx", b"weights")

    def add(path: str) -> None:
        if "model.onnx" in path:
            s3.put(f"{prefix}/3/weights.bin", b"late")

    faulty.on_request = add
    with pytest.raises(TransientError, match="changed while it was fetched"):
        fetch(faulty_place, staging)
    faulty.on_request = None
    assert content(fetch(faulty_place, staging)) == {"model.onnx": b"weights", "weights.bin": b"late"}


def test_what_another_upload_left_half_is_not_continued(
    faulty_place: Source, s3: S3Server, faulty: Faults, prefix: str, staging: Path
) -> None:
    s3.put(f"{prefix}/3/model.onnx", LARGE)
    faulty.cuts_after_bytes = [3 * MIB]
    with pytest.raises(TransientError):
        fetch(faulty_place, staging)
    s3.put(f"{prefix}/3/model.onnx", LARGE[::-1])
    assert content(fetch(faulty_place, staging)) == {"model.onnx": LARGE[::-1]}


def test_a_store_that_stalls_is_given_up(
    faulty_place: Source, s3: S3Server, faulty: Faults, prefix: str, staging: Path
) -> None:
    s3.put(f"{prefix}/3/model.onnx", LARGE)
    faulty.stall_seconds = 20.0
    began = time.monotonic()
    with pytest.raises(TransientError, match=r"no byte came in time|didn't answer in time"):
        source_of(faulty_place, read_seconds=0.3).fetch(3, staging, Progress(), None)
    assert time.monotonic() - began < 10


def test_a_fetch_is_called_off_at_once_though_the_store_stalls(
    faulty_place: Source, s3: S3Server, faulty: Faults, prefix: str, staging: Path
) -> None:
    s3.put(f"{prefix}/3/model.onnx", LARGE)
    faulty.stall_seconds = 20.0
    progress = Progress()
    threading.Timer(0.3, progress.cancel).start()
    began = time.monotonic()
    with pytest.raises(CancelledError):
        source_of(faulty_place, read_seconds=30).fetch(3, staging, progress, None)
    assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (Answer.error(503, "SlowDown"), "503 SlowDown"),
        (Answer.error(500, "InternalError"), "500 InternalError"),
        (Answer(429), "429 Too Many Requests"),
        (Answer.error(400, "RequestTimeout"), "400 RequestTimeout"),
    ],
)
def test_a_passing_answer_is_transient_and_not_repeated_by_the_library(
    faulty_place: Source, s3: S3Server, faulty: Faults, prefix: str, staging: Path, answer: Answer, words: str
) -> None:
    s3.put(f"{prefix}/3/model.onnx")
    faulty.answers = [answer]
    with pytest.raises(TransientError, match=words):
        fetch(faulty_place, staging)
    assert len(faulty.requests) == 1
    assert content(fetch(faulty_place, staging)) == {"model.onnx": b"weights"}


@pytest.mark.parametrize(
    ("answer", "reason", "words"),
    [
        (Answer.error(403, "AccessDenied"), Reason.ACCESS_DENIED, "with the keys of Secret store-credentials"),
        (Answer.error(403, "InvalidAccessKeyId"), Reason.ACCESS_DENIED, "403 InvalidAccessKeyId"),
        (Answer.error(400, "ExpiredToken"), Reason.ACCESS_DENIED, "400 ExpiredToken (said by the proxy)"),
        (Answer(401), Reason.ACCESS_DENIED, "401 Unauthorized"),
        (Answer.error(301, "PermanentRedirect"), Reason.REDIRECT_REFUSED, "storage.region"),
        (Answer.error(400, "AuthorizationHeaderMalformed"), Reason.REDIRECT_REFUSED, "storage.region"),
    ],
)
def test_a_permanent_answer_is_refused_in_words(
    faulty_place: Source, faulty: Faults, staging: Path, answer: Answer, reason: Reason, words: str
) -> None:
    faulty.answers = [answer]
    assert words in refusal(lambda: fetch(faulty_place, staging), reason)


def test_a_store_that_isnt_there_is_transient(place: Source, staging: Path) -> None:
    with pytest.raises(TransientError, match=r"127\.0\.0\.1:1 can't be reached .*Connection refused"):
        fetch(replace(place, endpoint="http://127.0.0.1:1"), staging)


def test_a_missing_bucket_and_a_missing_prefix_are_named(place: Source, staging: Path) -> None:
    assert "there is no bucket nothing-here" in refusal(
        lambda: fetch(replace(place, uri="s3://nothing-here/digits"), staging), Reason.SOURCE_NOT_FOUND
    )
    assert f"{place.uri} holds nothing" in refusal(lambda: fetch(place, staging), Reason.SOURCE_NOT_FOUND)
    assert f"{place.uri} holds nothing" in refusal(source_of(place).list_versions, Reason.SOURCE_NOT_FOUND)


def test_a_model_larger_than_the_disk_is_refused_before_it_is_fetched(
    faulty_place: Source, s3: S3Server, faulty: Faults, prefix: str, staging: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3.put(f"{prefix}/3/model.onnx")
    monkeypatch.setattr("slipway_agent.volume.models_volume.SPARE_BYTES", 2**60)
    assert "free" in refusal(lambda: fetch(faulty_place, staging), Reason.DISK_FULL)
    assert faulty.bodies("model.onnx") == 0


@pytest.mark.parametrize("options", ["size=8m", "size=64m,nr_inodes=2"], ids=["of bytes", "of inodes"])
def test_a_disk_that_is_full_only_when_it_is_written_to_is_said_so(
    place: Source, s3: S3Server, prefix: str, staging: Path, monkeypatch: pytest.MonkeyPatch, options: str
) -> None:
    s3.put(f"{prefix}/3/model.onnx", LARGE)
    there = shutil.disk_usage(staging)
    monkeypatch.setattr("shutil.disk_usage", lambda _: there)  # somebody else wrote between the look and the fetch
    with disk(staging, options):
        assert "filled up" in refusal(lambda: fetch(place, staging), Reason.DISK_FULL)


@contextmanager
def disk(folder: Path, options: str) -> Iterator[None]:
    """A file system of its own, which a test may fill."""
    if os.geteuid() != 0:
        pytest.skip("needs root: it mounts a small disk")
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "small", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


# who asks


def test_a_wrong_key_is_refused_with_the_stores_words(place: Source, keys: Path, staging: Path) -> None:
    (keys / "AWS_ACCESS_KEY_ID").write_text("nobody")
    message = refusal(lambda: fetch(place, staging), Reason.ACCESS_DENIED)
    assert "No user exists with the provided access key ID" in message
    assert "with the keys of Secret store-credentials" in message


def test_a_wrong_secret_key_is_refused_and_never_shown(place: Source, keys: Path, staging: Path) -> None:
    (keys / "AWS_SECRET_ACCESS_KEY").write_text("mistyped-word")
    message = refusal(lambda: fetch(place, staging), Reason.ACCESS_DENIED)
    assert "SignatureDoesNotMatch" in message
    assert "mistyped-word" not in message


@pytest.mark.parametrize("names", [(), ("username", "password"), ("AWS_ACCESS_KEY_ID",)])
def test_a_missing_secret_is_named_with_its_keys_and_taken_up_when_it_comes(
    place: Source, s3: S3Server, prefix: str, keys: Path, staging: Path, names: tuple[str, ...]
) -> None:
    s3.put(f"{prefix}/3/model.onnx")
    held = {path: path.read_text() for path in keys.iterdir()}
    for path in held:
        path.unlink()
    for name in names:
        (keys / name).write_text("x")
    source = source_of(place)
    for act in (source.list_versions, lambda: source.fetch(3, staging, Progress(), None)):
        message = refusal(act, Reason.ACCESS_DENIED)
        assert (
            "Secret store-credentials " + (f"has the keys {', '.join(sorted(names))}" if names else "isn't there")
            in message
        )
        assert "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in message
    for path, text in held.items():
        path.write_text(text)
    assert list(source.list_versions()) == [3]


def test_a_secret_folder_that_isnt_mounted_is_a_missing_secret(place: Source, staging: Path) -> None:
    missing = replace(place, credentials="/nonexistent/secret")
    assert "isn't there" in refusal(lambda: fetch(missing, staging), Reason.ACCESS_DENIED)


def test_kserves_names_of_the_keys_are_known(place: Source, s3: S3Server, prefix: str, keys: Path) -> None:
    s3.put(f"{prefix}/3/model.onnx")
    (keys / "AWS_ACCESS_KEY_ID").rename(keys / "awsAccessKeyID")
    (keys / "AWS_SECRET_ACCESS_KEY").rename(keys / "awsSecretAccessKey")
    assert list(source_of(place).list_versions()) == [3]


def test_without_secret_and_identity_the_store_is_asked_anonymously(
    faulty_place: Source, faulty: Faults, staging: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    anonymous = replace(faulty_place, credentials=None, secret_name=None)
    assert "without credentials" in refusal(lambda: fetch(anonymous, staging), Reason.ACCESS_DENIED)
    assert not any("Authorization" in headers for _, headers in faulty.requests)


@pytest.fixture
def sts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Faults]:
    """IRSA: the environment that its webhook sets, and a token service of the test."""
    (tmp_path / "token").write_text("a token of the ServiceAccount")
    with proxy("http://127.0.0.1:1", tmp_path) as faults:
        monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "token"))
        monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::1:role/models")
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", faults.url)
        yield faults


@pytest.fixture
def place_of_identity(place: Source, tmp_path: Path) -> Source:
    """The same place for a pod that has no Secret, only its ServiceAccount."""
    return replace(place, credentials=None, secret_name=None, ca_file=str(tmp_path / "ca.pem"))


def test_a_service_accounts_token_is_exchanged_for_keys(
    place_of_identity: Source, sts: Faults, s3: S3Server, prefix: str, keys: Path
) -> None:
    """The token service hands out the real store's keys."""
    s3.put(f"{prefix}/3/model.onnx")
    given = {path.name: path.read_text().strip() for path in keys.iterdir()}
    body = (
        "<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials>"
        f"<AccessKeyId>{given['AWS_ACCESS_KEY_ID']}</AccessKeyId>"
        f"<SecretAccessKey>{given['AWS_SECRET_ACCESS_KEY']}</SecretAccessKey><SessionToken></SessionToken>"
        "<Expiration>2099-01-01T00:00:00Z</Expiration>"
        "</Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>"
    )
    sts.answers = [Answer(200, body.encode())]
    assert list(source_of(place_of_identity).list_versions()) == [3]
    assert "role%2Fmodels" in sts.paths[0] or "role/models" in sts.paths[0]


def test_a_container_credentials_endpoint_gives_keys(
    place: Source, s3: S3Server, prefix: str, keys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """EKS Pod Identity: the environment that its agent sets."""
    s3.put(f"{prefix}/3/model.onnx")
    (tmp_path / "token").write_text("a token of the ServiceAccount")
    given = {path.name: path.read_text().strip() for path in keys.iterdir()}
    body = (
        f'{{"AccessKeyId": "{given["AWS_ACCESS_KEY_ID"]}", "SecretAccessKey": "{given["AWS_SECRET_ACCESS_KEY"]}", '
        '"Token": "", "Expiration": "2099-01-01T00:00:00Z"}'
    )
    with proxy("http://127.0.0.1:1") as identity:
        identity.answers = [Answer(200, body.encode())]
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{identity.url}/v1/credentials")
        monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", str(tmp_path / "token"))
        pod = replace(place, credentials=None, secret_name=None)
        assert list(source_of(pod).list_versions()) == [3]
        assert identity.requests[0][1]["authorization"] == "a token of the ServiceAccount"


@pytest.mark.parametrize(
    ("answers", "error", "words"),
    [
        ([Answer.error(403, "AccessDenied")], SpecError, "the token service (AWS STS) answered 403 AccessDenied"),
        ([Answer.error(503, "Busy")], TransientError, "the token service (AWS STS) answered 503 Busy"),
        ([Answer(200, b"garbage")], SpecError, "the pod's identity can't be turned into credentials"),
    ],
)
def test_an_identity_that_isnt_accepted_is_named(
    place_of_identity: Source, sts: Faults, staging: Path, answers: list[Answer], error: type[Exception], words: str
) -> None:
    sts.answers = answers
    with pytest.raises(error) as refused:
        fetch(place_of_identity, staging)
    assert words in str(refused.value)


def test_a_keys_own_words_change_no_verdict(faulty_place: Source, faulty: Faults, s3: S3Server, staging: Path) -> None:
    """Errors are known by the library's phrases; a model may be called anything."""
    key = "token-credential-redirect-Path-models"
    s3.put(f"{key}/3/model.onnx", LARGE)
    faulty.cuts_after_bytes = [MIB]
    with pytest.raises(TransientError, match="goes on"):
        fetch(replace(faulty_place, uri=f"s3://{BUCKET}/{key}"), staging)
    with pytest.raises(TransientError, match="can't be reached"):
        fetch(replace(faulty_place, uri=f"s3://{BUCKET}/{key}", endpoint="http://127.0.0.1:1"), staging)


# where it is


def test_a_private_ca_is_trusted_when_it_is_named(
    place: Source, s3: S3Server, prefix: str, tmp_path: Path, staging: Path
) -> None:
    s3.put(f"{prefix}/3/model.onnx")
    with proxy(s3.url, tmp_path) as tls:
        distrusted = replace(place, endpoint=tls.url)
        with pytest.raises(TransientError, match=r"certificate isn't trusted \(UnknownIssuer\).*storage\.caBundle"):
            fetch(distrusted, staging)
        trusted = replace(distrusted, ca_file=str(tmp_path / "ca.pem"))
        assert content(fetch(trusted, staging)) == {"model.onnx": b"weights"}


@pytest.mark.parametrize("text", [None, "no certificate"])
def test_a_ca_file_that_isnt_one_is_refused(place: Source, tmp_path: Path, staging: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "ca.pem").write_text(text)
    wrong = replace(place, ca_file=str(tmp_path / "ca.pem"))
    assert "storage.caBundle" in refusal(lambda: fetch(wrong, staging), Reason.CONFIG_INVALID)


@pytest.mark.parametrize("endpoint", ["nonsense", "ftp://host", "https://", "http://host:99999", "http://[bad"])
def test_an_endpoint_that_isnt_one_is_refused(place: Source, staging: Path, endpoint: str) -> None:
    assert "storage.endpoint" in refusal(
        lambda: fetch(replace(place, endpoint=endpoint), staging), Reason.CONFIG_INVALID
    )


def test_without_path_style_the_bucket_is_in_the_hosts_name(place: Source, staging: Path) -> None:
    named = replace(place, endpoint="http://store.invalid", path_style=False)
    with pytest.raises(TransientError, match=r"store\.invalid can't be reached"):
        fetch(named, staging)


def test_a_folders_digest_is_that_of_its_files(place: Source, s3: S3Server, prefix: str, staging: Path) -> None:
    s3.put(f"{prefix}/3/model.onnx", b"x")
    expected = digest_of_files([("model.onnx", hashlib.sha256(b"x").hexdigest())])
    assert fetch(place, staging).sha256 == expected
