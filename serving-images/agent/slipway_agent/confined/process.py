"""Run a script of ours in a process of its own: a question as JSON on its stdin, an answer as JSON on its stdout.

The script may die of what it reads: the caller then gets its end in the place of an answer, and the agent goes on. What
it may use are its `Bounds`; how long it may take is the caller's `check`, which raises to call it off; whether it is
tried again is the caller's. Invariant: when `run` returns or raises, the process is gone, and so is its process group.
"""

import json
import os
import re
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from slipway_agent.model.ledger import describe_bytes

START = Path(__file__).with_name("start.py")
ENVIRONMENT = {"LC_ALL": "C.UTF-8", "MALLOC_ARENA_MAX": "1"}
"""Of its own: the agent's holds the server's key, and maybe a cloud's. Each thread's arena would take 64 MiB of address
space."""
POLL_SECONDS = 0.1  # between two looks whether the work was called off
ENDING_SECONDS = 0.005  # between two looks whether one that says nothing more has ended
ANSWER_BYTES = 64 << 10
OF_ITS_OWN = frozenset({signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGSEGV, signal.SIGXFSZ})
"""Signals that nobody else sends."""
LAST_WORDS = 300  # characters of what it wrote before it ended
STARVED_BYTES, STARVED_SECONDS = 256 << 10, 1.0


@dataclass(frozen=True, slots=True)
class Bounds:
    """rlimits: by name ("AS", "DATA", "FSIZE": bytes; "CPU": seconds; "NOFILE"); a core is never written.

    needs_packages: whether it imports more than Python's own and the agent's.
    """

    rlimits: Mapping[str, int]
    needs_packages: bool = False


@dataclass(frozen=True, slots=True)
class Ended:
    """It ended without an answer. `words` say how, after "it": "was ended by SIGKILL", or its last line.

    `is_its_own`: what it read made it end (a limit that it met, a defect of a parser), and will again. `limit`: that
    limit's name, where it is known.
    """

    words: str
    is_its_own: bool = False
    limit: str | None = None


def run(
    script: Path, question: Mapping[str, object], bounds: Bounds, check: Callable[[], None]
) -> dict[str, object] | Ended:
    """The script's answer, or how it ended without one. `check()` is called ten times a second; what it raises ends the
    process. OSError where no process can be started."""
    # isolated: neither the environment nor a file in the folder that it starts in says what is imported
    command = [sys.executable, "-I", "-S", "-B", str(START), json.dumps(asdict(bounds) | {"parent": os.getpid()})]
    with os.fdopen(os.memfd_create("question"), "wb+") as asked:  # not a pipe: a question of any size can't block
        asked.write(json.dumps(question).encode())
        asked.seek(0)
        libraries = {key: os.environ[key] for key in ("LD_LIBRARY_PATH",) if key in os.environ}  # Python's own, maybe
        child = subprocess.Popen(
            [*command, str(script)],
            stdin=asked,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd="/",
            env=ENVIRONMENT | libraries,
            process_group=0,
        )
    with child:
        try:
            heard = _listen(child, bounds, check)
        finally:
            os.killpg(child.pid, signal.SIGKILL)  # not collected yet, so that its number is no other's
            status = child.wait()
    if isinstance(heard, Ended):
        return heard
    said, complaint = heard
    answer = _read_answer(said) if status == 0 else None
    return answer if answer is not None else _explain(status, complaint)


def _listen(child: "subprocess.Popen[bytes]", bounds: Bounds, check: Callable[[], None]) -> tuple[bytes, bytes] | Ended:
    """All it says until it has ended, on stdout and the end of that on stderr. Ended: it must be."""
    assert child.stdout is not None
    assert child.stderr is not None
    said, complaint, fed_at = b"", b"", time.monotonic()
    with selectors.DefaultSelector() as selector:
        selector.register(child.stdout, selectors.EVENT_READ)
        selector.register(child.stderr, selectors.EVENT_READ)
        while True:
            check()
            has_ended = os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
            for key, _ in selector.select(0 if has_ended else POLL_SECONDS if selector.get_map() else ENDING_SECONDS):
                chunk = os.read(key.fd, 2 * ANSWER_BYTES)  # once it has ended: all that is left
                if not chunk:
                    selector.unregister(key.fileobj)
                elif key.fileobj is child.stdout:
                    said += chunk
                else:
                    complaint = (complaint + chunk)[-4 * LAST_WORDS :]
            if len(said) > ANSWER_BYTES:
                return Ended(f"was ended for an answer of more than {describe_bytes(ANSWER_BYTES)}", True)
            if has_ended:
                return said, complaint
            starved_of = _find_starved(child.pid, bounds)
            if starved_of is None:
                fed_at = time.monotonic()
            elif time.monotonic() - fed_at > STARVED_SECONDS:
                return Ended("was ended with all the memory taken that it may use", True, starved_of)


def _find_starved(child: int, bounds: Bounds) -> str | None:
    """The limit of memory that it has all of. Python 3.11 may go round for ever then: what lets it begin to handle a
    MemoryError needs 32 bytes (ceval.c, exception_unwind)."""
    try:
        status = Path(f"/proc/{child}/status").read_text()
    except OSError:
        return None
    for name, field in (("AS", "VmSize"), ("DATA", "VmData")):
        found = re.search(rf"^{field}:\s*(\d+) kB", status, re.MULTILINE)
        if found and int(found[1]) * 1024 > bounds.rlimits.get(name, sys.maxsize) - STARVED_BYTES:
            return name
    return None


def _read_answer(said: bytes) -> dict[str, object] | None:
    try:
        found = json.loads(said)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _explain(status: int, complaint: bytes) -> Ended:
    if status == -signal.SIGXCPU:
        return Ended("was ended with all the time of a processor taken that it may use", True, "CPU")
    if status < 0:
        names = {int(each): each.name for each in signal.Signals}
        return Ended(f"was ended by {names.get(-status, f'signal {-status}')}", -status in OF_ITS_OWN)
    last = (complaint.decode(errors="replace").strip().splitlines() or ["it said nothing"])[-1]
    return Ended(f"ended with status {status}: {''.join(filter(str.isprintable, last))[:LAST_WORDS]}")
