"""The router: an Envoy Deployment of ours that splits a ModelDeployment's requests exactly, and tells how it does.

Objects: Deployment, ConfigMap and PodDisruptionBudget `<name>-router`, and a headless Service `<name>-<carrier>` for
each carrier. Its pods have the model label `<name>.router`, so that no selector of model pods finds them.

Invariant: what is in force is what the routers say themselves: the RouteConfiguration by which one sends requests is
also what it answers. Who gets which weight, and in which order, is decided elsewhere (`rollout`).
Pure. The Envoy configuration itself is `traffic.envoy`'s.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from slipway.api.quantity import parse_quantity
from slipway.api.v1alpha1 import GROUP, ModelDeployment, RouterPods
from slipway.decide.weights.provider import Provider, Reached, Routing
from slipway.model.names import (
    MODEL_LABEL,
    POD_VARIABLE,
    REVISION_LABEL,
    ROUTER_CONFIG_ANNOTATION,
    ROUTER_PORT_NAME,
    ROUTER_SUFFIX,
    child_name,
    router_label,
)
from slipway.model.revision import Json, hash_of, model_name
from slipway.model.signals import LATENCY_BOUNDS_MILLISECONDS, Counts, InForce, Reading
from slipway.render import envoy
from slipway.render.objects import Child, owned
from slipway.render.pod_template import USER_ID, Images, container_security
from slipway.render.split import Split
from slipway.runtimes import RUNTIMES

ROUTED_ANNOTATION = f"{GROUP}/routed"
"""On the ConfigMap: the generation that it says."""
CHOICE_ANNOTATION = f"{GROUP}/router-choice"
TEMPLATE_ANNOTATION = f"{GROUP}/router-template"
"""On the Deployment: a hash of what the user chose for the router's pods, and the pod template made of it. While the
choice is the same the template stays, to the letter: a new operator restarts no router."""

DEFAULT_REPLICAS = 2
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

MAX_STATUS_BYTES = 4096
MAX_STATS_BYTES = 1024 * 1024
MAX_CARRIERS = 64

GRPC_ERRORS = frozenset({2, 4, 8, 12, 13, 14, 15})
"""UNKNOWN, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE, DATA_LOSS."""

BROKEN_OFF = frozenset({"UC", "UF", "UH", "UPE", "UR", "URX", "UT", "SI"})
"""Envoy's flags of an answer that began well and did not end: the server's connection closed, was reset, spoke no HTTP,
or it took too long."""


@dataclass(frozen=True, slots=True)
class RouterConfig:
    """What routers are told. generation: names all of it, and is what they answer. files: name → JSON text."""

    generation: str
    files: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class RouterPod:
    """A router's pod.

    ip: set once it can be asked. told: the generation that was last pushed to it, if any.
    source: a name for its counters: another one once they began anew.
    """

    name: str
    uid: str
    ip: str | None
    is_ready: bool
    is_ending: bool
    told: str | None
    source: str


@dataclass(frozen=True, slots=True)
class RouterReport:
    """What a router says of itself. endpoints: carrier → pods it can reach, in the protocol that reaches fewer."""

    source: str
    generation: str
    weights: Mapping[str, int]
    endpoints: Mapping[str, int]
    counts: Mapping[str, Counts]


# --- what is rendered ---


def router_name(name: str) -> str:
    """The name of a router's objects; no carrier is called `router`, they are hashes."""
    return f"{name}-router"


