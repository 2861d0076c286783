"""The configuration of a router's Envoy, as values of JSON: bootstrap, clusters (CDS) and routes (RDS).

Clusters and routes are files that a running Envoy reads again when the ConfigMap's folder is swapped; nothing else
speaks to it, so it starts and serves with nobody there. Facts (Envoy 1.40; tests/router holds each of them):
- A cluster and a weight for it in one swap can fail: CDS and RDS are read one after the other. Who renders gives a new
  workload weight 0 first, and weight when every router has it.
- A file is JSON, never YAML: Envoy reads YAML's `n` as false.
- Its defaults cut a request after 15 s and a silent stream after 5 minutes, and hold 1,024 requests at once: all three
  are lifted here. A server's slowness is the server's to judge.
- STRICT_DNS on a headless Service: each pod is an endpoint of its own, so HTTP/2 is spread over all of them.
- A server that closes a kept connection just as a request goes out on it makes a 503 of ours: the idle time here is
  shorter than that of the usual servers (uvicorn 5 s, gunicorn 2 s).
- Retries are made only where the request surely never reached a server. The attempts of each request are counted, which
  is how an error that a retry hid is found again (`router.read_report`).
- A running Envoy keeps the bootstrap that it began with: listeners, status paths and the names of stats are a contract
  with routers of operators before this one, while clusters and routes are today's.
Pure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from slipway.model.names import (
    GRPC_CLUSTERS,
    HTTP_CLUSTERS,
    POD_HEADER,
    POD_VARIABLE,
    ROUTER_PORT,
    ROUTES_KEY,
    STATUS_HOST,
    STATUS_PORT,
)
from slipway.model.signals import LATENCY_BOUNDS_MILLISECONDS
from slipway.render.routing import Backend, OtherApi

Json = dict[str, Any]

ADMIN_PORT = 10091
"""On loopback alone: admin can end the process."""

ADMIN_ADDRESS = "127.0.0.1"

FOLDER = "/etc/slipway-router"

BOOTSTRAP_KEY = "bootstrap.json"

CLUSTERS_KEY = "clusters.json"

NAMED = "http-named"
"""Clusters are called <one of these>/<workload>; NAMED: requests that name a version, neither weighted nor judged."""

DNS_REFRESH = "1s"

CONNECT_TIMEOUT = "1s"

IDLE_UPSTREAM = "1.500s"

NO_LIMIT = 1_000_000_000

RETRIES = 3

STREAM_WINDOW_BYTES = 1024 * 1024

CONNECTION_WINDOW_BYTES = 16 * STREAM_WINDOW_BYTES

ANSWERS = "slipway.answers"
"""Counts each request that has ended, by cluster, attempts, response code, Envoy's flags and gRPC status."""

KEPT = (
    r"cluster\.(http|grpc|http-named)/[a-z0-9-]+\.(membership_(healthy|total)|upstream_rq_(active|retry|time|timeout)|"
    r"upstream_cx_(active|connect_fail|none_healthy))",
    rf"{re.escape(ANSWERS)}.*",
    r"http\.traffic\.(downstream_(cx|rq)_(active|total)|downstream_cx_drain_close|rds\.traffic\.(config_reload|"
    r"update_rejected|update_failure))",
    r"cluster_manager\.(cds\.(update_rejected|update_failure|update_success)|(warming|active)_clusters)",
    r"server\.(live|state|uptime|memory_allocated|memory_heap_size)",
)
"""The only stats that are kept: each of the others costs memory in every router, times workloads."""

_EXTENSIONS = "type.googleapis.com/envoy.extensions"

_MANAGER = f"{_EXTENSIONS}.filters.network.http_connection_manager.v3.HttpConnectionManager"


