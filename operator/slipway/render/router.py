"""The router: an Envoy Deployment of ours that splits a ModelDeployment's requests exactly, and tells how it does.

Objects: Deployment, ConfigMap and PodDisruptionBudget `<name>-router`, and a headless Service `<name>-<workload>` for
each workload. Its pods have the model label `<name>.router`, so that no selector of model pods finds them.

Invariant: what is in force is what the routers say themselves: the RouteConfiguration by which one sends requests is
also what it answers. Which workload gets which weight, and in which order, is decided in `decide`.
Must not import: report, controller. Pure. The Envoy configuration itself is `render.envoy`'s.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from slipway.api.quantity import parse_quantity
from slipway.api.v1alpha1 import GROUP, ModelDeployment, ModelDeploymentSpec, RouterPods
from slipway.model.names import (
    MODEL_LABEL,
    REVISION_LABEL,
    ROUTED_ANNOTATION,
    ROUTER_PORT,
    ROUTER_PORT_NAME,
    ROUTES_KEY,
    STATUS_PORT,
    child_name,
    router_label,
)
from slipway.model.revision import Json, hash_of
from slipway.render import envoy
from slipway.render.objects import CONFIG_MAP, DEPLOYMENT, POD_DISRUPTION_BUDGET, SERVICE, Child, owned
from slipway.render.pod_template import Images, container_security, pod_name_variable, pod_security, write_resources
from slipway.render.ports import own_path, predict_path
from slipway.render.routing import Backend, OtherApi, Routing, Split
from slipway.runtimes import RUNTIMES, ServerRuntime

CHOICE_ANNOTATION = f"{GROUP}/router-choice"

TEMPLATE_ANNOTATION = f"{GROUP}/router-template"
"""On the Deployment: a hash of what the user chose for the router's pods, and the pod template made of it. While the
choice is the same the template stays, to the letter: a new operator restarts no router."""


DEFAULT_RESOURCES: Json = {"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"memory": "256Mi"}}

ENDPOINT_REMOVAL_SECONDS = 5

DEFAULT_DRAIN_SECONDS = 60

END_SECONDS = 5

DRAIN = """\
ask() {
  exec 3<>"/dev/tcp/$1/$2" || return 1
  printf '%s %s HTTP/1.1\\r\\nHost: admin\\r\\nConnection: close\\r\\nContent-Length: 0\\r\\n\\r\\n' "$3" "$4" >&3
  answer=$(cat <&3)
  exec 3>&-
}
ask "$1" "$2" POST '/drain_listeners?graceful&skip_exit'
sleep "$3"
end=$((SECONDS + $4))
while ((SECONDS < end)); do
  ask "$1" "$2" GET '/stats?filter=traffic.downstream_rq_active' || break
  [[ $answer =~ downstream_rq_active:\\ ([0-9]+) ]] && ((BASH_REMATCH[1] > 0)) || break
  sleep 0.2
done
"""
"""preStop: clients are told at once to move on (`Connection: close`, GOAWAY), new ones are still taken until endpoints
are gone, then what is in progress is waited for. Envoy itself ends at SIGTERM with whatever it has."""


@dataclass(frozen=True, slots=True)
class RouterConfig:
    """The routers' configuration. generation: names all of it, and is what they answer. files: name → JSON text."""

    generation: str
    files: Mapping[str, str]


def router_name(name: str) -> str:
    """The name of a router's objects; no workload is called `router`, they are hashes."""
    return f"{name}-router"


