"""The interface every form of cluster has, and the choice between the forms."""

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from .commands import has_succeeded
from .errors import ClusterError


@dataclass(frozen=True, slots=True)
class UpOptions:
    """What `up` may be asked for beyond being up; None leaves a running cluster as it is."""

    is_control_plane_only: bool = False
    is_fresh: bool = False
    is_audited: bool | None = None
    controller_rate: int | None = None  # requests a second of each controller; Kubernetes' own limit is 20
    has_played_pods: bool = False  # a test says what pods are: nobody schedules them, or makes endpoints of them


class ClusterProvider(Protocol):
    """A cluster to test on. Every method may raise ClusterError, and nothing else that a person should see."""

    def build(self) -> None:
        """Makes the programs that `up` would have to make first; nothing where it needs none."""

    def up(self, options: UpOptions) -> None:
        """Makes the cluster ready for pods; quick where it is already."""

    def down(self) -> None:
        """Stops what `up` started and keeps what makes the next `up` quick."""

    def clean(self) -> None:
        """As `down`, and forgets the cluster's state."""

    def load(self, archives: Sequence[Path]) -> None:
        """Makes the archives' images usable by pods (imagePullPolicy IfNotPresent)."""

    def status(self) -> str:
        """A page for a person."""

    def environment(self) -> Mapping[str, str]:
        """KUBECONFIG and PATH (with kubectl and helm on it) for programs that use the cluster."""

    def inside(self) -> Sequence[str]:
        """The words to put before a command that shall reach the cluster's addresses; often none."""


def choose_form(environment: Mapping[str, str]) -> str:
    """`native`, `kind` or `existing`: what CLUSTER says, else kind where a Docker engine answers, else native."""
    chosen = environment.get("CLUSTER", "")
    if chosen in {"native", "kind", "existing"}:
        return chosen
    if chosen:
        raise ClusterError(f"CLUSTER={chosen}", "there is no such form", "use CLUSTER=native, kind or existing")
    if shutil.which("docker", path=environment.get("PATH")) and has_succeeded(["docker", "info"]):
        return "kind"
    return "native"


def choose_provider(name: str) -> ClusterProvider:
    """The provider for this machine; `name` tells native clusters apart, a named one is always native."""
    from .existing import ExistingCluster
    from .kind import KindCluster
    from .layout import DEFAULT_NAME, ClusterFolders
    from .native import NativeCluster

    form = choose_form(os.environ)
    if name != DEFAULT_NAME or form == "native":
        return NativeCluster(ClusterFolders(name))
    return KindCluster() if form == "kind" else ExistingCluster()
