"""Whatever a server answers, and however long: words for a person, and an end."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from slipway_agent.model.server_state import ServerView
from slipway_agent.servers import local_http
from slipway_agent.servers.local_http import LOST, LocalHttp, TooLargeError, read_words
from slipway_agent.servers.open_inference import read_index
from slipway_agent.servers.tensorflow_serving.config import TensorFlowServingSpec
from slipway_agent.servers.tensorflow_serving.driver import TensorFlowServer, explain_error
from slipway_agent.volume.models_volume import ModelVolume


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"error": "no model"}', "no model"),
        (b"", "status 500 without a word"),
        (b"plain text", "plain text"),
        (b"[]", "[]"),
        (b'{"message": 1}', '{"message": 1}'),
        (b"\xff", "\ufffd"),
    ],
)
def test_a_complaint_of_any_form_gives_words(body: bytes, words: str) -> None:
    assert read_words(500, body) == words
    assert explain_error(500, body) == f"HTTP 500: {words}"


@contextmanager
def saying(head: bytes, drip: bytes) -> Iterator[LocalHttp]:
    """A server that sends `head`, and `drip` again and again until nobody reads any more."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            opened, _ = listening.accept()
            with opened:
                opened.recv(65536)
                try:
                    opened.sendall(head)
                    while not ended.wait(0.02 if len(drip) < 100 else 0):
                        opened.sendall(drip)
                except OSError:
                    return

        ended = threading.Event()
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield LocalHttp(listening.getsockname()[1])
        ended.set()
        thread.join()


@pytest.mark.parametrize(
    ("head", "drip"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", b"a"),
        (b"HTTP/1.1 200 OK\r\nX: ", b"a"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\na\r\n"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    ],
)
def test_an_answer_that_drips_ends_in_time(head: bytes, drip: bytes) -> None:
    with saying(head, drip) as asked, pytest.raises(LOST):
        asked.ask("GET", "/", 0.5)


@pytest.mark.parametrize("drip", [b"a", bytes(65536)], ids=["a byte now and then", "without an end"])
def test_a_look_that_tensorflow_serving_never_ends_answering_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, drip: bytes
) -> None:
    monkeypatch.setattr(local_http, "ASK_SECONDS", 0.5 if len(drip) == 1 else 60)
    monkeypatch.setattr(local_http, "ANSWER_BYTES", 1 << 20)
    with saying(b"HTTP/1.1 200 OK\r\n\r\n", drip) as asked:
        spec = TensorFlowServingSpec(http_port=asked.port)
        driver = TensorFlowServer(ModelVolume(tmp_path, "digits"), spec, {}, ())
        views: list[ServerView] = []
        looking = threading.Thread(target=lambda: views.append(driver.observe(frozenset({3}))), daemon=True)
        looking.start()
        looking.join(20)
        assert views == [ServerView()]


@pytest.mark.parametrize("length", [b"", b"Content-Length: 99999999999\r\n", b"Transfer-Encoding: chunked\r\n"])
def test_an_answer_without_an_end_is_read_to_its_limit(monkeypatch: pytest.MonkeyPatch, length: bytes) -> None:
    monkeypatch.setattr(local_http, "PREDICTION_BYTES", 1 << 20)
    chunk = b"%x\r\n%s\r\n" % (65536, bytes(65536)) if b"chunked" in length else bytes(65536)
    head = b"HTTP/1.1 200 OK\r\n" + length + b"\r\n"
    with (
        saying(head, chunk) as asked,
        pytest.raises(TooLargeError, match=r"GET /v2 is answered with more than 1.0 MiB"),
    ):
        asked.ask("GET", "/v2", 60, limit_bytes=1 << 20)
    with saying(head, chunk) as asked:
        assert "more than 1.0 MiB" in (asked.predict("/v2", {}, 60).words or "")


def test_an_answer_nested_deeper_than_the_stack_is_no_answer() -> None:
    deep = b"[" * 200_000
    assert read_words(500, deep)
    assert read_index(deep, "digits") == frozenset()
