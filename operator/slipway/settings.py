"""The operator's settings, from environment variables; the Helm chart sets them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from slipway import __version__
from slipway.manifests import Images


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


def read_settings(environment: Mapping[str, str]) -> Settings:
    """Read SLIPWAY_* variables. Raises SettingsError."""

    def read(name: str, default: str, allowed: tuple[str, ...] = ()) -> str:
        value = environment.get(name) or default
        if allowed and value not in allowed:
            raise SettingsError(f"{name} is {value!r}; write one of {', '.join(allowed)}")
        return value

    port = read("SLIPWAY_METRICS_PORT", "8080")
    if not (port.isascii() and port.isdigit()) or not 0 < int(port) < 65_536:
        raise SettingsError(f"SLIPWAY_METRICS_PORT is {port!r}; write a port number")
    return Settings(
        namespaces=tuple(part.strip() for part in read("SLIPWAY_NAMESPACES", "").split(",") if part.strip()),
        images=Images(
            agent=read("SLIPWAY_AGENT_IMAGE", f"slipway.dev/agent:{__version__}"),
            servers={"Triton": read("SLIPWAY_TRITON_IMAGE", f"slipway.dev/triton:{__version__}")},
            pull_policy=read("SLIPWAY_IMAGE_PULL_POLICY", "IfNotPresent", ("IfNotPresent", "Always", "Never")),
        ),
        log_format=read("SLIPWAY_LOG_FORMAT", "console", ("json", "console")),
        log_level=read("SLIPWAY_LOG_LEVEL", "INFO", ("DEBUG", "INFO", "WARNING", "ERROR")),
        metrics_port=int(port),
    )