def configure(deployment: ModelDeployment, split: Split) -> RouterConfig:
    """What the routers are told, in words of Envoy."""
    spec = deployment.spec
    runtime = RUNTIMES[spec.runtime.name]
    model = model_name(deployment)
    names_versions = runtime.version_path(spec, model, "1") is not None
    place = f"{deployment.namespace}.svc.{split.domain}"
    hosts = {backend.carrier: f"{child_name(deployment.name, backend.carrier)}.{place}" for backend in split.backends}
    weights = {backend.carrier: backend.weight_percent for backend in split.backends}
    timeout = spec.traffic.timeout_seconds if spec.traffic is not None else None
    prefixes = _prefixes(deployment, split)
    bootstrap = envoy.bootstrap(deployment.name)
    clusters = envoy.clusters(hosts, split.backends, named=names_versions)

    def routes(generation: str) -> Json:
        told = json.dumps({"generation": generation, "weights": weights})
        return envoy.routes(split.backends, prefixes, timeout, told)

    generation = hash_of([bootstrap, clusters, routes("")])
    files = {
        envoy.BOOTSTRAP_KEY: _text(bootstrap),
        envoy.CLUSTERS_KEY: _text({"version_info": generation, "resources": clusters}),
        envoy.ROUTES_KEY: _text({"version_info": generation, "resources": [routes(generation)]}),
    }
    return RouterConfig(generation, files)


def _text(value: Json) -> str:
    return _readable(json.dumps(value))


@lru_cache(128)
def _readable(text: str) -> str:
    """With a line for each value. Kept for the next pass: it would take most of that, and is mostly the same."""
    return json.dumps(json.loads(text), indent=1)


def _prefixes(deployment: ModelDeployment, split: Split) -> dict[str, list[str]]:
    """Carrier → what paths begin with that name a version or label of its own; the first that holds a version has it.

    With one carrier there is nothing to choose, and no path is told apart.
    """
    if len(split.backends) < 2:
        return {}
    spec = deployment.spec
    runtime, model = RUNTIMES[spec.runtime.name], model_name(deployment)
    found: dict[str, list[str]] = {backend.carrier: [] for backend in split.backends}
    taken: dict[int, str] = {}
    for backend in split.backends:
        for version in backend.versions:
            if version not in taken:
                taken[version] = backend.carrier
                if path := runtime.version_path(spec, model, str(version)):
                    found[backend.carrier].append(path)
    stable, *others = (backend.carrier for backend in split.backends)
    labels = {label: taken[version] for label, version in spec.model.labels.items() if version in taken}
    weighted = [backend.carrier for backend in split.backends[1:] if backend.weight_percent]
    labels |= {"stable": stable, "canary": (weighted or others)[0]}
    for label, carrier in labels.items():
        if path := runtime.label_path(spec, model, label):
            found[carrier].append(path)
    return found


def render(deployment: ModelDeployment, split: Split, live: Mapping[tuple[str, str], Json], images: Images) -> Routing:
    """The routers and what they need: first what they read, then the pods.

    images: today's, for routers that are made anew.
    """
    config = configure(deployment, split)
    children = (
        *(
            _render_headless(deployment, backend.carrier, (backend.http_port, backend.grpc_port))
            for backend in split.backends
        ),
        _render_config_map(deployment, config),
        _render_deployment(deployment, live.get(("Deployment", router_name(deployment.name))), images),
        _render_budget(deployment),
    )
    return Routing(children, config.generation)


def _render_headless(deployment: ModelDeployment, carrier: str, ports: tuple[int, int | None]) -> Child:
    """A carrier's pods by DNS, each with its own address."""
    named = [("http", ports[0]), ("grpc", ports[1])]
    spec = {
        "clusterIP": "None",
        "selector": {MODEL_LABEL: deployment.name, REVISION_LABEL: carrier},
        "ports": [{"name": name, "port": port, "targetPort": port, "protocol": "TCP"} for name, port in named if port],
    }
    return owned(deployment, "v1", "Service", child_name(deployment.name, carrier), carrier, {"spec": spec})


def _render_config_map(deployment: ModelDeployment, config: RouterConfig) -> Child:
    body = {"data": dict(config.files)}
    child = owned(deployment, "v1", "ConfigMap", router_name(deployment.name), None, body)
    child.manifest["metadata"]["annotations"] = {ROUTED_ANNOTATION: config.generation}
    return child


