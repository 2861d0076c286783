"""Run a script of ours in a process of its own: a question as JSON on its stdin, an answer as JSON on its stdout.

The script may die of what it reads: the caller then gets its end in the place of an answer, and the agent goes on. What
it may use are its `Limits`; how long it may take is the caller's `check`, which raises to call it off.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

START = Path(__file__).with_name("start.py")
ENVIRONMENT = {"LC_ALL": "C.UTF-8", "MALLOC_ARENA_MAX": "1"}
"""Of its own: the agent's holds the server's key, and maybe a cloud's. Each thread's arena would take 64 MiB of address
space."""
POLL_SECONDS = 0.02
OF_ITS_OWN = frozenset({signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGSEGV, signal.SIGXFSZ})
"""Signals that nobody else sends."""
LAST_WORDS = 300  # characters of what it wrote before it ended


@dataclass(frozen=True, slots=True)
class Limits:
    """memory_bytes: of its address space. file_bytes: the largest file that it may write, its answer included."""

    memory_bytes: int
    file_bytes: int


@dataclass(frozen=True, slots=True)
class Ended:
    """It ended without an answer. `words` say how: by a signal, or with which last line.

    `is_its_own`: what it read made it end (an allocation that failed, a defect of a parser), and will again.
    """

    words: str
    is_its_own: bool = False


def run(
    script: Path, question: Mapping[str, object], limits: Limits, check: Callable[[], None]
) -> dict[str, object] | Ended:
    """The script's answer, or how it ended without one. `check()` is called all the while; what it raises ends the
    process. OSError where no process can be started."""
    bounds = json.dumps(asdict(limits) | {"parent": os.getpid()})
    command = [sys.executable, "-I", str(START), bounds, str(script)]
    with tempfile.TemporaryFile() as asked, tempfile.TemporaryFile() as answer, tempfile.TemporaryFile() as complaint:
        asked.write(json.dumps(question).encode())
        asked.seek(0)
        process = subprocess.Popen(command, stdin=asked, stdout=answer, stderr=complaint, env=ENVIRONMENT, cwd="/")
        try:
            while process.poll() is None:
                check()
                time.sleep(POLL_SECONDS)
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
        found = _read_answer(answer, limits) if process.returncode == 0 else None
        if found is not None:
            return found
        return Ended(_explain(process.returncode, complaint), -process.returncode in OF_ITS_OWN)


def _read_answer(answer: IO[bytes], limits: Limits) -> dict[str, object] | None:
    answer.seek(0)
    try:
        found = json.loads(answer.read(limits.file_bytes))
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _explain(status: int, complaint: IO[bytes]) -> str:
    if status < 0:
        return f"it was ended by signal {-status}"
    complaint.seek(0, os.SEEK_END)
    complaint.seek(max(0, complaint.tell() - 4 * LAST_WORDS))
    last = (complaint.read().decode(errors="replace").strip().splitlines() or ["it said nothing"])[-1]
    return f"it ended with status {status}: {last[:LAST_WORDS]}"
