"""Long-running processes: started detached, known again by pid and start time, restarted when they or their
configuration changed.

Invariant: no process is signalled that isn't the one that was started here: a pid alone can be reused, pid and start
time together can't.
"""

import hashlib
import json
import os
import shlex
import signal
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .commands import is_within
from .errors import ClusterError

SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class Daemon:
    """One component's command line and the files it reads at start; a change of either is a reason to restart."""

    name: str
    command: tuple[str, ...]
    inside: tuple[str, ...]  # the words that bring it into its namespaces
    files: Mapping[Path, str] = field(default_factory=dict)
    path: str = SYSTEM_PATH
    stop_seconds: float = 5.0

    @property
    def fingerprint(self) -> str:
        parts = [self.command, self.inside, self.path, sorted((str(path), text) for path, text in self.files.items())]
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class DaemonRecord:
    """What is remembered of a started daemon."""

    name: str
    pid: int
    start_ticks: int
    fingerprint: str

    @property
    def is_alive(self) -> bool:
        return _start_ticks(self.pid) == self.start_ticks


class DaemonSet:
    """The daemons of one cluster: their records and logs."""

    def __init__(self, records: Path, logs: Path) -> None:
        self.records = records
        self.logs = logs

    def list_records(self) -> list[DaemonRecord]:
        found = [self.read_record(path.stem) for path in sorted(self.records.glob("*.json"))]
        return [record for record in found if record is not None]

    def read_record(self, name: str) -> DaemonRecord | None:
        try:
            content = json.loads((self.records / f"{name}.json").read_text())
            return DaemonRecord(name, int(content["pid"]), int(content["start_ticks"]), str(content["fingerprint"]))
        except (OSError, ValueError, KeyError):
            return None

    def is_current(self, daemon: Daemon) -> bool:
        record = self.read_record(daemon.name)
        return record is not None and record.is_alive and record.fingerprint == daemon.fingerprint

    def ensure(self, daemon: Daemon, cgroup_entries: Sequence[Path]) -> bool:
        """Starts the daemon unless it runs as described; whether it was started now."""
        if self.is_current(daemon):
            return False
        self.stop(daemon.name, daemon.stop_seconds)
        for folder in (self.records, self.logs):
            folder.mkdir(parents=True, exist_ok=True)
        for path, text in daemon.files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        log = self.logs / f"{daemon.name}.log"
        if log.exists():
            log.replace(log.with_suffix(".log.1"))
        # The shell enters the cgroups and then becomes the daemon: it never runs a moment outside of them.
        enter = "".join(f"echo $$ > {shlex.quote(str(entry))} && " for entry in cgroup_entries)
        command = ["sh", "-c", f'cd / && {enter}exec "$@"', daemon.name, *daemon.inside, *daemon.command]
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
        try:
            # Not subprocess.Popen: it warns, rightly, of a child that nobody waits for, and here nobody shall.
            pid = os.posix_spawn(
                "/bin/sh",
                command,
                {"PATH": daemon.path, "HOME": "/", "LANG": "C.UTF-8"},
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_DUP2, output, 1),
                    (os.POSIX_SPAWN_DUP2, output, 2),
                ],
                setsid=True,
                setsigdef=[signal.SIGPIPE],  # Python ignores it, and a child would inherit that
            )
        finally:
            os.close(output)
        record = {"pid": pid, "start_ticks": _start_ticks(pid) or 0, "fingerprint": daemon.fingerprint}
        (self.records / f"{daemon.name}.json").write_text(json.dumps(record))
        return True

    def stop(self, name: str, grace_seconds: float) -> None:
        """Ends the daemon and waits until it's gone; nothing where it isn't running."""
        record = self.read_record(name)
        if record is not None and record.is_alive:
            for sign, limit_seconds in ((signal.SIGTERM, grace_seconds), (signal.SIGKILL, 10.0)):
                try:
                    os.kill(record.pid, sign)
                except ProcessLookupError:
                    break
                if is_within(limit_seconds, lambda: not record.is_alive, pause_seconds=0.02):
                    break
        (self.records / f"{name}.json").unlink(missing_ok=True)

    def stop_together(self, names: Iterable[str], grace_seconds: float) -> None:
        """As `stop`, but all are asked first."""
        listed = list(names)
        for name in listed:
            record = self.read_record(name)
            if record is not None and record.is_alive:
                os.kill(record.pid, signal.SIGTERM)
        for name in listed:
            self.stop(name, grace_seconds)

    def wait_until(self, what: str, question: Callable[[], bool], limit_seconds: float, needs: Sequence[str]) -> None:
        """Waits for a yes; a daemon in `needs` that ends, or the limit, ends the wait with its log's words."""

        def ask() -> bool:
            for name in needs:
                record = self.read_record(name)
                if record is None or not record.is_alive:
                    raise ClusterError(what, f"{name} ended\n{self.tail(name)}", f"read {self.logs / name}.log")
            return question()

        if not is_within(limit_seconds, ask):
            words = "\n".join(f"-- {name}\n{self.tail(name)}" for name in needs)
            raise ClusterError(what, f"not within {limit_seconds:.0f} s\n{words}", f"read the logs in {self.logs}")

    def tail(self, name: str, lines: int = 12) -> str:
        try:
            text = (self.logs / f"{name}.log").read_text(errors="replace")
        except OSError:
            return "(no log)"
        return "\n".join(line[:400] for line in text.splitlines()[-lines:])


def _start_ticks(pid: int) -> int | None:
    """The process's start time in clock ticks since boot; None where it is gone or only a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in {"Z", "X"} else int(fields[19])
