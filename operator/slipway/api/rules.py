"""What must hold between fields: as CEL for the API server, and in Python for objects that are already stored.

A stored object may break a rule that is younger than itself, or come from a cluster without the CRD's validation. The
Python form names the values that it found, which CEL's messages can't; it also checks what CEL can't afford (weights
that rise) or can't see (the volumes of a podTemplate).
Must not import: kopf, kubernetes, anything that does I/O. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from slipway.api.pod_lists import said_twice
from slipway.api.urls import show_url
from slipway.api.v1alpha1 import CUSTOM_HTTP_PORT, MAX_NAME_LENGTH, Model, ModelDeploymentSpec, Runtime

URI_PATTERN = "^(pvc|https|volume|s3|oci)://[^/[:space:]?#]+(/[^[:space:]?#]*)?$"
"""RE2, as CEL reads it."""
URI_FORM = (
    "must be SCHEME://PLACE/path without spaces, ? or #. SCHEME is s3 or pvc; https or oci where model.versions names "
    "the versions; volume where podTemplate has that volume"
)
"""Each scheme with what it needs beside it: what a person takes from here must not be refused by the next rule."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule between fields: `cel` for the API server at `path` (dotted, from spec), the message for both."""

    path: str
    cel: str
    message: str


RULES: tuple[Rule, ...] = (
    Rule("model", f"self.uri.matches('{URI_PATTERN}')", f"uri {URI_FORM}"),
    Rule(
        "model",
        "!self.uri.matches('(^|[/:])[.][.](/|$)')",
        "uri must not contain '..'; write the path that is meant",
    ),
    Rule(
        "model",
        "!has(self.versions) || self.versions.all(k, !self.versions[k].matches('(^|/)[.][.](/|$)'))",
        "a path in versions must not contain '..'; write the path that is meant",
    ),
    Rule(
        "model",
        "!self.uri.matches('^(https|oci)://') || (has(self.versions) && size(self.versions) > 0)",
        'https and oci can\'t be listed: name each version in model.versions, as in {"1": model-1.onnx}',
    ),
    Rule(
        "model",
        "!has(self.version) || !has(self.versions) || size(self.versions) == 0 || "
        "string(self.version) in self.versions",
        "model.versions does not name model.version",
    ),
    Rule(
        "",
        "!has(self.versionPolicy) || !has(self.versionPolicy.specific) || !has(self.model.version) || "
        "(self.model.version in self.versionPolicy.specific.versions && "
        "self.versionPolicy.specific.versions.all(v, v <= self.model.version))",
        "versionPolicy.specific must name model.version, and none above it: an unversioned request gets the highest",
    ),
    Rule(
        "",
        "!has(self.versionPolicy) || !has(self.versionPolicy.specific) || has(self.model.version)",
        "versionPolicy.specific needs model.version: with none, the next one found would be above all of them",
    ),
    Rule(
        "",
        "!has(self.storage) || !has(self.storage.imageVolume) || !self.storage.imageVolume || !has(self.versionPolicy)",
        "storage.imageVolume mounts the served version alone: no versionPolicy with it",
    ),
    Rule(
        "versionPolicy",
        "(has(self.latest) ? 1 : 0) + (has(self.specific) ? 1 : 0) + (has(self.all) ? 1 : 0) == 1",
        "name exactly one of latest, specific, all",
    ),
    Rule("runtime", "self.name != 'Custom' || has(self.image)", "Custom needs spec.runtime.image"),
    Rule(
        "runtime",
        "self.name == 'Custom' || !(has(self.command) || has(self.httpPort) || has(self.grpcPort) || has(self.paths))",
        "command, httpPort, grpcPort and paths are for Custom; other servers have their own",
    ),
    Rule(
        "runtime",
        "!has(self.grpcPort) || self.grpcPort != (has(self.httpPort) ? self.httpPort : 8080)",
        "httpPort (8080 where it isn't set) and grpcPort must differ",
    ),
    Rule(
        "",
        "!has(self.storage) || !has(self.storage.imageVolume) || !self.storage.imageVolume || "
        "self.model.uri.startsWith('oci://')",
        "storage.imageVolume is for oci:// only",
    ),
    Rule(
        "",
        "!has(self.storage) || !has(self.storage.imageVolume) || !self.storage.imageVolume || !has(self.rollout) || "
        "!has(self.rollout.strategy) || self.rollout.strategy != 'InPlace'",
        "rollout.strategy InPlace can't change a mounted image: leave it out, or storage.imageVolume",
    ),
    Rule(
        "storage",
        "!has(self.verify) || self.verify != 'Require' || (has(self.publicKeys) && size(self.publicKeys) > 0)",
        "storage.verify Require needs storage.publicKeys: without one nothing could be verified",
    ),
    Rule(
        "storage",
        "has(self.verify) || !has(self.publicKeys) || size(self.publicKeys) == 0",
        "storage.publicKeys verify nothing without storage.verify: write Require, or Off",
    ),
    Rule(
        "rollout.steps[]",
        "has(self.weight) != has(self.pause) && (has(self.weight) || !has(self.holdSeconds))",
        "a step is a weight (with holdSeconds, if it is to last) or a pause",
    ),
    Rule(
        "rollout",
        "!has(self.strategy) || self.strategy == 'Canary' || !has(self.steps) || size(self.steps) == 0",
        "steps are for strategy Canary: remove them, or the other strategy",
    ),
    Rule(
        "rollout",
        "!has(self.analysis) || (has(self.analysis.mode) && self.analysis.mode == 'Off') || "
        "(has(self.steps) && size(self.steps) > 0) || "
        "(has(self.strategy) && self.strategy == 'Canary')",
        "analysis judges the traffic of steps: add steps, or remove analysis",
    ),
    Rule(
        "rollout",
        "!has(self.strategy) || self.strategy != 'InPlace' || !has(self.gates) || !has(self.gates.golden)",
        "gates.golden needs pods that get no requests yet: leave strategy InPlace out",
    ),
    Rule(
        "rollout.gates.golden",
        "(has(self.requests) && size(self.requests) > 0 ? 1 : 0) + (has(self.configMap) ? 1 : 0) + "
        "(has(self.file) ? 1 : 0) == 1",
        "name exactly one of requests, configMap, file",
    ),
    Rule(
        "",
        "!has(self.rollout) || !has(self.rollout.surge) || self.rollout.surge != 'Swap' || self.replicas != 1",
        "rollout.surge Swap needs replicas of 2 or more: the only pod can't make room for its successor",
    ),
    Rule(
        "rollout",
        "!has(self.surge) || self.surge != 'Swap' || (has(self.steps) && size(self.steps) > 0) || "
        "(has(self.strategy) && self.strategy == 'Canary')",
        "surge Swap is for canaries: add steps, or remove it",
    ),
    Rule("resources.limits", "self.all(k, !string(self[k]).startsWith('-'))", "a limit can't be negative"),
    Rule("resources.requests", "self.all(k, !string(self[k]).startsWith('-'))", "a request can't be negative"),
)


