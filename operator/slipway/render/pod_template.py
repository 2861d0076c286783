"""The pod template of a revision: the agent as native sidecar, the server, the user's podTemplate merged in.

Invariant: rendered once, when the revision is made, and kept in its ControllerRevision; later passes read it there.
Only a person's refresh renders it anew (`render.refresh`).
Must not import: report, controller. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from slipway.api.v1alpha1 import ModelDeployment, ModelDeploymentSpec, ResourceRequirements
from slipway.model.names import AGENT_CONFIG_KEY, AGENT_PORT, CONFIG_VOLUME, POD_VARIABLE, child_name, labels_of
from slipway.model.revision import Json, Revision, model_name, served_version
from slipway.model.server_key import first_secret, key_from
from slipway.render.merge import merge, merge_list
from slipway.render.network_policy import Peers
from slipway.runtimes import RUNTIMES

SECRET_FOLDER = "/etc/slipway-secret"  # noqa: S105 — where a Secret is mounted, not one

CACHE_FOLDER = "/cache"

AGENT_TMP_VOLUME = "slipway-agent-tmp"

LOG_VOLUME = "slipway-server-log"

LOG_LIMIT = "16Mi"
"""Four times what TorchServe keeps of it. A server that writes more is evicted: it fills no node's disk."""

USER_ID = 65532


@dataclass(frozen=True, slots=True)
class Images:
    """What the operator runs pods with, unless the spec names another. cluster_domain: under it Services have names.
    peers: who may reach them; None: no NetworkPolicy says so."""

    agent: str
    servers: Mapping[str, str]
    router: str
    pull_policy: str
    cluster_domain: str = "cluster.local"
    peers: Peers | None = None


def with_template(deployment: ModelDeployment, revision: Revision, images: Images) -> Revision:
    """The revision with a pod template: the one that it has, or, of one that is new, rendered with today's images."""
    if revision.template:
        return revision
    return replace(revision, template=render_template(deployment, images, revision.hash))


def render_template(deployment: ModelDeployment, images: Images, revision: str) -> Json:
    """The pod template of a revision: agent as native sidecar, server, the user's podTemplate merged in."""
    spec = deployment.spec
    sources, size_limit = _sources(spec, images), spec.storage.size_limit if spec.storage is not None else None
    key = (
        [key_from(first_secret(deployment.name, deployment.uid, revision))]
        if RUNTIMES[spec.runtime.name].asks_for_key
        else []
    )
    template: Json = {
        "metadata": {"labels": labels_of(deployment.name, revision)},
        "spec": {
            "initContainers": [_agent_container(images, sources, key, size_limit)],
            "containers": [_server_container(deployment, images, key)],
            "volumes": _volumes(child_name(deployment.name, revision), sources, size_limit),
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "terminationGracePeriodSeconds": RUNTIMES[spec.runtime.name].grace_seconds,
            "securityContext": pod_security(),
        },
    }
    merged = merge(template, spec.pod_template or {})
    merged["metadata"]["labels"] |= labels_of(deployment.name, revision)  # the selector's own: not the user's to change
    return merged


@dataclass(frozen=True, slots=True)
class _Source:
    """Something that the agent reads from, or keeps what it read in. The server has none of it, but for its own log.

    volume: without its name; None: the user's podTemplate brings the volume.
    """

    name: str
    volume: Json | None
    folder: str
    is_read_only: bool = True


def _sources(spec: ModelDeploymentSpec, images: Images) -> list[_Source]:
    """What the spec has the agent mount: the model's own volume, a CA bundle, a Secret, a cache, the server's log."""
    storage = spec.storage
    model = _model_source(spec, images)
    sources = [model] if model is not None else []
    if storage is not None and storage.ca_bundle is not None:
        items = [{"key": storage.ca_bundle.key, "path": "ca.crt"}]
        bundle = {"configMap": {"name": storage.ca_bundle.config_map_name, "items": items}}
        sources.append(_Source("slipway-ca", bundle, "/etc/slipway-ca"))
    if storage is not None and storage.secret_ref is not None:
        # Optional: a Secret that comes later is picked up, and one that never comes is the agent's to explain.
        secret = {"secret": {"secretName": storage.secret_ref.name, "optional": True}}
        sources.append(_Source("slipway-secret", secret, SECRET_FOLDER))
    if storage is not None and storage.cache is not None:
        claim = {"persistentVolumeClaim": {"claimName": storage.cache.claim_name}}
        sources.append(_Source("slipway-cache", claim, CACHE_FOLDER, is_read_only=False))
    if (folder := RUNTIMES[spec.runtime.name].log_folder) is not None:
        sources.append(_Source(LOG_VOLUME, {"emptyDir": {"sizeLimit": LOG_LIMIT}}, folder))
    return sources


def _model_source(spec: ModelDeploymentSpec, images: Images) -> _Source | None:
    """The volume that the model lies in; None: the agent fetches it."""
    scheme, _, rest = spec.model.uri.partition("://")
    place = rest.partition("/")[0]
    if scheme == "pvc":
        return _Source("slipway-source", {"persistentVolumeClaim": {"claimName": place}}, "/source")
    if scheme == "volume":
        return _Source(place, None, "/source")
    if spec.storage is not None and spec.storage.image_volume:
        image = {"reference": image_reference(spec), "pullPolicy": images.pull_policy}
        return _Source("slipway-source", {"image": image}, "/source")
    return None


