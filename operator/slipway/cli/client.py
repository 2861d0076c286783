"""What the commands need of a cluster. `cluster.py` gets it from an API server, tests from memory.

Every method may raise CommandError(NO_CLUSTER): no connection, no permission, no Slipway in the cluster.
Must not import: kubernetes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ClusterFlags:
    """Which cluster and namespace: kubectl's flags of these names. None: what the kubeconfig says."""

    namespace: str | None = None
    context: str | None = None
    kubeconfig: str | None = None

    @property
    def as_typed(self) -> str:
        """The flags for another command line, with a blank before each."""
        flags = (("-n", self.namespace), ("--context", self.context), ("--kubeconfig", self.kubeconfig))
        return "".join(f" {flag} {value}" for flag, value in flags if value)


@dataclass(frozen=True, slots=True)
class Request:
    """An HTTP request to a pod or Service, through the API server. body None: GET, else POST."""

    path: str
    body: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    timeout_seconds: float = 60


@dataclass(frozen=True, slots=True)
class Response:
    """A pod's response. milliseconds: the round trip from this machine, through the API server's proxy."""

    status: int
    body: bytes
    milliseconds: float
    headers: Mapping[str, str] = field(default_factory=dict)


class Client(Protocol):
    """One cluster, and the namespace that all methods use."""

    @property
    def namespace(self) -> str:
        """Of the flags, else of the kubeconfig's context, else `default`."""

    def within(self, namespace: str) -> Client:
        """The same cluster, and another namespace."""

    def read_model(self, name: str) -> Json | None:
        """The ModelDeployment; None: there is none of that name."""

    def list_models(self, *, everywhere: bool = False) -> list[Json]:
        """The ModelDeployments of the namespace, or of all namespaces."""

    def list_revisions(self, name: str) -> list[Json]:
        """The ControllerRevisions of a ModelDeployment."""

    def list_pods(self, selector: str) -> list[Json]:
        """Pods with these labels."""

    def has_namespace(self) -> bool | None:
        """Whether the namespace exists; None: this user may not know."""

    def annotate(self, name: str, key: str, value: str) -> Json:
        """Write one annotation of a ModelDeployment, and nothing else of it."""

    def send(self, kind: str, name: str, port: str, request: Request) -> Response:
        """Send a request to a port of a pod or Service. kind: `pods` or `services`.

        An HTTP error from the pod itself is a Response. Raises CommandError(FAILED) when the API server can't reach it.
        """
