"""Ports for the servers of tests.

They lie below those that the kernel gives to whoever opens a connection, so none is taken between being found and being
used. Each process that asks has a slice of its own for as long as it lives (workers of pytest-xdist, test runs side by
side, other checkouts' runs), and gives each port of it once in a turn.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import socket
import tempfile
from functools import cache
from pathlib import Path

FIRST, LAST = 12_000, 32_000
SLICES = 40
SIZE = (LAST - FIRST) // SLICES


@cache
def _own_slice(pid: int) -> tuple[int, itertools.count[int]]:
    """The first port of this process' slice, and its turns; `pid` makes a fork take another than its parent's."""
    folder = Path(tempfile.gettempdir(), f"slipway-ports-{os.getuid()}")
    folder.mkdir(exist_ok=True)
    for number in range(SLICES):
        lock = os.open(folder / str(number), os.O_RDWR | os.O_CREAT, 0o600)  # held until the process ends
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            continue
        # Not from its beginning each time: the last run's connections may still be closing there.
        return FIRST + number * SIZE, itertools.count(pid * 97 % SIZE)
    raise OSError(f"{SLICES} processes take ports of tests already; what to do: end some of them")


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    first, turns = _own_slice(os.getpid())
    for turn in itertools.islice(turns, SIZE):
        port = first + turn % SIZE
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError(f"no port from {first} to {first + SIZE} is free")
