"""Who reaches which port of which pod, by the rules that Kubernetes gives NetworkPolicies."""

from __future__ import annotations

import copy
import ipaddress
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from slipway.model.names import MODEL_LABEL, ROUTER_PORT, STATUS_PORT, router_label
from slipway.render import envoy
from slipway.render.drift import differs
from slipway.render.network_policy import Peers, read_peers, render_pods_policy, render_router_policy
from slipway.render.pod_template import render_template
from slipway.runtimes import RUNTIMES
from slipway_agent.servers.torchserve.files import TorchServeSpec, compose_properties
from tests.unit.specs import IMAGES, NAME, NAMESPACE, Json, deployment

OPERATOR_NAMESPACE = "slipway-system"
OPERATOR: Json = {
    "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": OPERATOR_NAMESPACE}},
    "podSelector": {"matchLabels": {"app.kubernetes.io/component": "operator"}},
}
WEB: Json = {"namespaceSelector": {"matchLabels": {"team": "web"}}}
PROMETHEUS: Json = {"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "prometheus"}}}
PEERS = Peers(clients=(WEB,), operator=(OPERATOR,), metrics=(PROMETHEUS,))


@dataclass(frozen=True)
class Source:
    """Who connects: a pod's namespace, that namespace's labels, and the pod's own."""

    namespace: str
    namespace_labels: Json = field(default_factory=dict)
    labels: Json = field(default_factory=dict)
    address: str = "10.0.0.1"


SOURCES = {
    "client": Source("web", {"team": "web"}),
    "stranger": Source("other"),
    "neighbour": Source(NAMESPACE),
    "operator": Source(
        OPERATOR_NAMESPACE,
        {"kubernetes.io/metadata.name": OPERATOR_NAMESPACE},
        {"app.kubernetes.io/component": "operator"},
    ),
    "beside the operator": Source(OPERATOR_NAMESPACE, {"kubernetes.io/metadata.name": OPERATOR_NAMESPACE}),
    "prometheus": Source("monitoring", {}, {"app": "prometheus"}),
    "router": Source(NAMESPACE, {}, {MODEL_LABEL: router_label(NAME)}),
    "another model's router": Source(NAMESPACE, {}, {MODEL_LABEL: router_label("faces")}),
    "a router of that name elsewhere": Source("elsewhere", {}, {MODEL_LABEL: router_label(NAME)}),
}
EVERYBODY = set(SOURCES)


def selects(selector: Json, labels: Json) -> bool:
    return all(labels.get(name) == value for name, value in selector.get("matchLabels", {}).items())


def is_peer(peer: Json, source: Source) -> bool:
    if "ipBlock" in peer:
        return ipaddress.ip_address(source.address) in ipaddress.ip_network(peer["ipBlock"]["cidr"])
    if "namespaceSelector" in peer:
        is_there = selects(peer["namespaceSelector"], source.namespace_labels)
    else:
        is_there = source.namespace == NAMESPACE
    return is_there and selects(peer.get("podSelector", {}), source.labels)


def reaching(policy: Json, port: int) -> set[str]:
    """Who reaches a port of the pods that a policy selects."""
    spec = policy["spec"]
    assert spec["policyTypes"] == ["Ingress"]
    rules = [rule for rule in spec["ingress"] if port in {each["port"] for each in rule["ports"]}]
    return {
        name
        for name, source in SOURCES.items()
        if any("from" not in rule or any(is_peer(peer, source) for peer in rule["from"]) for rule in rules)
    }


def spec_of(runtime: str, **pod: Any) -> Json:
    image = {"image": "own:1"} if runtime == "Custom" else {}
    return {"runtime": {"name": runtime, **image}, **({"podTemplate": {"spec": pod}} if pod else {})}


def policy_of(*specs: Json, peers: Peers = PEERS) -> Json:
    templates = [render_template(deployment(spec), IMAGES, "abc") for spec in specs]
    return render_pods_policy(deployment(), peers, templates).manifest


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_requests_come_from_where_the_user_says_and_the_agent_answers_the_operator(runtime: str) -> None:
    policy = policy_of(spec_of(runtime))
    of_metrics = {"operator", "prometheus"}
    ports = {port.name: port.number for port in RUNTIMES[runtime].ports(deployment(spec_of(runtime)).spec)}
    assert policy["spec"]["podSelector"] == {"matchLabels": {MODEL_LABEL: NAME}}
    assert reaching(policy, 8081) == of_metrics
    for name, number in ports.items():
        tells = name == "metrics" or (name == "http" and "metrics" not in ports)
        serves = {"client", "router"} if name in ("http", "grpc") else set()
        assert reaching(policy, number) == serves | (of_metrics if tells else set())


@pytest.mark.parametrize("port", [8083, 7071, 22, 10091])
def test_a_port_that_nobody_names_is_reached_by_nobody(port: int) -> None:
    assert reaching(policy_of(spec_of("TorchServe")), port) == set()


def test_without_peers_everybody_may_ask_and_the_agent_still_answers_the_operator_alone() -> None:
    policy = policy_of(spec_of("Triton"), peers=replace(PEERS, clients=(), metrics=()))
    assert reaching(policy, 8000) == EVERYBODY
    assert reaching(policy, 8081) == reaching(policy, 8002) == {"operator"}


def test_while_two_servers_have_pods_clients_reach_both() -> None:
    policy = policy_of(spec_of("Triton"), spec_of("TensorFlowServing"))
    assert all("client" in reaching(policy, port) for port in (8000, 8001, 8500, 8501))


def test_a_container_of_the_users_own_is_reached_by_clients() -> None:
    added = {"containers": [{"name": "front", "ports": [{"containerPort": 9000}]}]}
    sidecar = {"name": "side", "restartPolicy": "Always", "ports": [{"containerPort": 9001, "protocol": "UDP"}]}
    policy = policy_of(spec_of("Triton", **added, initContainers=[sidecar]))
    assert reaching(policy, 9000) == reaching(policy, 9001) == {"client"}
    assert {"port": 9001, "protocol": "UDP"} in [port for rule in policy["spec"]["ingress"] for port in rule["ports"]]


def test_routers_take_requests_from_clients_and_tell_their_state_to_the_operator() -> None:
    policy = render_router_policy(deployment(), PEERS).manifest
    assert policy["spec"]["podSelector"] == {"matchLabels": {MODEL_LABEL: router_label(NAME)}}
    assert reaching(policy, ROUTER_PORT) == {"client", "operator"}
    assert reaching(policy, STATUS_PORT) == {"operator", "prometheus"}
    assert reaching(policy, 10091) == set()
    opened = render_router_policy(deployment(), replace(PEERS, clients=())).manifest
    assert reaching(opened, ROUTER_PORT) == EVERYBODY


def test_no_rule_is_without_ports_which_would_mean_all_of_them() -> None:
    policies = [policy_of(spec_of(runtime)) for runtime in RUNTIMES]
    policies += [policy_of(), render_router_policy(deployment(), PEERS).manifest]
    assert all(rule["ports"] for policy in policies for rule in policy["spec"]["ingress"])


def test_peers_are_read_as_the_api_server_keeps_them() -> None:
    text = """{"from": [{"podSelector": {"matchLabels": {}}}, {"ipBlock": {"cidr": "10.0.0.0/8", "except": []}}],
               "operator": [{"podSelector": {}}], "metricsFrom": null}"""
    assert read_peers(text) == Peers(
        ({"podSelector": {}}, {"ipBlock": {"cidr": "10.0.0.0/8"}}), ({"podSelector": {}},), ()
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[]", "from, operator and metricsFrom"),
        ("{", "Expecting property name"),
        ('{"operator": [{}]}', "a peer has podSelector"),
        ('{"operator": [{"podSelector": {}}], "from": [{"pods": {}}]}', 'from has {"pods": {}}'),
        ('{"operator": [{"podSelector": {}}], "from": "all"}', 'from has "all"'),
        ('{"from": []}', "locked out"),
        ('{"operator": [{"ipBlock": {"cidr": "10.0.0.0/33"}}]}', "operator has the ipBlock 10.0.0.0/33"),
        ('{"operator": [{"podSelector": {}}], "from": [{"ipBlock": {"cidr": "10.0.0.1"}}]}', 'ipBlock "10.0.0.1"'),
        ('{"operator": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10/9"]}}]}', "operator has the ipBlock 10/9"),
        ('{"operator": [{"ipBlock": {"except": ["10.0.0.0/9"]}}]}', "operator has the ipBlock null"),
    ],
)
def test_what_is_no_peer_is_refused_with_a_reason(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        read_peers(text)


@pytest.mark.parametrize(
    "change",
    [
        lambda spec: spec["podSelector"]["matchLabels"].update(nobody="1"),
        lambda spec: spec["ingress"][0]["from"][0].update(podSelector={"matchLabels": {"a": "b"}}),
        lambda spec: spec["ingress"][0]["from"][1].update(namespaceSelector={}),
        lambda spec: spec["ingress"].append({}),
        lambda spec: spec["policyTypes"].append("Egress"),
    ],
)
def test_a_policy_that_somebody_widens_or_narrows_differs(change: Any) -> None:
    rendered = policy_of(spec_of("Triton"))
    live = copy.deepcopy(rendered)
    assert not differs(rendered, live)
    change(live["spec"])
    assert differs(rendered, live)


TABLE = Path(__file__).resolve().parents[3] / "docs" / "isolation.md"


def test_the_documented_ports_are_those_that_there_are() -> None:
    rows = re.findall(r"^\| (\w+) \| (\d+) [^|]*\| (every address|loopback) \|", TABLE.read_text(), re.M)
    here = {("agent", 8081, "every address")}
    for name, runtime in RUNTIMES.items():
        here |= {(name, port.number, "every address") for port in runtime.ports(deployment(spec_of(name)).spec)}
    here |= {("router", number, address) for number, address in envoy_listens()}
    here |= {("TorchServe", number, address) for number, address in torchserve_listens()}
    assert {(owner, int(number), address) for owner, number, address in rows} == here


def envoy_listens() -> set[tuple[int, str]]:
    """The ports of a router's Envoy, as its configuration has them, and where each listens."""

    def found(value: Any) -> Iterator[tuple[int, str]]:
        match value:
            case {"socket_address": {"address": str(address), "port_value": int(number)}}:
                yield number, "loopback" if address.startswith("127.") else "every address"
            case dict():
                yield from (each for inner in value.values() for each in found(inner))
            case list():
                yield from (each for inner in value for each in found(inner))

    return set(found(envoy.bootstrap(NAME)))


def torchserve_listens() -> set[tuple[int, str]]:
    """The ports of TorchServe, as the configuration has them that the agent writes, and where each listens."""
    lines = compose_properties(NAME, {}, (), TorchServeSpec()).splitlines()
    said = dict(line.split("=", 1) for line in lines if "=" in line)
    pairs = [said[name].removeprefix("http://").rsplit(":", 1) for name in said if name.endswith("_address")]
    listens = [(pair[0], pair[1]) for pair in pairs if len(pair) == 2]
    listens += [(said[f"grpc_{kind}_address"], said[f"grpc_{kind}_port"]) for kind in ("inference", "management")]
    return {(int(port), "loopback" if host.startswith("127.") else "every address") for host, port in listens}
