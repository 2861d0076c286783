"""The children of a ModelDeployment, rendered: Service, for each revision the ControllerRevision that keeps it, and for
each carrier a Deployment and its agents' ConfigMap.

Invariant: names are deterministic, every child has our owner reference and labels, nothing is read from a cluster.
Pure. Only builders: who gets how many replicas is decided in `rollout`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from slipway.api.quantity import parse_quantity
from slipway.api.v1alpha1 import GROUP, KIND, VERSION, ModelDeployment, ModelDeploymentSpec
from slipway.model.revision import (
    DIGESTS_ANNOTATION,
    Json,
    Orders,
    Revision,
    hash_of,
    served_version,
    user_choice,
    ways_of_fetching,
)
from slipway.runtimes import RUNTIMES

MODEL_LABEL = f"{GROUP}/model"
REVISION_LABEL = f"{GROUP}/revision"
CONFIG_ANNOTATION = f"{GROUP}/agent-config"
POD_VARIABLE = "SLIPWAY_POD"
"""Its name, in agents and routers: they say whose they are, since an address may have become another pod's."""
ROUTER_CONFIG_ANNOTATION = f"{GROUP}/router-config"
CARRIES_ANNOTATION = f"{GROUP}/carries"
"""On a ConfigMap: the revision that its agents have orders for."""
REPLACES_ANNOTATION = f"{GROUP}/replaces"
"""On a ConfigMap: the revision before it in place, until bake is over."""
ROUTER_SUFFIX = ".router"
ROUTER_PORT_NAME = "router"
"""The router's one port: it tells HTTP and gRPC apart by itself."""
AGENT_PORT = 8081
AGENT_CONFIG_KEY = "agent.json"
RECORDED_KEY = "recorded.json"
CONFIG_VOLUME = "slipway-config"
SECRET_FOLDER = "/etc/slipway-secret"  # noqa: S105 — where a Secret is mounted, not one
CACHE_FOLDER = "/cache"
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
    """What the operator runs pods with, unless the spec names another. cluster_domain: under it Services have names."""

    agent: str
    servers: Mapping[str, str]
    router: str
    pull_policy: str
    cluster_domain: str = "cluster.local"


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


def router_label(name: str) -> str:
    """The model label of a router's pods. No name has a dot, so no selector of model pods finds them."""
    return f"{name}{ROUTER_SUFFIX}"


def model_of_label(value: str) -> str:
    """The ModelDeployment that a model label speaks of, a router's pods' included."""
    return value.removesuffix(ROUTER_SUFFIX)


def selector_of(name: str) -> str:
    """The label selector of all its pods, as text: what the scale subresource shows."""
    return f"{MODEL_LABEL}={name}"


def child_name(name: str, revision: str) -> str:
    """The name of a revision's objects."""
    return f"{name}-{revision}"


def new_revision(deployment: ModelDeployment, images: Images, number: int, former: Revision | None = None) -> Revision:
    """The revision that the spec asks for now, its pod template rendered with today's images.

    former: the revision whose carrier it takes over in place; its template stays then, to the letter.
    """
    spec = deployment.spec
    choice = user_choice(spec)
    name = hash_of(choice)
    template = former.template if former is not None else render_template(deployment, images, name)
    return Revision(name, number, served_version(spec), choice, ways_of_fetching(spec), template)


def carried_template(template: Json, name: str, carrier: str) -> Json:
    """A revision's template with its carrier's name in it: the pods' label, and the ConfigMap of their orders."""
    spec = template["spec"]
    volumes = [
        volume | {"configMap": volume["configMap"] | {"name": child_name(name, carrier)}}
        if volume["name"] == CONFIG_VOLUME and "configMap" in volume
        else volume
        for volume in spec["volumes"]
    ]
    labels = template["metadata"]["labels"] | {REVISION_LABEL: carrier}
    return template | {
        "metadata": template["metadata"] | {"labels": labels},
        "spec": spec | {"volumes": volumes},
    }


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


def render_agent_config(
    deployment: ModelDeployment,
    revision: Revision,
    load: Iterable[int],
    labels: Mapping[str, int],
    golden: Json | None = None,
) -> Json:
    """What the agents of a carrier's pods are told (schema 1 of agent.json, see serving-images/agent/README.md).

    Place, served version, batching, warm-up and model name are the revision's own. Pins, paths, labels, the memory
    factor, golden requests and the other versions follow the spec at once, with no pod restart, as long as it speaks
    of the same place.
    """
    own = spec_of(deployment, revision)
    runtime = RUNTIMES[own.runtime.name]
    fetching = revision.fetching
    if own.model.uri == deployment.spec.model.uri:
        fetching = ways_of_fetching(deployment.spec)
        if own is not deployment.spec:
            # The spec need not name the versions of revisions before it: those still have to be found.
            fetching["versions"] = revision.fetching["versions"] | fetching["versions"]
    key, settings = runtime.agent_settings(own)
    storage = own.storage
    source: Json = {
        "uri": own.model.uri,
        "path": _mounted_path(own),
        # A mounted image is the served version itself; its tag is no path in it.
        "versions": {} if storage is not None and storage.image_volume else fetching["versions"],
        "allowRedirects": fetching["allowRedirects"],
        "caFile": "/etc/slipway-ca/ca.crt" if storage and storage.ca_bundle else None,
    }
    if storage is not None and storage.secret_ref is not None:
        source |= {"credentials": SECRET_FOLDER, "secretName": storage.secret_ref.name}
    if storage is not None and storage.cache is not None:
        source["cache"] = CACHE_FOLDER
    source |= {name: fetching[name] for name in ("endpoint", "region", "pathStyle", "pollSeconds") if name in fetching}
    config: Json = {
        "schema": 1,
        "runtime": own.runtime.name,
        "model": own.model.name or deployment.name,
        "source": source,
        "served": revision.version or None,
        "load": list(load),
        "sha256": fetching["sha256"],
        key: settings,
    }
    if own.runtime.name == "TensorFlowServing":
        config["labels"] = dict(labels)
    if limit := memory_limit_bytes(own):
        config["memory"] = {"limitBytes": limit, "factor": deployment.spec.model.memory_factor}
    if own.warmup is not None:
        config["warmup"] = own.warmup.requests
    if golden is not None:
        config["golden"] = golden
    return {"generation": hash_of(config)} | config


