"""What a server says it has loaded is looked for before it is believed.

Knows nothing of any server; used by drivers whose server answers a load when it is done.
"""

import time

from slipway_agent.model.server_state import Gone, Loaded, LoadOutcome, Refused
from slipway_agent.servers.base import Server

PROMISED_SECONDS = 5.0  # between a load that succeeded and its versions being seen ready
POLL_SECONDS = 0.1


def await_promised(server: Server, versions: frozenset[int], name: str) -> LoadOutcome:
    """What became of a load that the server called done. `name`: the server's, for a message."""
    deadline = time.monotonic() + PROMISED_SECONDS
    while missing := versions - (view := server.observe(versions)).ready:
        if not view.is_alive:
            return Gone("the server ended right after the load")
        if time.monotonic() > deadline:
            words = f"{name} accepted the load and doesn't have the version ready after it"
            return Refused(words, dict.fromkeys(missing, words))
        time.sleep(POLL_SECONDS)
    return Loaded()
