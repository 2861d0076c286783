"""What the commands ask of a cluster: the seam between them and the API server.

`cluster.py` answers it with the kubernetes client, tests with objects in memory.
Every method may raise CommandError(NO_CLUSTER): no connection, no permission, no ModelDeployments in this cluster.
Must not import: kubernetes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Target:
    """Which cluster and namespace, as kubectl's flags of the same names say. None: as the kubeconfig says."""

    namespace: str | None = None
    context: str | None = None
    kubeconfig: str | None = None

    @property
    def flags(self) -> str:
        """The flags again, for a command that a person is told to type."""
        named = (("-n", self.namespace), ("--context", self.context), ("--kubeconfig", self.kubeconfig))
        return "".join(f" {flag} {value}" for flag, value in named if value)


@dataclass(frozen=True, slots=True)
class Request:
    """An HTTP request through the API server to a pod or Service. body None: GET, else POST."""

    path: str
    body: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    timeout_seconds: float = 60


@dataclass(frozen=True, slots=True)
class Answer:
    """What the pod answered. milliseconds: from here to there and back, the API server's proxy included."""

    status: int
    body: bytes
    milliseconds: float
    headers: Mapping[str, str] = field(default_factory=dict)


class World(Protocol):
    """One cluster, and the namespace that commands speak of unless they name another."""

    @property
    def namespace(self) -> str:
        """Of the flags, else of the kubeconfig's context, else `default`."""

    def read_model(self, name: str) -> Json | None:
        """The ModelDeployment; None: there is none of that name."""

    def list_models(self, *, everywhere: bool = False) -> list[Json]:
        """Those of the namespace, or of all namespaces."""

    def list_revisions(self, name: str) -> list[Json]:
        """The ControllerRevisions of a ModelDeployment."""

    def list_pods(self, selector: str) -> list[Json]:
        """Pods with these labels."""

    def has_namespace(self) -> bool | None:
        """Whether the namespace exists; None: can't tell."""

    def annotate(self, name: str, key: str, value: str) -> Json:
        """Write one annotation of a ModelDeployment, and nothing else of it."""

    def ask(self, kind: str, name: str, port: str, request: Request) -> Answer:
        """Send a request to a port of a pod or Service; kind is `pods` or `services`.

        Raises CommandError(FAILED) when it can't be reached; an HTTP error of its own is an Answer.
        """
