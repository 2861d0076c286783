"""What routers say: their pods, the weights and endpoints that each answers, and what they counted.

Invariant: what is in force is what the routers say themselves: the RouteConfiguration by which one sends requests is
also what it answers. An answer that can't be read is none.
Pure.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from slipway.model.names import (
    GRPC_CLUSTERS,
    HTTP_CLUSTERS,
    MODEL_LABEL,
    ROUTER_CONFIG_ANNOTATION,
    ROUTER_SUFFIX,
    ROUTES_KEY,
    STATUS_PORT,
)
from slipway.model.revision import Json
from slipway.model.signals import LATENCY_BOUNDS_MILLISECONDS, Counts, InForce, Reading
from slipway.model.workload import Trouble
from slipway.observe.pod_object import read_pod_object
from slipway.observe.problems import pod_trouble
from slipway.observe.prometheus_text import lines_of, read_sample

MAX_STATUS_BYTES = 4096

MAX_STATS_BYTES = 1024 * 1024

MAX_WORKLOADS = 64

GRPC_ERRORS = frozenset({2, 4, 8, 12, 13, 14, 15})
"""UNKNOWN, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE, DATA_LOSS."""

BROKEN_OFF = frozenset({"UC", "UF", "UH", "UPE", "UR", "URX", "UT", "SI"})
"""Envoy's flags of an answer that began well and did not end: the server's connection closed, was reset, spoke no HTTP,
or it took too long."""


@dataclass(frozen=True, slots=True)
class RouterPod:
    """A router's pod.

    ip: set once it can be asked. sent: the generation that was last pushed to it, if any.
    source: a name for its counters: another one once they began anew. trouble: what keeps it from being ready.
    """

    name: str
    uid: str
    ip: str | None
    is_ready: bool
    is_ending: bool
    sent: str | None
    source: str
    trouble: Trouble | None = None


@dataclass(frozen=True, slots=True)
class RouterReport:
    """What a router says of itself. endpoints: workload → pods it can reach, in the protocol that reaches fewer."""

    source: str
    generation: str
    weights: Mapping[str, int]
    endpoints: Mapping[str, int]
    counts: Mapping[str, Counts]


def is_of_router(pod: Json) -> bool:
    """Whether a pod is a router's."""
    return str((pod["metadata"].get("labels") or {}).get(MODEL_LABEL, "")).endswith(ROUTER_SUFFIX)


def read_router_pod(body: Json) -> RouterPod:
    """A router's pod, from its object."""
    meta, status = body["metadata"], body.get("status") or {}
    conditions = {condition["type"]: condition for condition in status.get("conditions") or []}
    containers = status.get("containerStatuses") or []
    envoys = [one for one in containers if one.get("name") == "envoy"]
    runs = any("running" in (one.get("state") or {}) for one in envoys)
    restarts = sum(one.get("restartCount") or 0 for one in envoys)
    return RouterPod(
        name=meta["name"],
        uid=meta["uid"],
        ip=status.get("podIP") if runs else None,
        is_ready=conditions.get("Ready", {}).get("status") == "True",
        is_ending="deletionTimestamp" in meta or status.get("phase") in ("Succeeded", "Failed"),
        sent=(meta.get("annotations") or {}).get(ROUTER_CONFIG_ANNOTATION),
        source=f"{meta['uid']}/{restarts}",
        trouble=pod_trouble(read_pod_object(body), None),
    )


def read_sent_weights(config_map: Json) -> dict[str, int]:
    """Workload → percent, as the routers' ConfigMap says; empty where it can't be read."""
    try:
        (resource,) = json.loads(config_map["data"][ROUTES_KEY])["resources"]
        (status,) = (host for host in resource["virtual_hosts"] if host["name"] == "status")
        told = json.loads(status["routes"][0]["direct_response"]["body"]["inline_string"])
        return {str(workload): int(weight) for workload, weight in told["weights"].items()}
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        return {}


def read_report(source: str, routes: bytes, stats: str) -> RouterReport | None:
    """A router's two answers: of STATUS_HOST, and its Prometheus stats. None where they can't be read."""
    if len(routes) > MAX_STATUS_BYTES or len(stats) > MAX_STATS_BYTES:
        return None
    try:
        told = json.loads(routes)
        generation = str(told["generation"])[:64]
        weights = {str(workload)[:63]: int(weight) for workload, weight in told["weights"].items()}
    except (AttributeError, KeyError, TypeError, ValueError):
        return None
    if not weights or len(weights) > MAX_WORKLOADS:
        return None
    reached: dict[str, list[int]] = {}
    counts: dict[str, Counts] = {}
    for (protocol, workload), read in _read_stats(stats).items():
        if protocol in (HTTP_CLUSTERS, GRPC_CLUSTERS):
            if read.healthy is not None:
                reached.setdefault(workload, []).append(read.healthy)
            counts[workload] = _sum(counts.get(workload), _counts_of(read))
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


HEALTHY, TIMES, ANSWERS = (
    "envoy_cluster_membership_healthy",
    "envoy_cluster_upstream_rq_time_bucket",
    "envoy_slipway_answers",
)
"""Metrics of the routers' stats: endpoints, answers by time, answers by what became of the request."""


def _read_stats(stats: str) -> dict[tuple[str, str], _ClusterStats]:
    """(protocol, workload) → what was counted. A line that can't be read is left out."""
    found: dict[tuple[str, str], _ClusterStats] = {}
    for line in lines_of(stats, frozenset({HEALTHY, TIMES, ANSWERS})):
        try:
            sample = read_sample(line)
            labels, value = sample.labels, int(sample.value)
            protocol, _, workload = (labels.get("envoy_cluster_name") or labels.get("cluster", "")).partition("/")
            if value < 0 or not workload or (len(found) >= 3 * MAX_WORKLOADS and (protocol, workload) not in found):
                continue
            read = found.setdefault((protocol, workload), _ClusterStats(None, {}, {}))
            if sample.name == HEALTHY:
                read.healthy = value
            elif sample.name == ANSWERS:
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


def in_force(reports: Collection[RouterReport], expected: int) -> InForce | None:
    """How requests are split: None unless all routers say, and say the same. Each workload's endpoints are those of the
    router that reaches the fewest; a workload that one of them doesn't know has none.

    expected: the ready routers.
    """
    if not expected or len(reports) < expected:
        return None
    first, *others = reports
    if any(report.weights != first.weights for report in others):
        return None
    known = set.intersection(*(set(report.endpoints) for report in reports))
    endpoints = {workload: min(report.endpoints[workload] for report in reports) for workload in sorted(known)}
    return InForce(first.weights, endpoints)


def read_counts(pods: Iterable[RouterPod], reports: Mapping[str, RouterReport]) -> Reading:
    """What all routers counted. One that ends still counts while it answers; a ready one that doesn't is missing.

    reports: pod uid → what it says.
    """
    pods = tuple(pods)
    counts = {report.source: report.counts for report in reports.values()}
    silent = [pod.name for pod in pods if pod.is_ready and not pod.is_ending and pod.uid not in reports]
    trouble = f"{', '.join(silent)} can't be asked on port {STATUS_PORT}" if silent else ""
    return Reading(counts, len(silent), trouble)
