"""kind: Kubernetes in Docker, for machines where a Docker engine answers. Thin on purpose: kind does the work."""

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from .commands import has_succeeded, run_checked, tell, timed
from .errors import ClusterError
from .layout import cache_folder
from .provider import UpOptions

_NAME = "slipway"
_CONFIG = Path(__file__).parents[3] / "kind-config.yaml"
_INSTALL = "install kind, kubectl and helm and start Docker; or use CLUSTER=native as root on Linux"


class KindCluster:
    def build(self) -> None:
        """kind brings its own."""

    def up(self, options: UpOptions) -> None:
        if options.is_control_plane_only:
            raise ClusterError("a control plane without a node", "kind has none", "use CLUSTER=native")
        for command in ("kind", "kubectl", "helm"):
            if shutil.which(command) is None:
                raise ClusterError("starting a kind cluster", f"the command {command} is not installed", _INSTALL)
        if options.is_fresh:
            self.clean()
        if _NAME not in self._list():
            with timed("making the kind cluster"):
                self._kind("create", "cluster", "--name", _NAME, "--config", str(_CONFIG), "--wait", "120s")
        kubeconfig = self._kind("get", "kubeconfig", "--name", _NAME)
        self._kubeconfig.parent.mkdir(parents=True, exist_ok=True)
        self._kubeconfig.touch(mode=0o600)
        self._kubeconfig.write_text(kubeconfig)
        if not has_succeeded(["kubectl", f"--kubeconfig={self._kubeconfig}", "get", "--raw", "/readyz"]):
            raise ClusterError(
                "the kind cluster", "its API server doesn't answer", f"kind delete cluster --name {_NAME}"
            )
        tell("cluster kind is up")

    def down(self) -> None:
        """Deletes it: kind has no stop, and a node container that is started again may have another address."""
        self.clean()

    def clean(self) -> None:
        if _NAME in self._list():
            with timed("deleting the kind cluster"):
                self._kind("delete", "cluster", "--name", _NAME)
        self._kubeconfig.unlink(missing_ok=True)

    def load(self, archives: Sequence[Path]) -> None:
        for archive in archives:
            with timed(f"loading {archive}"):
                self._kind("load", "image-archive", str(archive), "--name", _NAME)

    def status(self) -> str:
        command = ["kubectl", f"--kubeconfig={self._kubeconfig}", "get", "nodes,pods", "-A", "-o", "wide"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return f"kind cluster {_NAME}\n{done.stdout or done.stderr}"

    def environment(self) -> Mapping[str, str]:
        return {"KUBECONFIG": str(self._kubeconfig), "PATH": os.environ.get("PATH", "")}

    def inside(self) -> Sequence[str]:
        return ()

    @property
    def _kubeconfig(self) -> Path:
        return cache_folder() / "clusters" / "kind.kubeconfig"

    def _list(self) -> list[str]:
        return self._kind("get", "clusters").split()

    def _kind(self, *arguments: str) -> str:
        try:
            return run_checked(["kind", *arguments], f"kind {' '.join(arguments[:2])}", _INSTALL)
        except ClusterError as failed:
            raise ClusterError(failed.what, failed.why, _INSTALL) from failed
