"""The native cluster's whole life, on a node of its own beside any other: start, work, crash, stop without a trace.

One story told in order: each test goes on where the one before it stopped, because a start from nothing each time
would measure the same thing seven times.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.cluster.commands import is_within
from tests.e2e.cluster.daemons import DaemonRecord, DaemonSet
from tests.e2e.cluster.images import pack, pack_image
from tests.e2e.cluster.layout import NODE_NAME, ClusterFolders

NAME = "lifecycle"
IMAGE = "slipway.dev/busybox:lifecycle"
FOLDERS = ClusterFolders(NAME)
DAEMONS = DaemonSet(FOLDERS.daemons, FOLDERS.logs)

# Every restriction that Slipway's own pods have, a claim, a Service: what a model's pod will need of a node.
MANIFEST = f"""
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {{name: data}}
spec: {{accessModes: [ReadWriteOnce], resources: {{requests: {{storage: 1Mi}}}}}}
---
apiVersion: v1
kind: Service
metadata: {{name: web}}
spec: {{selector: {{app: web}}, ports: [{{port: 80, targetPort: 8080}}]}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: web}}
spec:
  replicas: 2
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec:
      terminationGracePeriodSeconds: 1
      securityContext: {{runAsNonRoot: true, runAsUser: 65532, seccompProfile: {{type: RuntimeDefault}}}}
      containers:
      - name: web
        image: {IMAGE}
        command: [sh, -c, "echo started >> /data/starts; echo works > /data/index.html; exec httpd -f -p 8080 -h /data"]
        securityContext:
          {{readOnlyRootFilesystem: true, allowPrivilegeEscalation: false, capabilities: {{drop: [ALL]}}}}
        resources: {{limits: {{cpu: 100m, memory: 32Mi}}}}
        readinessProbe: {{httpGet: {{path: /index.html, port: 8080}}, periodSeconds: 1}}
        volumeMounts: [{{name: data, mountPath: /data}}]
      volumes: [{{name: data, persistentVolumeClaim: {{claimName: data}}}}]
"""

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="a native cluster needs root"),
    pytest.mark.skipif(shutil.which("busybox") is None, reason="busybox-static is missing: make deps"),
]


@pytest.fixture(scope="module", autouse=True)
def removed_afterwards() -> Iterator[None]:
    cluster("clean")
    yield
    cluster("clean")


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    program = Path(str(shutil.which("busybox"))).read_bytes()
    links = {f"bin/{name}": "busybox" for name in ("sh", "nslookup", "wget", "httpd", "cat", "wc")}
    path = tmp_path_factory.mktemp("image") / "busybox.tar"
    path.write_bytes(pack_image(IMAGE, pack({"bin/busybox": (program, 0o755)}, links), {"Env": ["PATH=/bin"]}))
    return path


def run(*arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    # -S: without the virtual environment's packages, because `up` comes before there is one.
    command = [sys.executable, "-S", "-m", "tests.e2e.cluster", *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=900, check=False)


def cluster(*arguments: str, stdin: str | None = None) -> str:
    done = run(arguments[0], "--name", NAME, *arguments[1:], stdin=stdin)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def kubectl(*arguments: str, stdin: str | None = None) -> str:
    return cluster("kubectl", *arguments, stdin=stdin)


def wait_until_served() -> None:
    kubectl("rollout", "status", "deployment/web", "--timeout=90s")
    # kube-proxy hears of a pod's new address a moment after the Deployment is available.
    assert is_within(20, is_served, pause_seconds=0.5)


def is_served() -> bool:
    asking = ["kubectl", "--name", NAME, "exec", "deploy/web", "--", "wget", "-qO-", "http://web"]
    return run(*asking).stdout.strip() == "works"


def kill(records: list[DaemonRecord]) -> None:
    for record in records:
        os.kill(record.pid, signal.SIGKILL)
    assert is_within(10, lambda: not any(record.is_alive for record in records))


def list_container_ids() -> set[str]:
    pods = json.loads(kubectl("get", "pods", "-l", "app=web", "-o", "json"))["items"]
    return {status["containerID"] for pod in pods for status in pod["status"]["containerStatuses"]}


def list_own_processes() -> list[str]:
    """Processes of this cluster, found by where they are and not by what was recorded of them."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            groups = (folder / "cgroup").read_text()
        except OSError:
            continue
        if not words:
            continue  # ended, and waiting for init to take note
        if f"/{FOLDERS.network_namespace}/" in groups or (str(FOLDERS.state) in words and "pytest" not in words):
            found.append(words)
    return found