def _render_budget(deployment: ModelDeployment) -> Child:
    selector = {"matchLabels": {MODEL_LABEL: router_label(deployment.name)}}
    spec = {"maxUnavailable": 1, "selector": selector}
    return owned(deployment, "policy/v1", "PodDisruptionBudget", router_name(deployment.name), None, {"spec": spec})


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
    child = owned(deployment, "apps/v1", "Deployment", router_name(deployment.name), None, {"spec": spec})
    kept = json.dumps(template, separators=(",", ":"))
    child.manifest["metadata"]["annotations"] = {CHOICE_ANNOTATION: choice, TEMPLATE_ANNOTATION: kept}
    return child


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
    if chosen.resources is None:
        return None
    return {
        part: {name: str(amount) for name, amount in amounts.items()}
        for part, amounts in (("limits", chosen.resources.limits), ("requests", chosen.resources.requests))
        if amounts
    }


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
    chosen, traffic = _chosen(deployment), deployment.spec.traffic
    drain_seconds = traffic.timeout_seconds if traffic is not None else None
    drain_seconds = DEFAULT_DRAIN_SECONDS if drain_seconds is None else drain_seconds
    rest = [envoy.ADMIN_ADDRESS, str(envoy.ADMIN_PORT), str(ENDPOINT_REMOVAL_SECONDS), str(drain_seconds)]
    cpu = chosen.resources.limits.get("cpu") if chosen.resources is not None else None
    threads = 1 if cpu is None else max(1, math.ceil(parse_quantity(cpu)))
    ready = {"httpGet": {"path": "/ready", "port": "status"}, "timeoutSeconds": 2}
    container = {
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
        "env": [{"name": POD_VARIABLE, "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
        "ports": [
            {"name": ROUTER_PORT_NAME, "containerPort": envoy.ROUTER_PORT, "protocol": "TCP"},
            {"name": "status", "containerPort": envoy.STATUS_PORT, "protocol": "TCP"},
        ],
        "startupProbe": {**ready, "periodSeconds": 1, "failureThreshold": 300},
        "readinessProbe": {**ready, "periodSeconds": 2, "failureThreshold": 2},
        "livenessProbe": {**ready, "periodSeconds": 10, "failureThreshold": 6},
        "lifecycle": {"preStop": {"exec": {"command": ["bash", "-c", DRAIN, "drain", *rest]}}},
        "resources": _resources(chosen) or DEFAULT_RESOURCES,
        "securityContext": container_security(),
        "volumeMounts": [{"name": "config", "mountPath": envoy.FOLDER, "readOnly": True}],
    }
    labels = {
        "app.kubernetes.io/managed-by": "slipway",
        "app.kubernetes.io/part-of": deployment.name,
        "app.kubernetes.io/component": "router",
        MODEL_LABEL: router_label(deployment.name),
    }
    apart = {
        "labelSelector": {"matchLabels": {MODEL_LABEL: labels[MODEL_LABEL]}},
        "topologyKey": "kubernetes.io/hostname",
    }
    spec: Json = {
        "containers": [container],
        "volumes": [{"name": "config", "configMap": {"name": router_name(deployment.name)}}],
        "affinity": {
            "podAntiAffinity": {
                "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100, "podAffinityTerm": apart}]
            }
        },
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": ENDPOINT_REMOVAL_SECONDS + drain_seconds + END_SECONDS,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER_ID,
            "runAsGroup": USER_ID,
            "fsGroup": USER_ID,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }
    if secrets := _pull_secrets(deployment):
        spec["imagePullSecrets"] = secrets
    return {"metadata": {"labels": labels}, "spec": spec}


# --- what is read ---


def is_of_router(pod: Json) -> bool:
    """Whether a pod is a router's."""
    return str((pod["metadata"].get("labels") or {}).get(MODEL_LABEL, "")).endswith(ROUTER_SUFFIX)


def read_router_pod(body: Json) -> RouterPod:
    """A router's pod, from its object."""
    meta, status = body["metadata"], body.get("status") or {}
    conditions = {condition["type"]: condition for condition in status.get("conditions") or []}
    containers = [one for one in status.get("containerStatuses") or [] if one.get("name") == "envoy"]
    runs = any("running" in (one.get("state") or {}) for one in containers)
    restarts = sum(one.get("restartCount") or 0 for one in containers)
    return RouterPod(
        name=meta["name"],
        uid=meta["uid"],
        ip=status.get("podIP") if runs else None,
        is_ready=conditions.get("Ready", {}).get("status") == "True",
        is_ending="deletionTimestamp" in meta or status.get("phase") in ("Succeeded", "Failed"),
        told=(meta.get("annotations") or {}).get(ROUTER_CONFIG_ANNOTATION),
        source=f"{meta['uid']}/{restarts}",
    )


def read_asked(config_map: Json) -> dict[str, int]:
    """Carrier → percent, as the routers' ConfigMap tells them; empty where it can't be read."""
    try:
        (resource,) = json.loads(config_map["data"][envoy.ROUTES_KEY])["resources"]
        (status,) = (host for host in resource["virtual_hosts"] if host["name"] == "status")
        told = json.loads(status["routes"][0]["direct_response"]["body"]["inline_string"])
        return {str(carrier): int(weight) for carrier, weight in told["weights"].items()}
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        return {}


def read_report(source: str, routes: bytes, stats: str) -> RouterReport | None:
    """A router's two answers: of STATUS_HOST, and its Prometheus stats. None where they can't be read."""
    if len(routes) > MAX_STATUS_BYTES or len(stats) > MAX_STATS_BYTES:
        return None
    try:
        told = json.loads(routes)
        generation = str(told["generation"])[:64]
        weights = {str(carrier)[:63]: int(weight) for carrier, weight in told["weights"].items()}
    except (AttributeError, KeyError, TypeError, ValueError):
        return None
    if not weights or len(weights) > MAX_CARRIERS:
        return None
    reached: dict[str, list[int]] = {}
    counts: dict[str, Counts] = {}
    for (protocol, carrier), read in _read_stats(stats).items():
        if protocol in (envoy.HTTP, envoy.GRPC):
            if read.healthy is not None:
                reached.setdefault(carrier, []).append(read.healthy)
            counts[carrier] = _sum(counts.get(carrier), _counts_of(read))
    return RouterReport(source, generation, weights, {name: min(found) for name, found in reached.items()}, counts)


@dataclass(frozen=True, slots=True)
class _Answer:
    """What became of a request. grpc: None where it was none, or had no status."""

    code: int
    flags: frozenset[str]
    grpc: int | None
    attempts: int

    @property
    def is_error(self) -> bool:
        """The server failed it: 5xx, no answer, one that broke off, or a gRPC status that says so."""
        if self.code >= 500 or self.code == 0:
            return True
        return self.grpc in GRPC_ERRORS or bool(self.flags & BROKEN_OFF)

    @property
    def is_refusal(self) -> bool:
        """The server refused it."""
        return not self.is_error and (400 <= self.code < 500 or bool(self.grpc))


@dataclass(slots=True)
class _ClusterStats:
    """healthy: endpoints. within: bucket's bound → answers that took at most as long."""

    healthy: int | None
    answers: dict[_Answer, int]
    within: dict[float, int]


def _counts_of(read: _ClusterStats) -> Counts:
    """A request that was tried again counts once for each attempt: but for the last one, they were errors."""
    retried = sum(max(0, answer.attempts - 1) * number for answer, number in read.answers.items())
    answered = sum(read.answers.values())
    return Counts(
        requests=answered + retried,
        errors=sum(number for answer, number in read.answers.items() if answer.is_error) + retried,
        refusals=sum(number for answer, number in read.answers.items() if answer.is_refusal),
        # Times are counted a moment before answers are, and read a moment after.
        within=tuple(min(read.within.get(float(bound), 0), answered) for bound in LATENCY_BOUNDS_MILLISECONDS),
    )


def _sum(one: Counts | None, other: Counts) -> Counts:
    if one is None:
        return other
    return Counts(
        one.requests + other.requests,
        one.errors + other.errors,
        one.refusals + other.refusals,
        tuple(a + b for a, b in zip(one.within, other.within, strict=True)),
    )


_LINE = re.compile(
    r"envoy_(cluster_membership_healthy|cluster_upstream_rq_time_bucket|slipway_answers)\{(.*)\} ([0-9.e+]+)"
)
_LABEL = re.compile(r'([a-z_]+)="([^"]*)"')


def _read_stats(stats: str) -> dict[tuple[str, str], _ClusterStats]:
    """(protocol, carrier) → what was counted, of lines such as envoy_cluster_NAME{envoy_cluster_name="http/abc"} 1."""
    found: dict[tuple[str, str], _ClusterStats] = {}
    for line in stats.splitlines():
        matched = _LINE.fullmatch(line)
        if matched is None:
            continue
        name, labels = matched[1], dict(_LABEL.findall(matched[2]))
        protocol, _, carrier = (labels.get("envoy_cluster_name") or labels.get("cluster", "")).partition("/")
        if not carrier or (len(found) >= 3 * MAX_CARRIERS and (protocol, carrier) not in found):
            continue
        read = found.setdefault((protocol, carrier), _ClusterStats(None, {}, {}))
        try:
            value = int(float(matched[3]))
            if name == "cluster_membership_healthy":
                read.healthy = value
            elif name == "slipway_answers":
                read.answers[_read_answer(labels)] = value
            else:
                read.within[float(labels["le"])] = value
        except (KeyError, OverflowError, ValueError):
            continue
    return found


def _read_answer(labels: Mapping[str, str]) -> _Answer:
    """Raises KeyError or ValueError."""
    grpc = labels["grpc"]
    return _Answer(
        int(labels["code"]),
        frozenset(labels["flags"].split(",")),
        int(grpc) if grpc.isdigit() else None,
        int(labels["attempts"]),
    )


# --- what is in force ---


def in_force(reports: Collection[RouterReport], expected: int) -> InForce | None:
    """How requests are split: None unless all routers say, and say the same. Each carrier's endpoints are those of the
    router that reaches the fewest; a carrier that one of them doesn't know has none.

    expected: the ready routers.
    """
    if not expected or len(reports) < expected:
        return None
    first, *others = reports
    if any(report.weights != first.weights for report in others):
        return None
    known = set.intersection(*(set(report.endpoints) for report in reports))
    endpoints = {carrier: min(report.endpoints[carrier] for report in reports) for carrier in sorted(known)}
    return InForce(first.weights, endpoints)


def read_counts(pods: Iterable[RouterPod], reports: Mapping[str, RouterReport]) -> Reading:
    """What all routers counted. One that ends still counts while it answers; a ready one that doesn't is missing.

    reports: pod uid → what it says.
    """
    pods = tuple(pods)
    counts = {report.source: report.counts for report in reports.values()}
    silent = [pod.name for pod in pods if pod.is_ready and not pod.is_ending and pod.uid not in reports]
    trouble = f"{', '.join(silent)} can't be asked on port {envoy.STATUS_PORT}" if silent else ""
    return Reading(counts, len(silent), trouble)


# --- as a provider ---


PROVIDER = Provider(
    has_routers=True,
    is_exact=True,
    reach=lambda weight, replicas: Reached(math.ceil(replicas * weight / 100), weight),
    explain=lambda weights, replicas: "",
    refusals=lambda spec: (),
    render=render,
    in_force=lambda standing: standing.by_router,
)
