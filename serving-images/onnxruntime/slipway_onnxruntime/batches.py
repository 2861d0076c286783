"""Requests that arrive together are computed together, the way Triton's dynamic batcher does it.

Invariants:
- The first dimension of every tensor is the batch; a batch has at most `max_rows` of them, from whole requests.
- A request waits for others at most `max_delay_seconds`, and while every instance is busy.
- Only requests with the same inputs and the same shapes beyond the first dimension are joined, and one that fails
  fails alone: a batch that fails is computed again, one request at a time.
Not MLServer's own batcher: that one joins lists of values, fails a whole batch for one bad request, and does nothing
without a delay.

Called from one event loop; the computing is done on threads. Must not import: mlserver, onnxruntime.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

Array = np.ndarray[Any, Any]
Feed: TypeAlias = Mapping[str, Array]
Run: TypeAlias = Callable[[Feed, Sequence[str]], dict[str, Array]]
"""(inputs by name, names of the wanted outputs) → outputs by name. Runs on a thread; several may run at once."""
Signature: TypeAlias = tuple[tuple[str, tuple[int, ...]], ...]


class MixedBatchError(ValueError):
    """The model gave another number of rows than it got; it can't be batched."""


@dataclass(slots=True, eq=False)
class _Request:
    feed: Feed
    wanted: Sequence[str]
    rows: int
    arrived_at: float
    answer: asyncio.Future[dict[str, Array]]


class Batches:
    """`max_rows` 0: every request by itself. `instances`: how many batches are computed side by side.

    saw_batch: told of the rows of each batch that was computed.
    """

    def __init__(
        self,
        run: Run,
        max_rows: int = 0,
        max_delay_seconds: float = 0.0,
        instances: int = 1,
        saw_batch: Callable[[int], None] = lambda rows: None,
    ) -> None:
        self._run = run
        self._max_rows = max_rows
        self._max_delay_seconds = max_delay_seconds if max_rows > 1 else 0.0
        self._instances = instances
        self._saw_batch = saw_batch
        self._threads = ThreadPoolExecutor(instances, thread_name_prefix="infer")
        self._running = 0
        self._waiting: dict[Signature, deque[_Request]] = {}
        self._works: set[asyncio.Task[None]] = set()

    async def compute(self, feed: Feed, wanted: Sequence[str]) -> dict[str, Array]:
        """The wanted outputs for these inputs. Raises whatever the model raises."""
        rows, signature = 1, _signature(feed)
        if self._max_rows:
            rows = next(iter(feed.values())).shape[0]
        loop = asyncio.get_running_loop()
        request = _Request(feed, wanted, rows, time.monotonic(), loop.create_future())
        self._waiting.setdefault(signature, deque()).append(request)
        self._start_due(loop)
        if self._max_delay_seconds:
            loop.call_later(self._max_delay_seconds, self._start_due, loop)
        return await request.answer

    def _start_due(self, loop: asyncio.AbstractEventLoop) -> None:
        while self._running < self._instances and (batch := self._next_batch()):
            self._running += 1
            work = loop.create_task(self._answer(loop, batch))
            self._works.add(work)
            work.add_done_callback(self._works.discard)

    def _next_batch(self) -> list[_Request]:
        """The requests to compute next, oldest first; empty when none are due."""
        now = time.monotonic()
        for signature, queue in sorted(self._waiting.items(), key=lambda item: item[1][0].arrived_at):
            is_full = not self._max_rows or sum(request.rows for request in queue) >= self._max_rows
            # the timer may fire a clock's tick too early
            is_old = now - queue[0].arrived_at >= self._max_delay_seconds - 1e-4
            if not is_full and not is_old:
                continue
            batch = [queue.popleft()]
            rows = batch[0].rows
            while queue and self._max_rows and rows + queue[0].rows <= self._max_rows:
                rows += queue[0].rows
                batch.append(queue.popleft())
            if not queue:
                del self._waiting[signature]
            return batch
        return []

    async def _answer(self, loop: asyncio.AbstractEventLoop, batch: list[_Request]) -> None:
        outcomes = await loop.run_in_executor(self._threads, self._compute, batch)
        self._running -= 1
        for request, outcome in zip(batch, outcomes, strict=True):
            if request.answer.done():  # the caller went away
                continue
            if isinstance(outcome, Exception):
                request.answer.set_exception(outcome)
            else:
                request.answer.set_result(outcome)
        self._start_due(loop)

    def _compute(self, batch: list[_Request]) -> list[dict[str, Array] | Exception]:
        """On a thread: what each request gets."""
        rows = sum(request.rows for request in batch)
        self._saw_batch(rows)
        try:
            if len(batch) == 1:
                return [self._run(batch[0].feed, batch[0].wanted)]
            feed = {name: np.concatenate([request.feed[name] for request in batch]) for name in batch[0].feed}
            wanted = list(dict.fromkeys(name for request in batch for name in request.wanted))
            return list(_split(self._run(feed, wanted), batch, rows))
        except Exception as failure:
            if len(batch) == 1 or isinstance(failure, MixedBatchError):
                return [failure] * len(batch)
        return [outcome for request in batch for outcome in self._compute([request])]


def _signature(feed: Feed) -> Signature:
    return tuple(sorted((name, array.shape[1:]) for name, array in feed.items()))


def _split(outputs: dict[str, Array], batch: list[_Request], rows: int) -> list[dict[str, Array]]:
    for name, output in outputs.items():
        if not output.ndim or output.shape[0] != rows:
            raise MixedBatchError(
                f"output '{name}' has the shape {list(output.shape)} for a batch of {rows}: the model mixes its batch; "
                "leave out spec.batching"
            )
    parts = []
    start = 0
    for request in batch:
        end = start + request.rows
        parts.append({name: outputs[name][start:end] for name in request.wanted})
        start = end
    return parts
