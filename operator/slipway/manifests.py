"""The children of a ModelDeployment, rendered: Service, and for each revision a Deployment, its agent's ConfigMap and
the ControllerRevision that keeps it.

Invariant: names are deterministic, every child has our owner reference and labels, nothing is read from a cluster.
Pure. Only builders: who gets how many replicas is decided in `rollout`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from slipway.api.v1alpha1 import GROUP, KIND, VERSION, ModelDeployment, ModelDeploymentSpec
from slipway.revisions import Json, Revision, hash_of, served_version, user_choice, ways_of_fetching
from slipway.runtimes import RUNTIMES

MODEL_LABEL = f"{GROUP}/model"
REVISION_LABEL = f"{GROUP}/revision"
CONFIG_ANNOTATION = f"{GROUP}/agent-config"
AGENT_PORT = 8081
AGENT_CONFIG_KEY = "agent.json"
USER_ID = 65532

MERGE_KEYS: dict[str, tuple[str, ...]] = {
    "containers": ("name",),
    "initContainers": ("name",),
    "ephemeralContainers": ("name",),
    "env": ("name",),
    "volumes": ("name",),
    "volumeMounts": ("mountPath",),
    "volumeDevices": ("devicePath",),
    "ports": ("containerPort", "protocol"),
    "imagePullSecrets": ("name",),
    "hostAliases": ("ip",),
    "resourceClaims": ("name",),
    "topologySpreadConstraints": ("topologyKey", "whenUnsatisfiable"),
    "schedulingGates": ("name",),
}
"""The list-map keys of PodSpec, as the API server's own schema has them (tested against it); other lists replace."""


CHOICES = {"volumes", "resourceClaims", "env"}
"""List-maps whose items hold one of several fields."""


@dataclass(frozen=True, slots=True)
class Images:
    """What the operator runs pods with, unless the spec names another."""

    agent: str
    servers: Mapping[str, str]
    pull_policy: str


@dataclass(frozen=True, slots=True)
class Child:
    """A rendered object."""

    kind: str
    name: str
    manifest: Json


def labels_of(name: str, revision: str | None = None) -> dict[str, str]:
    """The labels of a ModelDeployment's children; with a revision, of that revision's."""
    labels = {"app.kubernetes.io/managed-by": "slipway", "app.kubernetes.io/part-of": name, MODEL_LABEL: name}
    return labels | ({REVISION_LABEL: revision} if revision else {})


def selector_of(name: str) -> str:
    """The label selector of all its pods, as text: what the scale subresource shows."""
    return f"{MODEL_LABEL}={name}"


def child_name(name: str, revision: str) -> str:
    """The name of a revision's objects."""
    return f"{name}-{revision}"


