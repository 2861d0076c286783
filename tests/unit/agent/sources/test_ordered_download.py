"""Parts fetched side by side come out in their order, in bounded memory, over as many connections as pay."""

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from slipway_agent.model.errors import CancelledError, TransientError
from slipway_agent.sources import ordered_download
from slipway_agent.sources.base import Progress
from slipway_agent.sources.ordered_download import Part, Width, fetch_in_order, split_parts


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ordered_download, "PART_BYTES", 10)
    monkeypatch.setattr(ordered_download, "POLL_SECONDS", 0.01)


class Store:
    """Answers with the numbers of the bytes; each connection gives a part in `part_seconds`."""

    def __init__(self, part_seconds: float = 0.0) -> None:
        self.part_seconds = part_seconds
        self.most_at_once = self._at_once = 0
        self._lock = threading.Lock()

    def read(self, part: Part) -> Iterator[bytes]:
        with self._lock:
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            time.sleep(self.part_seconds)
            middle = (part.begin + part.end) // 2
            yield bytes(range(part.begin % 256, part.begin % 256 + middle - part.begin))
            yield bytes(range(middle % 256, middle % 256 + part.end - middle))
        finally:
            with self._lock:
                self._at_once -= 1


class Clock:
    """The time that the n-th part took is `seconds` of n; nothing else passes time."""

    def __init__(self, seconds: Callable[[int], float]) -> None:
        self._seconds = seconds
        self._now, self._parts = 0.0, 0

    def __call__(self) -> float:
        self._parts += 1
        self._now += self._seconds(self._parts)
        return self._now


def fetch(store: Store, size_bytes: int, progress: Progress | None = None) -> list[tuple[Part, bytes]]:
    return list(fetch_in_order(split_parts(0, 0, size_bytes), store.read, progress or Progress()))


@pytest.mark.parametrize(
    ("begin", "end", "expected"), [(0, 25, [(0, 10), (10, 20), (20, 25)]), (18, 20, [(18, 20)]), (7, 7, [])]
)
def test_a_range_is_split(begin: int, end: int, expected: list[tuple[int, int]]) -> None:
    assert [(part.begin, part.end) for part in split_parts(0, begin, end)] == expected


@pytest.mark.parametrize("size_bytes", [0, 1, 10, 11, 250])
def test_all_bytes_come_in_order(size_bytes: int) -> None:
    assert b"".join(chunk for _, chunk in fetch(Store(), size_bytes)) == bytes(range(size_bytes))


def test_never_more_than_the_window_is_fetched_ahead_of_a_slow_reader() -> None:
    store = Store()
    started: list[Part] = []

    def read(part: Part) -> Iterator[bytes]:
        started.append(part)
        return store.read(part)

    parts = split_parts(0, 0, 250)
    for part, _ in fetch_in_order(parts, read, Progress()):
        time.sleep(0.002)
        assert len(started) <= parts.index(part) + 1 + ordered_download.WINDOW


def test_a_store_that_is_slow_on_each_connection_is_asked_over_more_of_them() -> None:
    store = Store(part_seconds=0.02)
    clock = Clock(lambda part: 0.5 ** (part // 4))  # twice as many bring twice as much
    list(fetch_in_order(split_parts(0, 0, 250), store.read, Progress(), clock))
    assert store.most_at_once > ordered_download.FIRST_WINDOW


def test_connections_that_bring_nothing_are_given_up() -> None:
    width = Width(2, 8, 0.0)
    changes = [width.count(10, now) for now in range(1, 30)]
    assert changes[3] == 2, "four are tried"
    assert sum(changes) == 0, "and given up, as the pace stays"
    assert (width.parts, width.is_settled) == (2, True)


def test_connections_that_pay_are_kept() -> None:
    width, now = Width(2, 8, 0.0), 0.0
    for _ in range(60):
        now += 1 / width.parts
        width.count(10, now)
    assert (width.parts, width.is_settled) == (8, True)


def test_places_that_are_taken_away_stay_away() -> None:
    store = Store(part_seconds=0.003)
    parts = split_parts(0, 0, 250)
    received = fetch_in_order(parts, store.read, Progress(), Clock(lambda part: 1.0))  # more of them bring nothing
    for part, _ in received:
        if part.begin == 150:
            store.most_at_once = 0
    assert store.most_at_once <= ordered_download.FIRST_WINDOW


def test_a_failure_comes_in_its_turn() -> None:
    def read(part: Part) -> Iterator[bytes]:
        if part.begin == 30:
            raise TransientError("cut")
        return Store().read(part)

    received: list[bytes] = []
    with pytest.raises(TransientError, match="cut"):
        received.extend(chunk for _, chunk in fetch_in_order(split_parts(0, 0, 100), read, Progress()))
    assert b"".join(received) == bytes(range(30))


def test_less_than_the_part_is_transient() -> None:
    with pytest.raises(TransientError, match="sent 3 of 10 bytes"):
        list(fetch_in_order(split_parts(0, 0, 10), lambda part: iter([b"abc"]), Progress()))


def test_what_is_no_exception_ends_no_thread_of_the_agent() -> None:
    class Panic(BaseException):
        pass

    def read(part: Part) -> Iterator[bytes]:
        raise Panic("of another language")

    with pytest.raises(RuntimeError, match="Panic: of another language"):
        list(fetch_in_order(split_parts(0, 0, 10), read, Progress()))


def test_waiting_is_called_off_at_once() -> None:
    progress = Progress()
    threading.Timer(0.05, progress.cancel).start()
    began = time.monotonic()
    with pytest.raises(CancelledError):
        fetch(Store(part_seconds=6.0), 100, progress)
    assert time.monotonic() - began < 4.0
