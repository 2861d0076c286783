"""URLs that open what they name: known by their parameters, and shown without them."""

from __future__ import annotations

import pytest

from slipway.api.urls import credential_in, show_url


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("a.onnx", None),
        ("https://host/a.onnx?download=true&revision=main", None),
        ("https://host/a.onnx?X-Amz-Expires=60&X-Amz-Signature=abc", "X-Amz-Signature"),
        ("a.onnx?sv=1;sig=x", "sig"),
        ("a.onnx?X-Goog-Signature=x#y", "X-Goog-Signature"),
        ("a.onnx?token=", "token"),
        ("https://user:word@host/a", "a password"),
        ("https://user@host/a", None),
        ("https://host/a:b@c", None),
        ("", None),
    ],
)
def test_what_opens_a_url_is_named(url: str, found: str | None) -> None:
    assert credential_in(url) == found


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://u:p@host/a?sig=x", "https://host/a?…"),
        ("https://host/a", "https://host/a"),
        ("a.onnx?sig=x", "a.onnx?…"),
        ("s3://bucket/a@b", "s3://bucket/a@b"),
    ],
)
def test_a_url_is_shown_without_that(url: str, shown: str) -> None:
    assert show_url(url) == shown
