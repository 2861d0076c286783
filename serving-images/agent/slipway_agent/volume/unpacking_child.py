"""The process that unpacks: an order on standard input, one line on standard output. Run by `confined.process`.

Imports of the agent's only what unpacks.
"""

import json
import os
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from slipway_agent.model.errors import SpecError
from slipway_agent.model.limits import Budget, Limits, Room
from slipway_agent.volume.archive import unpack
from slipway_agent.volume.image_layers import Layers


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


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_unpack(json.load(sys.stdin))))