def _mounted_path(spec: ModelDeploymentSpec) -> str | None:
    """Where the agent finds the source in its own files; None when it has to fetch it."""
    scheme, _, rest = spec.model.uri.partition("://")
    if scheme in ("pvc", "volume"):
        return f"/source/{rest.partition('/')[2].strip('/')}".rstrip("/")
    return "/source" if spec.storage is not None and spec.storage.image_volume else None


def memory_limit_bytes(spec: ModelDeploymentSpec) -> int | None:
    """The server container's memory limit; None without one."""
    limit = spec.resources.limits.get("memory") if spec.resources else None
    return None if limit is None else int(parse_quantity(limit))


def render_service(deployment: ModelDeployment, carrier: str | None = None, *, to_router: bool = False) -> Child:
    """The Service that clients use: the routers, one carrier's ready pods, or all ready pods."""
    runtime = RUNTIMES[deployment.spec.runtime.name]
    ports = [
        {
            "name": port.name,
            "port": port.number,
            "targetPort": ROUTER_PORT_NAME if to_router else port.name,
            "protocol": "TCP",
            "appProtocol": port.app_protocol,
        }
        for port in runtime.ports(deployment.spec)
        if port.name in ("http", "grpc") or not to_router
    ]
    selector = {MODEL_LABEL: router_label(deployment.name) if to_router else deployment.name}
    if carrier is not None and not to_router:
        selector[REVISION_LABEL] = carrier
    return owned(
        deployment,
        "v1",
        "Service",
        deployment.name,
        None,
        {"spec": {"selector": selector, "ports": ports}},
    )


def render_controller_revision(deployment: ModelDeployment, revision: Revision, digests: Mapping[int, str]) -> Child:
    """The object that keeps a revision: its data is immutable, so history survives and a rollback is exact.

    digests: version → sha256 of what was served under that number, found out since.
    """
    data = {
        "version": revision.version,
        "choice": revision.choice,
        "fetching": revision.fetching,
        "template": revision.template,
    }
    child = owned(
        deployment,
        "apps/v1",
        "ControllerRevision",
        child_name(deployment.name, revision.hash),
        revision.hash,
        {"data": data, "revision": revision.number},
    )
    if digests:
        child.manifest["metadata"]["annotations"] = {DIGESTS_ANNOTATION: write_digests(digests)}
    return child


def write_digests(digests: Mapping[int, str]) -> str:
    """Version → sha256 as JSON, always in the same order."""
    return json.dumps({str(version): digests[version] for version in sorted(digests)})


def render_config_map(
    deployment: ModelDeployment, carrier: str, orders: Orders, config: Json, recorded: Mapping[int, str]
) -> Child:
    """The agents' orders. Each carrier has its own, so that a stable pod that restarts loads stable's set.

    recorded: what the versions' bytes were when they were first served. Agents read it when they fetch; it is no part
    of the configuration's generation.
    """
    data = {AGENT_CONFIG_KEY: json.dumps(config, indent=1)}
    if recorded:
        data[RECORDED_KEY] = write_digests(recorded)
    child = owned(deployment, "v1", "ConfigMap", child_name(deployment.name, carrier), carrier, {"data": data})
    annotations = {CARRIES_ANNOTATION: orders.revision, REPLACES_ANNOTATION: orders.replaces or ""}
    child.manifest["metadata"]["annotations"] = annotations
    return child


def render_deployment(deployment: ModelDeployment, carrier: str, template: Json, replicas: int) -> Child:
    """The pods of a carrier, from the template that the carried revision's ControllerRevision keeps."""
    return owned(
        deployment,
        "apps/v1",
        "Deployment",
        child_name(deployment.name, carrier),
        carrier,
        {
            "spec": {
                "replicas": replicas,
                "revisionHistoryLimit": 0,  # the ControllerRevisions are the history
                "selector": {"matchLabels": {MODEL_LABEL: deployment.name, REVISION_LABEL: carrier}},
                "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
                "template": carried_template(template, deployment.name, carrier),
            }
        },
    )


def owned(
    deployment: ModelDeployment, api_version: str, kind: str, name: str, revision: str | None, body: Json
) -> Child:
    """An object that goes with the ModelDeployment. revision: of the label; None: it belongs to no revision."""
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
