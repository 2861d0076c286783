"""Whether versions fit together into the server's memory: bytes on disk, times a factor, against the container's limit.

Two worked examples, with a limit of 3.0 GiB and a factor of 1.5: versions of 1.0 GiB and 0.9 GiB need 2.85 GiB
together and fit; two of 1.1 GiB need 3.3 GiB and don't. Pure; `plan` judges what may go to make room.
"""

from collections.abc import Iterable, Mapping
from math import inf

from slipway_agent.config import Memory
from slipway_agent.model.errors import Reason
from slipway_agent.model.ledger import Published, describe_bytes
from slipway_agent.plan.failures import Failure
from slipway_agent.plan.world import World, is_refused, is_satisfied


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


def find_shortages(world: World) -> Mapping[int, Failure]:
    """The named versions on disk that won't fit into the server's memory even when everything goes that may go.

    The served one is weighed against what must stay until it is ready: what is loaded and named, and the version that
    serves now. The others, newest first, against what will stay.
    """
    memory, served, named = world.config.memory, world.config.served, frozenset(world.config.load)
    if memory is None or served is None:
        return {}
    loaded = (world.server.ready | (world.boot - frozenset(world.load_failures))) & frozenset(world.published)
    staying = loaded & named
    beside_served = staying if served in loaded or world.standing not in loaded else staying | {world.standing}
    shortages: dict[int, Failure] = {}

    def weigh(version: int, beside: frozenset[int]) -> bool:
        if not beside or fits(memory, world.published, beside | {version}):
            return True
        words = describe_shortage(memory, world.published, version, beside, is_served=version == served)
        shortages[version] = Failure(Reason.NOT_ENOUGH_MEMORY, words, True, 1, inf)
        return False

    if served not in loaded and served in world.published:
        if not weigh(served, beside_served):
            staying = beside_served
        else:  # its room is kept while it fails to load, and the standing one's with it
            staying = (beside_served if is_refused(world, served) else staying) | {served}
    for version in sorted(named - loaded - {served}, reverse=True):
        if is_satisfied(world, version) and not is_refused(world, version) and weigh(version, staying):
            staying |= {version}
    return shortages
