"""Which spec a pass goes by: the object's own, or, while that can't be read, the last one that could be.

An edit that can't be carried out must not stop what runs from being judged, steered and taken back. So the last spec
that could be read stands beside the object, as it was written, on Service `<name>`, and the pass goes on by it.
Invariant: both are read by the same rules. No pass goes by a spec that this operator can't read, whoever could read it.
Pure.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from slipway import runtimes
from slipway.api import ModelDeployment, SpecError, parse
from slipway.decide import weights as traffic
from slipway.model.names import LAST_SPEC_ANNOTATION
from slipway.model.workload import Trouble
from slipway.observe.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class SpecRead:
    """What to go by. asked: None: neither can be read. problem: why the object's own can't be; None: it can."""

    asked: ModelDeployment | None
    problem: Trouble | None = None


def read_spec(body: Mapping[str, Any], snapshot: Snapshot) -> SpecRead:
    """The object's own spec; else the last one that could be read, with the object's own name and generation."""
    try:
        return SpecRead(_readable(body))
    except SpecError as error:
        problem = Trouble(error.reason, error.message)
    try:
        return SpecRead(_readable({**body, "spec": _last_spec(body["metadata"]["name"], snapshot)}), problem)
    except (SpecError, ValueError):
        return SpecRead(None, problem)


def _readable(body: Mapping[str, Any]) -> ModelDeployment:
    """Raises SpecError."""
    asked = parse(dict(body))
    runtimes.refuse_what_it_cant(asked.spec)
    traffic.refuse_what_it_cant(asked.spec)
    return asked


def _last_spec(name: str, snapshot: Snapshot) -> Any:
    """Raises ValueError where none is kept, as before the first one, or beside what a former release made."""
    service = snapshot.live.get(("Service", name), {"metadata": {}})
    return json.loads((service["metadata"].get("annotations") or {}).get(LAST_SPEC_ANNOTATION) or "")
