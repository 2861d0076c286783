"""Fetching over https from a real server: resumed where that is safe, refused in words where it isn't."""

import hashlib
import threading
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from slipway_agent.config import Source
from slipway_agent.model.errors import CancelledError, Reason, SpecError, TransientError, UnchangedError
from slipway_agent.sources.base import Fetched, Progress
from slipway_agent.sources.https import HttpsSource
from tests.unit.agent.sources.object_server import ObjectServer, serve_objects

CONTENT = bytes(range(256)) * 4096 * 3  # 3 MiB: several chunks
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectServer]:
    with serve_objects(tmp_path_factory.mktemp("tls")) as state:
        yield state


@pytest.fixture
def server(served: ObjectServer) -> ObjectServer:
    fresh = ObjectServer(content=CONTENT)
    for name in ("content", "etag", "last_modified", "statuses", "headers", "cuts_after_bytes", "requests"):
        setattr(served, name, getattr(fresh, name))
    served.stall_seconds = 0.0
    served.announces_extra_bytes, served.supports_range, served.is_chunked, served.sent_bytes = 0, True, False, 0
    return served


def source_of(server: ObjectServer, name: str = "model.onnx", allow_redirects: bool = False) -> HttpsSource:
    return HttpsSource(Source(server.url, None, {3: name}, allow_redirects, server.ca_file), read_seconds=2.0)


def fetch(server: ObjectServer, staging: Path, refused: str | None = None, allow_redirects: bool = False) -> Fetched:
    return source_of(server, allow_redirects=allow_redirects).fetch(3, staging, Progress(), refused)


def test_an_object_is_fetched_whole(server: ObjectServer, tmp_path: Path) -> None:
    progress = Progress()
    fetched = source_of(server, "a/model.onnx?sig=1").fetch(3, tmp_path, progress, None)
    assert fetched.path.read_bytes() == CONTENT
    assert (fetched.sha256, fetched.name, fetched.fingerprint) == (SHA256, "model.onnx", '"one"')
    assert (progress.fetched_bytes, progress.total_bytes) == (len(CONTENT), len(CONTENT))


def test_a_chunked_answer_without_length_is_fetched(server: ObjectServer, tmp_path: Path) -> None:
    server.is_chunked = True
    assert fetch(server, tmp_path).sha256 == SHA256


@pytest.mark.parametrize("is_chunked", [False, True])
def test_a_cut_connection_is_transient(server: ObjectServer, tmp_path: Path, is_chunked: bool) -> None:
    server.is_chunked, server.cuts_after_bytes = is_chunked, [1_500_000]
    with pytest.raises(TransientError, match="broke after 1500000 bytes"):
        fetch(server, tmp_path)


def test_a_cut_download_goes_on_where_it_broke(server: ObjectServer, tmp_path: Path) -> None:
    server.cuts_after_bytes = [1_000_000, 700_000]
    for _ in range(2):
        with pytest.raises(TransientError):
            fetch(server, tmp_path)
    assert fetch(server, tmp_path).sha256 == SHA256
    assert server.sent_bytes == len(CONTENT), "no byte was sent twice"
    assert [each.get("Range") for each in server.requests] == [None, "bytes=1000000-", "bytes=1700000-"]
    assert server.requests[-1]["If-Range"] == '"one"'


def test_a_finished_download_of_a_killed_agent_is_not_fetched_again(server: ObjectServer, tmp_path: Path) -> None:
    fetch(server, tmp_path)
    assert fetch(server, tmp_path).sha256 == SHA256
    assert server.sent_bytes == len(CONTENT) + 1


def test_an_object_changed_in_mid_download_is_fetched_from_the_start(server: ObjectServer, tmp_path: Path) -> None:
    server.cuts_after_bytes = [1_000_000]
    with pytest.raises(TransientError):
        fetch(server, tmp_path)
    server.content, server.etag = CONTENT[::-1], '"two"'
    fetched = fetch(server, tmp_path)
    assert fetched.path.read_bytes() == CONTENT[::-1]
    assert fetched.sha256 == hashlib.sha256(CONTENT[::-1]).hexdigest()


