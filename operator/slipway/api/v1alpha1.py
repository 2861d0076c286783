"""What a user writes: `ModelDeployment`, slipway.dev/v1alpha1.

The models here are the one source of the API: `crd.py` renders the CustomResourceDefinition from them, `parse` reads
objects with them. A rule that one field can state is a bound on the field; a rule between fields is a `Rule`, written
once as CEL for the API server and once in Python for objects that are already stored.

Invariant: every field has its final meaning from the first release. What this release does not implement yet is
listed in `NOT_YET` and refused by `parse` with a `SpecError`, never silently ignored.
Must not import: kopf, kubernetes, anything that does I/O.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic.alias_generators import to_camel

GROUP = "slipway.dev"
VERSION = "v1alpha1"
KIND = "ModelDeployment"
PLURAL = "modeldeployments"

MAX_NAME_LENGTH = 40
"""Names of children are `<name>-<ten characters>`; pods append up to 17 more; a label value ends at 63."""

URI_PATTERN = "^(pvc|https|volume|s3|gs|az|hf|oci)://[^/[:space:]?#]+(/[^[:space:]?#]*)?$"
"""RE2, as CEL reads it."""
URI_FORM = "must be SCHEME://PLACE/path without spaces, with a scheme of pvc, https, volume, s3, gs, az, hf, oci"
DNS_LABEL = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
NUMBER = r"(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))"
QUANTITY = rf"^[+-]?{NUMBER}([KMGTPE]i|[numkMGTPE]|[eE][+-]?{NUMBER})?$"
SHA256 = r"^[a-f0-9]{64}$"


class SpecError(Exception):
    """A spec that can't be carried out as written. Becomes a condition; never retried until the spec changes.

    `reason` is a CamelCase constant, `message` says what, where and what to write instead.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


class _Part(BaseModel):
    """A part of the API: camelCase on the wire, unknown fields refused, values frozen."""

    model_config = ConfigDict(
        alias_generator=to_camel, validate_by_name=True, validate_by_alias=True, extra="forbid", frozen=True
    )


Version = Annotated[int, Field(ge=1, le=2_147_483_647)]
VersionKey = Annotated[str, Field(pattern=r"^[1-9][0-9]{0,9}$")]
Quantity = Annotated[int | str, Field(json_schema_extra={"x-kubernetes-int-or-string": True, "pattern": QUANTITY})]


class Runtime(_Part):
    """The model server, and the escape hatches for its container."""

    name: Literal["Triton", "TensorFlowServing", "TorchServe", "ONNXRuntime", "Custom"] = Field(
        description="The server that runs the model. This release serves with Triton (ONNX and every other format "
        "that Triton reads)."
    )
    image: str | None = Field(
        default=None, min_length=1, max_length=512, description="Another image of that server. Default: the operator's."
    )
    args: list[Annotated[str, Field(max_length=1024)]] = Field(
        default_factory=list, max_length=64, description="Arguments appended to the server's command line."
    )
    env: list[dict[str, Any]] = Field(
        default_factory=list,
        max_length=64,
        description="Environment variables of the server container, as in a Pod.",
        json_schema_extra={"x-slipway-core": "V1EnvVar"},
    )


class Model(_Part):
    """Which model, where its versions are, and which one clients get."""

    name: str | None = Field(
        default=None,
        max_length=63,
        pattern=r"^[A-Za-z0-9]([-_.A-Za-z0-9]*[A-Za-z0-9])?$",
        description="The name that clients put into the URL. Default: the ModelDeployment's own name.",
    )
    uri: str = Field(
        max_length=1024,
        description="Where the model is: a folder with one folder (or file) per version below it, or one model. "
        "pvc://CLAIM/path, volume://VOLUME/path (a volume of spec.podTemplate), https://HOST/path.",
    )
    version: Version | None = Field(
        default=None,
        description="The version that clients get. Absent: the newest one found, followed as new ones appear.",
    )
    versions: dict[VersionKey, Annotated[str, Field(min_length=1, max_length=1024)]] = Field(
        default_factory=dict,
        max_length=256,
        description="Version number to path, URL or tag, for layouts that can't be listed. Required for https, hf, "
        "oci. Paths and URLs may be relative to uri.",
    )
    sha256: dict[VersionKey, Annotated[str, Field(pattern=SHA256, max_length=64)]] = Field(
        default_factory=dict,
        max_length=256,
        description="Pins: version number to digest. Of a file: its sha256. Of a folder: the sha256 of the "
        "path-sorted sha256sum lines of its files.",
    )


