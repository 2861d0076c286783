"""The agent as its container runs it, with short waits: `python -m tests.unit.agent.supervisor.supervised OPTIONS`.

The options are the agent's own, and `--patience NAME=SECONDS …`, `--limit BYTES`, `--worker MODULE`.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import sys
from dataclasses import replace
from pathlib import Path

from slipway_agent.reporting.log import Log
from slipway_agent.supervisor import process
from slipway_agent.supervisor.supervise import Options, Patience, supervise

_PR_SET_CHILD_SUBREAPER = 36
QUICK = Patience(stalled=3.0, pause=0.05, longest_pause=0.2, ending=5.0)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--patience", nargs="*", default=())
    parser.add_argument("--limit", type=int, default=1 << 33)
    parser.add_argument("--worker", default=process.MODULE)
    options = parser.parse_args()
    process.MODULE = options.worker
    # orphans come to it, as to a container's first process
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)
    waits = {name: float(seconds) for name, _, seconds in (each.partition("=") for each in options.patience)}
    asked = Options(options.config, options.models, options.port, "digits-a")
    return supervise(asked, Log(os.environ), replace(QUICK, **waits), options.limit)  # type: ignore[arg-type]


if __name__ == "__main__":
    status = main()
    sys.stderr.flush()
    os._exit(status)
