"""What a user writes: `ModelDeployment`, slipway.dev/v1alpha1.

The models here are the one source of the API: `crd.py` renders the CustomResourceDefinition from them, `parsing.py`
reads objects with them. A rule that one field can state is a bound on the field; others are in `rules.py`.

Invariant: every field and every value that can be written here works: what isn't built yet isn't here, so that the API
server refuses it.
Must not import: kopf, kubernetes, anything that does I/O.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic.alias_generators import to_camel

from slipway.api.quantity import QUANTITY, parse_quantity

GROUP = "slipway.dev"
VERSION = "v1alpha1"
KIND = "ModelDeployment"
PLURAL = "modeldeployments"

REVISION_FIELDS: Mapping[str, Any] = {
    "model": {"name", "uri", "version"},
    "runtime": True,
    "resources": True,
    "batching": True,
    "warmup": True,
    "pod_template": True,
    # what is mounted into the pod, so a part of its template
    "storage": {"ca_bundle", "secret_ref", "cache", "image_volume", "size_limit"},
}
"""What of the spec makes a revision, as pydantic includes it. The CRD has no defaults there: what the API server fills
in would be the user's choice to an operator with another default, and a new revision of every model."""

MAX_NAME_LENGTH = 40
"""Names of children are `<name>-<ten characters>`; pods append up to 17 more; a label value ends at 63."""

CUSTOM_HTTP_PORT = 8080
"""Where spec.runtime.httpPort isn't set."""

DNS_LABEL = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
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


MAX_VERSION = 2_147_483_647
"""An OpenAPI int32. Folders with higher numbers are no versions, to agents either."""


def _bounded(key: str) -> str:
    if int(key) > MAX_VERSION:
        raise ValueError(f"{key} is above {MAX_VERSION}, the highest version")
    return key


Version = Annotated[int, Field(ge=1, le=MAX_VERSION)]
VersionKey = Annotated[str, Field(pattern=r"^[1-9][0-9]{0,9}$"), AfterValidator(_bounded)]
Quantity = Annotated[int | str, Field(json_schema_extra={"x-kubernetes-int-or-string": True, "pattern": QUANTITY})]


class Paths(_Part):
    """REST paths of a server; {model} and {version} stand for the names of the model and the version."""

    live: str = Field(default="/v2/health/live", max_length=256, pattern="^/", description="200 while it lives.")
    ready: str = Field(
        default="/v2/models/{model}/ready",
        max_length=256,
        pattern="^/",
        description="200 when it can answer predictions.",
    )
    predict: str = Field(
        default="/v2/models/{model}/infer", max_length=256, pattern="^/", description="Answers predictions."
    )


