"""The operator's settings, from environment variables; the Helm chart sets them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from slipway import __version__
from slipway.render.network_policy import read_peers
from slipway.render.pod_template import Images

# Variable and default: the official image, or one of this release. Custom has none; its users name theirs.
SERVER_IMAGES = {
    "TensorFlowServing": ("SLIPWAY_TENSORFLOW_SERVING_IMAGE", "tensorflow/serving:2.20.0"),
    "TorchServe": ("SLIPWAY_TORCHSERVE_IMAGE", "pytorch/torchserve:0.12.0-cpu"),
    "Triton": ("SLIPWAY_TRITON_IMAGE", f"slipway.dev/triton:{__version__}"),
    "ONNXRuntime": ("SLIPWAY_ONNX_RUNTIME_IMAGE", f"slipway.dev/onnxruntime:{__version__}"),
}


class SettingsError(Exception):
    """A setting that can't be used; the message says which, and what to write."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How this operator runs.

    namespaces: those it watches; empty means all. metrics_port: /metrics and /healthz.
    """

    namespaces: tuple[str, ...]
    images: Images
    log_format: str
    log_level: str
    metrics_port: int


def read_cluster_domain(resolver: str) -> str:
    """The domain under which a cluster's Services have names, from a pod's /etc/resolv.conf; the usual one elsewhere.

    >>> read_cluster_domain("search slipway-system.svc.example.org svc.example.org example.org\\nnameserver 10.0.0.10")
    'example.org'
    """
    for line in resolver.splitlines():
        for name in line.split()[1:] if line.startswith("search") else ():
            namespace, service, domain = (*name.split(".", 2), "", "")[:3]
            if namespace and service == "svc" and domain:
                return domain.rstrip(".")
    return "cluster.local"


def read_settings(environment: Mapping[str, str], resolver: str = "") -> Settings:
    """Read SLIPWAY_* variables. resolver: what /etc/resolv.conf says. Raises SettingsError."""

    def read(name: str, default: str, allowed: tuple[str, ...] = ()) -> str:
        value = environment.get(name) or default
        if allowed and value not in allowed:
            raise SettingsError(f"{name} is {value!r}; write one of {', '.join(allowed)}")
        return value

    try:
        peers = read_peers(allowed) if (allowed := read("SLIPWAY_NETWORK_POLICY", "")) else None
    except ValueError as error:
        raise SettingsError(
            f"SLIPWAY_NETWORK_POLICY can't be read: {error}. Correct networkPolicy.models in the chart's values"
        ) from error
    port = read("SLIPWAY_METRICS_PORT", "8080")
    if not (port.isascii() and port.isdigit()) or not 0 < int(port) < 65_536:
        raise SettingsError(f"SLIPWAY_METRICS_PORT is {port!r}; write a port number")
    return Settings(
        namespaces=tuple(part.strip() for part in read("SLIPWAY_NAMESPACES", "").split(",") if part.strip()),
        images=Images(
            agent=read("SLIPWAY_AGENT_IMAGE", f"slipway.dev/agent:{__version__}"),
            servers={name: read(variable, default) for name, (variable, default) in SERVER_IMAGES.items()},
            router=read("SLIPWAY_ROUTER_IMAGE", "envoyproxy/envoy:v1.40.0"),
            pull_policy=read("SLIPWAY_IMAGE_PULL_POLICY", "IfNotPresent", ("IfNotPresent", "Always", "Never")),
            cluster_domain=read("SLIPWAY_CLUSTER_DOMAIN", read_cluster_domain(resolver)),
            peers=peers,
        ),
        log_format=read("SLIPWAY_LOG_FORMAT", "console", ("json", "console")),
        log_level=read("SLIPWAY_LOG_LEVEL", "INFO", ("DEBUG", "INFO", "WARNING", "ERROR")),
        metrics_port=int(port),
    )
