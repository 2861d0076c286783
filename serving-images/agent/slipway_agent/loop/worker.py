"""A thread that does one thing at a time and posts what came of it.

Not a ThreadPoolExecutor: that one is joined at exit, and a read from a dead NFS server would hold up SIGTERM.
"""

import queue
import threading
from collections.abc import Callable


class Worker:
    def __init__(self, name: str) -> None:
        self._work: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def submit(self, work: Callable[[], None]) -> None:
        """Queue work, which must catch its own errors."""
        self._work.put(work)

    def _run(self) -> None:
        while True:
            self._work.get()()
