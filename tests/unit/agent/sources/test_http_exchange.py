"""What strangers' servers send has an end, and passwords go where they were meant to go."""

import itertools
import json
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from slipway_agent.config import Source
from slipway_agent.model.errors import Reason, SpecError, TransientError
from slipway_agent.model.limits import Room
from slipway_agent.sources import http_exchange
from slipway_agent.sources import https as https_module
from slipway_agent.sources.base import Fetched, Progress
from slipway_agent.sources.http_exchange import (
    BodyLimit,
    Exchange,
    Session,
    length_of,
    read_small,
    retry_after_seconds,
    store_body,
)
from slipway_agent.sources.https import HttpsSource
from slipway_agent.sources.oci import OciSource, _may_have_password
from tests.isolation.strangers import Say, Stranger, response, stranger

DIGEST = "sha256:" + "a" * 64
MANIFEST = "application/vnd.oci.image.manifest.v1+json"


def judge_nothing(here: str, target: str, host: str) -> None:
    """Every hop is followed."""


def ask(session: Session, server: Stranger, read_seconds: float = 20.0) -> Callable[[], object]:
    exchange = Exchange(session, server.ca_file, read_seconds)
    return lambda: exchange.ask("GET", f"{server.url}/model", {}, None, judge_nothing)


def saying(*chunks: bytes, drip: bytes = b"") -> Callable[[Stranger], Say]:
    return lambda state: lambda head: itertools.chain(chunks, state.drip(drip) if drip else ())


# time


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize(
    ("beginning", "drip"),
    [(b"HTTP/1.1 200 OK\r\nX: ", b"a"), (b"", b"HTTP/1.1 100 Continue\r\n\r\n"), (b"HTTP/1.1 2", b"0")],
)
def test_a_head_that_drips_ends_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, beginning: bytes, drip: bytes, tls: bool
) -> None:
    monkeypatch.setattr(http_exchange, "HEAD_SECONDS", 0.3)
    with (
        stranger(saying(beginning, drip=drip), tmp_path if tls else None) as server,
        Session() as session,
        pytest.raises(TransientError, match="didn't answer in time"),
    ):
        ask(session, server)()


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("framing", ["content-length: 99999999", "transfer-encoding: chunked", "x: y"])
def test_a_body_that_drips_ends_in_time_and_keeps_what_came(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, framing: str, tls: bool
) -> None:
    monkeypatch.setattr(http_exchange, "SLOW_SECONDS", 0.3)
    head = f"HTTP/1.1 200 OK\r\n{framing}\r\n\r\n".encode()
    drip = b"1\r\na\r\n" if "chunked" in framing else b"a"
    with stranger(saying(head, drip=drip), tmp_path if tls else None) as server, Session() as session:
        exchange = Exchange(session, server.ca_file, 20.0)
        with (
            exchange.ask("GET", server.url, {}, None, judge_nothing) as answer,
            pytest.raises(TransientError, match=r"less than 1.0 MiB within 0 s, which is too slow; it goes on"),
        ):
            store_body(answer, server.url, tmp_path / "part", 0, Progress())


def test_a_small_answer_that_drips_ends_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_exchange, "SMALL_SECONDS", 0.3)
    with (
        stranger(saying(b"HTTP/1.1 200 OK\r\n\r\n", drip=b"a")) as server,
        Session() as session,
        Exchange(session, None, 20.0).ask("GET", server.url, {}, None, judge_nothing) as answer,
        pytest.raises(TransientError, match="didn't send a token within 0 s"),
    ):
        read_small(answer, server.url, 1000, "a token")


# size


@pytest.mark.parametrize("length", ["", "99999999999"])
def test_a_small_answer_without_an_end_is_read_to_its_limit(length: str) -> None:
    head = response(content_length=length)[0]
    with (
        stranger(saying(head, drip=bytes(65536))) as server,
        Session() as session,
        Exchange(session, None, 20.0).ask("GET", server.url, {}, None, judge_nothing) as answer,
        pytest.raises(SpecError, match=r"sends more than 100.0 KiB as a token, and no more") as refusal,
    ):
        read_small(answer, server.url, 100 << 10, "a token")
    assert refusal.value.reason is Reason.UNSUPPORTED_ARCHIVE


