"""The cluster's own network and mount namespace, and how to be inside them.

The network namespace has one bridge and no way out. The mount namespace holds everything containerd and the kubelet
mount (they must share one), so that nothing of it is seen on the host, and all of it goes when the namespace goes.
Invariant: what `remove_` functions leave behind is nothing.
"""

import subprocess
from pathlib import Path

from .commands import run_checked
from .layout import NODE_ADDRESS, NODE_PREFIX_LENGTH, ClusterFolders

_NODE_BRIDGE = "node0"
_NO_NETNS = "run it as root on a Linux that allows network namespaces (in a container: --privileged)"

# The fixed paths that containerd's shim and the kubelet use whatever their configuration says.
FIXED_FOLDERS = (Path("/run/containerd"), Path("/var/lib/kubelet"))


def in_network(folders: ClusterFolders) -> list[str]:
    """The words to put before a command that shall run in the cluster's network."""
    return ["nsenter", f"--net={folders.network_namespace_file}"]


def in_node(folders: ClusterFolders) -> list[str]:
    """The words to put before a command that shall also see the node's mounts."""
    return [*in_network(folders), f"--mount={folders.mount_namespace_file}"]


def has_network(folders: ClusterFolders) -> bool:
    return _is_mounted(folders.network_namespace_file)


def has_mounts(folders: ClusterFolders) -> bool:
    return _is_mounted(folders.mount_namespace_file)


def create_network(folders: ClusterFolders) -> bool:
    """Makes the network namespace where it is missing; whether it was."""
    if has_network(folders):
        return False
    name = folders.network_namespace
    folders.network_namespace_file.unlink(missing_ok=True)  # a name left from before a reboot
    run_checked(["ip", "netns", "add", name], f"making the network namespace {name}", _NO_NETNS)
    script = f"""set -e
ip link set lo up
ip link add {_NODE_BRIDGE} type bridge
ip addr add {NODE_ADDRESS}/{NODE_PREFIX_LENGTH} dev {_NODE_BRIDGE}
ip link set {_NODE_BRIDGE} up
ip route add default dev {_NODE_BRIDGE}
echo 1 > /proc/sys/net/ipv4/ip_forward
"""
    run_checked([*in_network(folders), "sh", "-c", script], f"laying out the network namespace {name}", _NO_NETNS)
    return True


def create_mounts(folders: ClusterFolders) -> bool:
    """Makes the mount namespace where it is missing; whether it was.

    It follows the host's mounts (propagation slave) and shows none of its own to the host.
    """
    if has_mounts(folders):
        return False
    holder = folders.mount_namespace_file.parent
    holder.mkdir(parents=True, exist_ok=True)
    if not _is_mounted(holder):  # a namespace can only be pinned on a private mount
        run_checked(["mount", "--bind", str(holder), str(holder)], "making the mount namespace", _NO_NETNS)
        run_checked(["mount", "--make-private", str(holder)], "making the mount namespace", _NO_NETNS)
    folders.mount_namespace_file.touch()
    run_checked(
        ["unshare", f"--mount={folders.mount_namespace_file}", "--propagation", "slave", "true"],
        "making the mount namespace",
        _NO_NETNS,
    )
    made = folders.run / "made"
    for fixed in FIXED_FOLDERS:
        if not fixed.exists():
            fixed.mkdir(parents=True)
            with made.open("a") as record:
                record.write(f"{fixed}\n")
    run_folder, kubelet_folder = FIXED_FOLDERS
    (folders.run / "containerd").mkdir(exist_ok=True)
    (folders.state / "kubelet").mkdir(parents=True, exist_ok=True)
    script = f"""set -e
mount --bind {folders.run / "containerd"} {run_folder}
mount --bind {folders.state / "kubelet"} {kubelet_folder}
mount --make-rshared {kubelet_folder}
"""
    run_checked([*in_node(folders), "sh", "-c", script], "laying out the mount namespace", _NO_NETNS)
    return True


def remove_mounts(folders: ClusterFolders) -> None:
    """Lets go of the mount namespace; the kernel unmounts all of it with its last process."""
    if has_mounts(folders):
        run_checked(["umount", str(folders.mount_namespace_file)], "letting go of the mount namespace")
    holder = folders.mount_namespace_file.parent
    if _is_mounted(holder):
        run_checked(["umount", str(holder)], "letting go of the mount namespace")
    made = folders.run / "made"
    if made.exists():
        for line in made.read_text().splitlines():
            _remove_empty(Path(line))


def remove_network(folders: ClusterFolders) -> None:
    if has_network(folders):
        run_checked(["ip", "netns", "del", folders.network_namespace], "removing the network namespace")
    folders.network_namespace_file.unlink(missing_ok=True)
    holder = folders.network_namespace_file.parent
    if holder.is_dir() and not any(holder.iterdir()) and _is_mounted(holder):
        # `ip netns add` mounts this folder onto itself; with the last namespace gone nobody needs it.
        subprocess.run(["umount", str(holder)], capture_output=True, check=False)
        _remove_empty(holder)


def _is_mounted(path: Path) -> bool:
    wanted = str(path)
    with Path("/proc/self/mountinfo").open() as lines:
        return any(line.split(" ", 5)[4] == wanted for line in lines)


def _remove_empty(folder: Path) -> None:
    try:
        folder.rmdir()
    except OSError:
        return  # in use by somebody else, or gone already: not ours to force