class Latest(_Part):
    """The newest versions up to the served one."""

    count: int = Field(default=1, ge=1, le=64, description="How many, the served one counted.")


class Specific(_Part):
    """Named versions."""

    versions: list[Version] = Field(
        min_length=1, max_length=64, description="Which; the served version must be the highest of them."
    )


class VersionPolicy(_Part):
    """Which versions beside the served one stay loaded and addressable by number. One of the three."""

    latest: Latest | None = Field(default=None, description="The served version and the count-1 before it.")
    specific: Specific | None = Field(default=None, description="Exactly these.")
    all: dict[str, Any] | None = Field(
        default=None,
        max_length=0,
        description="Every version found, up to the served one.",
        json_schema_extra={"type": "object"},
    )

    @model_validator(mode="after")
    def _one_of(self) -> VersionPolicy:
        if sum(choice is not None for choice in (self.latest, self.specific, self.all)) != 1:
            raise ValueError("name exactly one of latest, specific, all")
        return self


class ResourceRequirements(_Part):
    """Resources of the server container, as in a Pod; extended resources such as nvidia.com/gpu go into limits."""

    limits: dict[str, Quantity] = Field(default_factory=dict, max_length=32, description="The most it may use.")
    requests: dict[str, Quantity] = Field(
        default_factory=dict, max_length=32, description="What is set aside for it. Default: the limits."
    )

    @field_validator("limits", "requests")
    @classmethod
    def _positive(cls, amounts: dict[str, int | str]) -> dict[str, int | str]:
        for name, amount in amounts.items():
            if not re.match(QUANTITY, str(amount)):
                raise ValueError(f"{name}: {amount!r} is no quantity; write for example 500m, 2, 4Gi")
            if str(amount).startswith("-"):
                raise ValueError(f"{name}: {amount!r} is negative")
        return amounts


class Batching(_Part):
    """Requests that arrive together run together."""

    max_batch_size: int = Field(ge=1, le=65_536, description="The most requests in one batch.")
    max_delay_microseconds: int = Field(
        default=0, ge=0, le=60_000_000, description="How long a request may wait for others."
    )


class Key(_Part):
    """A key of a ConfigMap or Secret."""

    config_map_name: str = Field(max_length=253, description="Name of the ConfigMap, in the same namespace.")
    key: str = Field(default="ca.crt", max_length=253, description="Key in it.")


class Reference(_Part):
    """A name in the same namespace."""

    name: str = Field(max_length=253, description="Name.")


class Cache(_Part):
    """A volume that replicas share, so that each version is fetched once."""

    claim_name: str = Field(max_length=253, description="A PersistentVolumeClaim that all replicas can mount.")


class Storage(_Part):
    """How the model is fetched."""

    allow_redirects: bool = Field(
        default=False, description="Follow HTTP redirects. Off by default: a redirect can lead anywhere."
    )
    ca_bundle: Key | None = Field(default=None, description="Certificates of a private CA, PEM, for https.")
    secret_ref: Reference | None = Field(default=None, description="Secret with credentials for the store.")
    cache: Cache | None = Field(default=None, description="Keep fetched versions on a shared volume.")
    poll_interval_seconds: int | None = Field(
        default=None, ge=5, le=86_400, description="How often new versions are looked for when model.version is absent."
    )


class Warmup(_Part):
    """Requests that run before a version counts as ready."""

    requests: list[dict[str, Any]] = Field(
        default_factory=list,
        max_length=64,
        description="Requests in the server's own REST form.",
        json_schema_extra={"x-slipway-open": True},
    )


class Pause(_Part):
    """Wait for a person."""


class Step(_Part):
    """One step of a canary: a weight, or a pause."""

    weight: int | None = Field(default=None, ge=0, le=100, description="Percent of requests to the canary.")
    hold_seconds: int | None = Field(default=None, ge=0, le=604_800, description="How long the weight is held.")
    pause: Pause | None = Field(default=None, description="Wait until a person resumes.")


class Analysis(_Part):
    """How live traffic is judged."""

    mode: Literal["Enforce", "Observe", "Off"] = Field(
        default="Enforce", description="Enforce: evidence decides. Observe: verdicts are shown. Off: none."
    )
    alpha: float = Field(
        default=0.01, gt=0, lt=1, description="Most that a healthy canary may be rolled back wrongly, per rollout."
    )
    min_requests: int = Field(default=100, ge=1, description="Requests in a step before it can pass.")
    max_error_rate: float | None = Field(default=None, ge=0, le=1, description="Share of requests that may fail.")
    max_latency_milliseconds: int | None = Field(default=None, ge=1, description="Bound on the latency quantile.")
    latency_quantile: float = Field(default=0.99, gt=0, lt=1, description="Which quantile that bound is for.")
    on_inconclusive: Literal["RollBack", "Hold"] = Field(
        default="RollBack", description="What the deadline does when evidence is missing."
    )