@pytest.mark.parametrize(("size_bytes", "is_refused"), [(1000, False), (64 << 20, True)])
@pytest.mark.parametrize("form", ["gzip", "deflate"])
def test_what_was_packed_unasked_is_unpacked_to_the_limit(form: str, size_bytes: int, is_refused: bool) -> None:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31 if form == "gzip" else 15)
    packed = packer.compress(bytes(size_bytes)) + packer.flush()
    with (
        stranger(saying(*response(packed, content_encoding=form))) as server,
        Session() as session,
        Exchange(session, None, 20.0).ask("GET", server.url, {}, None, judge_nothing) as answer,
    ):
        if not is_refused:
            assert read_small(answer, server.url, 100 << 10, "a token") == bytes(size_bytes)
            return
        with pytest.raises(SpecError, match="sends more than"):
            read_small(answer, server.url, 100 << 10, "a token")


def fetch_https(server: Stranger, staging: Path, **more: object) -> Fetched:
    source = Source(f"{server.url}/", None, {3: "model.onnx"}, ca_file=server.ca_file, **more)  # type: ignore[arg-type]
    staging.mkdir(exist_ok=True)
    return HttpsSource(source).fetch(3, staging, Progress(), None)


def test_a_file_without_an_end_does_not_fill_the_volume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(https_module, "find_room", lambda folder: Room(3 << 20))
    head = response(content_length="")[0]
    with (
        stranger(saying(head, drip=bytes(1 << 20)), tmp_path / "tls") as server,
        pytest.raises(SpecError, match=r"doesn't say how large it is, and sent more than the 3.0 MiB") as refusal,
    ):
        fetch_https(server, tmp_path / "staging")
    assert refusal.value.reason is Reason.DISK_FULL
    assert sum(path.stat().st_size for path in (tmp_path / "staging").iterdir()) <= 4 << 20


def test_a_chunked_answer_with_a_small_length_is_bounded_by_it(tmp_path: Path) -> None:
    head = response(content_length="10", transfer_encoding="chunked")[0]
    drip = b"%x\r\n%s\r\n" % (1 << 16, bytes(1 << 16))
    with (
        stranger(saying(head, drip=drip), tmp_path / "tls") as server,
        pytest.raises(TransientError, match=r"sent more bytes than it said|broke after"),
    ):
        fetch_https(server, tmp_path / "staging")


@pytest.mark.parametrize("digits", ["9" * 5000, "9" * 30, "-1", "1e3"])
def test_numbers_that_no_server_means_are_no_numbers(tmp_path: Path, digits: str) -> None:
    head = response(content_length=digits, retry_after=digits)[0]
    with (
        stranger(saying(head, b"model")) as server,
        Session() as session,
        Exchange(session, None, 20.0).ask("GET", server.url, {}, None, judge_nothing) as answer,
    ):
        assert length_of(answer) is None
        assert retry_after_seconds(answer) is None


def test_a_limit_counts_what_was_begun(tmp_path: Path) -> None:
    (tmp_path / "part").write_bytes(bytes(50))
    refusal = TransientError("too much")
    with (
        stranger(saying(*response(bytes(60)))) as server,
        Session() as session,
        Exchange(session, None, 20.0).ask("GET", server.url, {}, None, judge_nothing) as answer,
        pytest.raises(TransientError, match="too much"),
    ):
        store_body(answer, server.url, tmp_path / "part", 50, Progress(), limit=BodyLimit(100, refusal))


# hosts


@pytest.mark.parametrize(
    "target", ["file:///etc/passwd", "http://127.0.0.1/", "ftp://host/", "//[", "gopher://x", "/again"]
)
def test_redirects_lead_to_https_and_have_an_end(tmp_path: Path, target: str) -> None:
    with stranger(saying(*response(status=302, location=target)), tmp_path / "tls") as server:
        with pytest.raises(SpecError) as refusal:
            fetch_https(server, tmp_path / "staging", allow_redirects=True)
        assert refusal.value.reason is Reason.REDIRECT_REFUSED
        assert len(server.requests) <= http_exchange.REDIRECT_LIMIT + 1


def secret(folder: Path, **values: str) -> str:
    folder.mkdir()
    for name, value in values.items():
        (folder / name.replace("__", ".")).write_text(value)
    return str(folder)


