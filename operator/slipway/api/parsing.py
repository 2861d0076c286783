"""Reads an object as the API server stores it, or says in words why it can't be carried out.

Must not import: kopf, kubernetes, anything that does I/O. Pure.
"""

from __future__ import annotations

import json
from typing import Any

from pydantic import ValidationError

from slipway.api.rules import broken_rules
from slipway.api.v1alpha1 import ModelDeployment, ModelDeploymentSpec, SpecError

MAX_WRITTEN_BYTES = 200 * 1024
"""All annotations of an object may have 256 KiB together."""


def parse(body: dict[str, Any]) -> ModelDeployment:
    """Read an object as the API server stores it.

    Raises SpecError(InvalidSpec) for a field or value that isn't there and for a rule that is broken, which can happen
    to objects stored before the rule existed or without the CRD's validation.
    """
    meta = body["metadata"]
    try:
        spec = ModelDeploymentSpec.model_validate(body.get("spec") or {})
    except ValidationError as error:
        raise SpecError("InvalidSpec", "; ".join(_plain(problem) for problem in error.errors())) from None
    for message in broken_rules(meta["name"], spec):
        raise SpecError("InvalidSpec", message)
    return ModelDeployment(
        namespace=meta["namespace"],
        name=meta["name"],
        uid=meta["uid"],
        generation=meta.get("generation", 0),
        spec=spec,
        written=_written(body.get("spec") or {}),
    )


def _written(spec: dict[str, Any]) -> str:
    text = json.dumps(spec, sort_keys=True, separators=(",", ":"))
    return text if len(text) <= MAX_WRITTEN_BYTES else ""  # ASCII: as many bytes as characters


def _plain(problem: Any) -> str:
    where = ".".join(str(part) for part in problem["loc"])
    match problem["type"]:
        case "extra_forbidden":
            return f"spec.{where} is no field; check its spelling with kubectl explain modeldeployment.spec"
        case "missing":
            return f"spec.{where} is missing"
        case _:
            return f"spec.{where}: {problem['msg'].removeprefix('Value error, ')}"