class Rollout(_Part):
    """How a new revision takes over."""

    strategy: Literal["RollingUpdate", "Canary", "InPlace", "BlueGreen", "Recreate"] | None = Field(
        default=None,
        description="RollingUpdate: new pods ready, then traffic moves pod by pod. Default: Canary with steps, "
        "InPlace when only the version differs, else RollingUpdate; this release: RollingUpdate.",
    )
    steps: list[Step] = Field(default_factory=list, max_length=32, description="Steps of a canary.")
    analysis: Analysis | None = Field(default=None, description="How live traffic is judged. Absent: not at all.")
    surge: Literal["Pods", "Swap"] = Field(
        default="Pods", description="Pods: new pods beside old ones. Swap: one old pod makes room for each new one."
    )
    progress_deadline_seconds: int = Field(
        default=600, ge=10, le=86_400, description="A new revision without progress for this long is taken back."
    )
    bake_seconds: int | None = Field(
        default=None, ge=0, le=604_800, description="How long the old revision stays warm after promotion."
    )
    revision_history_limit: int = Field(default=5, ge=1, le=50, description="Old revisions kept for a rollback.")


class Traffic(_Part):
    """Who splits the traffic."""

    provider: Literal["Router", "GatewayAPI", "Istio", "Replicas"] = Field(
        default="Router", description="Only needed while traffic is split; without steps there is no router."
    )
    timeout_seconds: int | None = Field(default=None, ge=1, le=86_400, description="The longest a request may take.")


class Autoscaling(_Part):
    """Replicas by load."""

    min_replicas: int = Field(default=1, ge=0, le=1000, description="Never fewer.")
    max_replicas: int = Field(ge=1, le=1000, description="Never more.")
    target_cpu_percent: int | None = Field(default=None, ge=1, le=100, description="Wanted CPU use.")


class ModelDeploymentSpec(_Part):
    """What to serve, with which server, and how a new version takes over."""

    runtime: Runtime = Field(description="The model server.")
    model: Model = Field(description="The model and its versions.")
    version_policy: VersionPolicy | None = Field(
        default=None, description="Which other versions stay loaded. Default: none."
    )
    replicas: int = Field(default=1, ge=0, le=1000, description="Pods that serve.")
    autoscaling: Autoscaling | None = Field(default=None, description="Replicas by load, instead of a number.")
    resources: ResourceRequirements | None = Field(default=None, description="Resources of the server container.")
    batching: Batching | None = Field(default=None, description="Dynamic batching in the server.")
    warmup: Warmup | None = Field(default=None, description="Requests before a version counts as ready.")
    storage: Storage | None = Field(default=None, description="How the model is fetched.")
    rollout: Rollout = Field(default_factory=Rollout, description="How a new revision takes over.")
    traffic: Traffic | None = Field(default=None, description="Who splits the traffic.")
    pod_template: dict[str, Any] | None = Field(
        default=None,
        description="Merged into each model pod by the PodSpec's own keys: nodeSelector, tolerations, volumes, "
        "more containers and so on. Containers 'server' and 'agent' are Slipway's and can be added to.",
        json_schema_extra={"x-slipway-core": "V1PodTemplateSpec"},
    )


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
        "!self.uri.matches('^(https|hf|oci)://') || (has(self.versions) && size(self.versions) > 0)",
        'https, hf and oci can\'t be listed: name each version in model.versions, as in {"1": model-1.onnx}',
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
        "versionPolicy",
        "(has(self.latest) ? 1 : 0) + (has(self.specific) ? 1 : 0) + (has(self.all) ? 1 : 0) == 1",
        "name exactly one of latest, specific, all",
    ),
    Rule("resources.limits", "self.all(k, !string(self[k]).startsWith('-'))", "a limit can't be negative"),
    Rule("resources.requests", "self.all(k, !string(self[k]).startsWith('-'))", "a request can't be negative"),
)