def broken_rules(name: str, spec: ModelDeploymentSpec) -> Iterator[str]:
    """What is wrong, each in words with the values found; nothing where every rule holds. name: the object's own."""
    if len(name) > MAX_NAME_LENGTH or not re.match(r"^[a-z]([-a-z0-9]*[a-z0-9])?$", name):
        yield f"metadata.name {name!r} must be a DNS-1035 label of at most {MAX_NAME_LENGTH} characters"
    yield from _broken_in_runtime(spec.runtime)
    yield from _broken_in_model(spec.model)
    yield from _broken_with_volume(spec)
    yield from _broken_with_image_volume(spec)
    yield from _broken_in_verification(spec)
    yield from _broken_in_policy(spec)
    yield from _broken_in_rollout(spec)
    yield from _broken_in_golden(spec)
    if doubled := list(said_twice(spec.pod_template or {})):
        yield "; ".join(doubled) + ". Remove one of them"


def _broken_in_runtime(runtime: Runtime) -> Iterator[str]:
    if runtime.name == "Custom" and runtime.image is None:
        yield "spec.runtime.image is missing; Custom has no image of the operator's"
    if runtime.name != "Custom" and any((runtime.command, runtime.http_port, runtime.grpc_port, runtime.paths)):
        yield (
            "spec.runtime: command, httpPort, grpcPort and paths are for Custom; "
            f"{runtime.name} has its own. Remove them"
        )
    if runtime.grpc_port is not None and runtime.grpc_port == (runtime.http_port or CUSTOM_HTTP_PORT):
        yield (
            f"spec.runtime.grpcPort {runtime.grpc_port} is spec.runtime.httpPort too"
            f"{'' if runtime.http_port else ', which is that where it is not set'}; give one of them another number"
        )


def _broken_in_model(model: Model) -> Iterator[str]:
    if not re.match(URI_PATTERN.replace("[:space:]", r"\s"), model.uri):
        yield f"spec.model.uri {show_url(model.uri)!r} {URI_FORM}"
    if _escapes(model.uri):
        yield f"spec.model.uri {show_url(model.uri)!r} must not contain '..'; write the path that is meant"
    if any(_escapes(path) for path in model.versions.values()):
        yield "spec.model.versions: a path must not contain '..'; write the path that is meant"
    if model.uri.startswith(("https://", "oci://")) and not model.versions:
        yield (
            f"spec.model.uri {show_url(model.uri)!r} can't be listed: name each version in spec.model.versions, "
            'as in {"1": model-1.onnx}'
        )
    if model.version is not None and model.versions and str(model.version) not in model.versions:
        yield f"spec.model.versions does not name version {model.version}"


