"""The first lines of a confined process: it takes its limits on itself, then runs a script.

    python -I start.py LIMITS SCRIPT        # LIMITS: JSON of process.Limits, and the agent's process id

Run by path and isolated, so that no folder that a model can write to is on its path. Not set by the agent between fork
and exec: in a process with threads that can hang. Imports nothing of the agent.
"""

import contextlib
import ctypes
import json
import os
import resource
import runpy
import signal
import sys

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def _confine(limits: dict[str, int]) -> None:
    """RLIMIT_AS has an allocation fail, so that the script can say so, before the kernel would end the container."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != limits["parent"]:  # the agent ended before that was in force
        os._exit(1)
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as score:
        score.write("1000")  # should the kernel have to end something after all: this, not the agent
    for kind, most in (
        (resource.RLIMIT_AS, limits["memory_bytes"]),
        (resource.RLIMIT_FSIZE, limits["file_bytes"]),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(kind, (most, most))


if __name__ == "__main__":
    _confine(json.loads(sys.argv[1]))
    runpy.run_path(sys.argv[2], run_name="__main__")
