"""Requests that arrive together run together, in the bounds of a BatchingParameters file.

One queue for each set of inputs and outputs. A batch runs when it is full or its first request has waited long enough.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from model_server.status import StatusError, invalid

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """Defaults as in session_bundle_config.proto's reader."""

    max_batch_size: int = 1000
    timeout_seconds: float = 0.0
    max_enqueued_batches: int = 10
    num_batch_threads: int = 4


@dataclass(slots=True, eq=False)
class _Task:
    inputs: Sequence[Array]
    rows: int
    arrived: float
    answer: Future[list[Array]]


@dataclass(slots=True)
class _Queue:
    tasks: list[_Task] = field(default_factory=list)


class Batcher:
    def __init__(self, limits: BatchLimits, run: Callable[[Any, Sequence[Array]], list[Array]]) -> None:
        self._limits, self._run = limits, run
        self._queues: dict[Hashable, _Queue] = {}
        self._changed = threading.Condition()
        self._closed = False
        for number in range(limits.num_batch_threads):
            threading.Thread(target=self._work, name=f"batch-{number}", daemon=True).start()

    def run(self, key: Hashable, inputs: Sequence[Array]) -> list[Array]:
        if any(array.ndim == 0 for array in inputs):
            raise invalid("Batching Run() input tensors must have at least one dimension")
        rows = {array.shape[0] for array in inputs}
        if len(rows) != 1:
            raise invalid("Batching Run() input tensors must have equal 0th-dimension size")
        (size,) = rows
        if size > self._limits.max_batch_size:
            raise invalid(f"Task size {size} is larger than maximum input batch size {self._limits.max_batch_size}")
        task = _Task(inputs, size, time.monotonic(), Future())
        with self._changed:
            queue = self._queues.setdefault(key, _Queue())
            waiting = sum(each.rows for each in queue.tasks)
            if waiting + size > self._limits.max_batch_size * self._limits.max_enqueued_batches:
                raise StatusError("UNAVAILABLE", "The batch scheduling queue to which this task was submitted is full")
            queue.tasks.append(task)
            self._changed.notify()
        return task.answer.result()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _work(self) -> None:
        while True:
            with self._changed:
                found = self._due()
                while found is None:
                    if self._closed:
                        return
                    self._changed.wait(timeout=self._next_seconds())
                    found = self._due()
            self._answer(*found)

    def _due(self) -> tuple[Hashable, list[_Task]] | None:
        now = time.monotonic()
        for key, queue in self._queues.items():
            if not queue.tasks:
                continue
            taken, rows = [], 0
            shape = [array.shape[1:] for array in queue.tasks[0].inputs]
            for task in queue.tasks:
                if rows + task.rows > self._limits.max_batch_size:
                    break
                if [array.shape[1:] for array in task.inputs] == shape:
                    taken.append(task)
                    rows += task.rows
            is_full = rows >= self._limits.max_batch_size or len(taken) < len(queue.tasks)
            if is_full or now - queue.tasks[0].arrived >= self._limits.timeout_seconds:
                queue.tasks = [task for task in queue.tasks if task not in taken]
                return key, taken
        return None

    def _next_seconds(self) -> float | None:
        arrived = [queue.tasks[0].arrived for queue in self._queues.values() if queue.tasks]
        if not arrived:
            return None
        return max(0.0, min(arrived) + self._limits.timeout_seconds - time.monotonic())

    def _answer(self, key: Any, tasks: list[_Task]) -> None:
        try:
            joined = [np.concatenate(parts) for parts in zip(*(task.inputs for task in tasks), strict=True)]
            outputs = self._run(key, joined)
            total = sum(task.rows for task in tasks)
            for output in outputs:
                if output.ndim == 0 or output.shape[0] != total:
                    raise StatusError(
                        "FAILED_PRECONDITION",
                        "Batched output tensor's 0th dimension does not equal the sum of the 0th dimension sizes of "
                        "the input tensors",
                    )
        except Exception as failure:
            for task in tasks:
                task.answer.set_exception(failure)
            return
        begin = 0
        for task in tasks:
            task.answer.set_result([output[begin : begin + task.rows] for output in outputs])
            begin += task.rows
