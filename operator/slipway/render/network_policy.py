"""Who may reach a ModelDeployment's pods: NetworkPolicies `<name>-pods` and `<name>-router`, where the chart says so.

    port                                    clients   routers   operator   what reads metrics
    the server's http and grpc                 x         x
    ports of containers that the user adds     x
    the server's metrics (http without any)                         x             x
    agent                                                           x             x
    router                                     x                    x
    router's status                                                 x             x

Everything else that comes in is refused, and nothing that goes out is. Kubelets' probes come from the node, which a
network plugin lets in.

Invariant: ports stand by number, since not every plugin knows the names of a sidecar's; and those of every kept
revision and every live Deployment, so that no pod that comes, serves or ends loses its clients by a policy.
Must not import: report, controller. Pure.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from slipway.api.v1alpha1 import ModelDeployment
from slipway.model.names import AGENT_PORT, MODEL_LABEL, ROUTER_PORT, STATUS_PORT, router_label
from slipway.model.revision import Json
from slipway.render.objects import NETWORK_POLICY, Child, owned
from slipway.render.ports import CLIENT_PORTS

Port = tuple[int, str]
"""Number and protocol."""

PEER_FIELDS = frozenset({"podSelector", "namespaceSelector", "ipBlock"})


@dataclass(frozen=True, slots=True)
class Peers:
    """Who may reach what, as lists of NetworkPolicyPeer.

    clients: who may ask for predictions; empty: everybody. operator: the operator's own pod. metrics: who else may read
    metrics; empty: nobody. A peer with a podSelector alone means pods of the ModelDeployment's own namespace.
    """

    clients: tuple[Json, ...]
    operator: tuple[Json, ...]
    metrics: tuple[Json, ...]


def read_peers(text: str) -> Peers:
    """{"from": […], "operator": […], "metricsFrom": […]}, as the chart writes it. Raises ValueError: what is wrong."""
    raw = json.loads(text)
    if not isinstance(raw, dict) or not raw.keys() <= {"from", "operator", "metricsFrom"}:
        raise ValueError("it is no object with from, operator and metricsFrom")
    found = {name: _read_list(name, raw.get(name) or []) for name in ("from", "operator", "metricsFrom")}
    if not found["operator"]:
        raise ValueError("operator names nobody: the operator itself would be locked out")
    return Peers(clients=found["from"], operator=found["operator"], metrics=found["metricsFrom"])


def _read_list(name: str, raw: Any) -> tuple[Json, ...]:
    peers = raw if isinstance(raw, list) else [raw]
    for peer in peers:
        if not isinstance(peer, dict) or not peer or not peer.keys() <= PEER_FIELDS:
            raise ValueError(f"{name} has {json.dumps(peer)}: a peer has podSelector, namespaceSelector or ipBlock")
        block = peer.get("ipBlock") or {}
        for cidr in (block.get("cidr"), *(block.get("except") or [])) if block else ():
            _check_cidr(name, cidr)
    return tuple({field: _stored(value) for field, value in peer.items()} for peer in peers)


def _check_cidr(name: str, cidr: Any) -> None:
    """Raises ValueError where the API server would refuse it, of each ModelDeployment anew."""
    if not isinstance(cidr, str) or "/" not in cidr:
        raise ValueError(f"{name} has the ipBlock {json.dumps(cidr)}: write addresses as in 10.0.0.0/8")
    try:
        ipaddress.ip_network(cidr, strict=False)
    except ValueError as error:
        raise ValueError(f"{name} has the ipBlock {cidr}: {error}") from None


def _stored(value: Any) -> Any:
    """As the API server keeps it: without empty parts, or the policy would be written again in each pass.

    >>> _stored({"matchLabels": {}, "matchExpressions": [{"key": "a", "operator": "Exists", "values": []}]})
    {'matchExpressions': [{'key': 'a', 'operator': 'Exists'}]}
    """
    match value:
        case dict():
            return {name: kept for name, each in value.items() if (kept := _stored(each)) not in ({}, [], None)}
        case list():
            return [_stored(each) for each in value]
        case _:
            return value


def render_pods_policy(deployment: ModelDeployment, peers: Peers, templates: Iterable[Json]) -> Child:
    """Who may reach the model's pods. templates: of all pods that there are, or may be."""
    clients: set[Port] = set()
    added: set[Port] = set()
    metrics: set[Port] = {(AGENT_PORT, "TCP")}
    for template in templates:
        server = dict(_ports(template, of_server=True))
        clients |= {port for name, port in server.items() if name in CLIENT_PORTS}
        if (told := server.get("metrics") or server.get("http")) is not None:
            metrics.add(told)
        added |= {port for name, port in server.items() if name not in (*CLIENT_PORTS, "metrics")}
        added |= {port for _, port in _ports(template, of_server=False)}
    routers = {"podSelector": {"matchLabels": {MODEL_LABEL: router_label(deployment.name)}}}
    rules = [
        _rule(clients, [*peers.clients, routers] if peers.clients else []),
        _rule(added - clients, peers.clients),
        _rule(metrics, [*peers.operator, *peers.metrics]),
    ]
    return _policy(deployment, "pods", deployment.name, rules)


def render_router_policy(deployment: ModelDeployment, peers: Peers) -> Child:
    """Who may reach its routers. Admin isn't named: it listens on the pod's loopback."""
    rules = [
        _rule({(ROUTER_PORT, "TCP")}, [*peers.clients, *peers.operator] if peers.clients else []),
        _rule({(STATUS_PORT, "TCP")}, [*peers.operator, *peers.metrics]),
    ]
    return _policy(deployment, "router", router_label(deployment.name), rules)


def _ports(template: Json, *, of_server: bool) -> list[tuple[str, Port]]:
    """Name and port of those of the server, or of the containers that the user has added."""
    spec = template.get("spec") or {}
    sidecars = [each for each in spec.get("initContainers") or [] if each.get("restartPolicy") == "Always"]
    containers = [*(spec.get("containers") or []), *(each for each in sidecars if each["name"] != "agent")]
    return [
        (port.get("name", ""), (port["containerPort"], port.get("protocol", "TCP")))
        for container in containers
        if (container["name"] == "server") == of_server
        for port in container.get("ports") or []
    ]


def _rule(ports: Iterable[Port], peers: Iterable[Json]) -> Json | None:
    """Ports and who may reach them; no peers: everybody. None: there are no ports, which would mean all of them."""
    numbers = [{"port": number, "protocol": protocol} for number, protocol in sorted(ports)]
    allowed = list(peers)
    if not numbers:
        return None
    return {"ports": numbers, "from": allowed} if allowed else {"ports": numbers}


def _policy(deployment: ModelDeployment, suffix: str, label: str, rules: Iterable[Json | None]) -> Child:
    spec = {
        "podSelector": {"matchLabels": {MODEL_LABEL: label}},
        "policyTypes": ["Ingress"],
        "ingress": [rule for rule in rules if rule is not None],
    }
    return owned(deployment, NETWORK_POLICY, f"{deployment.name}-{suffix}", {"spec": spec})