def _volumes(config_map: str, sources: Iterable[_Source], size_limit: int | str | None) -> list[Json]:
    """All volumes of a pod. config_map: of its agents' configuration.

    What the server may write, the agent doesn't have, but for one small log: a model's code runs in the server, and
    must find nothing there that the agent would import, read as its settings or wait for.
    """
    models: Json = {} if size_limit is None else {"sizeLimit": str(size_limit)}
    return [  # prefixed: a user's podTemplate may well have a volume called models
        {"name": "slipway-models", "emptyDir": models},
        {"name": "slipway-tmp", "emptyDir": {}},
        {"name": AGENT_TMP_VOLUME, "emptyDir": {}},
        {"name": "slipway-shm", "emptyDir": {"medium": "Memory", "sizeLimit": "256Mi"}},
        {"name": CONFIG_VOLUME, "configMap": {"name": config_map}},
        *({"name": source.name, **source.volume} for source in sources if source.volume is not None),
    ]


def _agent_container(images: Images, sources: Iterable[_Source], key: list[Json], size_limit: int | str | None) -> Json:
    """key: what the agent shows to the server where an API is the agent's alone, as a variable; none where none is."""
    mounts: list[Json] = [
        {"name": "slipway-models", "mountPath": "/models"},
        {"name": AGENT_TMP_VOLUME, "mountPath": "/tmp"},  # noqa: S108 — a mount point in a container, not a shared folder
        {"name": CONFIG_VOLUME, "mountPath": "/etc/slipway", "readOnly": True},
    ]
    for source in sources:
        mount = {"name": source.name, "mountPath": source.folder}
        mounts.append({**mount, "readOnly": True} if source.is_read_only else mount)
    requests = {"cpu": "10m", "memory": "64Mi"}
    if size_limit is not None:  # what the models take is set aside on the node, and evicts nobody
        requests["ephemeral-storage"] = str(size_limit)
    return {
        "name": "agent",
        "restartPolicy": "Always",
        "image": images.agent,
        "imagePullPolicy": images.pull_policy,
        "args": ["--config", f"/etc/slipway/{AGENT_CONFIG_KEY}"],
        "env": [*key, pod_name_variable()],
        "ports": [{"name": "agent", "containerPort": AGENT_PORT, "protocol": "TCP"}],
        # Holds the server's start back until the served version's files are published; a fetch may take a day.
        "startupProbe": {**_agent_probe("/startz"), "periodSeconds": 1, "failureThreshold": 86_400},
        # The pod's readiness: the served version is ready in the server.
        "readinessProbe": {**_agent_probe("/readyz"), "periodSeconds": 1, "failureThreshold": 2},
        "livenessProbe": {**_agent_probe("/healthz"), "periodSeconds": 10, "failureThreshold": 6},
        "resources": {"requests": requests, "limits": {"memory": "256Mi"}},
        "securityContext": container_security(),
        "volumeMounts": mounts,
    }


def _server_container(deployment: ModelDeployment, images: Images, key: list[Json]) -> Json:
    spec = deployment.spec
    runtime = RUNTIMES[spec.runtime.name]
    own = runtime.container(spec, model_name(deployment))
    return {
        "name": "server",
        "image": spec.runtime.image or images.servers[spec.runtime.name],
        "imagePullPolicy": images.pull_policy,
        **own,
        "env": merge_list("env", [*key, *own.get("env", [])], spec.runtime.env),
        "ports": [{"name": p.name, "containerPort": p.number, "protocol": "TCP"} for p in runtime.ports(spec)],
        # Its last words reach the condition where it ends by itself.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "resources": write_resources(spec.resources) if spec.resources is not None else {},
        "securityContext": container_security(),
        "volumeMounts": [
            {"name": "slipway-models", "mountPath": "/models", "readOnly": True},
            {"name": "slipway-tmp", "mountPath": "/tmp"},  # noqa: S108 — as above
            *([{"name": LOG_VOLUME, "mountPath": runtime.log_folder}] if runtime.log_folder else []),
            {"name": "slipway-shm", "mountPath": "/dev/shm"},  # noqa: S108 — as above
        ],
    }


def image_reference(spec: ModelDeploymentSpec) -> str:
    """The image of the served version at an oci:// place: REPOSITORY:TAG or REPOSITORY@sha256:DIGEST."""
    repository = spec.model.uri.removeprefix("oci://").rstrip("/")
    tag = spec.model.versions[str(served_version(spec))]
    return f"{repository}{'@' if tag.startswith('sha256:') else ':'}{tag}"


def _agent_probe(path: str) -> Json:
    return {"httpGet": {"path": path, "port": "agent"}, "timeoutSeconds": 2}


def pod_name_variable() -> Json:
    """Agents and routers say by it whose they are."""
    return {"name": POD_VARIABLE, "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}


def pod_security() -> Json:
    """Of every pod of ours."""
    return {
        "runAsNonRoot": True,
        "runAsUser": USER_ID,
        "runAsGroup": USER_ID,
        "fsGroup": USER_ID,
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def container_security() -> Json:
    """Of every container of ours."""
    return {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def write_resources(resources: ResourceRequirements) -> Json:
    """Limits and requests as a container has them, amounts as text; a part without any is left out."""
    return {
        part: {name: str(amount) for name, amount in amounts.items()}
        for part, amounts in (("limits", resources.limits), ("requests", resources.requests))
        if amounts
    }
