"""Listings of stores that have no end: in pages, in bytes, in time."""

from collections.abc import Callable, Iterable, Iterator

import pytest

from slipway_agent.config import Source
from slipway_agent.model.errors import TransientError
from slipway_agent.sources import s3 as s3_module
from slipway_agent.sources.s3 import S3
from tests.isolation.strangers import Say, Stranger, response, stranger

ENTRY = b"<Contents><Key>digits/%d</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified><Size>1</Size></Contents>"


def page(*entries: bytes, more: bool = True) -> list[bytes]:
    token = b"<IsTruncated>true</IsTruncated><NextContinuationToken>same</NextContinuationToken>" if more else b""
    body = b'<?xml version="1.0"?><ListBucketResult><Name>b</Name>' + token + b"".join(entries)
    return response(body + b"</ListBucketResult>", content_type="application/xml")


def endless(state: Stranger) -> Iterator[bytes]:
    yield response(content_length="")[0]
    yield b"<ListBucketResult><Name>b</Name>"
    entries = b"".join(ENTRY % number for number in range(1000))
    while not state.ended.is_set():
        yield entries


def saying(answer: Callable[[Stranger], Iterable[bytes]]) -> Callable[[Stranger], Say]:
    return lambda state: lambda head: answer(state)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda state: page(), r"isn't listed within 1 s for the next 1000 objects"),
        (lambda state: page(*(ENTRY % n for n in range(1000))), "lists the same objects again and again"),
        (endless, r"answers a listing with more than 96 MiB at once|isn't listed within"),
        (lambda state: (*response(content_length="")[:1], *state.drip(b" ")), r"isn't listed within 1 s"),
    ],
    ids=["empty pages", "the same page", "one page", "a drip"],
)
def test_a_listing_without_an_end_is_given_up(
    monkeypatch: pytest.MonkeyPatch, answer: Callable[[Stranger], Iterable[bytes]], words: str
) -> None:
    monkeypatch.setattr(s3_module, "LIST_SECONDS", 1.0)
    with stranger(saying(answer)) as server, pytest.raises(TransientError, match=words):
        list(S3(Source("s3://b/digits", None, endpoint=server.url)).list_objects("b", "digits"))


def test_a_whole_listing_has_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_module, "LISTING_SECONDS", -1.0)
    one = saying(lambda state: page(ENTRY % 1, more=False))
    with stranger(one) as server, pytest.raises(TransientError, match="isn't listed to its end within"):
        list(S3(Source("s3://b/digits", None, endpoint=server.url)).list_objects("b", "digits"))


def test_a_short_listing_is_listed() -> None:
    with stranger(saying(lambda state: page(ENTRY % 1, ENTRY % 2, more=False))) as server:
        found = list(S3(Source("s3://b/digits", None, endpoint=server.url)).list_objects("b", "digits"))
    assert [each.key for each in found] == ["digits/1", "digits/2"]
