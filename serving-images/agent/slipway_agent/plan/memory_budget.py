"""Whether versions fit together into the server's memory: bytes on disk, times a factor, against the container's limit.

Two worked examples, with a limit of 3.0 GiB and a factor of 1.5: versions of 1.0 GiB and 0.9 GiB need 2.85 GiB
together and fit; two of 1.1 GiB need 3.3 GiB and don't. Pure; what may go to make room is judged in `plan`.
"""

from collections.abc import Iterable, Mapping

from slipway_agent.config import Memory
from slipway_agent.model.ledger import Published, describe_bytes


def needed_bytes(memory: Memory, published: Mapping[int, Published], versions: Iterable[int]) -> float:
    """A version whose size isn't known, because its files are gone, counts as nothing."""
    return memory.factor * sum(published[version].size_bytes for version in versions if version in published)


def fits(memory: Memory | None, published: Mapping[int, Published], versions: Iterable[int]) -> bool:
    """Without a limit everything fits."""
    return memory is None or needed_bytes(memory, published, versions) <= memory.limit_bytes


def describe_shortage(
    memory: Memory, published: Mapping[int, Published], version: int, beside: frozenset[int], is_served: bool
) -> str:
    """Why `version` doesn't fit beside those, in numbers, and what to do."""
    own, others = published[version].size_bytes, sum(published[each].size_bytes for each in beside if each in published)
    names = ("version " if len(beside) == 1 else "versions ") + ", ".join(map(str, sorted(beside)))
    total = needed_bytes(memory, published, beside | {version})
    advice = "raise spec.resources.limits.memory, or lower spec.model.memoryFactor where it is too cautious"
    return (
        f"version {version} isn't loaded: it has {describe_bytes(own)} on disk, {names} beside it "
        f"{describe_bytes(others)}, and with the factor {memory.factor:g} that is {describe_bytes(total)} of the "
        f"{describe_bytes(memory.limit_bytes)} that the server may use. To load it here, {advice}"
        + ("; rolled out in pods of its own it needs no room beside the old one" if is_served else "")
    )
