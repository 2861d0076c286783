"""The worker as a process: started with a pipe on which it speaks, watched, and ended with all that it started."""

import json
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from slipway_agent.model.readiness import Verdict, read_verdict

MODULE = "slipway_agent.loop"
SPARED_BYTES = 40 << 20
"""Of the container's limit: this process (11 MiB), and what the kernel counts for sockets, page tables and files."""

RESERVED_FACTOR = 2
"""What a worker may reserve, in container limits: a download holds 133 MiB of 151 reserved, and libraries reserve 2 MiB
for each core of the node. More than that at one stroke fails there; what grows up to it is watched."""

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_LINE_LIMIT = 1 << 20


class WorkerProcess:
    """A running worker. `pid` is also its process group."""

    def __init__(self, arguments: Sequence[str], listener: socket.socket, limit_bytes: int | None) -> None:
        read_end, write_end = os.pipe()
        inherited = (write_end, listener.fileno())
        command = [sys.executable, *interpreter_flags(), "-m", MODULE, *arguments]
        command += [f"--report-fd={write_end}", f"--listen-fd={listener.fileno()}", f"--parent={os.getpid()}"]
        if limit_bytes is not None:
            command.append(f"--memory-bytes={limit_bytes * RESERVED_FACTOR}")
        try:
            for each in inherited:
                os.set_inheritable(each, True)
            self.pid = os.posix_spawn(sys.executable, command, os.environ, setpgroup=0)
        except OSError:
            os.close(read_end)  # tried again for as long as the pod serves: what is left open would add up
            raise
        finally:
            os.close(write_end)
            os.set_inheritable(listener.fileno(), False)
        os.set_blocking(read_end, False)
        self.report_fd = read_end
        self.started_at = self.spoke_at = time.monotonic()
        self._said = b""

    def hear(self) -> list[Verdict]:
        """What it has said since the last call."""
        while True:
            try:
                chunk = os.read(self.report_fd, 1 << 16)
            except BlockingIOError:
                break
            if not chunk:
                break
            self._said += chunk
        *lines, self._said = self._said.split(b"\n")
        self._said = self._said[:_LINE_LIMIT]
        if lines:
            self.spoke_at = time.monotonic()
        return [verdict for line in lines if (verdict := _parse(line)) is not None]

    def terminate(self) -> None:
        """Ask it to end."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        """End it and all that it started, now. Stopped processes end too."""
        below = list(descendants(self.pid))
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        for pid in below:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def memory_bytes(self) -> int:
        """What it and its children hold that no file backs."""
        return sum(anonymous_bytes(pid) for pid in (self.pid, *descendants(self.pid)))

    def close(self) -> None:
        """It has ended: nothing more is heard of it."""
        os.close(self.report_fd)


def await_end(pid: int, seconds: float) -> bool:
    """Take in a child that is about to end; False where it hasn't by then."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            if os.waitpid(pid, os.WNOHANG)[0]:
                return True
        except ChildProcessError:
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)


def kill_leftovers() -> None:
    """End whatever a worker left to this process: what it had started and was in no group of its."""
    for pid in list(descendants(os.getpid())):
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)


def interpreter_flags() -> list[str]:
    """Those that keep the worker's imports where this process' come from."""
    if sys.flags.isolated:
        return ["-I"]
    return ["-P"] if sys.flags.safe_path else []


def descendants(pid: int) -> Iterator[int]:
    """The processes below one; a process belongs to the thread that started it."""
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return
    for thread in threads:
        try:
            children = Path(f"/proc/{pid}/task/{thread}/children").read_text().split()
        except OSError:
            continue
        for child in map(int, children):
            yield child
            yield from descendants(child)


def anonymous_bytes(pid: int) -> int:
    """0 for a process that has ended."""
    try:
        _, resident, shared, *_ = Path(f"/proc/{pid}/statm").read_text().split()
    except (OSError, ValueError):
        return 0
    return (int(resident) - int(shared)) * _PAGE_BYTES


def container_limit_bytes(root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """The container's memory limit; None where it has none, or can't see it."""
    for place in (root / "memory.max", root / "memory" / "memory.limit_in_bytes"):
        try:
            limit = int(place.read_text())
        except (OSError, ValueError):
            continue  # "max", or the other version of cgroups
        return limit if limit < 1 << 50 else None  # version 1 has a number for "none", too
    return None


def _parse(line: bytes) -> Verdict | None:
    try:
        return read_verdict(json.loads(line))
    except ValueError:
        return None
