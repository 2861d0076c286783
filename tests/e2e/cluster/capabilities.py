"""What a native cluster needs of the machine, asked before anything is started, each 'no' with its remedy."""

import os
import shutil
import tempfile
from pathlib import Path

from .commands import has_succeeded
from .errors import ClusterError
from .layout import ClusterFolders

_COMMANDS = ("ip", "nsenter", "unshare", "mount", "openssl", "bash")
_NODE_COMMANDS = ("iptables", "iptables-save", "conntrack", "gcc")
_FREE_GIB = 3
_WHAT = "starting a native cluster"


def refuse_without_root() -> None:
    if os.geteuid() != 0:
        raise ClusterError(
            "a native cluster",
            "this process isn't root, and namespaces, mounts and cgroups need root",
            "run it with sudo; or start Docker and use CLUSTER=kind; or set KUBECONFIG and CLUSTER=existing",
        )


def refuse_unable_machine(folders: ClusterFolders, is_control_plane_only: bool) -> None:
    """Raises ClusterError for the first thing that is missing."""
    for command in _COMMANDS if is_control_plane_only else (*_COMMANDS, *_NODE_COMMANDS):
        if shutil.which(command) is None:
            raise ClusterError(_WHAT, f"the command {command} is not installed", "make deps")
    free_gib = shutil.disk_usage(folders.state).free / 2**30
    if free_gib < _FREE_GIB:
        raise ClusterError(
            _WHAT,
            f"{folders.state} has {free_gib:.1f} GiB free and {_FREE_GIB} are needed",
            "make room, or set SLIPWAY_CACHE to a folder on a larger disk",
        )
    if not has_succeeded(["unshare", "--net", "--mount", "true"]):
        raise ClusterError(
            _WHAT,
            "the kernel refuses new network and mount namespaces",
            "run it outside a container, or in a privileged one",
        )
    if is_control_plane_only:
        return
    if not has_succeeded(["unshare", "--net", "iptables", "--table", "nat", "--list-rules"]):
        raise ClusterError(
            _WHAT,
            "iptables can't reach the kernel's nat table",
            "modprobe nf_tables iptable_nat; or `update-alternatives --set iptables /usr/sbin/iptables-legacy`",
        )
    _refuse_without_overlay(folders.state)


def _refuse_without_overlay(state: Path) -> None:
    with tempfile.TemporaryDirectory(dir=state) as scratch:
        parts = [Path(scratch, name) for name in ("lower", "upper", "work", "merged")]
        for part in parts:
            part.mkdir()
        options = f"lowerdir={parts[0]},upperdir={parts[1]},workdir={parts[2]}"
        script = f"mount -t overlay overlay -o {options} {parts[3]}"
        if not has_succeeded(["unshare", "--mount", "sh", "-c", script]):
            raise ClusterError(
                _WHAT,
                f"overlayfs can't be mounted on {state}",
                "modprobe overlay; or set SLIPWAY_CACHE to a folder on ext4 or xfs (overlays don't stack here)",
            )
