"""The words of a complaint, whatever a server answers; and what an answer that breaks off leaves behind."""

import gc
import socket
import threading
import warnings

import pytest

from slipway_agent.servers.local_http import HOST, LOST, LocalHttp, read_words
from slipway_agent.servers.tensorflow_serving.driver import explain_error


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


def test_an_answer_that_breaks_off_leaves_no_socket_open() -> None:
    with socket.create_server((HOST, 0)) as listener:

        def break_off() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 100\r\n\r\nten bytes.")

        server = threading.Thread(target=break_off)
        server.start()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with pytest.raises(LOST):
                LocalHttp(listener.getsockname()[1]).ask("GET", "/")
            gc.collect()
        server.join()
    assert [each for each in caught if issubclass(each.category, ResourceWarning)] == []
