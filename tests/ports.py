"""Ports for the servers of tests.

They lie below those that the kernel gives to whoever opens a connection, so none is taken between being found and being
used; each is given once, and each worker of pytest-xdist has a slice of its own.
"""

import itertools
import os
import socket

FIRST, LAST = 12_000, 32_000
WORKERS = 8

_slice = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) % WORKERS
_size = (LAST - FIRST) // WORKERS
# Not from its beginning each time: the last run's connections may still be closing there.
_turns = itertools.count(os.getpid() * 97 % _size)


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    for turn in itertools.islice(_turns, _size):
        port = FIRST + _slice * _size + turn % _size
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError(f"no port from {FIRST} to {LAST} is free")