def bootstrap(name: str) -> Json:
    """What an Envoy starts with. name: the ModelDeployment's, which its logs and stats carry as the node's cluster."""
    return {
        "node": {"id": "router", "cluster": name},
        "admin": {
            "address": _address(ADMIN_ADDRESS, ADMIN_PORT),
            "allow_paths": [{"prefix": path} for path in ("/ready", "/stats", "/drain_listeners", "/config_dump")]
            + [{"exact": "/clusters"}],
        },
        # A histogram is merged when it is asked for, so that it speaks of the same requests as the counters.
        "stats_flush_on_admin": True,
        "stats_config": {
            "stats_matcher": {"inclusion_list": {"patterns": [{"safe_regex": {"regex": regex}} for regex in KEPT]}},
            "histogram_bucket_settings": [
                {"match": {"suffix": "upstream_rq_time"}, "buckets": list(LATENCY_BOUNDS_MILLISECONDS)}
            ],
        },
        "typed_dns_resolver_config": {
            "name": "envoy.network.dns_resolver.cares",
            "typed_config": {
                "@type": f"{_EXTENSIONS}.network.dns_resolver.cares.v3.CaresDnsResolverConfig",
                # Names are whole. A search list ends with the bare name, and a DNS that knows nothing of it makes of
                # "no pods any more" (NXDOMAIN) a failure, at which the last known endpoints are kept for ever.
                "dns_resolver_options": {"no_default_search_domain": True},
                # One socket for ever would stay with a DNS pod that is gone, by the node's connection tracking.
                "udp_max_queries": 100,
                "query_timeout_seconds": 1,
                "query_tries": 2,
                "reinit_channel_on_timeout": True,
            },
        },
        "dynamic_resources": {"cds_config": _watched(CLUSTERS_KEY)},
        "static_resources": {
            "clusters": [_admin_cluster()],
            "listeners": [_traffic_listener(), _status_listener()],
        },
    }


def _address(address: str, port: int) -> Json:
    return {"socket_address": {"address": address, "port_value": port}}


def _watched(key: str) -> Json:
    """A file of the ConfigMap's folder, read again when the folder's `..data` is replaced, as a kubelet does."""
    source = {"path": f"{FOLDER}/{key}", "watched_directory": {"path": FOLDER}}
    return {"path_config_source": source, "resource_api_version": "V3"}


def _admin_cluster() -> Json:
    endpoint = {"endpoint": {"address": _address(ADMIN_ADDRESS, ADMIN_PORT)}}
    return {
        "name": "admin",
        "type": "STATIC",
        "connect_timeout": CONNECT_TIMEOUT,
        "load_assignment": {"cluster_name": "admin", "endpoints": [{"lb_endpoints": [endpoint]}]},
    }


def _listener(name: str, port: int, manager: Json) -> Json:
    return {
        "name": name,
        "address": _address("0.0.0.0", port),  # noqa: S104 — a pod's own network; who may reach it is a NetworkPolicy's
        "tcp_backlog_size": 4096,
        "filter_chains": [
            {
                "filters": [
                    {
                        "name": "envoy.filters.network.http_connection_manager",
                        "typed_config": {"@type": _MANAGER, **manager},
                    }
                ]
            }
        ],
    }


def _filter(name: str, kind: str, **settings: Any) -> Json:
    return {"name": f"envoy.filters.http.{name}", "typed_config": {"@type": f"{_EXTENSIONS}.{kind}", **settings}}


def _router_filter() -> Json:
    return _filter("router", "filters.http.router.v3.Router", suppress_envoy_headers=True)


def _traffic_listener() -> Json:
    manager = {
        "stat_prefix": "traffic",
        "codec_type": "AUTO",
        "rds": {"route_config_name": "traffic", "config_source": _watched(ROUTES_KEY)},
        "http_filters": [_router_filter()],
        "access_log": [_counter()],
        # What clients and servers would notice of a hop is left out.
        "server_header_transformation": "PASS_THROUGH",
        "generate_request_id": False,
        "preserve_external_request_id": True,
        "stream_idle_timeout": "0s",
        "request_timeout": "0s",
        "http_protocol_options": {"accept_http_10": True, "default_host_for_http_10": "slipway"},
        "http2_protocol_options": {
            "initial_stream_window_size": STREAM_WINDOW_BYTES,
            "initial_connection_window_size": CONNECTION_WINDOW_BYTES,
        },
        "upgrade_configs": [{"upgrade_type": "websocket"}],
    }
    return _listener("traffic", ROUTER_PORT, manager)


