"""The children of a ModelDeployment as objects: Service, ControllerRevisions, each workload's Deployment and agents'
ConfigMap.

Invariant: names are deterministic, every child has our owner reference and labels. Builders alone: how many pods a
workload gets is decided in `decide`.
Must not import: report, controller. Pure.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from slipway.api.v1alpha1 import GROUP, KIND, VERSION, ModelDeployment
from slipway.model.names import (
    AGENT_CONFIG_KEY,
    LAST_SPEC_ANNOTATION,
    MODEL_LABEL,
    PORTS_ANNOTATION,
    RECORDED_KEY,
    REFRESHED_ANNOTATION,
    REPLACES_ANNOTATION,
    REVISION_ANNOTATION,
    REVISION_LABEL,
    ROUTER_PORT_NAME,
    STABLE_ANNOTATION,
    child_name,
    labels_of,
    metrics_name,
    router_label,
)
from slipway.model.revision import DIGESTS_ANNOTATION, Assignment, Json, Revision, workload_template, write_refresh
from slipway.model.server_key import KEY_FIELD
from slipway.render.ports import ServicePort


@dataclass(frozen=True, slots=True)
class Child:
    """A rendered object.

    is_optional: nothing waits for it. Where its name is taken, or the API server refuses it, it is left out.
    """

    kind: str
    name: str
    manifest: Json
    is_optional: bool = False


@dataclass(frozen=True, slots=True)
class ObjectKind:
    """A kind of object, in the version of its API that we write."""

    api_version: str
    kind: str


CONFIG_MAP = ObjectKind("v1", "ConfigMap")

CONTROLLER_REVISION = ObjectKind("apps/v1", "ControllerRevision")

DEPLOYMENT = ObjectKind("apps/v1", "Deployment")

NETWORK_POLICY = ObjectKind("networking.k8s.io/v1", "NetworkPolicy")

POD_DISRUPTION_BUDGET = ObjectKind("policy/v1", "PodDisruptionBudget")

SECRET = ObjectKind("v1", "Secret")

API_VERSIONS = {each.kind: each.api_version for each in (CONFIG_MAP, CONTROLLER_REVISION)}
"""Of what owns a Secret of ours: an object from the cache doesn't say it."""

SERVICE = ObjectKind("v1", "Service")


def render_service(
    deployment: ModelDeployment,
    workload: str | None = None,
    *,
    ports: Sequence[ServicePort],
    to_router: bool = False,
    stable: str | None = None,
) -> Child:
    """The Service that clients use: the routers, one workload's ready pods, or all ready pods.

    stable: the stable revision, which it is to name.
    """
    selector = {MODEL_LABEL: router_label(deployment.name) if to_router else deployment.name}
    if workload is not None and not to_router:
        selector[REVISION_LABEL] = workload
    spec = {
        "selector": selector,
        "ports": [_service_port(port, ROUTER_PORT_NAME if to_router else port.target) for port in ports],
    }
    # A port of ours that goes is no difference to see: others may add ports. The list of ours changes then.
    annotations = {
        LAST_SPEC_ANNOTATION: deployment.written,
        PORTS_ANNOTATION: " ".join(str(port.number) for port in ports),
    }
    if stable:
        annotations[STABLE_ANNOTATION] = stable
    return owned(deployment, SERVICE, deployment.name, {"spec": spec}, annotations=annotations)


def render_metrics_service(deployment: ModelDeployment, ports: Sequence[ServicePort]) -> Child:
    """The Service by which Prometheus finds the pods of all revisions, ready or not. Nobody's requests depend on it."""
    spec = {
        "clusterIP": "None",
        "publishNotReadyAddresses": True,
        "selector": {MODEL_LABEL: deployment.name},
        "ports": [_service_port(port, port.target) for port in ports],
    }
    annotations = {PORTS_ANNOTATION: " ".join(str(port.number) for port in ports)}
    child = owned(deployment, SERVICE, metrics_name(deployment.name), {"spec": spec}, annotations=annotations)
    child.manifest["metadata"]["labels"]["app.kubernetes.io/component"] = "metrics"
    return replace(child, is_optional=True)


def _service_port(port: ServicePort, target: str) -> Json:
    return {
        "name": port.name,
        "port": port.number,
        "targetPort": target,
        "protocol": "TCP",
        "appProtocol": port.app_protocol,
    }


