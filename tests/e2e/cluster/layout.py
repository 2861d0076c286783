"""Where everything lies and which addresses are used: names only, nothing is created here.

The cache folder is outside the working tree; a cluster's lasting state is below it, its sockets and namespaces are
below /run (a unix socket's path has room for 107 characters, a cache path may need more).
"""

import os
from dataclasses import dataclass
from pathlib import Path

GO_MODULES = Path(__file__).parent / "go"

DEFAULT_NAME = "native"
NODE_NAME = "slipway"

# 198.18.0.0/15 is set aside for tests of network devices (RFC 2544): it collides with nobody's network.
NODE_ADDRESS = "198.18.0.10"
NODE_PREFIX_LENGTH = 24
POD_RANGE = "198.18.64.0/18"
SERVICE_RANGE = "198.19.0.0/16"
API_SERVICE_ADDRESS = "198.19.0.1"
DNS_SERVICE_ADDRESS = "198.19.0.10"
CLUSTER_DOMAIN = "cluster.local"
API_PORT = 6443


def cache_folder() -> Path:
    chosen = os.environ.get("SLIPWAY_CACHE")
    if chosen:
        return Path(chosen).absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "slipway"


@dataclass(frozen=True, slots=True)
class ClusterFolders:
    """The paths of one named native cluster."""

    name: str

    @property
    def state(self) -> Path:
        return cache_folder() / "clusters" / self.name

    @property
    def run(self) -> Path:
        return Path("/run/slipway") / self.name

    @property
    def network_namespace(self) -> str:
        return "slipway" if self.name == DEFAULT_NAME else f"slipway-{self.name}"

    @property
    def network_namespace_file(self) -> Path:
        return Path("/run/netns") / self.network_namespace

    @property
    def mount_namespace_file(self) -> Path:
        return self.run / "mounts" / "namespace"

    @property
    def pki(self) -> Path:
        return self.state / "pki"

    @property
    def logs(self) -> Path:
        return self.state / "log"

    @property
    def daemons(self) -> Path:
        return self.state / "daemons"

    @property
    def config(self) -> Path:
        return self.state / "config"

    @property
    def bin(self) -> Path:
        return self.state / "bin"

    @property
    def volumes(self) -> Path:
        return self.state / "volumes"

    @property
    def containerd_socket(self) -> Path:
        return self.run / "containerd.sock"

    def kubeconfig(self, user: str) -> Path:
        return self.state / f"{user}.kubeconfig"
