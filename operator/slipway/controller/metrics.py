"""The operator's own Prometheus metrics."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

WRITES = Counter("slipway_api_writes", "Mutating requests to the API server, by kind and verb.", ["kind", "verb"])
READS = Counter("slipway_api_reads", "Reading requests to the API server outside watches, by kind.", ["kind"])
FAILED_REQUESTS = Counter("slipway_api_failed_requests", "Failed requests to the API server, by status.", ["status"])
PASSES = Counter("slipway_passes", "Passes, by outcome: unchanged, changed, failed.", ["outcome"])
PASS_SECONDS = Histogram(
    "slipway_pass_seconds", "How long a pass took.", buckets=(0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10)
)
QUEUE_DEPTH = Gauge("slipway_queue_depth", "ModelDeployments that are due for a pass or in one.")
DEPLOYMENTS = Gauge("slipway_modeldeployments", "ModelDeployments known.")
UNREADY = Gauge("slipway_modeldeployments_not_ready", "ModelDeployments whose condition Ready is not True.")
AGENT_READS = Counter("slipway_agent_reads", "Reports read from agents, by outcome: ok, unreachable.", ["outcome"])
ROUTER_READS = Counter(
    "slipway_router_reads", "Reports read from routers, by outcome: ok, unreachable, unreadable.", ["outcome"]
)
AGENTS_OUTDATED = Gauge(
    "slipway_agents_outdated",
    "Pods whose agent is older than the operator's floor; absent where there are none.",
    ["namespace", "name"],
)
LOOP_LAG = Gauge("slipway_event_loop_lag_seconds", "How late the event loop ran its last heartbeat.")
STALLED = Gauge("slipway_watch_stalled", "1 while the API server holds changes that no watch has delivered.")
