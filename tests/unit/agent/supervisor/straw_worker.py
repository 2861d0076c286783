"""A worker of straw: says that the pod serves, and does what the file `order` beside agent.json says.

`exit N`, `hunger` (a child process takes memory), `orphan` (leaves a child of a child to whoever takes it).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

from slipway_agent.loop.__main__ import Teller
from slipway_agent.model.readiness import ReadinessQuestion, Verdict

EATER = "import time; held = b'x' * (64 << 20); time.sleep(600)"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", type=Path)
    parser.add_argument("--report-fd", type=int)
    options, _ = parser.parse_known_args()
    order = options.config.with_name("order")
    if order.exists() and order.read_text().startswith("exit"):
        sys.exit(int(order.read_text().split()[1]))
    port = int(options.config.with_name("server-port").read_text())
    tell = Teller(options.report_fd, lambda: None)
    verdict = Verdict(True, may_start=True, is_serving=True, version=3, question=ReadinessQuestion(port, "/up"))
    while True:
        tell(verdict)
        word = order.read_text() if order.exists() else ""
        if word:
            order.unlink()
        if word == "hunger":
            subprocess.Popen([sys.executable, "-c", EATER], start_new_session=True)
        elif word == "orphan":
            subprocess.run(["sh", "-c", "sleep 0.1 & echo $! > orphan"], cwd=options.config.parent, check=True)
        time.sleep(0.05)


if __name__ == "__main__":
    main()
    os._exit(0)