def configure(deployment: ModelDeployment, split: Split) -> RouterConfig:
    """The routers' configuration, in words of Envoy."""
    traffic = deployment.spec.traffic
    place = f"{deployment.namespace}.svc.{split.domain}"
    hosts = {backend.workload: f"{child_name(deployment.name, backend.workload)}.{place}" for backend in split.backends}
    weights = {backend.workload: backend.weight_percent for backend in split.backends}
    timeout = traffic.timeout_seconds if traffic is not None else None
    prefixes = _prefixes(deployment, split)
    others = other_apis(deployment, split)
    bootstrap = envoy.bootstrap(deployment.name)
    clusters = envoy.clusters(hosts, split.backends, named=_names_versions(deployment, split))

    def routes(generation: str) -> Json:
        status = json.dumps({"generation": generation, "weights": weights})
        return envoy.routes(split.backends, others, prefixes, timeout, status)

    generation = hash_of([bootstrap, clusters, routes("")])
    files = {
        envoy.BOOTSTRAP_KEY: _text(bootstrap),
        envoy.CLUSTERS_KEY: _text({"version_info": generation, "resources": clusters}),
        ROUTES_KEY: _text({"version_info": generation, "resources": [routes(generation)]}),
    }
    return RouterConfig(generation, files)


def _own(deployment: ModelDeployment, backend: Backend) -> tuple[ServerRuntime, ModelDeploymentSpec, str]:
    """A workload's server, what its revision was made from, and the model's name in its paths."""
    spec = backend.spec or deployment.spec
    return RUNTIMES[spec.runtime.name], spec, spec.model.name or deployment.name


def _names_versions(deployment: ModelDeployment, split: Split) -> bool:
    """Whether paths can name versions."""
    found = [_own(deployment, backend) for backend in split.backends]
    return any(runtime.version_path(spec, model, "1") is not None for runtime, spec, model in found)


def other_apis(deployment: ModelDeployment, split: Split) -> tuple[OtherApi, ...]:
    """The open workloads that answer on other paths than stable, those with the same paths together.

    A request is sent to who can answer it, and by weight only among these.
    """
    groups: dict[str, list[Backend]] = {}
    for backend in split.backends:
        if backend.is_open:
            _, spec, _ = _own(deployment, backend)
            groups.setdefault(predict_path(deployment, spec), []).append(backend)
    if len(groups) < 2:
        return ()
    stable, *others = groups
    known = _own(deployment, groups[stable][0])[0].grpc_package
    found = []
    for path in others:
        package = _own(deployment, groups[path][0])[0].grpc_package
        beside = [each for each in groups if each != path]
        found.append(OtherApi(own_path(path, beside), "" if package == known else package, tuple(groups[path])))
    return tuple(found)


def _text(value: Json) -> str:
    return _readable(json.dumps(value))


@lru_cache(128)
def _readable(text: str) -> str:
    """With a line for each value. Kept for the next pass: it would take most of that, and is mostly the same."""
    return json.dumps(json.loads(text), indent=1)


def _prefixes(deployment: ModelDeployment, split: Split) -> dict[str, list[str]]:
    """Workload → what paths begin with that name a version or label of its own; the first that holds a version has it.

    With one workload there is nothing to choose, and no path names one.
    """
    if len(split.backends) < 2:
        return {}
    found: dict[str, list[str]] = {backend.workload: [] for backend in split.backends}
    named: set[str] = set()
    holds: dict[int, Backend] = {}
    for backend in split.backends:
        runtime, spec, model = _own(deployment, backend)
        for version in backend.versions:
            holds.setdefault(version, backend)
            path = runtime.version_path(spec, model, str(version))
            if path and path not in named:
                named.add(path)
                found[backend.workload].append(path)
    stable, *others = split.backends
    labels = {label: holds[version] for label, version in deployment.spec.model.labels.items() if version in holds}
    weighted = [backend for backend in others if backend.weight_percent]
    for label, backend in (labels | {"stable": stable, "canary": (weighted or others)[0]}).items():
        runtime, spec, model = _own(deployment, backend)
        if path := runtime.label_path(spec, model, label):
            found[backend.workload].append(path)
    return found


