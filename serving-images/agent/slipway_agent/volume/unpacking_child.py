"""The process that unpacks: an order on standard input, one line on standard output. Started by `unpacking` alone.

Invariant: nothing of an archive is read before the limits are in force. Imports of the agent's only what unpacks.
"""

import ctypes
import json
import os
import resource
import signal
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from slipway_agent.model.errors import SpecError
from slipway_agent.model.limits import Budget, Limits, Room
from slipway_agent.volume.archive import unpack
from slipway_agent.volume.image_layers import Layers

_PR_SET_PDEATHSIG = 1


def main() -> None:
    order = json.loads(sys.stdin.buffer.read())
    _end_with(order["parent"])
    _limit(order["rlimits"])
    answer = _unpack(order)
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()
    os._exit(0)


def _end_with(parent: int) -> None:
    """Ended by the kernel when the agent is; a kernel without that leaves it to the container's end."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def _limit(rlimits: Mapping[str, int]) -> None:
    for name, amount in rlimits.items():
        kind = getattr(resource, f"RLIMIT_{name}")
        _, hard = resource.getrlimit(kind)
        bound = amount if hard == resource.RLIM_INFINITY else min(amount, hard)
        resource.setrlimit(kind, (bound, bound))
    try:
        Path("/proc/self/oom_score_adj").write_text("1000")  # before the agent, if it comes to that
    except OSError:
        return


def _unpack(order: Mapping[str, Any]) -> dict[str, Any]:
    try:
        where, target = order["where"], Path(order["target"])
        budget = Budget(where, order["what"], order["packed"], Limits(**order["limits"]), Room(**order["room"]))
        if order["kind"] != "layers":
            unpack(order["kind"], Path(order["archive"]), target, where, budget)
            return {"folder": ""}
        image = Layers(target, where, budget)
        for path, name in order["layers"]:
            if name is None:
                image.apply(Path(path))
                Path(path).unlink()
            else:
                image.place(name, Path(path))
        return {"folder": "" if image.finish() == target else "models"}
    except SpecError as refusal:
        return {"reason": refusal.reason, "message": refusal.message[:8000]}
    except MemoryError:
        return {"memory": True}
    except OSError as cause:
        if cause.errno is not None:
            return {"errno": cause.errno, "strerror": cause.strerror or ""}
        return {"defect": _name(cause)}
    except Exception as cause:  # the libraries, at bytes that nobody has tried on them
        return {"defect": _name(cause)}


def _name(defect: Exception) -> str:
    place = traceback.extract_tb(defect.__traceback__)[-1]
    return f"{type(defect).__name__}: {defect} at {os.path.basename(place.filename)}:{place.lineno}"[:500]