def list_own_traces() -> list[str]:
    mounts = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if f"/{NAME}/" in line]
    mounts += [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if f"slipway-{NAME}" in line]
    groups = [str(path) for path in Path("/sys/fs/cgroup").glob(f"**/slipway-{NAME}")]
    folders = [str(path) for path in (FOLDERS.run, FOLDERS.network_namespace_file) if path.exists()]
    return mounts + groups + folders


def test_up_from_nothing_gives_a_ready_node() -> None:
    cluster("build")
    begin = time.monotonic()
    cluster("up")
    assert time.monotonic() - begin < 40
    assert kubectl("get", "nodes", "--no-headers").split()[:2] == [NODE_NAME, "Ready"]


def test_second_up_is_quick_and_restarts_nothing() -> None:
    before = {record.name: record.pid for record in DAEMONS.list_records()}
    begin = time.monotonic()
    cluster("up")
    assert time.monotonic() - begin < 2
    assert {record.name: record.pid for record in DAEMONS.list_records()} == before


def test_kubectl_tells_the_version_it_was_built_as() -> None:
    versions = json.loads(kubectl("version", "-o", "json"))
    assert versions["clientVersion"]["gitVersion"] == versions["serverVersion"]["gitVersion"] == "v1.36.3"
    assert (versions["serverVersion"]["major"], versions["serverVersion"]["minor"]) == ("1", "36")


def test_restricted_pods_get_volume_service_and_names(archive: Path) -> None:
    cluster("load", str(archive))
    kubectl("apply", "-f", "-", stdin=MANIFEST)
    wait_until_served()
    assert "198.19.0.1" in kubectl("exec", "deploy/web", "--", "nslookup", "kubernetes.default.svc.cluster.local")
    assert json.loads(kubectl("get", "pvc", "data", "-o", "json"))["status"]["phase"] == "Bound"
    assert kubectl("logs", "deploy/web") == ""


def test_killed_daemons_come_back_and_containers_never_noticed() -> None:
    before = list_container_ids()
    kill(DAEMONS.list_records())
    cluster("up")
    wait_until_served()
    assert list_container_ids() == before


@pytest.mark.parametrize("name", ["etcd", "apiserver", "containerd", "kubelet", "coredns"])
def test_one_killed_daemon_comes_back(name: str) -> None:
    record = DAEMONS.read_record(name)
    assert record is not None
    kill([record])
    cluster("up")
    wait_until_served()
    assert "Address: 198.19.0.1" in kubectl(
        "exec", "deploy/web", "--", "nslookup", "kubernetes.default.svc.cluster.local"
    )


def test_everything_killed_comes_back_with_its_state() -> None:
    before = list_container_ids()
    records = DAEMONS.list_records()
    for file in Path("/sys/fs/cgroup").glob(f"**/slipway-{NAME}/**/cgroup.procs"):
        for pid in file.read_text().split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
    assert is_within(10, lambda: not any(record.is_alive for record in records))
    cluster("up")
    assert is_within(60, lambda: not list_container_ids() & before, pause_seconds=0.5)
    wait_until_served()


def test_claims_can_be_made_and_deleted_without_end() -> None:
    for _ in range(3):
        kubectl("delete", "deployment,pvc", "--all", "--timeout=60s")
        kubectl("apply", "-f", "-", stdin=MANIFEST)
        wait_until_served()
    assert is_within(20, lambda: len(list(FOLDERS.volumes.iterdir())) == 1)


def test_down_leaves_no_process_mount_namespace_or_cgroup() -> None:
    assert list_own_processes()
    assert list_own_traces()
    cluster("down")
    assert list_own_processes() == []
    assert list_own_traces() == []


def test_up_after_down_has_images_and_objects_and_volumes() -> None:
    cluster("up")
    wait_until_served()
    starts = kubectl("exec", "deploy/web", "--", "cat", "/data/starts").splitlines()
    assert len(starts) >= 4  # two pods before `down`, two after it, on the same volume


def test_clean_forgets_the_state() -> None:
    cluster("clean")
    assert list_own_traces() == []
    assert [path.name for path in FOLDERS.state.iterdir()] == ["lock"]