def router_images(
    deployment: ModelDeployment, live: Mapping[tuple[str, str], Json], images: Images
) -> tuple[str, str] | None:
    """The image of the routers that are there, and today's, where their pods would be made otherwise today; else None.

    Routers keep the template that they were made with, until the user chooses otherwise or refreshes.
    """
    kept = _kept_template(live.get(("Deployment", router_name(deployment.name))), hash_of(_choice(deployment)))
    today = _render_template(deployment, images)
    if kept is None or kept == today:
        return None
    return str(kept["spec"]["containers"][0].get("image")), str(today["spec"]["containers"][0]["image"])


def render(deployment: ModelDeployment, split: Split, live: Mapping[tuple[str, str], Json], images: Images) -> Routing:
    """The routers and what they need: first what they read, then the pods.

    images: today's, for routers that are made anew.
    """
    config = configure(deployment, split)
    children = (
        *(
            _render_headless(deployment, backend.workload, (backend.http_port, backend.grpc_port))
            for backend in split.backends
        ),
        _render_config_map(deployment, config),
        _render_deployment(deployment, live.get(("Deployment", router_name(deployment.name))), images),
        _render_budget(deployment),
    )
    return Routing(children, config.generation)


def _render_headless(deployment: ModelDeployment, workload: str, ports: tuple[int, int | None]) -> Child:
    """A workload's pods by DNS, each with its own address."""
    named = [("http", ports[0]), ("grpc", ports[1])]
    spec = {
        "clusterIP": "None",
        "selector": {MODEL_LABEL: deployment.name, REVISION_LABEL: workload},
        "ports": [{"name": name, "port": port, "targetPort": port, "protocol": "TCP"} for name, port in named if port],
    }
    return owned(deployment, SERVICE, child_name(deployment.name, workload), {"spec": spec}, revision_label=workload)


def _render_config_map(deployment: ModelDeployment, config: RouterConfig) -> Child:
    body = {"data": dict(config.files)}
    annotations = {ROUTED_ANNOTATION: config.generation}
    return owned(deployment, CONFIG_MAP, router_name(deployment.name), body, annotations=annotations)


def _render_budget(deployment: ModelDeployment) -> Child:
    selector = {"matchLabels": {MODEL_LABEL: router_label(deployment.name)}}
    spec = {"maxUnavailable": 1, "selector": selector}
    return owned(deployment, POD_DISRUPTION_BUDGET, router_name(deployment.name), {"spec": spec})


def _render_deployment(deployment: ModelDeployment, live: Json | None, images: Images) -> Child:
    chosen = _chosen(deployment)
    choice = hash_of(_choice(deployment))
    template = _kept_template(live, choice) or _render_template(deployment, images)
    spec = {
        "replicas": chosen.replicas,
        "revisionHistoryLimit": 0,
        "selector": {"matchLabels": {MODEL_LABEL: router_label(deployment.name)}},
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
        "template": template,
    }
    kept = json.dumps(template, separators=(",", ":"))
    annotations = {CHOICE_ANNOTATION: choice, TEMPLATE_ANNOTATION: kept}
    return owned(deployment, DEPLOYMENT, router_name(deployment.name), {"spec": spec}, annotations=annotations)


def _chosen(deployment: ModelDeployment) -> RouterPods:
    traffic = deployment.spec.traffic
    return (traffic.router if traffic is not None else None) or RouterPods()


def _choice(deployment: ModelDeployment) -> Json:
    """What the user said of the routers' pods, defaults left out."""
    chosen, traffic = _chosen(deployment), deployment.spec.traffic
    return {
        "image": chosen.image,
        "resources": _resources(chosen),
        "timeout": traffic.timeout_seconds if traffic is not None else None,
        "pull": _pull_secrets(deployment),
    }


def _resources(chosen: RouterPods) -> Json | None:
    return None if chosen.resources is None else write_resources(chosen.resources)


def _pull_secrets(deployment: ModelDeployment) -> list[Json]:
    """Those of the model's pods: a private registry is most often private for all images."""
    secrets = ((deployment.spec.pod_template or {}).get("spec") or {}).get("imagePullSecrets")
    return list(secrets or [])


