"""`python -m slipway_agent --config /etc/slipway/agent.json --models /models --port 8081`, or `digest PATH`."""

import argparse
import os
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from slipway_agent.loop.agent import Agent
from slipway_agent.reporting.endpoints import Board, start_endpoints
from slipway_agent.reporting.log import Log
from slipway_agent.volume.digest import digest_path


def main(arguments: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == ["digest"]:
        return _print_digest(words[1:])
    parser = argparse.ArgumentParser(prog="slipway-agent", description="Brings model versions to the server beside it.")
    parser.add_argument("--config", type=Path, default=Path("/etc/slipway/agent.json"), help="the operator's word")
    parser.add_argument("--models", type=Path, default=Path("/models"), help="the volume shared with the server")
    parser.add_argument("--port", type=int, default=8081, help="of /startz, /readyz, /healthz, /status, /metrics")
    options = parser.parse_args(words)
    return _run(options.config, options.models, options.port)


def _run(config: Path, models: Path, port: int) -> int:
    log = Log(os.environ)
    # Pods that were made before the variable was have their name as their hostname.
    board = Board(os.environ.get("SLIPWAY_POD") or socket.gethostname())
    try:
        models.mkdir(parents=True, exist_ok=True)
        start_endpoints(port, board)
    except (OSError, OverflowError) as cause:
        log.error("the agent can't start", detail=str(cause), models=str(models), port=port)
        return 1
    agent = Agent(config, models, board, log, os.environ)

    def end(number: int, frame: FrameType | None) -> None:
        agent.stop(signal.Signals(number).name)

    def say(caught: threading.ExceptHookArgs) -> None:
        log.error("a thread of the agent ended", error=f"{caught.exc_type.__name__}: {caught.exc_value}")

    threading.excepthook = say
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    log.info("agent starts", config=str(config), models=str(models), port=port)
    agent.run()
    return 0


def _print_digest(paths: list[str]) -> int:
    if len(paths) != 1:
        sys.stderr.write("usage: python -m slipway_agent digest PATH\n")
        return 2
    try:
        sys.stdout.write(f"{digest_path(Path(paths[0]))}\n")
    except OSError as cause:
        sys.stderr.write(f"{paths[0]} can't be read: {cause.strerror}\n")
        return 1
    return 0


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # workers may be in the middle of a read that can't be interrupted
