"""The pod template of a revision: the agent as native sidecar, the server, the user's podTemplate merged in.

Invariant: rendered once, when the revision is made, and kept in its ControllerRevision; later passes read it there.
Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from slipway.api.v1alpha1 import ModelDeployment, ModelDeploymentSpec
from slipway.model.names import AGENT_CONFIG_KEY, AGENT_PORT, CONFIG_VOLUME, POD_VARIABLE, child_name, labels_of
from slipway.model.revision import (
    Json,
    Revision,
    model_name,
    served_version,
)
from slipway.render.merge import merge, merge_list
from slipway.runtimes import RUNTIMES

SECRET_FOLDER = "/etc/slipway-secret"  # noqa: S105 — where a Secret is mounted, not one

CACHE_FOLDER = "/cache"

USER_ID = 65532


@dataclass(frozen=True, slots=True)
class Images:
    """What the operator runs pods with, unless the spec names another. cluster_domain: under it Services have names."""

    agent: str
    servers: Mapping[str, str]
    router: str
    pull_policy: str
    cluster_domain: str = "cluster.local"


def with_template(deployment: ModelDeployment, revision: Revision, images: Images) -> Revision:
    """The revision with a pod template: the one that it has, or, of one that is new, rendered with today's images."""
    if revision.template:
        return revision
    return replace(revision, template=render_template(deployment, images, revision.hash))