def _counter() -> Json:
    """Counts what became of each request.

    Envoy's own cluster counters don't do: they miss a request that the client gave up, which is all that is seen of a
    server that hangs, and an answer that broke off in the middle; and gRPC's failures are in trailers.
    """
    tags = {
        "cluster": "%UPSTREAM_CLUSTER%",
        "attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
        "code": "%RESPONSE_CODE%",
        "flags": "%RESPONSE_FLAGS%",
        "grpc": "%GRPC_STATUS_NUMBER%",
    }
    prefix, _, name = ANSWERS.partition(".")
    stat = {"name": name, "tags": [{"name": tag, "value_format": value} for tag, value in tags.items()]}
    return {
        "name": "envoy.access_loggers.stats",
        "typed_config": {
            "@type": f"{_EXTENSIONS}.access_loggers.stats.v3.Config",
            "stats_scope": {"prefix": prefix},
            "counters": [{"stat": stat, "value_fixed": 1}],
        },
    }


def _status_listener() -> Json:
    get = [{"name": ":method", "string_match": {"exact": "GET"}}]
    routes: list[Json] = [
        {"match": {"path": path, "headers": get}, "route": {"cluster": "admin", "timeout": "5s"}}
        for path in ("/ready", "/stats/prometheus")
    ]
    routes.append({"match": {"prefix": "/"}, "direct_response": {"status": 404}})
    manager = {
        "stat_prefix": "status",
        "codec_type": "HTTP1",
        "http_filters": [_router_filter()],
        "server_header_transformation": "PASS_THROUGH",
        "generate_request_id": False,
        "route_config": {"name": "status", "virtual_hosts": [{"name": "status", "domains": ["*"], "routes": routes}]},
    }
    return _listener("status", STATUS_PORT, manager)


def clusters(hosts: Mapping[str, str], backends: Sequence[Backend], *, named: bool) -> list[Json]:
    """A cluster for each workload and protocol, whatever its weight.

    hosts: workload → full name of its headless Service. named: versions can be named.
    """
    found = []
    for backend in backends:
        host = hosts[backend.workload]
        found.append(_cluster(HTTP_CLUSTERS, backend.workload, host, backend.http_port))
        if named:
            found.append(_cluster(NAMED, backend.workload, host, backend.http_port))
        if backend.grpc_port is not None:
            found.append(_cluster(GRPC_CLUSTERS, backend.workload, host, backend.grpc_port))
    return [{"@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster", **cluster} for cluster in found]


def _cluster(protocol: str, workload: str, host: str, port: int) -> Json:
    name = f"{protocol}/{workload}"
    if protocol == GRPC_CLUSTERS:
        options: Json = {
            "initial_stream_window_size": STREAM_WINDOW_BYTES,
            "initial_connection_window_size": CONNECTION_WINDOW_BYTES,
        }
        protocol_options: Json = {"explicit_http_config": {"http2_protocol_options": options}}
    else:
        protocol_options = {
            "explicit_http_config": {"http_protocol_options": {}},
            "common_http_protocol_options": {"idle_timeout": IDLE_UPSTREAM},
        }
    return {
        "name": name,
        "cluster_type": {
            "name": "envoy.clusters.dns",
            "typed_config": {  # what used to be called STRICT_DNS
                "@type": f"{_EXTENSIONS}.clusters.dns.v3.DnsCluster",
                "dns_lookup_family": "V4_PREFERRED",
                "dns_refresh_rate": DNS_REFRESH,
                "dns_failure_refresh_rate": {"base_interval": DNS_REFRESH, "max_interval": DNS_REFRESH},
            },
        },
        "connect_timeout": CONNECT_TIMEOUT,
        # The least busy of two: what a request waits for in a model server is the requests before it.
        "lb_policy": "LEAST_REQUEST",
        # Nobody is left out for being unhealthy here: who is ready is the headless Service's to say.
        "common_lb_config": {"healthy_panic_threshold": {"value": 0}},
        "circuit_breakers": {
            "thresholds": [
                {
                    "max_connections": NO_LIMIT,
                    "max_pending_requests": NO_LIMIT,
                    "max_requests": NO_LIMIT,
                    "max_retries": NO_LIMIT,
                }
            ]
        },
        "upstream_connection_options": {
            "tcp_keepalive": {"keepalive_probes": 3, "keepalive_time": 10, "keepalive_interval": 5}
        },
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": f"{_EXTENSIONS}.upstreams.http.v3.HttpProtocolOptions",
                **protocol_options,
            }
        },
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _address(host, port)}}]}],
        },
    }


