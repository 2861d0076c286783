"""Commands run to their end: one place decides how their output and their failure are treated.

Must not import anything of the package but `errors`.
"""

import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from .errors import ClusterError

_READ = "read the lines above; they are the command's own"


def tell(message: str) -> None:
    """Progress goes to stderr, so that `env`, `kubectl -o json` and the like stay clean on stdout."""
    print(message, file=sys.stderr, flush=True)


@contextmanager
def timed(what: str) -> Iterator[None]:
    """Says what begins, and how long it took once it went well."""
    tell(f"{what} …")
    begin = time.monotonic()
    yield
    tell(f"{what}: {time.monotonic() - begin:.1f} s")


def run_checked(
    command: Sequence[str],
    what: str,
    next_step: str | None = None,
    stdin: str | None = None,
    environment: Mapping[str, str] | None = None,
    cwd: str | None = None,
) -> str:
    """Runs the command and returns its stdout; a failure becomes a `ClusterError` that carries the command's words."""
    try:
        done = subprocess.run(
            list(command), input=stdin, env=environment, cwd=cwd, capture_output=True, text=True, check=False
        )
    except FileNotFoundError as missing:
        raise ClusterError(what, f"the command {command[0]} is not installed", next_step or "make deps") from missing
    if done.returncode != 0:
        words = (done.stderr.strip() or done.stdout.strip())[-4000:]
        raise ClusterError(
            what, f"`{shlex.join(command)[:400]}` ended with {done.returncode}\n{words}", next_step or _READ
        )
    return done.stdout


def has_succeeded(command: Sequence[str], environment: Mapping[str, str] | None = None) -> bool:
    """Whether the command exists and ends with 0; its output is dropped."""
    try:
        done = subprocess.run(
            list(command),
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
        )
    except FileNotFoundError:
        return False
    return done.returncode == 0


def is_within(limit_seconds: float, question: Callable[[], bool], pause_seconds: float = 0.1) -> bool:
    """Asks until the answer is yes; no after `limit_seconds`. The question may raise to end the wait."""
    deadline = time.monotonic() + limit_seconds
    while True:
        if question():
            return True
        if time.monotonic() >= deadline:
            return False
        time.sleep(pause_seconds)
