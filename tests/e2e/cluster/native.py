"""A real one-node Kubernetes of processes: the calls in order; what each part is stands in its own module.

Invariant: `up` may be called at any time, after any crash, and ends with a cluster as described or an error that says
what to do; `down` leaves no process, mount, namespace or cgroup.
"""

import calendar
import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from . import capabilities
from .binaries import CONTROL_PLANE_MODULES, NODE_MODULES, STORE_MODULES, ensure_binaries
from .certificates import ADMIN, write_certificates
from .cgroups import CgroupRoot
from .commands import has_succeeded, is_within, run_checked, tell, timed
from .control_plane import API_SERVER_NAME, ETCD_NAME, audit_log, control_plane
from .daemons import Daemon, DaemonSet
from .errors import ClusterError
from .images import build_pause_archive, list_archive_references
from .layout import DEFAULT_NAME, NODE_NAME, ClusterFolders
from .namespaces import create_mounts, create_network, has_network, in_network, remove_mounts, remove_network
from .node import ADDRESS_LEASES, CONTAINERD_NAME, COREDNS_NAME, DNS_READY_PORT, KUBELET_NAME, addons, node
from .provider import UpOptions

# What the kubelet sets on the host whatever its configuration says; put back by `down`.
_KUBELET_SYSCTLS = (
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
)


