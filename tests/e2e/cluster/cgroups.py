"""The cluster's own cgroup root: one path, made below the cgroup this process has, in every hierarchy.

Daemons live in `<root>/daemons`, pods in `<root>/kubepods`, so whatever the cluster started, shims and containers of a
crashed containerd included, can be found and ended by one list. Existing cgroups are neither changed nor entered.
On cgroup v2 the root is `/<name>` instead: a cgroup that holds processes can't hand controllers to its children there.
"""

import os
import re
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from .errors import ClusterError

_MADE = Path("/run/slipway/cgroups-made")  # folders above our roots that were not there before
_V2_CONTROLLERS = ("cpu", "cpuset", "memory", "pids")


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """One mounted cgroup tree. `own` is this process's path in it, as seen from the mount."""

    mount: Path
    own: str
    is_v2: bool = False


def parse_hierarchies(mountinfo: str, cgroup: str) -> tuple[Hierarchy, ...]:
    """Reads /proc/self/mountinfo and /proc/self/cgroup.

    The v1 hierarchies and, because runc uses it too, the v2 one beside them; v2 alone where memory isn't on v1.
    """
    paths: dict[str, str] = {}
    for line in cgroup.splitlines():
        _, names, path = line.split(":", 2)
        for name in names.split(","):
            paths[name] = path
    v1: list[Hierarchy] = []
    v2: list[Hierarchy] = []
    has_memory = False
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        root, mount = before.split()[3:5]
        kind, _, options = after.split(" ", 2)
        mount = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), mount)
        if kind == "cgroup":
            own = next((paths[name] for name in options.split(",") if name in paths), "/")
            v1.append(Hierarchy(Path(mount), _below(own, root)))
            has_memory = has_memory or "memory" in options.split(",")
        elif kind == "cgroup2":
            v2.append(Hierarchy(Path(mount), _below(paths.get("", "/"), root), is_v2=True))
    return tuple([*v1, *v2[:1]] if has_memory else v2[:1])


def _below(path: str, mount_root: str) -> str:
    """The path as seen from a mount whose root is not the hierarchy's (a container's)."""
    if mount_root != "/" and (path + "/").startswith(mount_root + "/"):
        return path[len(mount_root) :] or "/"
    return path if mount_root == "/" else "/"


def choose_root(hierarchies: Iterable[Hierarchy], name: str) -> str:
    """The one path, the same in all hierarchies, because the kubelet takes one.

    v1, own paths / and /a/b: /a/b/NAME. v2: /NAME.
    """
    listed = list(hierarchies)
    if all(hierarchy.is_v2 for hierarchy in listed):
        return f"/{name}"
    deepest = max((hierarchy.own for hierarchy in listed), key=len, default="/")
    return f"{deepest.rstrip('/')}/{name}"


class CgroupRoot:
    """One cluster's root in every hierarchy of this machine."""

    def __init__(self, path: str, hierarchies: tuple[Hierarchy, ...]) -> None:
        self.path = path
        self.hierarchies = hierarchies

    @classmethod
    def of_this_machine(cls, name: str, recorded: str | None) -> "CgroupRoot":
        """The recorded root as long as it exists, else a new one below this process's cgroup."""
        hierarchies = parse_hierarchies(Path("/proc/self/mountinfo").read_text(), Path("/proc/self/cgroup").read_text())
        if not hierarchies:
            raise ClusterError(
                "finding the cgroups", "neither cgroup v1 with memory nor v2 is mounted", "mount them at /sys/fs/cgroup"
            )
        if recorded and all((h.mount / recorded[1:]).is_dir() for h in hierarchies):
            return cls(recorded, hierarchies)
        return cls(choose_root(hierarchies, name), hierarchies)

    def create(self) -> None:
        for hierarchy in self.hierarchies:
            try:
                self._create_in(hierarchy)
            except OSError as refused:
                raise ClusterError(
                    f"making the cgroup {self.path} in {hierarchy.mount}",
                    str(refused),
                    "run it as root, outside a container or in a privileged one whose root cgroup holds no process",
                ) from refused

    def _create_in(self, hierarchy: Hierarchy) -> None:
        folder = hierarchy.mount
        root = hierarchy.mount / self.path[1:]
        for part in (*self.path[1:].split("/"), "daemons"):
            if part != "daemons" and all(other.is_v2 for other in self.hierarchies):
                wanted = [
                    name for name in _V2_CONTROLLERS if name in (folder / "cgroup.controllers").read_text().split()
                ]
                (folder / "cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in wanted))
            child = folder / part
            if not child.is_dir():
                child.mkdir()
                if child in root.parents:
                    _note_made(child)
                for setting in ("cpuset.cpus", "cpuset.mems"):  # empty in a new v1 cgroup, and then nothing can enter
                    if not hierarchy.is_v2 and (folder / setting).exists():
                        (child / setting).write_text((folder / setting).read_text())
            folder = child

    def daemon_entries(self) -> list[Path]:
        """The files a daemon writes its pid to before it becomes the daemon."""
        return [h.mount / self.path[1:] / "daemons" / "cgroup.procs" for h in self.hierarchies]

    def list_pids(self, below: str = "") -> list[int]:
        """All processes in the root, or in one of its children, whatever hierarchy knows them."""
        found: set[int] = set()
        for hierarchy in self.hierarchies:
            for folder, _, files in os.walk(hierarchy.mount / self.path[1:] / below):
                if "cgroup.procs" in files:
                    found |= _read_pids(Path(folder) / "cgroup.procs")
        return sorted(found)

    def end_all(self, below: str, grace_seconds: float) -> None:
        """SIGTERM, then SIGKILL to whatever is still there after the grace."""
        for sign, limit_seconds in ((signal.SIGTERM, grace_seconds), (signal.SIGKILL, 10.0)):
            deadline = time.monotonic() + limit_seconds
            if sign == signal.SIGTERM and grace_seconds <= 0:
                continue
            signalled: set[int] = set()
            while pids := self.list_pids(below):
                for pid in pids:
                    if sign == signal.SIGTERM and pid in signalled:
                        continue
                    signalled.add(pid)
                    _send(pid, sign)
                if time.monotonic() > deadline:
                    break
                time.sleep(0.05)

    def remove(self) -> None:
        """Removes the root and the folders made above it; one that others of ours use stays noted."""
        for hierarchy in self.hierarchies:
            for _ in range(40):
                if _remove_tree(hierarchy.mount / self.path[1:]):
                    break
                time.sleep(0.05)
        _remove_made()


def _note_made(folder: Path) -> None:
    _MADE.parent.mkdir(parents=True, exist_ok=True)
    with _MADE.open("a") as notes:
        notes.write(f"{folder}\n")


def _remove_made() -> None:
    if not _MADE.exists():
        return
    left: list[str] = []
    for line in sorted(set(_MADE.read_text().splitlines()), key=len, reverse=True):
        try:
            Path(line).rmdir()  # refused while anybody is in it or below it
        except FileNotFoundError:
            continue
        except OSError:
            left.append(line)
    if left:
        _MADE.write_text("".join(f"{line}\n" for line in left))
    else:
        _MADE.unlink()


def _read_pids(file: Path) -> set[int]:
    try:
        return {int(word) for word in file.read_text().split()}
    except OSError:
        return set()  # removed while we looked


def _send(pid: int, sign: signal.Signals) -> None:
    try:
        os.kill(pid, sign)
    except ProcessLookupError:
        return


def _remove_tree(top: Path) -> bool:
    for folder, _, _ in os.walk(top, topdown=False):
        try:
            os.rmdir(folder)
        except OSError:
            return False
    return not top.exists()
