"""The first lines of a confined process: it takes its limits on itself, then runs a script.

    python -I -S -B start.py BOUNDS SCRIPT        # BOUNDS: JSON of process.Bounds, and the agent's process id

Run by path and isolated, so that no folder that a model can write to is on its path. Not set by the agent between fork
and exec: in a process with threads that can hang. Imports nothing of the agent; what it runs may.
"""

import contextlib
import ctypes
import json
import os
import resource
import runpy
import signal
import site
import sys
from collections.abc import Mapping

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def _end_with(parent: int) -> None:
    """Ended by the kernel when the agent is; a kernel without that leaves it to the container's end."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # the agent ended before that was in force
        os._exit(1)


def _confine(rlimits: Mapping[str, int]) -> None:
    """Memory's has an allocation fail, so that the script can say so, before the kernel would end the container."""
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as score:
        score.write("1000")  # should the kernel have to end something after all: this, not the agent
    for name, most in {**rlimits, "CORE": 0}.items():
        kind = getattr(resource, f"RLIMIT_{name}")
        _, hard = resource.getrlimit(kind)
        # at the hard limit of processor time comes a SIGKILL, as from anybody; at the soft one a signal of its own
        bounds = (most, most + 1 if name == "CPU" else most)
        soft, hard = bounds if hard == resource.RLIM_INFINITY else (min(each, hard) for each in bounds)
        resource.setrlimit(kind, (soft, hard))


if __name__ == "__main__":
    bounds = json.loads(sys.argv[1])
    _end_with(bounds["parent"])
    _confine(bounds["rlimits"])
    if bounds["needs_packages"]:
        site.main()
    sys.path.append(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))  # the agent's
    runpy.run_path(sys.argv[2], run_name="__main__")
    sys.stdout.flush()
    os._exit(0)