class NativeCluster:
    def __init__(self, folders: ClusterFolders) -> None:
        self.folders = folders
        self.daemons = DaemonSet(folders.daemons, folders.logs)

    # -- up

    def build(self) -> None:
        ensure_binaries((*STORE_MODULES, *NODE_MODULES))  # images of the stores are built meanwhile

    def up(self, options: UpOptions) -> None:
        with self._locked():
            begin = time.monotonic()
            if options.is_fresh:
                self._stop()
                self._forget()
            capabilities.refuse_without_root()
            remembered = self._read_memory()
            is_control_plane_only = options.is_control_plane_only or bool(remembered.get("is_control_plane_only"))
            is_audited = bool(remembered.get("is_audited")) if options.is_audited is None else options.is_audited
            controller_rate = options.controller_rate or int(str(remembered.get("controller_rate") or 0)) or None
            has_played_pods = options.has_played_pods or bool(remembered.get("has_played_pods"))
            modules = CONTROL_PLANE_MODULES if is_control_plane_only else NODE_MODULES
            binaries = ensure_binaries(modules)
            cgroups = CgroupRoot.of_this_machine(
                self.folders.network_namespace, str(remembered.get("cgroup_root") or "") or None
            )
            plane = control_plane(self.folders, binaries, is_audited, controller_rate, has_played_pods)
            workers: tuple[Daemon, ...] = ()
            pause_archive = Path()
            if not is_control_plane_only:
                pause_image, pause_archive = build_pause_archive()
                workers = node(self.folders, binaries, cgroups.path, pause_image)
            if all(self.daemons.is_current(daemon) for daemon in (*plane, *workers)) and self._is_ready(workers):
                tell(f"cluster {self.folders.name} is up ({time.monotonic() - begin:.1f} s)")
                return
            if not self.daemons.list_records():
                capabilities.refuse_unable_machine(self.folders, is_control_plane_only)
            with timed(f"cluster {self.folders.name}: control plane"):
                self._remember(
                    is_control_plane_only=is_control_plane_only,
                    is_audited=is_audited,
                    controller_rate=controller_rate,
                    has_played_pods=has_played_pods,
                    cgroup_root=cgroups.path,
                )
                cgroups.create()
                if create_network(self.folders):
                    # Every pod's network died with the old namespace, so no address is taken.
                    shutil.rmtree(self.folders.state / ADDRESS_LEASES, ignore_errors=True)
                write_certificates(self.folders)
                self._write_programs(binaries)
                self._start(plane[:2], cgroups)
                if workers:
                    create_mounts(self.folders)
                    self._start(workers[:1], cgroups)
                self.daemons.wait_until(
                    "waiting for the API server", self._is_api_ready, 60, (ETCD_NAME, API_SERVER_NAME)
                )
                self._start(plane[2:], cgroups)
            if workers:
                with timed(f"cluster {self.folders.name}: node"):
                    self._start_node(workers, cgroups, pause_archive)
            tell(f"cluster {self.folders.name} is up ({time.monotonic() - begin:.1f} s)")

    def _start(self, daemons: Sequence[Daemon], cgroups: CgroupRoot) -> None:
        for daemon in daemons:
            self.daemons.ensure(daemon, cgroups.daemon_entries())

    def _start_node(self, workers: Sequence[Daemon], cgroups: CgroupRoot, pause_archive: Path) -> None:
        self.folders.volumes.mkdir(parents=True, exist_ok=True)
        self.daemons.wait_until("waiting for containerd", self._is_containerd_ready, 30, (CONTAINERD_NAME,))
        self._import((pause_archive,))
        self._save_sysctls()
        begin = time.time()
        is_new = self.daemons.ensure(workers[1], cgroups.daemon_entries())
        self._kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=addons())
        self._start(workers[2:], cgroups)
        self.daemons.wait_until(
            "waiting for the node",
            lambda: self._is_node_ready(since=begin if is_new else 0.0),
            60,
            (CONTAINERD_NAME, KUBELET_NAME, API_SERVER_NAME),
        )
        self.daemons.wait_until("waiting for cluster DNS", self._is_dns_ready, 30, (COREDNS_NAME,))
        if is_new and not is_within(30, self._are_pods_true, pause_seconds=0.2):
            tell("the kubelet has not yet found out about every pod of before; `kubectl get pods` may be behind")

    # -- questions

    def _is_ready(self, workers: Sequence[Daemon]) -> bool:
        if not has_network(self.folders):
            return False
        return self._is_node_ready(since=0.0) and self._is_dns_ready() if workers else self._is_api_ready()

    def _is_api_ready(self) -> bool:
        return has_succeeded(self._kubectl_command("get", "--raw", "/readyz"))

    def _is_containerd_ready(self) -> bool:
        return has_succeeded(self._ctr_command("version"))

    def _is_node_ready(self, since: float) -> bool:
        """Ready, and said so by this kubelet: what a former one said stands in the API until it's contradicted."""
        done = subprocess.run(
            self._kubectl_command("get", "node", NODE_NAME, "-o", "json"), capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            return False
        for condition in json.loads(done.stdout).get("status", {}).get("conditions", ()):
            if condition["type"] == "Ready":
                heard = calendar.timegm(time.strptime(condition["lastHeartbeatTime"], "%Y-%m-%dT%H:%M:%SZ"))
                return bool(condition["status"] == "True" and heard >= int(since))
        return False

    def _are_pods_true(self) -> bool:
        """Whether the new kubelet knows its pods and what the API calls running does run.

        After a crash the API repeats what the former kubelet said, and a test would take it at its word.
        """
        selector = f"--field-selector=spec.nodeName={NODE_NAME}"
        try:
            listed = json.loads(self._kubectl("get", "pods", "--all-namespaces", selector, "-o", "json"))["items"]
            known = json.loads(self._kubectl("get", "--raw", f"/api/v1/nodes/{NODE_NAME}/proxy/pods"))["items"] or []
            tasks = run_checked(self._ctr_command("tasks", "ls"), "listing the node's containers")
        except ClusterError:
            return False
        running = {line.split()[0] for line in tasks.splitlines() if line.endswith("RUNNING")}
        claimed = {
            status["containerID"].removeprefix("containerd://")
            for pod in listed
            for kind in ("initContainerStatuses", "containerStatuses")
            for status in pod["status"].get(kind, ())
            if "running" in status["state"]
        }
        return claimed <= running and {pod["metadata"]["uid"] for pod in listed} <= {
            pod["metadata"]["uid"] for pod in known
        }

    def _is_dns_ready(self) -> bool:
        asking = "printf 'GET /ready HTTP/1.0\\r\\n\\r\\n' >&3"
        script = f"exec 3<>/dev/tcp/127.0.0.1/{DNS_READY_PORT}; {asking}; head -1 <&3 | grep -q 200"
        return has_succeeded([*in_network(self.folders), "bash", "-c", script])

    # -- down

    def down(self) -> None:
        with self._locked(), timed(f"stopping cluster {self.folders.name}"):
            self._stop()

    def clean(self) -> None:
        with self._locked(), timed(f"removing cluster {self.folders.name}"):
            self._stop()
            self._forget()

    def _stop(self) -> None:
        capabilities.refuse_without_root()
        memory = self._read_memory()
        recorded = str(memory.get("cgroup_root") or "") or None
        cgroups = CgroupRoot.of_this_machine(self.folders.network_namespace, recorded)
        names = [record.name for record in self.daemons.list_records()]
        self.daemons.stop(KUBELET_NAME, 5)
        if CONTAINERD_NAME in names and self._is_api_ready():
            # The API must not go on saying that pods run which don't: their owners make new ones at the next `up`.
            self.daemons.stop("scheduler", 5)
            has_succeeded(
                self._kubectl_command(
                    "delete", "pods", "--all", "--all-namespaces", "--force", "--grace-period=0", "--wait=false"
                )
            )
        if recorded == cgroups.path:
            cgroups.end_all("kubepods", grace_seconds=2)
        first = [name for name in names if name not in {ETCD_NAME, KUBELET_NAME}]
        self.daemons.stop_together(first, 3)
        self.daemons.stop(ETCD_NAME, 10)
        if recorded == cgroups.path:
            cgroups.end_all("", grace_seconds=1)  # shims, and whatever lost its record
            cgroups.remove()
        remove_mounts(self.folders)
        remove_network(self.folders)
        self._restore_sysctls()
        shutil.rmtree(self.folders.run, ignore_errors=True)
        with contextlib.suppress(OSError):
            self.folders.run.parent.rmdir()

    def _forget(self) -> None:
        if not self.folders.state.exists():
            return
        for path in self.folders.state.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path.name != "lock":
                path.unlink()

    # -- what else a provider does

    def load(self, archives: Sequence[Path]) -> None:
        if not self._is_containerd_ready():
            raise ClusterError("loading images", "the cluster isn't up", "make cluster-up")
        with self._locked():  # a second one then finds them there
            self._import(archives)

    def _import(self, archives: Sequence[Path]) -> None:
        present = set(run_checked(self._ctr_command("images", "ls", "-q"), "listing the node's images").split())
        for archive in archives:
            references = list_archive_references(archive)
            if references and present.issuperset(references):
                continue
            with timed(f"loading {', '.join(references) or archive}"):
                run_checked(
                    self._ctr_command("images", "import", "--all-platforms", str(archive)), f"loading {archive}"
                )

    def environment(self) -> Mapping[str, str]:
        return {
            "KUBECONFIG": str(self.folders.kubeconfig(ADMIN.file)),
            "PATH": f"{self.folders.bin}:{os.environ.get('PATH', '')}",
        }

    def inside(self) -> Sequence[str]:
        return in_network(self.folders)

    def status(self) -> str:
        records = self.daemons.list_records()
        alive = [record for record in records if record.is_alive]
        lines = [f"native cluster {self.folders.name}: {len(alive)} of {len(records)} daemons run"]
        lines += [
            f"  {record.name:20} {'pid ' + str(record.pid) if record.is_alive else 'ENDED'}" for record in records
        ]
        if not alive:
            return "\n".join([*lines, "", "start it: make cluster-up"])
        for arguments in (("version",), ("get", "nodes", "-o", "wide"), ("get", "pods", "-A", "-o", "wide")):
            done = subprocess.run(self._kubectl_command(*arguments), capture_output=True, text=True, check=False)
            lines += ["", f"$ kubectl {' '.join(arguments)}", (done.stdout or done.stderr).rstrip()]
        flag = "" if self.folders.name == DEFAULT_NAME else f" --name {self.folders.name}"
        lines += [
            "",
            f'look around:  eval "$(python3 -m tests.e2e.cluster env{flag})"   then kubectl, helm, ctr as usual',
            f"in its network:  python3 -m tests.e2e.cluster exec{flag} curl …",
            f"logs:  {self.folders.logs}     state:  {self.folders.state}",
        ]
        if audit_log(self.folders).exists():
            lines.append(f"audit log:  {audit_log(self.folders)}")
        return "\n".join(lines)

    # -- commands

    def _kubectl_command(self, *arguments: str) -> list[str]:
        return [str(self.folders.bin / "kubectl"), f"--kubeconfig={self.folders.kubeconfig(ADMIN.file)}", *arguments]

    def _kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        return run_checked(self._kubectl_command(*arguments), f"kubectl {' '.join(arguments)}", stdin=stdin)

    def _ctr_command(self, *arguments: str) -> list[str]:
        return [str(self.folders.bin / "ctr"), *arguments]

    def _write_programs(self, binaries: Mapping[str, Path]) -> None:
        """kubectl, helm and ctr as people type them: each enters the cluster's network by itself."""
        self.folders.bin.mkdir(parents=True, exist_ok=True)
        network = " ".join(in_network(self.folders))
        programs = {"kubectl": f'{network} {binaries["kube"]} kubectl "$@"'}
        if "helm" in binaries:
            programs["helm"] = f'{network} {binaries["helm"]} "$@"'
        if "ctr" in binaries:
            programs["ctr"] = f'{binaries["ctr"]} --address {self.folders.containerd_socket} --namespace k8s.io "$@"'
        for name, line in programs.items():
            scratch = self.folders.bin / f".{name}"
            scratch.write_text(f"#!/bin/sh\nexec {line}\n")
            scratch.chmod(0o755)
            scratch.rename(self.folders.bin / name)

    # -- memory

    @property
    def _memory_file(self) -> Path:
        return self.folders.state / "cluster.json"

    def _read_memory(self) -> dict[str, object]:
        try:
            content = json.loads(self._memory_file.read_text())
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}

    def _remember(self, **content: bool | int | str | None) -> None:
        """Written for the next `up`, which may not say it again."""
        scratch = self._memory_file.with_suffix(".new")
        scratch.write_text(json.dumps(content, indent=1) + "\n")
        scratch.rename(self._memory_file)

    def _save_sysctls(self) -> None:
        saved = self.folders.run / "sysctls.json"
        if not saved.exists():
            values = {name: _read_sysctl(name) for name in _KUBELET_SYSCTLS}
            saved.write_text(json.dumps({name: value for name, value in values.items() if value is not None}))

    def _restore_sysctls(self) -> None:
        saved = self.folders.run / "sysctls.json"
        if saved.exists():
            for name, value in json.loads(saved.read_text()).items():
                if _read_sysctl(name) != value:
                    with contextlib.suppress(OSError):
                        Path("/proc/sys", name).write_text(value)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """One `up`, `down` or `load` of a cluster at a time; the second waits."""
        self.folders.state.mkdir(parents=True, exist_ok=True)
        with (self.folders.state / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _read_sysctl(name: str) -> str | None:
    try:
        return Path("/proc/sys", name).read_text().strip()
    except OSError:
        return None
