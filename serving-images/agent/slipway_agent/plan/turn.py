"""A pod whose turn it is to go over to another served version: when it is out of the Service, and when it loads.

    serves 1 ─ has 2's files ─ out of the Service ─ drained ─ loads 2 ─ 2 is ready (warmed up, golden requests passed)
      ─ while it is held: out ─ an unversioned request gets 2 ─ in the Service

A version that can't be loaded now takes no pod out of the Service.
Pure: no I/O, no clock.
"""

from slipway_agent.plan.failures import is_deadly, is_waiting
from slipway_agent.plan.memory_budget import find_shortages
from slipway_agent.plan.world import World, is_ready, is_satisfied, needs_second_look, stands


def goes_over(world: World) -> bool:
    """The pod is to leave the Service for the served version: that is there to be loaded, or is loaded and held.

    A version that the server refused isn't waited for out of the Service: what stands serves on.
    """
    served = world.config.served
    if served is None:
        return False
    if is_ready(world):
        return world.config.is_held
    if world.config.drain_seconds is None or not stands(world):
        return False
    if world.loading is not None and served in world.loading:
        return True
    failure = world.load_failures.get(served)
    if not is_satisfied(world, served) or served in find_shortages(world):
        return False
    return not (is_waiting(failure, world.now) or is_deadly(failure) or needs_second_look(world, served))


def is_back(world: World) -> bool:
    """What an unversioned request gets is what is to serve: the served version, or without it the one that stands."""
    highest = max(world.server.ready, default=None)
    return highest == (world.config.served if is_ready(world) else world.standing)


def has_drained(world: World) -> bool:
    """No client is on its way to this pod any more, as far as time can tell; or nobody was asked to leave."""
    drain_seconds = world.config.drain_seconds
    if drain_seconds is None or not stands(world) or is_ready(world):
        return True
    return world.left_at is not None and world.now - world.left_at >= drain_seconds