def new_revision(deployment: ModelDeployment, images: Images, number: int) -> Revision:
    """The revision that the spec asks for now, its pod template rendered with today's images."""
    spec = deployment.spec
    choice = user_choice(spec)
    name = hash_of(choice)
    template = render_template(deployment, images, name)
    return Revision(name, number, served_version(spec), choice, ways_of_fetching(spec), template)


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
        {"name": "slipway-config", "configMap": {"name": child_name(deployment.name, revision)}},
    ]
    agent_mounts: list[Json] = [
        {"name": "slipway-models", "mountPath": "/models"},
        {"name": "slipway-tmp", "mountPath": "/tmp"},  # noqa: S108 — a mount point in a container, not a shared folder
        {"name": "slipway-config", "mountPath": "/etc/slipway", "readOnly": True},
    ]
    if scheme == "pvc":
        volumes.append({"name": "slipway-source", "persistentVolumeClaim": {"claimName": place}})
        agent_mounts.append({"name": "slipway-source", "mountPath": "/source", "readOnly": True})
    elif scheme == "volume":
        agent_mounts.append({"name": place, "mountPath": "/source", "readOnly": True})
    if spec.storage is not None and spec.storage.ca_bundle is not None:
        bundle = spec.storage.ca_bundle
        items = [{"key": bundle.key, "path": "ca.crt"}]
        volumes.append({"name": "slipway-ca", "configMap": {"name": bundle.config_map_name, "items": items}})
        agent_mounts.append({"name": "slipway-ca", "mountPath": "/etc/slipway-ca", "readOnly": True})
    key = {"name": "SLIPWAY_SERVER_KEY", "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}}
    agent = {
        "name": "agent",
        "restartPolicy": "Always",
        "image": images.agent,
        "imagePullPolicy": images.pull_policy,
        "args": ["--config", f"/etc/slipway/{AGENT_CONFIG_KEY}"],
        "env": [key],
        "ports": [{"name": "agent", "containerPort": AGENT_PORT, "protocol": "TCP"}],
        # Holds the server's start back until the served version's files are published; a fetch may take a day.
        "startupProbe": {**_agent_probe("/startz"), "periodSeconds": 1, "failureThreshold": 86_400},
        # The pod's readiness: the served version is ready in the server.
        "readinessProbe": {**_agent_probe("/readyz"), "periodSeconds": 1, "failureThreshold": 2},
        "livenessProbe": {**_agent_probe("/healthz"), "periodSeconds": 10, "failureThreshold": 6},
        "resources": {"requests": {"cpu": "10m", "memory": "64Mi"}, "limits": {"memory": "256Mi"}},
        "securityContext": _container_security(),
        "volumeMounts": agent_mounts,
    }
    server = {
        "name": "server",
        "image": spec.runtime.image or images.servers[spec.runtime.name],
        "imagePullPolicy": images.pull_policy,
        "env": merge_list("env", [key], spec.runtime.env),
        "ports": [{"name": p.name, "containerPort": p.number, "protocol": "TCP"} for p in runtime.ports],
        "resources": _resources(deployment),
        "securityContext": _container_security(),
        "volumeMounts": [
            {"name": "slipway-models", "mountPath": "/models", "readOnly": True},
            {"name": "slipway-tmp", "mountPath": "/tmp"},  # noqa: S108 — as above
            {"name": "slipway-shm", "mountPath": "/dev/shm"},  # noqa: S108 — as above
        ],
        **runtime.container(spec, model_name(deployment)),
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


def _agent_probe(path: str) -> Json:
    return {"httpGet": {"path": path, "port": "agent"}, "timeoutSeconds": 2}


def _container_security() -> Json:
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


def model_name(deployment: ModelDeployment) -> str:
    """The name that clients put into the URL."""
    return deployment.spec.model.name or deployment.name


def merge(base: Json, extra: Mapping[str, Any]) -> Json:
    """`extra` merged into `base` as a strategic merge does: maps by key, list-maps by MERGE_KEYS, the rest replaced.

    >>> merge({"env": [{"name": "A", "value": "1"}]}, {"env": [{"name": "A", "value": "2"}, {"name": "B"}]})
    {'env': [{'name': 'A', 'value': '2'}, {'name': 'B'}]}
    """
    merged = dict(base)
    for key, value in extra.items():
        match merged.get(key), value:
            case dict() as ours, dict():
                merged[key] = merge(ours, value)
            case list() as ours, list() if key in MERGE_KEYS:
                merged[key] = merge_list(key, ours, value)
            case _:
                merged[key] = value
    return merged


def merge_list(field: str, base: list[Json], extra: list[Json]) -> list[Json]:
    """A list-map merged: items with the same keys merged in place, new ones appended.

    Where an item is a choice (one kind of volume, a value or where it comes from), another choice takes the first's
    place: the API server refuses both.
    """
    keys = MERGE_KEYS[field]

    def identity(item: Json) -> tuple[Any, ...]:
        return tuple(item.get(key, "TCP" if key == "protocol" else None) for key in keys)

    merged = {identity(item): item for item in base}
    for item in extra:
        ours = merged.get(identity(item), {})
        if field in CHOICES:
            ours = {key: value for key, value in ours.items() if key in item}
        merged[identity(item)] = merge(ours, item)
    return list(merged.values())


def spec_of(deployment: ModelDeployment, revision: Revision) -> ModelDeploymentSpec:
    """The spec that a revision was made from, as far as it makes the revision."""
    if revision.choice == user_choice(deployment.spec):
        return deployment.spec
    return ModelDeploymentSpec.model_validate(revision.choice)


def render_agent_config(deployment: ModelDeployment, revision: Revision, load: Iterable[int]) -> Json:
    """What the agents of a revision's pods are told (schema 1 of agent.json, see serving-images/agent/README.md).

    Place, served version, batching and model name are the revision's own. Pins, paths and the other versions follow
    the spec at once, with no pod restart, as long as the spec still speaks of the same place.
    """
    own = spec_of(deployment, revision)
    runtime = RUNTIMES[own.runtime.name]
    scheme, _, rest = own.model.uri.partition("://")
    path = rest.partition("/")[2].strip("/")
    fetching = revision.fetching
    if own.model.uri == deployment.spec.model.uri:
        fetching = ways_of_fetching(deployment.spec)
        if own is not deployment.spec:
            # The spec need not name the versions of revisions before it: those still have to be found.
            fetching["versions"] = revision.fetching["versions"] | fetching["versions"]
    key, settings = runtime.agent_settings(own)
    config: Json = {
        "schema": 1,
        "runtime": own.runtime.name,
        "model": own.model.name or deployment.name,
        "source": {
            "uri": own.model.uri,
            "path": None if scheme == "https" else f"/source/{path}".rstrip("/"),
            "versions": fetching["versions"],
            "allowRedirects": fetching["allowRedirects"],
            "caFile": "/etc/slipway-ca/ca.crt" if own.storage and own.storage.ca_bundle else None,
        },
        "served": revision.version,
        "load": list(load),
        "sha256": fetching["sha256"],
        key: settings,
    }
    return {"generation": hash_of(config)} | config


def render_service(deployment: ModelDeployment) -> Child:
    """The Service that clients use: all ready pods of all revisions."""
    runtime = RUNTIMES[deployment.spec.runtime.name]
    ports = [
        {
            "name": port.name,
            "port": port.number,
            "targetPort": port.name,
            "protocol": "TCP",
            "appProtocol": port.app_protocol,
        }
        for port in runtime.ports
    ]
    return _child(
        deployment,
        "v1",
        "Service",
        deployment.name,
        None,
        {"spec": {"selector": {MODEL_LABEL: deployment.name}, "ports": ports}},
    )


def render_controller_revision(deployment: ModelDeployment, revision: Revision) -> Child:
    """The object that keeps a revision: its data is immutable, so history survives and a rollback is exact."""
    data = {
        "version": revision.version,
        "choice": revision.choice,
        "fetching": revision.fetching,
        "template": revision.template,
    }
    return _child(
        deployment,
        "apps/v1",
        "ControllerRevision",
        child_name(deployment.name, revision.hash),
        revision.hash,
        {"data": data, "revision": revision.number},
    )


def render_config_map(deployment: ModelDeployment, revision: Revision, config: Json) -> Child:
    """The agent's orders. Each revision has its own, so that a stable pod that restarts loads stable's set."""
    return _child(
        deployment,
        "v1",
        "ConfigMap",
        child_name(deployment.name, revision.hash),
        revision.hash,
        {"data": {AGENT_CONFIG_KEY: json.dumps(config, indent=1)}},
    )


def render_deployment(deployment: ModelDeployment, revision: Revision, replicas: int) -> Child:
    """The pods of a revision, from the template that its ControllerRevision keeps."""
    return _child(
        deployment,
        "apps/v1",
        "Deployment",
        child_name(deployment.name, revision.hash),
        revision.hash,
        {
            "spec": {
                "replicas": replicas,
                "revisionHistoryLimit": 0,  # the ControllerRevisions are the history
                "selector": {"matchLabels": {MODEL_LABEL: deployment.name, REVISION_LABEL: revision.hash}},
                "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
                "template": revision.template,
            }
        },
    )


def _child(
    deployment: ModelDeployment, api_version: str, kind: str, name: str, revision: str | None, body: Json
) -> Child:
    metadata = {
        "name": name,
        "namespace": deployment.namespace,
        "labels": labels_of(deployment.name, revision),
        "ownerReferences": [
            {
                "apiVersion": f"{GROUP}/{VERSION}",
                "kind": KIND,
                "name": deployment.name,
                "uid": deployment.uid,
                "controller": True,
                "blockOwnerDeletion": True,
            }
        ],
    }
    return Child(kind, name, {"apiVersion": api_version, "kind": kind, "metadata": metadata, **body})