def test_a_password_is_not_sent_where_a_redirect_leads(tmp_path: Path) -> None:
    credentials = secret(tmp_path / "secret", username="user", password="word")
    with (
        stranger(saying(*response(b"model")), tmp_path / "tls") as other,
        stranger(saying(*response(status=302, location=f"{other.url}/m.onnx")), tmp_path / "tls2") as server,
    ):
        both = tmp_path / "both.pem"
        both.write_text(Path(str(server.ca_file)).read_text() + Path(str(other.ca_file)).read_text())
        place = Source(f"{server.url}/", None, {3: "m.onnx"}, True, ca_file=str(both), credentials=credentials)
        (tmp_path / "staging").mkdir()
        HttpsSource(place).fetch(3, tmp_path / "staging", Progress(), None)
    assert "Authorization: Basic" in server.requests[0]
    assert "Authorization" not in other.requests[0]


@pytest.mark.parametrize(
    ("realm", "base", "may"),
    [
        ("https://auth.docker.io/token", "https://registry-1.docker.io", True),
        ("https://auth.example/token", "http://mirror:5000", True),
        ("http://auth.example/token", "https://registry.example", False),
        ("http://registry.example/token", "https://registry.example", False),
        ("http://mirror:5001/token", "http://mirror:5000", True),
        ("http://attacker/token", "http://mirror:5000", False),
        ("file:///etc/passwd", "http://mirror:5000", False),
        ("https://", "https://registry.example", False),
        ("https://[", "https://registry.example", False),
    ],
)
def test_a_token_is_asked_for_by_https_or_at_the_registry_itself(realm: str, base: str, may: bool) -> None:
    assert _may_have_password(realm, base) is may


def oci(server: Stranger, **more: object) -> OciSource:
    return OciSource(Source(f"oci://{server.host}/digits", None, {3: "v3"}, **more))  # type: ignore[arg-type]


def fetch_oci(server: Stranger, staging: Path, **more: object) -> Fetched:
    staging.mkdir(exist_ok=True)
    return oci(server, **more).fetch(3, staging, Progress(), None)


def test_with_an_endpoint_the_password_must_be_the_endpoints_own(tmp_path: Path) -> None:
    """An entry for ghcr.io is no password for a mirror that speaks http."""
    challenge = response(status=401, www_authenticate='Basic realm="x"')
    with stranger(saying(*challenge)) as server:
        auths = {"ghcr.io": {"username": "user", "password": "word"}}
        credentials = secret(tmp_path / "secret", __dockerconfigjson=json.dumps({"auths": auths}))
        place = Source("oci://ghcr.io/digits", None, {3: "v3"}, endpoint=server.url, credentials=credentials)
        (tmp_path / "staging").mkdir()
        with pytest.raises(SpecError, match=f"no entry for {server.host} in its .dockerconfigjson") as refusal:
            OciSource(place).fetch(3, tmp_path / "staging", Progress(), None)
        assert refusal.value.reason is Reason.ACCESS_DENIED
        assert server.requests == []
        auths[server.host] = {"username": "mirror", "password": "own"}
        (tmp_path / "secret" / ".dockerconfigjson").write_text(json.dumps({"auths": auths}))
        with pytest.raises(SpecError):
            OciSource(place).fetch(3, tmp_path / "staging", Progress(), None)
        assert "Authorization: Basic bWlycm9yOm93bg==" in server.requests[-1]


def test_a_realm_of_another_host_without_https_gets_no_password(tmp_path: Path) -> None:
    credentials = secret(tmp_path / "secret", username="user", password="word")
    with stranger(saying(*response(b'{"token": "x"}'))) as other:
        realm = f"http://localhost:{other.port}/token"
        with (
            stranger(saying(*response(status=401, www_authenticate=f'Bearer realm="{realm}"'))) as server,
            pytest.raises(SpecError, match=r"wants a token from http://localhost:.* without https"),
        ):
            fetch_oci(server, tmp_path / "staging", credentials=credentials)
        assert other.requests == []


# URLs that open by themselves


@pytest.mark.parametrize(
    ("keys", "asked"),
    [
        ({"query": "sv=1&sig=abc"}, "GET /model.onnx?sv=1&sig=abc "),
        ({"query": "?sig=all", "query.3": "sig=three"}, "GET /model.onnx?sig=three "),
        ({"query.3": "URL/model.onnx?sig=three\n"}, "GET /model.onnx?sig=three "),
        ({"query.4": "sig=four", "token": "x"}, "GET /model.onnx "),
    ],
)
def test_what_opens_a_url_comes_from_the_secret(tmp_path: Path, keys: dict[str, str], asked: str) -> None:
    with stranger(saying(*response(b"model", etag='"one"')), tmp_path / "tls") as server:
        (tmp_path / "secret").mkdir()
        for name, value in keys.items():
            (tmp_path / "secret" / name).write_text(value.replace("URL", server.url))
        fetched = fetch_https(server, tmp_path / "staging", credentials=str(tmp_path / "secret"))
        assert server.requests[0].startswith(asked)
        assert ("Authorization: Bearer x" in server.requests[0]) == ("token" in keys)
    assert fetched.name == "model.onnx"
    assert not any(
        b"sig=" in path.read_bytes() or b"three" in path.read_bytes() for path in (tmp_path / "staging").iterdir()
    )