def routes(
    backends: Sequence[Backend],
    others: Sequence[OtherApi],
    prefixes: Mapping[str, Sequence[str]],
    timeout_seconds: int | None,
    status: str,
) -> Json:
    """One RouteConfiguration: what it answers of itself, gRPC by weight, named versions, the rest by weight.

    others: what stable can't answer goes to those who can; all else goes by weight among the rest. prefixes: workload →
    what the paths begin with that name one of its versions. status: the answer to STATUS_HOST.
    """
    timeout = {"timeout": "0s" if timeout_seconds is None else f"{timeout_seconds}s"}
    apart = {backend.workload for api in others for backend in api.backends}
    usual = [backend for backend in backends if backend.workload not in apart]
    found: list[Json] = [
        {"match": {"prefix": f"/{api.grpc_package}.", "grpc": {}}, "route": {**shares, **timeout}}
        for api in others
        if api.grpc_package and (shares := _grpc_shares(api.backends))
    ]
    grpc = {"prefix": "/", "grpc": {}}
    if shares := _grpc_shares(usual):
        found.append({"match": grpc, "route": {**shares, **timeout}})
    else:
        found.append({"match": grpc, "direct_response": {"status": 404}})  # UNIMPLEMENTED, to a gRPC client
    for backend in backends:
        if begins := prefixes.get(backend.workload):
            route = {"cluster": f"{NAMED}/{backend.workload}", **timeout}
            found.append({"match": _begins_with(begins), "route": route})
    for api in others:
        found.append({"match": _begins_with([api.path]), "route": {**_shares(HTTP_CLUSTERS, api.backends), **timeout}})
    found.append({"match": {"prefix": "/"}, "route": {**_shares(HTTP_CLUSTERS, usual), **timeout}})
    answer = {"status": 200, "body": {"inline_string": status}}
    whose = [{"header": {"key": POD_HEADER, "value": f"%ENVIRONMENT({POD_VARIABLE})%"}}]
    return {
        "@type": "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
        "name": "traffic",
        "virtual_hosts": [
            {
                "name": "status",
                "domains": [STATUS_HOST, f"{STATUS_HOST}:*"],
                "routes": [{"match": {"prefix": "/"}, "direct_response": answer, "response_headers_to_add": whose}],
            },
            {"name": "traffic", "domains": ["*"], "retry_policy": _retries(), "routes": found},
        ],
    }


def _begins_with(paths: Sequence[str]) -> Json:
    return {"safe_regex": {"regex": f"({'|'.join(map(re.escape, paths))})([/:].*)?"}}


def _grpc_shares(backends: Sequence[Backend]) -> Json:
    """Where gRPC requests go; nothing where nobody who takes requests has that port."""
    return _shares(GRPC_CLUSTERS, [backend for backend in backends if backend.grpc_port is not None])


def _shares(protocol: str, backends: Sequence[Backend]) -> Json:
    """Where requests go by weight; where nobody has any, to the first that is open to them; nothing without one."""
    weights = {backend.workload: backend.weight_percent for backend in backends}
    if not any(weights.values()):
        first = next((backend.workload for backend in backends if backend.is_open), None)
        if first is None:
            return {}
        weights[first] = 100
    return {
        "weighted_clusters": {
            "clusters": [{"name": f"{protocol}/{workload}", "weight": weight} for workload, weight in weights.items()]
        }
    }


def _retries() -> Json:
    return {
        "retry_on": "connect-failure,refused-stream,reset-before-request",
        "num_retries": RETRIES,
        "retry_host_predicate": [
            {
                "name": "envoy.retry_host_predicates.previous_hosts",
                "typed_config": {
                    "@type": f"{_EXTENSIONS}.retry.host.previous_hosts.v3.PreviousHostsPredicate",
                },
            }
        ],
        "host_selection_retry_max_attempts": "5",
        "retry_back_off": {"base_interval": "0.005s", "max_interval": "0.050s"},
    }
