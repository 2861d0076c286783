"""The worker: the process that fetches, loads and reports. The supervisor starts it, hears it and ends it.

    python -m slipway_agent.loop --config … --models … --pod NAME --report-fd N --listen-fd N --parent PID

`--report-fd` is a pipe for a line of JSON from each turn of the loop, the Verdict; `--listen-fd` a socket that listens,
for everything that isn't a probe.
"""

import argparse
import ctypes
import json
import os
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from types import FrameType

from slipway_agent.loop.agent import Agent
from slipway_agent.model.readiness import Verdict, write_verdict
from slipway_agent.reporting.endpoints import Board, start_endpoints
from slipway_agent.reporting.log import Log
from slipway_agent.volume.after_crash import verify_again

STACK_BYTES = 1 << 20  # of a thread: the default of 8 MiB would count as memory that it may write
SAY_SECONDS = 0.5
VERIFYING = "the node was started anew, and the versions' files are verified again"
_PR_SET_PDEATHSIG = 1


def main() -> int:
    parser = argparse.ArgumentParser(prog="slipway-agent worker", description=__doc__)
    for name in ("--config", "--models"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--pod", required=True)
    for name in ("--report-fd", "--listen-fd", "--parent"):
        parser.add_argument(name, type=int, required=True)
    parser.add_argument("--memory-bytes", type=int)
    options = parser.parse_args()
    _die_with(options.parent)
    for file in (options.report_fd, options.listen_fd):
        os.set_inheritable(file, False)  # what the worker starts has no part in them
    threading.stack_size(STACK_BYTES)
    if options.memory_bytes is not None:
        bound_memory(options.memory_bytes)
    return _run(options)


def _run(options: argparse.Namespace) -> int:
    log = Log(os.environ)
    board = Board(options.pod)
    try:
        options.models.mkdir(parents=True, exist_ok=True)
    except OSError as cause:
        log.error("the agent can't start", detail=str(cause), models=str(options.models))
        return 1
    blind = Verdict(False, why_not_started=VERIFYING, why_not_ready=VERIFYING)
    listener = socket.socket(fileno=options.listen_fd)
    teller = Teller(options.report_fd, lambda: start_endpoints(listener, board))
    agent = Agent(options.config, options.models, board, log, os.environ, tell=teller)

    for _ in every(SAY_SECONDS, verify_again(options.models, log)):
        teller(blind)

    def end(number: int, frame: FrameType | None) -> None:
        agent.stop(signal.Signals(number).name)

    def say(caught: threading.ExceptHookArgs) -> None:
        log.error("a thread of the agent ended", error=f"{caught.exc_type.__name__}: {caught.exc_value}")

    threading.excepthook = say
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    agent.run()
    return 0


def every(seconds: float, steps: Iterable[None]) -> Iterator[None]:
    """Of steps that are many and short, one each so many seconds."""
    said_at = time.monotonic()
    for _ in steps:
        if time.monotonic() - said_at >= seconds:
            said_at = time.monotonic()
            yield


class Teller:
    """Tells the supervisor. Without one there is nothing left to do. Who asks is answered after the first turn, not
    before: a worker that knows nothing yet would say that nothing is loaded."""

    def __init__(self, file: int, open_endpoints: Callable[[], object]) -> None:
        self._pipe = os.fdopen(file, "w", buffering=1)
        self._open_endpoints: Callable[[], object] | None = open_endpoints

    def __call__(self, verdict: Verdict) -> None:
        if self._open_endpoints is not None:
            self._open_endpoints()
            self._open_endpoints = None
        try:
            self._pipe.write(json.dumps(write_verdict(verdict)) + "\n")
        except OSError:
            os._exit(1)


def bound_memory(limit_bytes: int) -> None:
    """Who asks for more at one stroke is refused there and then, before the kernel ends the whole container.

    RLIMIT_DATA counts what is writable and no file's; RLIMIT_AS would count what is only reserved, gigabytes of it.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = limit_bytes if hard == resource.RLIM_INFINITY else min(limit_bytes, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def _die_with(parent: int) -> None:
    """A worker whose supervisor was killed must not go on beside the next one."""
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # threads may be in the middle of a read that can't be interrupted