@pytest.mark.parametrize("value", ["https://attacker/model.onnx?sig=x", "https://attacker/", "a b", "a\r\nHost: x"])
def test_a_query_that_is_another_url_or_none_is_refused_without_its_value(tmp_path: Path, value: str) -> None:
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "query").write_text(value)
    with stranger(saying(*response(b"model")), tmp_path / "tls") as server:
        with pytest.raises(SpecError, match=r"its query is (no query of a URL|a URL of another place)") as refusal:
            fetch_https(server, tmp_path / "staging", credentials=str(tmp_path / "secret"))
        assert server.requests == []
    assert value not in refusal.value.message
    assert "attacker" not in refusal.value.message


def test_a_query_of_the_spec_is_in_no_file_beside_the_download(tmp_path: Path) -> None:
    (tmp_path / "staging").mkdir()
    head = response(content_length="100", etag='"one"')[0]
    with stranger(saying(head, b"half"), tmp_path / "tls") as server:
        source = Source(f"{server.url}/", None, {3: "m.onnx?X-Amz-Signature=abc"}, ca_file=server.ca_file)
        for asked in (None, "Range: bytes=4-"):
            with pytest.raises(TransientError) as failure:
                HttpsSource(source).fetch(3, tmp_path / "staging", Progress(), None)
            assert "abc" not in failure.value.message
            assert asked is None or asked in server.requests[-1], "the beginning is known by its digest"
    assert "abc" not in (tmp_path / "staging" / "download.json").read_text()


# registries


def registry(manifest: bytes, blob: Iterable[bytes] = ()) -> Callable[[Stranger], Say]:
    def say(head: str) -> Iterable[bytes]:
        return blob if "/blobs/" in head else response(manifest, content_type=MANIFEST)

    return lambda state: say


def layer(**fields: object) -> bytes:
    titled = {"org.opencontainers.image.title": "model.onnx"}
    found = {"mediaType": "application/octet-stream", "digest": DIGEST, "size": 10, "annotations": titled}
    return json.dumps({"mediaType": MANIFEST, "layers": [found | fields]}).encode()


@pytest.mark.parametrize(
    "manifest",
    [
        b"[" * 200_000,
        b'{"layers": ' * 100_000,
        layer(size=-1),
        layer(size="x"),
        layer(digest="sha256:.."),
        layer().replace(b'"size": 10', b'"size": 1e400'),
        b'{"layers": [{"size": ' + b"9" * 5000 + b"}]}",
        json.dumps({"manifests": [{"digest": DIGEST, "platform": {"architecture": "amd64"}}] * 3}).encode(),
    ],
)
def test_a_manifest_of_any_form_ends_in_a_message(tmp_path: Path, manifest: bytes) -> None:
    with stranger(registry(manifest)) as server, pytest.raises((SpecError, TransientError)) as refusal:
        fetch_oci(server, tmp_path / "staging")
    assert server.host in refusal.value.message


def test_a_manifest_without_an_end_is_named(tmp_path: Path) -> None:
    head = response(content_length="")[0]
    with (
        stranger(saying(head, drip=bytes(1 << 20))) as server,
        pytest.raises(SpecError, match=r"sends more than 4.0 MiB as the manifest of oci://"),
    ):
        fetch_oci(server, tmp_path / "staging")


def test_a_blob_longer_than_the_manifest_says_is_cut_and_begun_anew(tmp_path: Path) -> None:
    blob = itertools.chain(response(content_length="")[:1], itertools.repeat(bytes(1 << 20), 40))
    with (
        stranger(registry(layer(), blob)) as server,
        pytest.raises(TransientError, match=r"sent other bytes than sha256:a+ \(10 bytes\)"),
    ):
        fetch_oci(server, tmp_path / "staging")
    assert not any(path.stat().st_size for path in (tmp_path / "staging" / "download").iterdir())
