"""A cluster that is there already, named by KUBECONFIG: nothing is started, stopped or changed in it here."""

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from .commands import run_checked, tell
from .errors import ClusterError
from .provider import UpOptions


class ExistingCluster:
    def build(self) -> None:
        """It has its own."""

    def up(self, options: UpOptions) -> None:
        if options.is_control_plane_only or options.is_fresh or options.is_audited:
            raise ClusterError("an existing cluster", "it is used as it is", "leave the option out, or CLUSTER=native")
        run_checked(
            ["kubectl", "get", "--raw", "/readyz"],
            "asking the cluster that KUBECONFIG names",
            "set KUBECONFIG to a cluster that answers `kubectl get --raw /readyz`",
        )
        tell("cluster existing is up")

    def down(self) -> None:
        tell("an existing cluster is left running")

    def clean(self) -> None:
        tell("an existing cluster is left running")

    def load(self, archives: Sequence[Path]) -> None:
        registry = os.environ.get("SLIPWAY_REGISTRY")
        if registry:
            tell(f"nothing to load: the cluster's nodes pull from {registry}")
            return
        raise ClusterError(
            "loading images into an existing cluster",
            "its nodes can't be reached with archives",
            "push the archives to a registry that the nodes can pull from, and name it by SLIPWAY_REGISTRY",
        )

    def status(self) -> str:
        done = subprocess.run(
            ["kubectl", "get", "nodes,pods", "-A", "-o", "wide"], capture_output=True, text=True, check=False
        )
        return (
            f"the cluster of KUBECONFIG={os.environ.get('KUBECONFIG', '~/.kube/config')}\n{done.stdout or done.stderr}"
        )

    def environment(self) -> Mapping[str, str]:
        kept = {name: os.environ[name] for name in ("KUBECONFIG", "PATH") if name in os.environ}
        return {"KUBECONFIG": str(Path.home() / ".kube" / "config"), **kept}

    def inside(self) -> Sequence[str]:
        return ()
