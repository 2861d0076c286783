"""`python -m tests.crash [--judged] [pytest's arguments]`: the crash tests, in control planes started and stopped for
them. Each file of tests has a control plane of its own, and both run side by side: most of the time they wait.

--judged: instead of them judged.py, which `make judgement` runs.
"""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

CLUSTER = (sys.executable, "-m", "tests.e2e.cluster")
FILES = tuple(sorted(path.name for path in Path(__file__).parent.glob("test_*.py")))
JUDGED = "judged.py"
NOTHING_SELECTED = 5  # pytest's


def name_of(file: str) -> str:
    return f"crash-{1 if file == JUDGED else FILES.index(file) + 1}"


def start(file: str, arguments: list[str], output: IO[bytes] | None) -> subprocess.Popen[bytes]:
    """The tests of a file, in its control plane."""
    tests = [sys.executable, "-m", "pytest", f"tests/crash/{file}", *arguments]
    return subprocess.Popen([*CLUSTER, "exec", "--name", name_of(file), *tests], stdout=output, stderr=output)


def run(files: Sequence[str], arguments: list[str]) -> int:
    # Dozens of rollouts at once would wait for the controllers' own limit, not for the operator.
    options = ["--control-plane-only", "--fresh", "--controller-rate", "200", "--played-pods"]
    for file in files:
        up = subprocess.run([*CLUSTER, "up", "--name", name_of(file), *options], check=False)
        if up.returncode != 0:
            return up.returncode
    first, *others = files
    with TemporaryFile() as kept:
        running = [start(first, arguments, None), *(start(file, arguments, kept) for file in others)]
        codes = {one.wait() for one in running}
        kept.seek(0)
        sys.stdout.flush()
        sys.stdout.buffer.write(kept.read())
        sys.stdout.flush()
    if codes == {NOTHING_SELECTED}:
        return NOTHING_SELECTED
    return max(codes - {NOTHING_SELECTED})


def main() -> int:
    files = (JUDGED,) if "--judged" in sys.argv else FILES
    try:
        return run(files, [each for each in sys.argv[1:] if each != "--judged"])
    finally:
        for file in files:
            subprocess.run([*CLUSTER, "down", "--name", name_of(file)], check=False)


if __name__ == "__main__":
    sys.exit(main())