class Runtime(_Part):
    """The model server, and the escape hatches for its container."""

    name: Literal["Triton", "TensorFlowServing", "TorchServe", "ONNXRuntime", "Custom"] = Field(
        description="The server that runs the model. Triton: ONNX and every other format that it reads. ONNXRuntime: "
        "ONNX on CPUs in a small image. Custom: any container of yours."
    )
    image: str | None = Field(
        default=None,
        min_length=1,
        max_length=512,
        description="Another image of that server. Default: the operator's. Required for Custom.",
    )
    command: list[Annotated[str, Field(max_length=1024)]] = Field(
        default_factory=list, max_length=16, description="Custom: the container's command. Default: the image's."
    )
    args: list[Annotated[str, Field(max_length=1024)]] = Field(
        default_factory=list,
        max_length=64,
        description="Arguments appended to the server's command line. Default: none.",
    )
    env: list[dict[str, Any]] = Field(
        default_factory=list,
        max_length=64,
        description="Environment variables of the server container, as in a Pod. Default: none.",
        json_schema_extra={"x-slipway-core": "V1EnvVar"},
    )
    instances: int | None = Field(
        default=None,
        ge=1,
        le=256,
        description="Copies of each version that one server runs side by side. Default: 1, on each GPU where there is "
        "one. Triton: instance_group count; TorchServe: workers; ONNXRuntime: predictions side by side, on one copy.",
    )
    gpu_memory_fraction: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="Share of a GPU's memory that the server may take, where the server can be told. Default: its own.",
    )
    http_port: int | None = Field(default=None, ge=1, le=65_535, description="Custom: its HTTP port. Default: 8080.")
    grpc_port: int | None = Field(default=None, ge=1, le=65_535, description="Custom: its gRPC port. Default: none.")
    paths: Paths | None = Field(
        default=None, description="Custom: its REST paths. Default: those of the Open Inference Protocol."
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
        "s3://BUCKET/path, pvc://CLAIM/path, volume://VOLUME/path (a volume of spec.podTemplate); with model.versions "
        "also https://HOST/path, oci://REGISTRY/repository.",
    )
    version: Version | None = Field(
        default=None,
        description="The version that clients get. Absent: the newest one found, followed as new ones appear.",
    )
    versions: dict[VersionKey, Annotated[str, Field(min_length=1, max_length=1024)]] = Field(
        default_factory=dict,
        max_length=256,
        description="Version number to path, URL or tag, for layouts that can't be listed. Required for https and "
        "oci. Paths and URLs may be relative to uri. Default: none; what is at uri is listed.",
    )
    sha256: dict[VersionKey, Annotated[str, Field(pattern=SHA256, max_length=64)]] = Field(
        default_factory=dict,
        max_length=256,
        description="Pins: version number to digest. Of a file: its sha256. Of a folder: the sha256 of the "
        "path-sorted sha256sum lines of its files. Default: none.",
    )
    labels: dict[Annotated[str, Field(max_length=63)], Version] = Field(
        default_factory=dict,
        max_length=32,
        description="TensorFlowServing: more labels for loaded versions. 'stable' and 'canary' are Slipway's own. "
        "Default: none.",
    )
    memory_factor: float = Field(
        default=1.5,
        ge=1,
        le=100,
        description="Memory that a version takes in the server, as a multiple of its bytes on disk. Where another "
        "version would not fit beside those loaded, under the memory limit, it is not loaded into that pod.",
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

    limits: dict[str, Quantity] = Field(
        default_factory=dict, max_length=32, description="The most it may use. Default: no limit."
    )
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


def _above_nothing(amount: int | str | None) -> int | str | None:
    if amount is None:
        return None
    if not re.match(QUANTITY, str(amount)) or parse_quantity(amount) < 1:
        raise ValueError(f"{amount!r} is no number of bytes; write for example 500Mi or 20Gi")
    return amount


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


class StorageLimits(_Part):
    """How large one version may be. They reach running pods at once."""

    unpacked_size: Quantity | None = Field(
        default=None,
        description="The most that an archive or image unpacks to. Default: 20 times its packed size, at least 1Gi.",
    )
    entries: int | None = Field(
        default=None,
        ge=1,
        le=200_000,
        description="The most files and folders that an archive or image holds. Default: 50000.",
    )

    _positive = field_validator("unpacked_size")(_above_nothing)


PUBLIC_KEY = "^-----BEGIN PUBLIC KEY-----\\n([A-Za-z0-9+/=]+\\n)+-----END PUBLIC KEY-----\\n?$"

_EC_KEY = bytes.fromhex("06072a8648ce3d0201")  # id-ecPublicKey, RFC 5480 section 2.1.1, in DER
_CURVES = tuple(bytes.fromhex(oid) for oid in ("06082a8648ce3d030107", "06052b81040022", "06052b81040023"))
"""P-256, P-384 and P-521, RFC 5480 section 2.1.1.1: those that model-signing knows."""


def _on_a_known_curve(pem: str) -> str:
    try:
        der = base64.b64decode("".join(pem.split("\n")[1:-1]).partition("-")[0], validate=True)
    except ValueError:
        raise ValueError("what stands between BEGIN and END is no base64; paste the whole file") from None
    if _EC_KEY not in der or not any(curve in der for curve in _CURVES):
        raise ValueError("is no EC key on P-256, P-384 or P-521; model-signing knows no other")
    return pem


PublicKey = Annotated[str, Field(max_length=1024, pattern=PUBLIC_KEY), AfterValidator(_on_a_known_curve)]


class Storage(_Part):
    """How the model is fetched."""

    allow_redirects: bool = Field(default=False, description="Follow HTTP redirects. A redirect can lead anywhere.")
    ca_bundle: Key | None = Field(
        default=None, description="Certificates of a private CA, PEM, for https, s3 and oci. Default: public ones."
    )
    secret_ref: Reference | None = Field(
        default=None,
        description="Secret with credentials for the store. s3: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, "
        "AWS_SESSION_TOKEN. https: token, or username and password; query.VERSION, or query of all versions, for what "
        "opens a presigned URL. oci: .dockerconfigjson, or username and password. "
        "Absent: the pod's own identity (its ServiceAccount's role), or none.",
    )
    endpoint: str | None = Field(
        default=None,
        max_length=512,
        pattern="^https?://[^/[:space:]?#]+/?$",
        description="s3: where the store answers; default: AWS. oci: http://HOST:PORT of a registry without TLS.",
    )
    region: str | None = Field(default=None, max_length=63, description="Region of the s3 store. Default: us-east-1.")
    path_style: bool | None = Field(
        default=None,
        description="s3: the bucket stands in the path, not in the host's name. Default: true with an endpoint.",
    )
    image_volume: bool = Field(
        default=False,
        description="oci: the node's container runtime mounts the image; the agent pulls nothing. Another version is "
        "another pod then.",
    )
    cache: Cache | None = Field(
        default=None, description="Keep fetched versions on a shared volume. Default: each pod fetches its own."
    )
    poll_interval_seconds: int = Field(
        default=60, ge=1, le=86_400, description="How often new versions are looked for."
    )
    size_limit: Quantity | None = Field(
        default=None,
        description="Room for models in each pod: the most that the agent puts there, the sizeLimit of its volume and "
        "the pod's ephemeral-storage request. Another one is a new revision. Default: what the node has.",
    )
    limits: StorageLimits | None = Field(
        default=None, description="How large one version may be. Default: as its fields say."
    )

    _positive = field_validator("size_limit")(_above_nothing)
    verify: Literal["Off", "Require"] | None = Field(
        default=None,
        description="Require: no version is loaded, of any revision, that isn't signed (model.sig in its folder, by "
        "OpenSSF's model-signing) with a key of publicKeys. Takes effect at once; what serves goes on. Default: Off.",
    )
    public_keys: list[PublicKey] = Field(
        default_factory=list,
        max_length=8,
        description="Public keys, PEM, one of which must have signed a version: EC, on P-256, P-384 or P-521. Name a "
        "new one beside the old one for as long as both are served. Default: none.",
    )

    @property
    def trusted_keys(self) -> list[str]:
        """The keys of which one must have signed a version; none: nothing is verified."""
        return self.public_keys if self.verify == "Require" else []


class Warmup(_Part):
    """Requests that run against each version, in each pod, before it counts as ready."""

    requests: list[dict[str, Any]] = Field(
        min_length=1,
        max_length=64,
        description="Bodies of predictions, in the server's own REST form.",
        json_schema_extra={"x-slipway-open": True},
    )


class Pause(_Part):
    """Wait for a person (kubectl slipway resume), or for a time."""

    duration_seconds: int | None = Field(
        default=None, ge=1, le=604_800, description="Go on by itself after this long. Absent: when a person resumes."
    )


class Step(_Part):
    """One step of a canary: a weight, or a pause. Weights rise; after the last step the canary is promoted."""

    weight: int | None = Field(default=None, ge=0, le=100, description="Percent of requests to the canary.")
    hold_seconds: int | None = Field(
        default=None, ge=0, le=604_800, description="How long the weight is held. Default: 0."
    )
    pause: Pause | None = Field(default=None, description="Wait until a person resumes, or for a time.")


class GoldenRequest(_Part):
    """A prediction whose answer is known."""

    name: str | None = Field(default=None, max_length=63, description="What messages call it. Default: its number.")
    request: dict[str, Any] = Field(
        description="Body of the prediction, in the server's own REST form.", json_schema_extra={"x-slipway-open": True}
    )
    response: Any = Field(
        description="What the answer must contain: its fields, numbers within the tolerance. Others are not compared. "
        "Any JSON: a TorchServe handler may answer with a list, or a number.",
        json_schema_extra={"x-slipway-open": "any"},
    )
    max_latency_milliseconds: int | None = Field(
        default=None,
        ge=1,
        le=3_600_000,
        description="The longest that the answer may take, once warm. Default: no limit.",
    )


class ConfigMapKey(_Part):
    """A key of a ConfigMap in the same namespace."""

    name: str = Field(max_length=253, description="Name of the ConfigMap.")
    key: str = Field(default="golden.json", max_length=253, description="Key in it.")


class Tolerance(_Part):
    """How far a number may be from the expected one: the larger of the two."""

    absolute: float = Field(default=1e-6, ge=0, description="By itself.")
    relative: float = Field(default=1e-4, ge=0, description="As a share of the expected number.")


class Golden(_Part):
    """Requests with known answers, asked of the new revision alone before it gets traffic. One of the three sources."""

    requests: list[GoldenRequest] = Field(default_factory=list, max_length=64, description="Written here.")
    config_map: ConfigMapKey | None = Field(
        default=None, description="A ConfigMap's key: a JSON list of objects with name, request, response."
    )
    file: str | None = Field(
        default=None, min_length=1, max_length=512, description="A file of that form in each version's own folder."
    )
    tolerance: Tolerance = Field(
        default_factory=Tolerance, description="How far numbers may be off. Default: as its fields say."
    )


class Gates(_Part):
    """What a new revision must pass before it gets any live traffic."""

    golden: Golden | None = Field(default=None, description="Requests with known answers. Default: none.")
    signature: Literal["Compatible", "Ignore"] | None = Field(
        default=None,
        description="Compatible: clients of the old version can use the new one: every input, output, type and shape "
        "that they know is still there. Default: Compatible where the server tells its models' signatures and there "
        "are steps, else Ignore.",
    )


class Analysis(_Part):
    """How live traffic is judged."""

    mode: Literal["Enforce", "Observe", "Off"] = Field(
        default="Enforce",
        description="Enforce: evidence decides. Observe: verdicts are shown. Off: nobody judges, steps go by time; "
        "this has to be written.",
    )
    alpha: float = Field(
        default=0.01, gt=0, lt=1, description="Most that a healthy canary may be rolled back wrongly, per rollout."
    )
    min_requests: int = Field(default=100, ge=1, description="Canary requests in a step before it can pass.")
    margin: float = Field(
        default=0.01,
        gt=0,
        lt=1,
        description="A difference that nobody cares about: the share of requests by which the canary may fail, or be "
        "slow, more often than stable. A step passes when the difference is surely below it.",
    )
    max_error_rate: float | None = Field(
        default=None, ge=0, le=1, description="Share of requests that may fail. Default: no limit."
    )
    max_latency_milliseconds: int | None = Field(
        default=None, ge=1, le=60_000, description="Bound on the latency quantile. Default: no limit."
    )
    latency_quantile: float = Field(default=0.99, gt=0, lt=1, description="Which quantile that bound is for.")
    on_inconclusive: Literal["RollBack", "Hold"] = Field(
        default="RollBack",
        description="What the deadline does when evidence is missing. Without an analysis block it is Hold.",
    )


class Rollout(_Part):
    """How a new revision takes over."""

    strategy: Literal["RollingUpdate", "Canary", "InPlace"] | None = Field(
        default=None,
        description="Canary: pods of the new revision beside the old ones, traffic by steps, judged. RollingUpdate: "
        "new pods ready, then traffic moves pod by pod. InPlace: the new version is loaded into the serving pods, "
        "where only the version differs. Default: Canary with steps, InPlace when only the version differs, else "
        "RollingUpdate.",
    )
    steps: list[Step] = Field(
        default_factory=list,
        max_length=32,
        description="Steps of a canary. Default with strategy Canary: 5, 25 and 50 percent for a minute each.",
    )
    gates: Gates | None = Field(
        default=None, description="What a new revision must pass before any live traffic. Default: as its fields say."
    )
    analysis: Analysis | None = Field(
        default=None,
        description="How live traffic is judged. Absent: wherever somebody counts requests (provider Router always; "
        "provider Replicas where the servers count failures), as with mode Enforce and onInconclusive Hold; elsewhere "
        "status says that nobody judges. mode: Off switches it off. Default: absent.",
    )
    surge: Literal["Pods", "Swap"] = Field(
        default="Pods", description="Pods: new pods beside old ones. Swap: one old pod makes room for each new one."
    )
    progress_deadline_seconds: int = Field(
        default=600, ge=10, le=86_400, description="A new revision without progress for this long is taken back."
    )
    capacity_deadline_seconds: int | None = Field(
        default=None,
        ge=1,
        le=86_400,
        description="How long a new revision may wait for room (a node, a quota, an image that is being pulled) before "
        "the stable one gets everything back. The new one isn't rejected: it is tried again when room may have come. "
        "Default: none, it waits.",
    )
    bake_seconds: int = Field(
        default=300,
        ge=0,
        le=604_800,
        description="How long the old version stays warm after a promotion by steps or in place; back takes seconds.",
    )
    revision_history_limit: int = Field(default=5, ge=1, le=50, description="Old revisions kept for a rollback.")


class RouterPods(_Part):
    """The router's own pods."""

    replicas: int = Field(default=2, ge=1, le=64, description="How many.")
    image: str | None = Field(
        default=None,
        min_length=1,
        max_length=512,
        description="Another image of it. Default: the operator's at the time when the router was made.",
    )
    resources: ResourceRequirements | None = Field(
        default=None, description="Resources of its container. Default: 50m CPU and 64Mi asked for, 256Mi at most."
    )


class Traffic(_Part):
    """Who splits the traffic."""

    provider: Literal["Router", "Replicas"] = Field(
        default="Router", description="Only needed while traffic is split; without steps there is no router."
    )
    timeout_seconds: int | None = Field(
        default=None,
        ge=1,
        le=86_400,
        description="Router: the longest a request may take. Default: as long as it takes.",
    )
    router: RouterPods | None = Field(default=None, description="Router: its pods. Default: as its fields say.")


class ModelDeploymentSpec(_Part):
    """What to serve, with which server, and how a new version takes over."""

    runtime: Runtime = Field(description="The model server.")
    model: Model = Field(description="The model and its versions.")
    version_policy: VersionPolicy | None = Field(
        default=None, description="Which other versions stay loaded. Default: none."
    )
    replicas: int = Field(default=1, ge=0, le=1000, description="Pods that serve.")
    resources: ResourceRequirements | None = Field(
        default=None, description="Resources of the server container. Default: none."
    )
    batching: Batching | None = Field(default=None, description="Dynamic batching in the server. Default: none.")
    warmup: Warmup | None = Field(default=None, description="Requests before a version counts as ready. Default: none.")
    storage: Storage | None = Field(default=None, description="How the model is fetched. Default: as its fields say.")
    rollout: Rollout = Field(
        default_factory=Rollout, description="How a new revision takes over. Default: as its fields say."
    )
    traffic: Traffic | None = Field(default=None, description="Who splits the traffic. Default: as its fields say.")
    pod_template: dict[str, Any] | None = Field(
        default=None,
        description="Merged into each model pod by the PodSpec's own keys: nodeSelector, tolerations, volumes, "
        "more containers and so on. Containers 'server' and 'agent' are Slipway's and can be added to. Default: "
        "nothing is added.",
        json_schema_extra={"x-slipway-core": "V1PodTemplateSpec"},
    )


class ModelDeployment(BaseModel):
    """One parsed object: who it is, and what it wants.

    written: the spec as it stands in the object, as JSON that is the same for the same spec; empty where it is too long
    to be kept beside it.
    """

    model_config = ConfigDict(frozen=True)

    namespace: str
    name: str
    uid: str
    generation: int
    spec: ModelDeploymentSpec
    written: str = ""
