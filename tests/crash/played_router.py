"""A router that no node runs: what it was told last, and what it counts of a traffic that never pauses.

It reads its ConfigMap as Envoy would: the routes that it answers with are the weights by which it counts. The model's
versions behave by their numbers: FAILING answers nothing but errors.
Pure but for the time that comes in; must not import slipway.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from tests.apiserver import Manifest

REQUESTS_PER_SECOND = 4000.0
FAILING = 98
LATENCY_BOUNDS = (1, 2, 3, 5, 7.5, 10, 15, 20, 30, 50, 75, 100, 150, 200, 300, 500, 750, 1000, 1500, 2000, 3000, 5000,
                  7500, 10000, 20000, 30000, 60000)  # fmt: skip
QUICK_MILLISECONDS = 5


@dataclass(slots=True)
class PlayedRouter:
    """told: what it answers of itself; clusters: their names. asked, failed: workload → requests since it began."""

    told: str = ""
    weights: Mapping[str, int] = field(default_factory=dict)
    clusters: tuple[str, ...] = ()
    asked: dict[str, float] = field(default_factory=dict)
    failed: dict[str, float] = field(default_factory=dict)
    counted_until: float = 0.0

    def read(self, config_map: Manifest, versions: Mapping[str, int | None], now: float) -> None:
        """From now on it splits as this ConfigMap says."""
        self.count(versions, now)
        (routes,) = json.loads(config_map["data"]["routes.json"])["resources"]
        (status,) = (host for host in routes["virtual_hosts"] if host["name"] == "status")
        self.told = status["routes"][0]["direct_response"]["body"]["inline_string"]
        self.weights = json.loads(self.told)["weights"]
        clusters = json.loads(config_map["data"]["clusters.json"])["resources"]
        self.clusters = tuple(cluster["name"] for cluster in clusters)

    def count(self, versions: Mapping[str, int | None], now: float) -> None:
        """The requests since it was last asked. versions: workload → the version that its pods serve."""
        seconds = max(0.0, now - self.counted_until) if self.counted_until else 0.0
        self.counted_until = now
        for workload, weight in self.weights.items():
            share = REQUESTS_PER_SECOND * seconds * weight / 100
            self.asked[workload] = self.asked.get(workload, 0.0) + share
            if versions.get(workload) == FAILING:
                self.failed[workload] = self.failed.get(workload, 0.0) + share

    def stats(self, ready: Mapping[str, int]) -> str:
        """As Envoy's /stats/prometheus. ready: workload → its ready pods."""
        lines = []
        for cluster in self.clusters:
            protocol, _, workload = cluster.partition("/")
            healthy = f'envoy_cluster_membership_healthy{{envoy_cluster_name="{cluster}"}}'
            lines.append(f"{healthy} {ready.get(workload, 0)}")
            if protocol != "http":
                continue
            asked, failed = int(self.asked.get(workload, 0)), int(self.failed.get(workload, 0))
            for code, count in (("200", asked - failed), ("503", failed)):
                labels = f'attempts="1",cluster="{cluster}",code="{code}",flags="-",grpc="-"'
                lines.append(f"envoy_slipway_answers{{{labels}}} {count}")
            for bound in LATENCY_BOUNDS:
                labels = f'envoy_cluster_name="{cluster}",le="{bound}"'
                within = asked if bound >= QUICK_MILLISECONDS else 0
                lines.append(f"envoy_cluster_upstream_rq_time_bucket{{{labels}}} {within}")
        return "\n".join(lines) + "\n"
