"""A router: the weights and clusters of the files that it has mounted, and what it says and counts of requests.

It reads its files as Envoy would: what it answers of itself stands in the routes by which it sends.
Pure. Must not import slipway.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from tests.simulation.pods import Mount
from tests.simulation.requests import LATENCY_BOUNDS, Tally

Json = dict[str, Any]

ROUTES_KEY, CLUSTERS_KEY = "routes.json", "clusters.json"


def routes(answer: Mapping[str, Any]) -> str:
    """Routes (routes.json) of a router that answers this of itself, as far as anybody here reads them."""
    status = {"name": "status", "routes": [{"direct_response": {"body": {"inline_string": json.dumps(answer)}}}]}
    return json.dumps({"resources": [{"virtual_hosts": [status, {"name": "traffic"}]}]})


@cache
def answer_in(routes: str) -> Json:
    """What a router with these routes answers of itself: {"generation": …, "weights": {workload: percent}}."""
    (resource,) = json.loads(routes)["resources"]
    (status,) = (host for host in resource["virtual_hosts"] if host["name"] == "status")
    answer: Json = json.loads(status["routes"][0]["direct_response"]["body"]["inline_string"])
    return answer


def weights_in(config_map: Json) -> dict[str, int]:
    """Workload → percent, by the routers' ConfigMap."""
    weights: dict[str, int] = answer_in(config_map["data"][ROUTES_KEY])["weights"]
    return weights


@cache
def clusters_in(clusters: str) -> tuple[str, ...]:
    """The names of clusters, "protocol/workload"."""
    return tuple(cluster["name"] for cluster in json.loads(clusters)["resources"])


# ---- lines of /stats/prometheus


def healthy(number: int, *, cluster: str) -> str:
    return f'envoy_cluster_membership_healthy{{envoy_cluster_name="{cluster}"}} {number}'


def answers(number: int, code: int = 200, flags: str = "-", grpc: str = "", attempts: int = 1, *, cluster: str) -> str:
    labels = f'cluster="{cluster}",attempts="{attempts}",code="{code}",flags="{flags}",grpc="{grpc}"'
    return f"envoy_slipway_answers{{{labels}}} {number}"


def within(number: int, bound: float | str, *, cluster: str) -> str:
    """bound: in milliseconds."""
    return f'envoy_cluster_upstream_rq_time_bucket{{envoy_cluster_name="{cluster}",le="{bound}"}} {number}'


@dataclass
class Router:
    """mount: its files; tallies: workload → what it counted since it began."""

    mount: Mount = field(default_factory=Mount)
    tallies: dict[str, Tally] = field(default_factory=dict)

    @property
    def answer(self) -> Json | None:
        """What it says of itself; None: it has no files yet."""
        return answer_in(self.mount.data[ROUTES_KEY]) if self.mount.data else None

    @property
    def clusters(self) -> tuple[str, ...]:
        return clusters_in(self.mount.data[CLUSTERS_KEY]) if self.mount.data else ()

    def split(self, requests: float) -> dict[str, float]:
        """Workload → its share of so many requests."""
        weights = self.answer["weights"] if self.answer else {}
        return {workload: requests * weight / 100 for workload, weight in weights.items()}

    def tally(self, workload: str) -> Tally:
        return self.tallies.setdefault(workload, Tally())

    def stats(self, ready: Mapping[str, int]) -> str:
        """/stats/prometheus. ready: workload → its ready pods."""
        lines = []
        for cluster in self.clusters:
            protocol, _, workload = cluster.partition("/")
            lines.append(healthy(ready.get(workload, 0), cluster=cluster))
            if protocol != "http":
                continue
            tally = self.tally(workload)
            errors = int(tally.errors)
            lines += [answers(int(tally.requests) - errors, cluster=cluster), answers(errors, 503, cluster=cluster)]
            lines += [within(int(tally.within[at]), bound, cluster=cluster) for at, bound in enumerate(LATENCY_BOUNDS)]
        return "\n".join(lines) + "\n"