NOT_YET: tuple[tuple[str, str], ...] = (
    ("autoscaling", "write spec.replicas, or scale this object with a HorizontalPodAutoscaler of your own"),
    ("warmup", "leave it out"),
    ("traffic", "leave it out: Service <name> reaches all ready pods"),
    ("storage.secret_ref", "use pvc://, volume:// or an https:// URL that needs no credentials"),
    ("storage.cache", "leave it out: each pod fetches for itself"),
    ("storage.poll_interval_seconds", "leave it out, and name spec.model.version"),
    ("rollout.steps", "leave them out: a new revision rolls out pod by pod"),
    ("rollout.analysis", "leave it out"),
)
"""Fields (dotted) that a later release implements, with what to write until then."""


class ModelDeployment(BaseModel):
    """One parsed object: who it is, and what it wants."""

    model_config = ConfigDict(frozen=True)

    namespace: str
    name: str
    uid: str
    generation: int
    spec: ModelDeploymentSpec


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
    _refuse_broken_rules(meta["name"], spec)
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


def _refuse_broken_rules(name: str, spec: ModelDeploymentSpec) -> None:
    """The Python form of RULES and of the CRD's bounds on names."""
    model = spec.model
    broken = [
        (
            len(name) > MAX_NAME_LENGTH or not re.match(r"^[a-z]([-a-z0-9]*[a-z0-9])?$", name),
            f"metadata.name {name!r} must be a DNS-1035 label of at most {MAX_NAME_LENGTH} characters",
        ),
        (
            not re.match(URI_PATTERN.replace("[:space:]", r"\s"), model.uri),
            f"spec.model.uri {model.uri!r} {URI_FORM}",
        ),
        (_escapes(model.uri), f"spec.model.uri {model.uri!r} must not contain '..'; write the path that is meant"),
        (
            any(_escapes(path) for path in model.versions.values()),
            "spec.model.versions: a path must not contain '..'; write the path that is meant",
        ),
        (
            model.uri.startswith(("https://", "hf://", "oci://")) and not model.versions,
            f"spec.model.uri {model.uri!r} can't be listed: name each version in spec.model.versions, "
            'as in {"1": model-1.onnx}',
        ),
        (
            model.version is not None and bool(model.versions) and str(model.version) not in model.versions,
            f"spec.model.versions does not name version {model.version}",
        ),
    ]
    if model.uri.startswith("volume://"):
        volume = model.uri.removeprefix("volume://").partition("/")[0]
        volumes = ((spec.pod_template or {}).get("spec") or {}).get("volumes") or []
        names = sorted(str(item.get("name")) for item in volumes)
        broken.append(
            (
                volume not in names,
                f"spec.model.uri names volume {volume!r}, but spec.podTemplate.spec.volumes has "
                f"{', '.join(names) or 'none'}; add it there",
            )
        )
    policy = spec.version_policy
    if policy is not None and policy.specific is not None and model.version is not None:
        named = policy.specific.versions
        broken.append(
            (
                model.version not in named or max(named) > model.version,
                f"spec.versionPolicy.specific {sorted(named)} must name spec.model.version {model.version}, and none "
                "above it: an unversioned request gets the highest version",
            )
        )
    for is_broken, message in broken:
        if is_broken:
            raise SpecError("InvalidSpec", message)


def _escapes(path: str) -> bool:
    return ".." in re.split(r"[/:]", path)


def _refuse_not_yet(spec: ModelDeploymentSpec) -> None:
    def refuse(what: str, instead: str) -> None:
        raise SpecError("NotYetSupported", f"{what} is not implemented in this release; {instead}")

    if spec.runtime.name != "Triton":
        refuse(f"spec.runtime.name {spec.runtime.name}", "write Triton")
    scheme = spec.model.uri.partition("://")[0]
    if scheme not in ("pvc", "https", "volume"):
        refuse(f"spec.model.uri {scheme}://", "use pvc://, https:// or volume://")
    if spec.model.version is None:
        refuse("finding the newest version by itself", "write spec.model.version")
    for path, instead in NOT_YET:
        value: Any = spec
        for part in path.split("."):
            value = getattr(value, part, None)
        if value:
            refuse("spec." + ".".join(to_camel(part) for part in path.split(".")), instead)
    if spec.rollout.strategy not in (None, "RollingUpdate"):
        refuse(f"spec.rollout.strategy {spec.rollout.strategy}", "write RollingUpdate, or leave it out")
    if spec.rollout.surge != "Pods":
        refuse(f"spec.rollout.surge {spec.rollout.surge}", "write Pods, or leave it out")
    if spec.rollout.bake_seconds:
        refuse("spec.rollout.bakeSeconds", "leave it out")
