"""https:// against a real server: presigned URLs of an S3 server, behind a proxy with TLS that fails on demand."""

import os
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import obstore
import pytest
from obstore.store import S3Store

from slipway_agent.config import Source
from slipway_agent.model.errors import CancelledError, Reason, SpecError, TransientError
from slipway_agent.sources.base import Fetched, Progress
from slipway_agent.sources.https import HttpsSource
from tests.storage.faults import Answer, Faults, proxy
from tests.storage.servers import ACCESS_KEY, BUCKET, SECRET_KEY, S3Server

LARGE = os.urandom(3 << 20)


@pytest.fixture
def faulty(s3: S3Server, tmp_path: Path) -> Iterator[Faults]:
    with proxy(s3.url, tmp_path) as faults:
        yield faults


def presigned(faulty: Faults, key: str, secret: str = SECRET_KEY) -> str:
    """A URL that opens one object, as people hand them on."""
    store = S3Store(BUCKET, endpoint=faulty.url, access_key_id=ACCESS_KEY, secret_access_key=secret, region="us-east-1")
    return str(obstore.sign(store, "GET", key, timedelta(minutes=5)))


def source_of(url: str, tmp_path: Path, read_seconds: float = 5.0) -> HttpsSource:
    return HttpsSource(Source("https://models.example", None, {3: url}, False, str(tmp_path / "ca.pem")), read_seconds)


def fetch(url: str, tmp_path: Path, staging: Path) -> Fetched:
    return source_of(url, tmp_path).fetch(3, staging, Progress(), None)


def test_a_cut_download_goes_on_where_it_broke(
    s3: S3Server, faulty: Faults, prefix: str, tmp_path: Path, staging: Path
) -> None:
    s3.put(f"{prefix}/model.onnx", LARGE)
    url = presigned(faulty, f"{prefix}/model.onnx")
    faulty.cuts_after_bytes = [1_000_000, 700_000]
    for _ in range(2):
        with pytest.raises(TransientError, match="it goes on from there"):
            fetch(url, tmp_path, staging)
    fetched = fetch(url, tmp_path, staging)
    assert (fetched.path.read_bytes(), fetched.name) == (LARGE, "model.onnx")
    assert [headers.get("Range") for _, headers in faulty.requests] == [None, "bytes=1000000-", "bytes=1700000-"]


def test_an_object_replaced_in_mid_download_is_never_mixed(
    s3: S3Server, faulty: Faults, prefix: str, tmp_path: Path, staging: Path
) -> None:
    s3.put(f"{prefix}/model.onnx", LARGE)
    url = presigned(faulty, f"{prefix}/model.onnx")
    faulty.cuts_after_bytes = [1_000_000]
    with pytest.raises(TransientError):
        fetch(url, tmp_path, staging)
    s3.put(f"{prefix}/model.onnx", LARGE[::-1])
    for _ in range(2):  # this server ignores If-Range: its answer is seen through, and asked for anew
        try:
            fetched = fetch(url, tmp_path, staging)
        except TransientError:
            continue
        break
    assert fetched.path.read_bytes() == LARGE[::-1]


@pytest.mark.parametrize(
    ("secret", "key", "reason", "words"),
    [
        ("another word", "model.onnx", Reason.ACCESS_DENIED, "answered 403"),
        (SECRET_KEY, "missing.onnx", Reason.VERSION_NOT_FOUND, "answered 404"),
    ],
)
def test_a_refusal_is_permanent_and_shows_no_signature(
    s3: S3Server,
    faulty: Faults,
    prefix: str,
    tmp_path: Path,
    staging: Path,
    secret: str,
    key: str,
    reason: Reason,
    words: str,
) -> None:
    s3.put(f"{prefix}/model.onnx")
    with pytest.raises(SpecError, match=words) as refusal:
        fetch(presigned(faulty, f"{prefix}/{key}", secret), tmp_path, staging)
    assert refusal.value.reason is reason
    assert "Signature" not in refusal.value.message


def test_a_busy_server_is_asked_again_when_it_says(
    s3: S3Server, faulty: Faults, prefix: str, tmp_path: Path, staging: Path
) -> None:
    s3.put(f"{prefix}/model.onnx")
    url = presigned(faulty, f"{prefix}/model.onnx")
    faulty.answers = [Answer(503, headers=(("Retry-After", "4"),))]
    with pytest.raises(TransientError) as failure:
        fetch(url, tmp_path, staging)
    assert failure.value.retry_after_seconds == 4.0
    assert fetch(url, tmp_path, staging).path.read_bytes() == b"weights"


def test_a_server_that_stalls_is_given_up_and_a_fetch_from_it_called_off_at_once(
    s3: S3Server, faulty: Faults, prefix: str, tmp_path: Path, staging: Path
) -> None:
    s3.put(f"{prefix}/model.onnx", LARGE)
    url = presigned(faulty, f"{prefix}/model.onnx")
    faulty.stall_seconds = 20.0
    began = time.monotonic()
    with pytest.raises(TransientError):
        source_of(url, tmp_path, read_seconds=0.3).fetch(3, staging, Progress(), None)
    progress = Progress()
    threading.Timer(0.3, progress.cancel).start()
    with pytest.raises(CancelledError):
        source_of(url, tmp_path, read_seconds=30).fetch(3, staging, progress, None)
    assert time.monotonic() - began < 10


def test_a_fetch_called_off_before_its_body_begins_does_not_wait_for_it(
    s3: S3Server, faulty: Faults, prefix: str, tmp_path: Path, staging: Path
) -> None:
    s3.put(f"{prefix}/model.onnx", LARGE)
    url = presigned(faulty, f"{prefix}/model.onnx")
    faulty.stall_seconds = 20.0
    progress = Progress()
    faulty.on_request = lambda path: progress.cancel()
    began = time.monotonic()
    with pytest.raises(CancelledError):
        source_of(url, tmp_path, read_seconds=30).fetch(3, staging, progress, None)
    assert time.monotonic() - began < 10