@pytest.mark.parametrize(("etag", "last_modified"), [(None, None), ('W/"weak"', None)])
def test_without_a_strong_validator_nothing_is_resumed(
    server: ObjectServer, tmp_path: Path, etag: str | None, last_modified: str | None
) -> None:
    server.etag, server.cuts_after_bytes = etag, [1_000_000]
    with pytest.raises(TransientError):
        fetch(server, tmp_path)
    assert fetch(server, tmp_path).sha256 == SHA256
    assert "Range" not in server.requests[-1]


def test_a_date_serves_as_validator(server: ObjectServer, tmp_path: Path) -> None:
    server.etag, server.last_modified = None, "Sat, 21 Nov 2026 00:00:00 GMT"
    server.cuts_after_bytes = [1_000_000]
    with pytest.raises(TransientError):
        fetch(server, tmp_path)
    assert fetch(server, tmp_path).sha256 == SHA256
    assert server.requests[-1]["If-Range"] == server.last_modified


def test_a_server_without_ranges_is_fetched_from_the_start(server: ObjectServer, tmp_path: Path) -> None:
    server.supports_range, server.cuts_after_bytes = False, [1_000_000]
    with pytest.raises(TransientError):
        fetch(server, tmp_path)
    assert fetch(server, tmp_path).sha256 == SHA256


def test_a_partial_file_of_another_url_is_not_continued(server: ObjectServer, tmp_path: Path) -> None:
    server.cuts_after_bytes = [1_000_000]
    with pytest.raises(TransientError):
        fetch(server, tmp_path)
    source_of(server, "other.onnx").fetch(3, tmp_path, Progress(), None)
    assert "Range" not in server.requests[-1]


def test_fewer_bytes_than_announced_are_noticed(server: ObjectServer, tmp_path: Path) -> None:
    server.announces_extra_bytes = 10
    with pytest.raises(TransientError, match="broke after"):
        fetch(server, tmp_path)


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (401, Reason.ACCESS_DENIED),
        (403, Reason.ACCESS_DENIED),
        (404, Reason.VERSION_NOT_FOUND),
        (410, Reason.VERSION_NOT_FOUND),
        (400, Reason.ACCESS_DENIED),
    ],
)
def test_a_permanent_status_is_refused_and_named(
    server: ObjectServer, tmp_path: Path, status: int, reason: Reason
) -> None:
    server.statuses = [status]
    with pytest.raises(SpecError) as refusal:
        fetch(server, tmp_path)
    assert refusal.value.reason is reason
    assert f"{server.url}/model.onnx answered {status}" in refusal.value.message


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_passing_status_is_transient(server: ObjectServer, tmp_path: Path, status: int) -> None:
    server.statuses = [status]
    with pytest.raises(TransientError) as failure:
        fetch(server, tmp_path)
    assert failure.value.retry_after_seconds is None
    assert fetch(server, tmp_path).sha256 == SHA256


@pytest.mark.parametrize(
    ("word", "seconds"),
    [("7", 7.0), ("999999", 600.0), ("Mon, 01 Jan 2024 00:00:00 GMT", 0.0), ("soon", None), ("-1", None)],
)
def test_retry_after_is_honoured_within_reason(
    server: ObjectServer, tmp_path: Path, word: str, seconds: float | None
) -> None:
    server.statuses, server.headers = [503], {"Retry-After": word}
    with pytest.raises(TransientError) as failure:
        fetch(server, tmp_path)
    assert failure.value.retry_after_seconds == seconds


def test_a_redirect_is_refused_and_its_host_named(server: ObjectServer, tmp_path: Path) -> None:
    server.statuses, server.headers = [302], {"Location": "https://cdn.example/model.onnx"}
    with pytest.raises(SpecError) as refusal:
        fetch(server, tmp_path)
    assert refusal.value.reason is Reason.REDIRECT_REFUSED
    assert "redirects to cdn.example" in refusal.value.message
    assert "storage.allowRedirects" in refusal.value.message
    assert len(server.requests) == 1


def test_an_allowed_redirect_is_followed(server: ObjectServer, tmp_path: Path) -> None:
    server.statuses, server.headers = [302], {"Location": "/elsewhere"}
    assert fetch(server, tmp_path, allow_redirects=True).sha256 == SHA256
    assert [each["path"] for each in server.requests] == ["/model.onnx", "/elsewhere"]


