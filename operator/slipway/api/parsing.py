"""Reads an object as the API server stores it, or says in words why it can't be carried out.

Must not import: kopf, kubernetes, anything that does I/O. Pure.
"""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError
from pydantic.alias_generators import to_camel

from slipway.api.rules import broken_rules
from slipway.api.v1alpha1 import ModelDeployment, ModelDeploymentSpec, SpecError

NOT_YET: tuple[tuple[str, str], ...] = (
    ("autoscaling", "write spec.replicas, or scale this object with a HorizontalPodAutoscaler of your own"),
)
"""Fields (dotted) that a later release implements, with what to write until then."""


def parse(body: dict[str, Any]) -> ModelDeployment:
    """Read an object as the API server stores it.

    Raises SpecError(InvalidSpec) when a rule is broken, which can happen to objects stored before the rule existed or
    without the CRD's validation, and SpecError(NotYetSupported) for a field that this release does not implement.
    """
    meta = body["metadata"]
    try:
        spec = ModelDeploymentSpec.model_validate(body.get("spec") or {})
    except ValidationError as error:
        raise SpecError("InvalidSpec", "; ".join(_plain(problem) for problem in error.errors())) from None
    for message in broken_rules(meta["name"], spec):
        raise SpecError("InvalidSpec", message)
    _refuse_not_yet(spec)
    return ModelDeployment(
        namespace=meta["namespace"],
        name=meta["name"],
        uid=meta["uid"],
        generation=meta.get("generation", 0),
        spec=spec,
    )


def _plain(problem: Any) -> str:
    where = ".".join(str(part) for part in problem["loc"])
    match problem["type"]:
        case "extra_forbidden":
            return f"spec.{where} is no field; check its spelling with kubectl explain modeldeployment.spec"
        case "missing":
            return f"spec.{where} is missing"
        case _:
            return f"spec.{where}: {problem['msg'].removeprefix('Value error, ')}"


def _refuse_not_yet(spec: ModelDeploymentSpec) -> None:
    def refuse(what: str, instead: str) -> None:
        raise SpecError("NotYetSupported", f"{what} is not implemented in this release; {instead}")

    scheme = spec.model.uri.partition("://")[0]
    if scheme in ("gs", "az", "hf"):
        refuse(f"spec.model.uri {scheme}://", "use s3://, oci://, https://, pvc:// or volume://")
    for path, instead in NOT_YET:
        value: Any = spec
        for part in path.split("."):
            value = getattr(value, part, None)
        if value:
            refuse("spec." + ".".join(to_camel(part) for part in path.split(".")), instead)
    if spec.rollout.strategy not in (None, "Canary", "RollingUpdate", "InPlace"):
        refuse(f"spec.rollout.strategy {spec.rollout.strategy}", "write Canary, RollingUpdate or InPlace")
    if spec.traffic is not None and spec.traffic.provider not in ("Router", "Replicas"):
        refuse(f"spec.traffic.provider {spec.traffic.provider}", "write Router or Replicas")