def render_template(deployment: ModelDeployment, images: Images, revision: str) -> Json:
    """The pod template of a revision: agent as native sidecar, server, the user's podTemplate merged in."""
    spec = deployment.spec
    runtime = RUNTIMES[spec.runtime.name]
    scheme, _, rest = spec.model.uri.partition("://")
    place = rest.partition("/")[0]
    volumes: list[Json] = [  # prefixed: a user's podTemplate may well have a volume called models
        {"name": "slipway-models", "emptyDir": {}},
        {"name": "slipway-tmp", "emptyDir": {}},
        {"name": "slipway-shm", "emptyDir": {"medium": "Memory", "sizeLimit": "256Mi"}},
        {"name": CONFIG_VOLUME, "configMap": {"name": child_name(deployment.name, revision)}},
    ]
    agent_mounts: list[Json] = [
        {"name": "slipway-models", "mountPath": "/models"},
        {"name": "slipway-tmp", "mountPath": "/tmp"},  # noqa: S108 — a mount point in a container, not a shared folder
        {"name": CONFIG_VOLUME, "mountPath": "/etc/slipway", "readOnly": True},
    ]
    if scheme == "pvc":
        volumes.append({"name": "slipway-source", "persistentVolumeClaim": {"claimName": place}})
        agent_mounts.append({"name": "slipway-source", "mountPath": "/source", "readOnly": True})
    elif scheme == "volume":
        agent_mounts.append({"name": place, "mountPath": "/source", "readOnly": True})
    elif spec.storage is not None and spec.storage.image_volume:
        image = {"reference": image_reference(spec), "pullPolicy": images.pull_policy}
        volumes.append({"name": "slipway-source", "image": image})
        agent_mounts.append({"name": "slipway-source", "mountPath": "/source", "readOnly": True})
    if spec.storage is not None and spec.storage.ca_bundle is not None:
        bundle = spec.storage.ca_bundle
        items = [{"key": bundle.key, "path": "ca.crt"}]
        volumes.append({"name": "slipway-ca", "configMap": {"name": bundle.config_map_name, "items": items}})
        agent_mounts.append({"name": "slipway-ca", "mountPath": "/etc/slipway-ca", "readOnly": True})
    if spec.storage is not None and spec.storage.secret_ref is not None:
        # Optional: a Secret that comes later is picked up, and one that never comes is the agent's to explain.
        secret = {"secretName": spec.storage.secret_ref.name, "optional": True}
        volumes.append({"name": "slipway-secret", "secret": secret})
        agent_mounts.append({"name": "slipway-secret", "mountPath": SECRET_FOLDER, "readOnly": True})
    if spec.storage is not None and spec.storage.cache is not None:
        claim = {"claimName": spec.storage.cache.claim_name}
        volumes.append({"name": "slipway-cache", "persistentVolumeClaim": claim})
        agent_mounts.append({"name": "slipway-cache", "mountPath": CACHE_FOLDER})
    own_name = {"name": POD_VARIABLE, "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}
    key = {"name": "SLIPWAY_SERVER_KEY", "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}}
    agent = {
        "name": "agent",
        "restartPolicy": "Always",
        "image": images.agent,
        "imagePullPolicy": images.pull_policy,
        "args": ["--config", f"/etc/slipway/{AGENT_CONFIG_KEY}"],
        "env": [key, own_name],
        "ports": [{"name": "agent", "containerPort": AGENT_PORT, "protocol": "TCP"}],
        # Holds the server's start back until the served version's files are published; a fetch may take a day.
        "startupProbe": {**_agent_probe("/startz"), "periodSeconds": 1, "failureThreshold": 86_400},
        # The pod's readiness: the served version is ready in the server.
        "readinessProbe": {**_agent_probe("/readyz"), "periodSeconds": 1, "failureThreshold": 2},
        "livenessProbe": {**_agent_probe("/healthz"), "periodSeconds": 10, "failureThreshold": 6},
        "resources": {"requests": {"cpu": "10m", "memory": "64Mi"}, "limits": {"memory": "256Mi"}},
        "securityContext": container_security(),
        "volumeMounts": agent_mounts,
    }
    own = runtime.container(spec, model_name(deployment))
    server = {
        "name": "server",
        "image": spec.runtime.image or images.servers[spec.runtime.name],
        "imagePullPolicy": images.pull_policy,
        **own,
        "env": merge_list("env", [key, *own.get("env", [])], spec.runtime.env),
        "ports": [{"name": p.name, "containerPort": p.number, "protocol": "TCP"} for p in runtime.ports(spec)],
        # Its last words reach the condition where it ends by itself.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "resources": _resources(deployment),
        "securityContext": container_security(),
        "volumeMounts": [
            {"name": "slipway-models", "mountPath": "/models", "readOnly": True},
            {"name": "slipway-tmp", "mountPath": "/tmp"},  # noqa: S108 — as above
            {"name": "slipway-shm", "mountPath": "/dev/shm"},  # noqa: S108 — as above
        ],
    }
    template: Json = {
        "metadata": {"labels": labels_of(deployment.name, revision)},
        "spec": {
            "initContainers": [agent],
            "containers": [server],
            "volumes": volumes,
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "terminationGracePeriodSeconds": runtime.grace_seconds,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": USER_ID,
                "runAsGroup": USER_ID,
                "fsGroup": USER_ID,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
        },
    }
    merged = merge(template, spec.pod_template or {})
    merged["metadata"]["labels"] |= labels_of(deployment.name, revision)  # the selector's own: not the user's to change
    return merged


def image_reference(spec: ModelDeploymentSpec) -> str:
    """The image of the served version at an oci:// place: REPOSITORY:TAG or REPOSITORY@sha256:DIGEST."""
    repository = spec.model.uri.removeprefix("oci://").rstrip("/")
    tag = spec.model.versions[str(served_version(spec))]
    return f"{repository}{'@' if tag.startswith('sha256:') else ':'}{tag}"


def _agent_probe(path: str) -> Json:
    return {"httpGet": {"path": path, "port": "agent"}, "timeoutSeconds": 2}


def container_security() -> Json:
    """Of every container of ours."""
    return {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def _resources(deployment: ModelDeployment) -> Json:
    resources = deployment.spec.resources
    if resources is None:
        return {}
    return {
        part: {name: str(amount) for name, amount in amounts.items()}
        for part, amounts in (("limits", resources.limits), ("requests", resources.requests))
        if amounts
    }
