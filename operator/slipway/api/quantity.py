"""Kubernetes quantities as numbers: `500m` is 0.5, `2Gi` is 2,147,483,648.

Source: k8s.io/apimachinery/pkg/api/resource/quantity.go (the serialization format in its comment).
Pure.
"""

from __future__ import annotations

import re
from decimal import Decimal

NUMBER = r"(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))"
QUANTITY = rf"^[+-]?{NUMBER}([KMGTPE]i|[numkMGTPE]|[eE][+-]?{NUMBER})?$"

_FACTORS = {"n": "1e-9", "u": "1e-6", "m": "1e-3", "": "1", "k": "1e3"} | {
    unit: f"1e{3 * power}" for power, unit in enumerate("MGTPE", start=2)
}
_BINARY = {f"{unit}i": 1024**power for power, unit in enumerate("KMGTPE", start=1)}
_SPLIT = re.compile(r"^([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)([A-Za-z]*)$")


def parse_quantity(amount: int | str) -> Decimal:
    """The number. Raises ValueError for what is no quantity.

    >>> [str(parse_quantity(amount)) for amount in ("1500m", 2, "1Ki", "2e3")]
    ['1.500', '2', '1024', '2E+3']
    """
    found = _SPLIT.match(str(amount))
    suffix = found[2] if found else ""
    if found is None or (suffix not in _FACTORS and suffix not in _BINARY):
        raise ValueError(f"{amount!r} is no quantity; write for example 500m, 2, 4Gi")
    factor = Decimal(_BINARY[suffix]) if suffix in _BINARY else Decimal(_FACTORS[suffix])
    return Decimal(found[1]) * factor
