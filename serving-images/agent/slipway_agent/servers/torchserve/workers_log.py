"""The words of TorchServe's workers, read from a folder into which the model's own code may write whatever it likes.

So the log is a guest's: what lies there may be a link to the agent's secrets, a FIFO at which an open waits for ever, a
device, or larger than memory. What is no ordinary file says nothing, and no more is read than LIMIT_BYTES.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LIMIT_BYTES = 2 * 1024 * 1024
"""TorchServe begins the file anew at 2 MB (`files.compose_logging`)."""


def measure_log(path: Path) -> int:
    """How many bytes it has; 0 where there is none that can be read."""
    with _open(path) as file:
        return 0 if file is None else os.fstat(file).st_size


def read_log(path: Path, start: int) -> str:
    """What it says from a place on, LIMIT_BYTES at most; from the beginning where the file was begun anew since.

    Empty where there is none that can be read.
    """
    with _open(path) as file:
        if file is None:
            return ""
        begin = start if start <= os.fstat(file).st_size else 0
        try:
            return os.pread(file, LIMIT_BYTES, begin).decode(errors="replace")
        except (OSError, OverflowError):
            return ""


@contextmanager
def _open(path: Path) -> Iterator[int | None]:
    """A descriptor of an ordinary file, or None. Follows no link in the last place and waits for nobody.

    The folder itself is a mount of ours: the server can't put another in its place.
    """
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        yield None
        return
    try:
        yield file if stat.S_ISREG(os.fstat(file).st_mode) else None
    finally:
        os.close(file)