def _broken_with_volume(spec: ModelDeploymentSpec) -> Iterator[str]:
    if not spec.model.uri.startswith("volume://"):
        return
    volume = spec.model.uri.removeprefix("volume://").partition("/")[0]
    volumes = ((spec.pod_template or {}).get("spec") or {}).get("volumes") or []
    names = sorted(str(item.get("name")) for item in volumes)
    if volume not in names:
        yield (
            f"spec.model.uri names volume {volume!r}, but spec.podTemplate.spec.volumes has "
            f"{', '.join(names) or 'none'}; add it there"
        )


def _broken_with_image_volume(spec: ModelDeploymentSpec) -> Iterator[str]:
    if spec.storage is None or not spec.storage.image_volume:
        return
    if spec.rollout.strategy == "InPlace":
        yield "spec.rollout.strategy InPlace can't change a mounted image: leave it out, or storage.imageVolume"
    if not spec.model.uri.startswith("oci://"):
        yield "spec.storage.imageVolume is for oci:// only; remove it"
    if spec.version_policy is not None:
        yield "spec.storage.imageVolume mounts the served version alone; remove spec.versionPolicy, or imageVolume"


def _broken_in_verification(spec: ModelDeploymentSpec) -> Iterator[str]:
    storage = spec.storage
    if storage is None:
        return
    if storage.verify == "Require" and not storage.public_keys:
        yield "spec.storage.verify Require needs spec.storage.publicKeys: without one nothing could be verified"
    if storage.verify is None and storage.public_keys:
        yield "spec.storage.publicKeys verify nothing without spec.storage.verify: write Require, or Off"


def _broken_in_policy(spec: ModelDeploymentSpec) -> Iterator[str]:
    if spec.version_policy is None or spec.version_policy.specific is None:
        return
    version, named = spec.model.version, spec.version_policy.specific.versions
    if version is None:
        yield (
            "spec.versionPolicy.specific needs spec.model.version: without one, the next version found would be above "
            "all of them. Name it, or write latest or all"
        )
    elif version not in named or max(named) > version:
        yield (
            f"spec.versionPolicy.specific {sorted(named)} must name spec.model.version {version}, and none "
            "above it: an unversioned request gets the highest version"
        )


def _broken_in_rollout(spec: ModelDeploymentSpec) -> Iterator[str]:
    rollout = spec.rollout
    weights = [step.weight for step in rollout.steps if step.weight is not None]
    has_steps = bool(rollout.steps) or rollout.strategy == "Canary"
    if any((step.weight is None) == (step.pause is None) for step in rollout.steps) or any(
        step.weight is None and step.hold_seconds is not None for step in rollout.steps
    ):
        yield "spec.rollout.steps: a step is a weight (with holdSeconds, if it is to last) or a pause"
    if any(later < earlier for earlier, later in pairwise(weights)):
        yield f"spec.rollout.steps: weights must rise, and {weights} do not: write them in rising order"
    if rollout.steps and rollout.strategy not in (None, "Canary"):
        yield f"spec.rollout.steps are for strategy Canary, and spec.rollout.strategy is {rollout.strategy}: remove one"
    if rollout.analysis is not None and rollout.analysis.mode != "Off" and not has_steps:
        yield "spec.rollout.analysis judges the traffic of steps: add spec.rollout.steps, or remove it"
    if rollout.surge == "Swap" and not has_steps:
        yield "spec.rollout.surge Swap is for canaries: add spec.rollout.steps, or remove it"
    if rollout.surge == "Swap" and spec.replicas == 1:
        yield "spec.rollout.surge Swap needs spec.replicas of 2 or more: the only pod can't make room for its successor"


def _broken_in_golden(spec: ModelDeploymentSpec) -> Iterator[str]:
    golden = spec.rollout.gates.golden if spec.rollout.gates else None
    if golden is None:
        return
    if spec.rollout.strategy == "InPlace":
        yield "spec.rollout.gates.golden needs pods that get no requests yet: leave spec.rollout.strategy InPlace out"
    if bool(golden.requests) + bool(golden.config_map) + bool(golden.file) != 1:
        yield "spec.rollout.gates.golden: name exactly one of requests, configMap, file"


def _escapes(path: str) -> bool:
    return ".." in re.split(r"[/:]", path)
