"""The ModelDeployment API: pydantic models that are the one source of the CRD, the parser and the docs."""

from slipway.api.parsing import parse
from slipway.api.v1alpha1 import GROUP, KIND, PLURAL, VERSION, ModelDeployment, ModelDeploymentSpec, SpecError

__all__ = ["GROUP", "KIND", "PLURAL", "VERSION", "ModelDeployment", "ModelDeploymentSpec", "SpecError", "parse"]
