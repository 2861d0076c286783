"""request_count and request_latency, in Prometheus' text form with TensorFlow's names (:tensorflow:serving:…)."""

from __future__ import annotations

import threading
from bisect import bisect_left

PATH = "/monitoring/prometheus/metrics"
BOUNDS = [10 * 1.8**power for power in range(33)]  # microseconds; Buckets::Exponential(10, 1.8, 33)
COUNT, LATENCY = ":tensorflow:serving:request_count", ":tensorflow:serving:request_latency"


class Metrics:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[tuple[str, str], int] = {}
        self._latencies: dict[tuple[str, str, str], tuple[list[int], list[float]]] = {}

    def count(self, model: str, status: str) -> None:
        """One request, answered with this code."""
        with self._lock:
            self._counts[model, status] = self._counts.get((model, status), 0) + 1

    def time(self, model: str, api: str, entrypoint: str, microseconds: float) -> None:
        """One that was answered well."""
        with self._lock:
            buckets, total = self._latencies.setdefault((model, api, entrypoint), ([0] * (len(BOUNDS) + 1), [0.0]))
            buckets[bisect_left(BOUNDS, microseconds)] += 1
            total[0] += microseconds

    def page(self) -> str:
        with self._lock:
            lines = [f"# TYPE {COUNT} counter"]
            lines += [
                f'{COUNT}{{model_name="{model}",status="{status}"}} {count}'
                for (model, status), count in self._counts.items()
            ]
            lines.append(f"# TYPE {LATENCY} histogram")
            for (model, api, entrypoint), (buckets, total) in self._latencies.items():
                labels = f'model_name="{model}",API="{api}",entrypoint="{entrypoint}"'
                passed = 0
                for bound, count in zip([*(f"{bound:g}" for bound in BOUNDS), "+Inf"], buckets, strict=True):
                    passed += count
                    lines.append(f'{LATENCY}_bucket{{{labels},le="{bound}"}} {passed}')
                lines += [f"{LATENCY}_sum{{{labels}}} {total[0]:.0f}", f"{LATENCY}_count{{{labels}}} {passed}"]
            return "\n".join(lines) + "\n"