def render_controller_revision(deployment: ModelDeployment, revision: Revision, digests: Mapping[int, str]) -> Child:
    """The object that keeps a revision: its data is immutable, so history survives and a rollback is exact. What a
    refresh put in the template's place stands in an annotation.

    digests: version → sha256 of what was served under that number, found out since.
    """
    data = {
        "version": revision.version,
        "choice": revision.choice,
        "fetching": revision.fetching,
        "template": revision.template,
    }
    annotations = {DIGESTS_ANNOTATION: write_digests(digests)} if digests else {}
    if revision.refresh is not None:
        annotations[REFRESHED_ANNOTATION] = write_refresh(revision.refresh)
    return owned(
        deployment,
        CONTROLLER_REVISION,
        child_name(deployment.name, revision.hash),
        {"data": data, "revision": revision.number},
        revision_label=revision.hash,
        annotations=annotations,
    )


def write_digests(digests: Mapping[int, str]) -> str:
    """Version → sha256 as JSON, always in the same order."""
    return json.dumps({str(version): digests[version] for version in sorted(digests)})


def render_config_map(
    deployment: ModelDeployment, workload: str, assignment: Assignment, config: Json, recorded: Mapping[int, str]
) -> Child:
    """The agents' configuration. Each workload has its own, so that a stable pod that restarts loads stable's set.

    recorded: what the versions' bytes were when they were first served. Agents read it when they fetch; it is no part
    of the configuration's generation.
    """
    data = {AGENT_CONFIG_KEY: json.dumps(config, indent=1)}
    if recorded:
        data[RECORDED_KEY] = write_digests(recorded)
    return owned(
        deployment,
        CONFIG_MAP,
        child_name(deployment.name, workload),
        {"data": data},
        revision_label=workload,
        annotations={REVISION_ANNOTATION: assignment.revision, REPLACES_ANNOTATION: assignment.replaces or ""},
    )


def render_deployment(
    deployment: ModelDeployment, workload: str, template: Json, replicas: int, secret: str | None = None
) -> Child:
    """A workload's pods.

    template: as the ControllerRevision of its revision keeps it. Another one, after a refresh, is taken up pod by pod,
    and no old pod goes before a new one is ready. secret: what their key is in, if the template takes one from a
    Secret; None: as it stands there.
    """
    spec = {
        "replicas": replicas,
        "revisionHistoryLimit": 0,  # the ControllerRevisions are the history
        "selector": {"matchLabels": {MODEL_LABEL: deployment.name, REVISION_LABEL: workload}},
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
        "template": workload_template(template, deployment.name, workload, secret),
    }
    name = child_name(deployment.name, workload)
    return owned(deployment, DEPLOYMENT, name, {"spec": spec}, revision_label=workload)


def render_key(name: str, workload: Child, owners: Sequence[Json], value: str) -> Json:
    """The Secret that a workload's pods take the key between agent and server from.

    No Child: it is made once, and can't be looked at; who prunes is the garbage collector, once all owners are gone.
    workload: the Deployment. owners: as the API server keeps them; one alone could be deleted by hand, and a Secret in
    use would go with it. value: to go nowhere else.
    """
    meta = workload.manifest["metadata"]
    return {
        "apiVersion": SECRET.api_version,
        "kind": SECRET.kind,
        "metadata": {
            "name": name,
            "namespace": meta["namespace"],
            "labels": dict(meta["labels"]),
            "ownerReferences": [
                {
                    "apiVersion": API_VERSIONS[owner["kind"]],
                    "kind": owner["kind"],
                    "name": owner["metadata"]["name"],
                    "uid": owner["metadata"]["uid"],
                }
                for owner in owners
            ],
        },
        "type": "Opaque",
        "immutable": True,
        "stringData": {KEY_FIELD: value},
    }


def owned(
    deployment: ModelDeployment,
    kind: ObjectKind,
    name: str,
    body: Json,
    *,
    revision_label: str | None = None,
    annotations: Mapping[str, str] | None = None,
) -> Child:
    """An object that goes with the ModelDeployment. body: all of it but apiVersion, kind and metadata.

    revision_label: of a workload's objects its name, of a ControllerRevision the revision; None: of neither.
    """
    metadata: Json = {
        "name": name,
        "namespace": deployment.namespace,
        "labels": labels_of(deployment.name, revision_label),
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
    if annotations:
        metadata["annotations"] = dict(annotations)
    return Child(kind.kind, name, {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": metadata, **body})