@pytest.mark.parametrize("target", ["http://127.0.0.1:1/model.onnx", "file:///etc/passwd", "https://[bad/"])
def test_an_allowed_redirect_never_leaves_https(server: ObjectServer, tmp_path: Path, target: str) -> None:
    server.statuses, server.headers = [302], {"Location": target}
    with pytest.raises(SpecError) as refusal:
        fetch(server, tmp_path, allow_redirects=True)
    assert refusal.value.reason is Reason.REDIRECT_REFUSED


def with_secret(
    server: ObjectServer, folder: Path, values: dict[str, str], allow_redirects: bool = False
) -> HttpsSource:
    secret = folder / "secret"
    secret.mkdir(exist_ok=True)
    for name, value in values.items():
        (secret / name).write_text(value)
    source = Source(
        server.url,
        None,
        {3: "model.onnx"},
        allow_redirects,
        server.ca_file,
        credentials=str(secret),
        secret_name="web-login",
    )
    return HttpsSource(source, read_seconds=2.0)


@pytest.mark.parametrize(
    ("values", "header"),
    [
        ({"token": "opens\n"}, "Bearer opens"),
        ({"username": "ada", "password": "lovelace"}, "Basic YWRhOmxvdmVsYWNl"),
        ({"token": "opens", "username": "ada", "password": "lovelace"}, "Bearer opens"),
    ],
)
def test_the_secret_opens_the_url(server: ObjectServer, tmp_path: Path, values: dict[str, str], header: str) -> None:
    fetched = with_secret(server, tmp_path, values).fetch(3, tmp_path, Progress(), None)
    assert fetched.sha256 == SHA256
    assert server.requests[0]["Authorization"] == header


@pytest.mark.parametrize("values", [{}, {"username": "ada"}, {"token": ""}, {"key": "x"}])
def test_a_secret_without_the_keys_is_named_and_nothing_is_asked(
    server: ObjectServer, tmp_path: Path, values: dict[str, str]
) -> None:
    source = with_secret(server, tmp_path, values)
    with pytest.raises(SpecError, match=r"Secret web-login .*needs token, or username and password") as refusal:
        source.fetch(3, tmp_path, Progress(), None)
    assert refusal.value.reason is Reason.ACCESS_DENIED
    assert server.requests == []
    (tmp_path / "secret" / "token").write_text("opens")
    assert source.fetch(3, tmp_path, Progress(), None).sha256 == SHA256


def test_a_refused_secret_is_named_and_never_shown(server: ObjectServer, tmp_path: Path) -> None:
    server.statuses = [403]
    with pytest.raises(SpecError, match="asked with Secret web-login") as refusal:
        with_secret(server, tmp_path, {"token": "expired-word"}).fetch(3, tmp_path, Progress(), None)
    assert "expired-word" not in refusal.value.message


def test_a_redirect_to_another_host_takes_no_secret_along(server: ObjectServer, tmp_path: Path) -> None:
    elsewhere = server.url.replace("127.0.0.1", "localhost") + "/elsewhere"
    server.statuses, server.headers = [302], {"Location": elsewhere}
    with_secret(server, tmp_path, {"token": "opens"}, allow_redirects=True).fetch(3, tmp_path, Progress(), None)
    assert [each.get("Authorization") for each in server.requests] == ["Bearer opens", None]


def test_a_redirect_on_the_same_host_keeps_the_secret(server: ObjectServer, tmp_path: Path) -> None:
    server.statuses, server.headers = [302], {"Location": "/elsewhere"}
    with_secret(server, tmp_path, {"token": "opens"}, allow_redirects=True).fetch(3, tmp_path, Progress(), None)
    assert [each.get("Authorization") for each in server.requests] == ["Bearer opens", "Bearer opens"]


def test_a_redirect_loop_ends(server: ObjectServer, tmp_path: Path) -> None:
    server.statuses, server.headers = [302] * 20, {"Location": "/model.onnx"}
    with pytest.raises(SpecError, match="more than 10 times"):
        fetch(server, tmp_path, allow_redirects=True)


