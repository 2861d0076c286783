"""`python -m tests.crash [pytest's arguments]`: the crash tests, in a control plane started and stopped for them."""

import subprocess
import sys

CLUSTER = (sys.executable, "-m", "tests.e2e.cluster")
NAME = "crash"


def main() -> int:
    # Dozens of rollouts at once would wait for the controllers' own limit, not for the operator.
    options = ["--control-plane-only", "--name", NAME, "--fresh", "--controller-rate", "200"]
    up = subprocess.run([*CLUSTER, "up", *options], check=False)
    if up.returncode != 0:
        return up.returncode
    try:
        tests = [sys.executable, "-m", "pytest", "tests/crash", *sys.argv[1:]]
        return subprocess.run([*CLUSTER, "exec", "--name", NAME, *tests], check=False).returncode
    finally:
        subprocess.run([*CLUSTER, "down", "--name", NAME], check=False)


if __name__ == "__main__":
    sys.exit(main())
