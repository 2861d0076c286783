"""Parts of objects fetched side by side and handed on in their order: one connection of a store is slower than a disk.

Invariant: at most WINDOW parts are in memory, whatever the size of what is fetched, and what was handed on is always a
beginning without gaps, so that it can be digested while it arrives and resumed where it ends. Knows no store.

How many connections pay is found out while the bytes come: two at first, twice as many as long as that is faster.
"""

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from slipway_agent.model.errors import TransientError
from slipway_agent.sources.base import Progress

PART_BYTES = 8 << 20
FIRST_WINDOW, WINDOW = 2, 8  # 64 MiB at most
GAIN = 1.15  # what twice the connections must bring to be kept
POLL_SECONDS = 0.1  # between two looks at whether the fetch was called off


@dataclass(frozen=True, slots=True)
class Part:
    """Bytes [begin, end) of the file with that position in the caller's list."""

    file: int
    begin: int
    end: int


_END = object()
_Chunks: TypeAlias = "queue.SimpleQueue[object]"


def split_parts(file: int, begin: int, end: int) -> list[Part]:
    """[begin, end) in parts of PART_BYTES; nothing for an empty range.

    20 MiB from the start are 8 + 8 + 4 MiB; from 18 MiB on, 2 MiB in one part.
    """
    return [Part(file, start, min(start + PART_BYTES, end)) for start in range(begin, end, PART_BYTES)]


def fetch_in_order(
    parts: Sequence[Part],
    read: Callable[[Part], Iterator[bytes]],
    progress: Progress,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[tuple[Part, bytes]]:
    """Chunks with their part, in the order of `parts`. Raises what `read` raised, and CancelledError within moments.

    `read` is called on threads of its own. What it yields must be exactly the part: less is a TransientError.
    clock: seconds, for what connections bring.
    """
    crew = _Crew(parts, read, clock)
    try:
        for position, part in enumerate(parts):
            received_bytes = 0
            while (chunk := crew.next_chunk(position, progress)) is not None:
                received_bytes += len(chunk)
                yield part, chunk
            if received_bytes != part.end - part.begin:
                raise TransientError(
                    f"the store sent {received_bytes} of {part.end - part.begin} bytes; it goes on from there"
                )
            crew.finish(position)
    finally:
        crew.stop()


@dataclass(slots=True)
class Width:
    """How many parts are fetched at once, judged by what the last step brought. Pure; the time is an argument.

    2 connections give 180 MB/s and 4 give 350: 8 are tried. 2 give 1.2 GB/s and 4 give 1.25: 2 it stays.
    """

    parts: int
    most: int
    began_at: float
    is_settled: bool = False
    rate: float | None = None
    bytes_since: int = 0
    parts_since: int = 0

    def count(self, size_bytes: int, now: float) -> int:
        """After a part: the change in the number of connections."""
        self.bytes_since += size_bytes
        self.parts_since += 1
        if self.is_settled or self.parts_since < 2 * self.parts:
            return 0
        rate, before = self.bytes_since / max(now - self.began_at, 1e-9), self.parts
        if self.rate is not None and rate < self.rate * GAIN:
            self.parts, self.is_settled = self.parts // 2, True
        elif self.parts == self.most:
            self.is_settled = True
        else:
            self.rate, self.parts = rate, min(self.parts * 2, self.most)
        self.began_at, self.bytes_since, self.parts_since = now, 0, 0
        return self.parts - before


class _Crew:
    """Threads that fetch the next parts while there is room in the window."""

    def __init__(
        self, parts: Sequence[Part], read: Callable[[Part], Iterator[bytes]], clock: Callable[[], float]
    ) -> None:
        self._parts = parts
        self._read = read
        self._clock = clock
        self._lock = threading.Lock()
        first = min(FIRST_WINDOW, WINDOW)
        self._width = Width(first, WINDOW, clock())
        self._room = threading.Semaphore(first)
        self._surplus = 0  # places that are to be taken away when they become free
        self._is_stopped = False
        self._next = 0
        count = range(min(WINDOW, len(parts)))
        self._chunks: dict[int, _Chunks] = {position: queue.SimpleQueue() for position in count}
        # daemons: a read that hangs must not hold up the fetch that gave it up, nor the process's end
        for number in count:
            threading.Thread(target=self._work, name=f"part-{number}", daemon=True).start()

    def next_chunk(self, position: int, progress: Progress) -> bytes | None:
        """None at the part's end."""
        while True:
            try:
                found = self._chunks[position].get(timeout=POLL_SECONDS)
            except queue.Empty:
                progress.check()
                continue
            if isinstance(found, Exception):
                raise found
            return found if isinstance(found, bytes) else None

    def finish(self, position: int) -> None:
        with self._lock:
            del self._chunks[position]
            following = position + WINDOW
            if following < len(self._parts):
                self._chunks[following] = queue.SimpleQueue()
        part = self._parts[position]
        places = 1 + self._width.count(part.end - part.begin, self._clock()) - self._surplus
        self._surplus = max(-places, 0)
        if places > 0:
            self._room.release(places)

    def is_stopped(self) -> bool:
        return self._is_stopped

    def stop(self) -> None:
        self._is_stopped = True
        self._room.release(WINDOW)

    def _work(self) -> None:
        while True:
            self._room.acquire()
            with self._lock:
                position = self._next
                if self._is_stopped or position >= len(self._parts):
                    self._room.release()
                    return
                self._next += 1
                chunks = self._chunks[position]
            try:
                for chunk in self._read(self._parts[position]):
                    if self.is_stopped():
                        return
                    chunks.put(chunk)
                chunks.put(_END)
            except Exception as failure:
                chunks.put(failure)
            except BaseException as panic:  # what a library of another language ends with is no Exception
                chunks.put(RuntimeError(f"{type(panic).__name__}: {panic}"))
