"""Which files somebody opens, as the kernel tells it: a trap that nobody opens is one that nobody fell into."""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterable
from pathlib import Path

IN_OPEN = 0x20
_HEADER = struct.Struct("iIII")
_READ_BYTES = 1 << 20


class Watch:
    """Files whose openings are told, by whatever process, from the making of this on."""

    def __init__(self, files: Iterable[Path]) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._events = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._events < 0:
            raise OSError(ctypes.get_errno(), "inotify_init1")
        self._files: dict[int, Path] = {}
        for file in files:
            number = libc.inotify_add_watch(self._events, os.fsencode(file), IN_OPEN)
            if number < 0:
                raise OSError(ctypes.get_errno(), f"inotify_add_watch {file}")
            self._files[number] = file

    def opened(self) -> list[Path]:
        """Those that were opened since the last time, each once."""
        found: dict[Path, None] = {}
        while True:
            try:
                told = os.read(self._events, _READ_BYTES)
            except BlockingIOError:
                return list(found)
            place = 0
            while place < len(told):
                number, mask, _, length = _HEADER.unpack_from(told, place)
                place += _HEADER.size + length
                if mask & IN_OPEN:
                    found[self._files[number]] = None

    def close(self) -> None:
        os.close(self._events)