def test_an_unknown_authority_is_named_with_the_way_out(server: ObjectServer, tmp_path: Path) -> None:
    source = HttpsSource(Source(server.url, None, {3: "model.onnx"}))
    with pytest.raises(TransientError, match=r"certificate isn't trusted.*storage\.caBundle"):
        source.fetch(3, tmp_path, Progress(), None)


def test_the_environments_ca_bundle_doesnt_replace_the_specs(
    server: ObjectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nonexistent.pem")
    assert fetch(server, tmp_path).sha256 == SHA256


def test_a_ca_file_that_isnt_one_is_refused(server: ObjectServer, tmp_path: Path) -> None:
    source = HttpsSource(Source(server.url, None, {3: "model.onnx"}, False, str(tmp_path / "missing.pem")))
    with pytest.raises(SpecError) as refusal:
        source.fetch(3, tmp_path, Progress(), None)
    assert refusal.value.reason is Reason.CONFIG_INVALID
    assert "storage.caBundle" in refusal.value.message


def test_a_host_that_isnt_there_is_transient(tmp_path: Path) -> None:
    source = HttpsSource(Source("https://127.0.0.1:1", None, {3: "model.onnx"}))
    with pytest.raises(TransientError, match=r"127\.0\.0\.1:1 can't be reached: Connection refused"):
        source.fetch(3, tmp_path, Progress(), None)


def test_bytes_that_were_refused_are_not_fetched_twice(server: ObjectServer, tmp_path: Path) -> None:
    with pytest.raises(UnchangedError):
        fetch(server, tmp_path, '"one"')
    assert server.sent_bytes == 0
    server.etag = '"two"'
    assert fetch(server, tmp_path, '"one"').sha256 == SHA256


def test_a_version_without_url_is_refused(server: ObjectServer, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"version 4 has no URL.*it names 3"):
        source_of(server).fetch(4, tmp_path, Progress(), None)
    assert source_of(server).list_versions() == {3: None}


def test_what_opens_a_url_is_in_no_message(server: ObjectServer, tmp_path: Path) -> None:
    server.statuses = [403]
    with pytest.raises(SpecError) as refusal:
        source_of(server, "model.onnx?X-Amz-Signature=secret").fetch(3, tmp_path, Progress(), None)
    assert server.requests[-1]["path"].endswith("?X-Amz-Signature=secret")
    assert "secret" not in refusal.value.message
    assert "/model.onnx?… answered 403" in refusal.value.message


def test_a_download_can_be_called_off(server: ObjectServer, tmp_path: Path) -> None:
    progress = Progress()
    progress.cancel()
    with pytest.raises(CancelledError):
        source_of(server).fetch(3, tmp_path, progress, None)


def test_a_download_is_called_off_at_once_though_the_server_stalls(server: ObjectServer, tmp_path: Path) -> None:
    server.stall_seconds = 20.0
    progress = Progress()
    threading.Timer(0.2, progress.cancel).start()
    began = time.monotonic()
    with pytest.raises(CancelledError):
        source_of(server).fetch(3, tmp_path, progress, None)
    assert time.monotonic() - began < 10.0


def test_an_object_larger_than_the_disk_is_refused_before_it_is_fetched(
    server: ObjectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("slipway_agent.volume.models_volume.SPARE_BYTES", 2**60)
    with pytest.raises(SpecError) as refusal:
        fetch(server, tmp_path)
    assert refusal.value.reason is Reason.DISK_FULL
    assert "needs 3.0 MiB and the pod's model volume has" in refusal.value.message


def test_a_disk_that_fills_up_meanwhile_is_said_so(server: ObjectServer, tmp_path: Path) -> None:
    (tmp_path / "download.part").symlink_to("/dev/full")  # every write says ENOSPC
    with pytest.raises(SpecError) as refusal:
        fetch(server, tmp_path)
    assert refusal.value.reason is Reason.DISK_FULL


def test_memory_stays_constant(server: ObjectServer, tmp_path: Path) -> None:
    server.content = CONTENT * 16  # 48 MiB, made before the measurement, and sent without a copy
    tracemalloc.start()
    try:
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        fetch(server, tmp_path)
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert peak < 16 * 2**20, f"{peak} bytes"
