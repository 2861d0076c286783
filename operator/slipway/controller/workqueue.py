"""Which ModelDeployments need a pass, and when: a set of keys with due times.

A key that is woken twice is passed once; a key is never passed twice at the same time; a key woken while it is passed
is passed again. (The work queue of client-go, for asyncio.)
Invariant: a wake-up is never lost: `wake` during a pass, an earlier one over a later one.
"""

from __future__ import annotations

import asyncio
import heapq
from typing import Generic, TypeVar

K = TypeVar("K")


class Queue(Generic[K]):
    """Keys to pass. Times are the event loop's own, in seconds."""

    def __init__(self) -> None:
        self._due: dict[K, float] = {}
        self._heap: list[tuple[float, int, K]] = []
        self._running: set[K] = set()
        self._changed = asyncio.Condition()
        self._count = 0

    def __len__(self) -> int:
        """Keys that are due now or being passed; those with a later time don't count."""
        now = asyncio.get_running_loop().time()
        return len(self._running) + sum(due <= now for key, due in self._due.items() if key not in self._running)

    async def wake(self, key: K, delay_seconds: float = 0.0) -> None:
        """Pass this key in so many seconds, or earlier if that was already wanted."""
        due = asyncio.get_running_loop().time() + delay_seconds
        if due >= self._due.get(key, float("inf")):
            return
        self._due[key] = due
        async with self._changed:
            self._count += 1
            heapq.heappush(self._heap, (due, self._count, key))
            self._changed.notify()

    async def take(self) -> K:
        """Wait for the next key that is due and mark it as being passed; `done` must follow."""
        loop = asyncio.get_running_loop()
        async with self._changed:
            while True:
                wait = self._discard_stale()
                if wait is not None and wait <= loop.time():
                    _, _, key = heapq.heappop(self._heap)
                    del self._due[key]
                    self._running.add(key)
                    return key
                try:
                    # Not wait_for: up to Python 3.11 it may swallow a cancellation that meets a notification.
                    async with asyncio.timeout_at(wait):
                        await self._changed.wait()
                except TimeoutError:
                    continue

    def _discard_stale(self) -> float | None:
        """The time of the first key that may be taken. Keys in a pass wait for `done`."""
        while self._heap:
            due, _, key = self._heap[0]
            if self._due.get(key) == due and key not in self._running:
                return due
            heapq.heappop(self._heap)
        return None

    async def done(self, key: K) -> None:
        """The pass is over. If the key was woken meanwhile, it is due again."""
        async with self._changed:
            self._running.discard(key)
            if key in self._due:
                self._count += 1
                heapq.heappush(self._heap, (self._due[key], self._count, key))
                self._changed.notify()
