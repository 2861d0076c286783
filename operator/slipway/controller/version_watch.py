"""Follows the places where new versions appear: a waiting request to one agent of each ModelDeployment that asks.

The agents look at their sources anyway; a request that rests at one of them brings the news at once, where asking
again and again would be late or would cost. Which ModelDeployments are followed is each pass's to say.
Invariant: what is known here is a shortcut: without it (a restart, an agent that is gone) the next listing tells it
again, and status has what was found before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from slipway.controller.agents import Agents, Listing
from slipway.controller.cache import Key
from slipway.controller.workqueue import Queue

PAUSE_SECONDS = 1.0
MAX_PAUSE_SECONDS = 30.0
NEWS_PAUSE_SECONDS = 0.2
"""Between two answers, however quickly they come."""


@dataclass(slots=True)
class _Watched:
    ip: str
    task: asyncio.Task[None]
    listing: Listing | None = None


class VersionWatch:
    """The waiting requests, by ModelDeployment."""

    def __init__(self, agents: Agents, queue: Queue[Key]) -> None:
        self._agents = agents
        self._queue = queue
        self._followed: dict[Key, _Watched] = {}

    def follow(self, key: Key, ip: str | None) -> None:
        """Ask the agent at that address from now on; None: nobody."""
        known = self._followed.get(key)
        if known is not None and known.ip == ip:
            return
        if known is not None:
            known.task.cancel()
            del self._followed[key]
        if ip is not None:
            task = asyncio.create_task(self._ask(key, ip), name=f"follow {'/'.join(key)}")
            self._followed[key] = _Watched(ip, task, known.listing if known else None)

    def found(self, key: Key) -> Mapping[int, str | None]:
        """Version → stamp, as last listed; empty while nothing is known."""
        known = self._followed.get(key)
        return known.listing.found if known is not None and known.listing is not None else {}

    async def _ask(self, key: Key, ip: str) -> None:
        token, failures = "", 0
        while True:
            listing = await self._agents.await_listing(ip, token)
            if listing is None:
                failures += 1
                await asyncio.sleep(min(MAX_PAUSE_SECONDS, PAUSE_SECONDS * failures))
                continue
            failures = 0
            if listing.token != token:
                token = listing.token
                self._followed[key].listing = listing
                await self._queue.wake(key)
            await asyncio.sleep(NEWS_PAUSE_SECONDS)

    def close(self) -> None:
        """Ask nobody any more."""
        for followed in self._followed.values():
            followed.task.cancel()
        self._followed.clear()
