"""The words of a complaint, whatever a server answers."""

import pytest

from slipway_agent.servers.local_http import read_words
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