def _kept_template(live: Json | None, choice: str) -> Json | None:
    """The template of the live routers, where it was made of the same choice."""
    annotations = ((live or {}).get("metadata") or {}).get("annotations") or {}
    if annotations.get(CHOICE_ANNOTATION) != choice:
        return None
    try:
        template = json.loads(annotations[TEMPLATE_ANNOTATION])
    except (KeyError, ValueError):
        return None
    return template if isinstance(template, dict) and {"metadata", "spec"} <= set(template) else None


def _render_template(deployment: ModelDeployment, images: Images) -> Json:
    traffic = deployment.spec.traffic
    drain_seconds = traffic.timeout_seconds if traffic is not None else None
    drain_seconds = DEFAULT_DRAIN_SECONDS if drain_seconds is None else drain_seconds
    labels = {
        "app.kubernetes.io/managed-by": "slipway",
        "app.kubernetes.io/part-of": deployment.name,
        "app.kubernetes.io/component": "router",
        MODEL_LABEL: router_label(deployment.name),
    }
    spec: Json = {
        "containers": [_render_container(_chosen(deployment), images, drain_seconds)],
        "volumes": [{"name": "config", "configMap": {"name": router_name(deployment.name)}}],
        "affinity": _on_nodes_apart(deployment),
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": ENDPOINT_REMOVAL_SECONDS + drain_seconds + END_SECONDS,
        "securityContext": pod_security(),
    }
    if secrets := _pull_secrets(deployment):
        spec["imagePullSecrets"] = secrets
    return {"metadata": {"labels": labels}, "spec": spec}


def _render_container(chosen: RouterPods, images: Images, drain_seconds: int) -> Json:
    cpu = chosen.resources.limits.get("cpu") if chosen.resources is not None else None
    threads = 1 if cpu is None else max(1, math.ceil(parse_quantity(cpu)))
    ready = {"httpGet": {"path": "/ready", "port": "status"}, "timeoutSeconds": 2}
    drain = [envoy.ADMIN_ADDRESS, str(envoy.ADMIN_PORT), str(ENDPOINT_REMOVAL_SECONDS), str(drain_seconds)]
    return {
        "name": "envoy",
        "image": chosen.image or images.router,
        "imagePullPolicy": images.pull_policy,
        "command": ["envoy"],
        "args": [
            "--config-path",
            f"{envoy.FOLDER}/{envoy.BOOTSTRAP_KEY}",
            "--concurrency",
            str(threads),
            "--disable-hot-restart",
            "--drain-strategy",
            "immediate",
            "--log-level",
            "warning",
        ],
        "env": [pod_name_variable()],
        "ports": [
            {"name": ROUTER_PORT_NAME, "containerPort": ROUTER_PORT, "protocol": "TCP"},
            {"name": "status", "containerPort": STATUS_PORT, "protocol": "TCP"},
        ],
        "startupProbe": {**ready, "periodSeconds": 1, "failureThreshold": 300},
        "readinessProbe": {**ready, "periodSeconds": 2, "failureThreshold": 2},
        "livenessProbe": {**ready, "periodSeconds": 10, "failureThreshold": 6},
        "lifecycle": {"preStop": {"exec": {"command": ["bash", "-c", DRAIN, "drain", *drain]}}},
        "resources": _resources(chosen) or DEFAULT_RESOURCES,
        "securityContext": container_security(),
        "volumeMounts": [{"name": "config", "mountPath": envoy.FOLDER, "readOnly": True}],
    }


def _on_nodes_apart(deployment: ModelDeployment) -> Json:
    """Affinity: one node that fails takes one router along, where there are nodes enough."""
    apart = {
        "labelSelector": {"matchLabels": {MODEL_LABEL: router_label(deployment.name)}},
        "topologyKey": "kubernetes.io/hostname",
    }
    return {
        "podAntiAffinity": {
            "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100, "podAffinityTerm": apart}]
        }
    }
