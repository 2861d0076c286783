"""Quantities as the API server reads them."""

from __future__ import annotations

from decimal import Decimal

import pytest

from slipway.api.quantity import parse_quantity


@pytest.mark.parametrize(
    ("text", "number"),
    [
        (2, "2"), ("0", "0"), ("500m", "0.5"), ("1.5", "1.5"), (".5", "0.5"), ("5.", "5"), ("+1", "1"), ("-1", "-1"),
        ("1k", "1000"), ("2M", "2000000"), ("1E", "1000000000000000000"), ("1e3", "1000"), ("12E2", "1200"),
        ("1Ki", "1024"), ("1.5Gi", "1610612736"), ("1Ei", "1152921504606846976"), ("100n", "0.0000001"),
        ("3u", "0.000003"),
    ],
)  # fmt: skip
def test_a_quantity_is_a_number(text: int | str, number: str) -> None:
    assert parse_quantity(text) == Decimal(number)


@pytest.mark.parametrize("text", ["", "much", "1 Gi", "1KI", "1gi", "Gi", "1e", "--1", "1_000"])
def test_what_is_no_quantity_is_refused_by_name(text: str) -> None:
    with pytest.raises(ValueError, match="is no quantity; write for example 500m, 2, 4Gi"):
        parse_quantity(text)
