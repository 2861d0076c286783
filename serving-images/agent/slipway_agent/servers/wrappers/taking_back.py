"""A load that went well and wasn't good enough: the server gets back what its boot configuration named before.

Knows nothing of any server; used by those that stand before a driver.
"""

from dataclasses import replace

from slipway_agent.model.server_state import Gone, Loaded, LoadOutcome, Refused
from slipway_agent.servers.base import Server


def take_back(server: Server, before: frozenset[int], versions: frozenset[int], refusal: Refused) -> LoadOutcome:
    """The refusal, with the server holding again what it held; with nothing to go back to, it holds what it has."""
    if not before or before == versions:
        return refusal
    outcome = server.load(before)
    if not isinstance(outcome, Loaded):
        restore_boot(server, before)
    if isinstance(outcome, Gone):
        return outcome
    if isinstance(outcome, Refused):
        return replace(refusal, message=f"{refusal.message}; and the server wouldn't go back: {outcome.message}")
    return refusal


def restore_boot(server: Server, before: frozenset[int]) -> None:
    """A server that starts again comes back as it was, without what has just failed."""
    if before:
        server.write_boot(before)
