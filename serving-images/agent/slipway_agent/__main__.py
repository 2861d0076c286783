"""`python -m slipway_agent --config /etc/slipway/agent.json --models /models --port 8081`, or `digest PATH`."""

import argparse
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from slipway_agent.reporting.log import Log
from slipway_agent.supervisor.supervise import Options, supervise


def main(arguments: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == ["digest"]:
        return _print_digest(words[1:])
    parser = argparse.ArgumentParser(prog="slipway-agent", description="Brings model versions to the server beside it.")
    parser.add_argument("--config", type=Path, default=Path("/etc/slipway/agent.json"), help="the operator's word")
    parser.add_argument("--models", type=Path, default=Path("/models"), help="the volume shared with the server")
    parser.add_argument("--port", type=int, default=8081, help="of /startz, /readyz, /healthz, /status, /metrics")
    found = parser.parse_args(words)
    # Pods that were made before the variable was have their name as their hostname.
    pod = os.environ.get("SLIPWAY_POD") or socket.gethostname()
    return supervise(Options(found.config, found.models, found.port, pod), Log(os.environ))


def _print_digest(paths: list[str]) -> int:
    if len(paths) != 1:
        sys.stderr.write("usage: python -m slipway_agent digest PATH\n")
        return 2
    from slipway_agent.volume.digest import digest_path  # the first process of a pod stays small

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
    os._exit(status)  # those who wait for an answer don't hold up the end
