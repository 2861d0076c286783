"""What is known of the versions in the repository: values. volume/models_volume.py keeps them."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Published:
    """A version in the repository. `fingerprint` names the bytes at their source, None when it couldn't tell.

    `awaits_load`: it replaced other bytes, which the server may still hold. `signed_by`: the key that its bundle
    was verified with, by its name (`config.key_name`); None: it wasn't verified.
    """

    sha256: str
    size_bytes: int
    location: str
    fingerprint: str | None = None
    awaits_load: bool = False
    signed_by: str | None = None


@dataclass(frozen=True, slots=True)
class Ledger:
    """`standing`: the last served version that was seen ready, None before the first. `has_left`: the pod keeps out of
    the Service to go over to another version, or hasn't come back from that."""

    model: str
    versions: Mapping[int, Published]
    standing: int | None = None
    has_left: bool = False


def describe_bytes(count_bytes: float) -> str:
    """1536 is `1.5 KiB`, 512 is `512 B`."""
    amount, units = float(count_bytes), ["B", "KiB", "MiB", "GiB", "TiB"]
    while amount >= 1024 and len(units) > 1:
        amount, units = amount / 1024, units[1:]
    return f"{amount:.0f} {units[0]}" if units[0] == "B" else f"{amount:.1f} {units[0]}"
