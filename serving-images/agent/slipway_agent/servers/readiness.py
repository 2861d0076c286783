"""When versions count as ready: what a server promised is looked for before it is believed, and its last answer stands
in for one that doesn't come.

Knows nothing of any server; used by drivers.
"""

import time

from slipway_agent.model.server_state import Gone, Loaded, LoadOutcome, Refused, ServerView
from slipway_agent.servers.base import Server

BUSY_SECONDS = 15.0  # how long the last answer stands in for one that doesn't come
PROMISED_SECONDS = 5.0  # between a load that succeeded and its versions being seen ready
POLL_SECONDS = 0.1


class LastView:
    """Busy is not gone: a pod that drops out under load makes the load worse for the others."""

    def __init__(self) -> None:
        self._view, self._at = ServerView(), 0.0

    def keep(self, view: ServerView) -> ServerView:
        self._view, self._at = view, time.monotonic()
        return view

    def while_busy(self, versions: frozenset[int]) -> ServerView:
        """What was kept last of these versions; that the server is gone where that is too long ago."""
        if time.monotonic() - self._at >= BUSY_SECONDS:
            return ServerView()
        return ServerView(self._view.is_alive, self._view.ready & versions)


def await_ready(server: Server, versions: frozenset[int], name: str) -> LoadOutcome:
    """What became of a load that the server called done. `name`: the server's, for a message."""
    deadline = time.monotonic() + PROMISED_SECONDS
    while missing := versions - (view := server.observe(versions)).ready:
        if not view.is_alive:
            return Gone("the server ended right after the load")
        if time.monotonic() > deadline:
            words = f"{name} accepted the load, but the version isn't ready after it"
            return Refused(words, dict.fromkeys(missing, words))
        time.sleep(POLL_SECONDS)
    return Loaded()
