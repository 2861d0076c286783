"""The product as a user installs it: images into the cluster, the operator by its Helm chart.

Invariant: what is there already, and is what the working tree holds, is not done again.
Used by the tests and by `make demo`. Must not import: anything of Slipway.
"""

from __future__ import annotations

import functools
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.kube import Kube, Manifest, RefusedError, kubectl
from tests.e2e.reach import native_cluster
from tests.e2e.stage import is_ready

ROOT = Path(__file__).resolve().parents[2]
RELEASE = "slipway"
NAMESPACE = "slipway-system"
OPERATOR_LABELS = "app.kubernetes.io/name=slipway,app.kubernetes.io/component=operator"
METRICS_PORT = 8080


class InstallError(Exception):
    """The product can't be installed; the message says why and what to do."""


BUILD = (sys.executable, str(ROOT / "tests" / "e2e" / "images" / "build"))


@functools.cache
def image_references() -> dict[str, str]:
    """Image name (operator, agent, triton, test-web, …) to the reference of what the working tree holds."""
    return _asked_of_build("tags")


def image_archives() -> dict[str, Path]:
    """Image name to its archive, which exists once the image is built."""
    return {name: Path(path) for name, path in _asked_of_build("archives").items()}


def _asked_of_build(*question: str) -> Manifest:
    done = subprocess.run([*BUILD, *question], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise InstallError(f"tests/e2e/images/build {' '.join(question)} failed:\n{done.stderr.strip()}")
    answer: Manifest = json.loads(done.stdout)
    return answer


def load_images(names: Sequence[str]) -> None:
    """The built images into the cluster; those that are there already cost nothing. Raises InstallError."""
    archives = image_archives()
    missing = [name for name in names if name not in archives or not archives[name].exists()]
    if missing:
        raise InstallError(f"the images {', '.join(missing)} are not built; what to do: make test-images")
    import_archives([archives[name] for name in names])


def import_archives(archives: Sequence[Path]) -> None:
    """Image archives into the cluster. Raises InstallError."""
    named = ["--name", cluster] if (cluster := native_cluster()) else []
    done = subprocess.run(
        [sys.executable, "-m", "tests.e2e.cluster", "load", *named, *map(str, archives)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise InstallError(f"the images could not be loaded into the cluster:\n{done.stderr.strip()}")


def install_operator(namespaces: Sequence[str] = (), tags: Mapping[str, str] | None = None) -> None:
    """`helm upgrade --install` of the chart, and wait until the operator is ready. Raises InstallError.

    tags: other tags for some of the images, by the chart's names.
    """
    values = _asked_of_build("values")
    for name, tag in (tags or {}).items():
        values["images"][name]["tag"] = tag
    values["images"]["pullPolicy"] = "IfNotPresent"
    values["watchNamespaces"] = list(namespaces)
    done = subprocess.run(
        [
            "helm", "upgrade", "--install", RELEASE, str(ROOT / "charts" / "slipway"), "--namespace", NAMESPACE,
            "--create-namespace", "--wait", "--timeout", "120s", "--values", "-",
        ],
        input=json.dumps(values),
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise InstallError(f"helm could not install the operator:\n{done.stderr.strip()}")


@dataclass(frozen=True, slots=True)
class Operator:
    """The installed operator, seen from outside."""

    kube: Kube

    def pod(self) -> Manifest:
        """Its one pod that isn't on its way out."""
        (pod,) = (one for one in self._pods() if not one["metadata"].get("deletionTimestamp"))
        return pod

    def _pods(self) -> list[Manifest]:
        return self.kube.list_("Pod", NAMESPACE, labels=OPERATOR_LABELS)

    def identity(self) -> tuple[str, int]:
        """Differs after a restart: the pod's uid, and how often its container started again."""
        pod = self.pod()
        return pod["metadata"]["uid"], sum(one["restartCount"] for one in pod["status"]["containerStatuses"])

    def metrics(self) -> dict[str, float]:
        """Its Prometheus metrics: name with labels, to value."""
        name = self.pod()["metadata"]["name"]
        path = f"/api/v1/namespaces/{NAMESPACE}/pods/{name}:{METRICS_PORT}/proxy/metrics"
        text = self.kube.request("GET", path).text
        lines = (line.rpartition(" ") for line in text.splitlines() if line and not line.startswith("#"))
        return {name: float(value) for name, _, value in lines}

    def writes(self) -> float:
        """How many mutating requests it has sent since it started."""
        found = {name: value for name, value in self.metrics().items() if name.startswith("slipway_api_writes_total")}
        assert found, "the operator has no metric slipway_api_writes_total"
        return sum(found.values())

    def kill(self) -> None:
        """Ends its pod without a grace; its Deployment makes another. Returns when that one is ready."""
        before = self.pod()["metadata"]["name"]
        self.kube.delete("Pod", before, NAMESPACE, grace_seconds=0)

        def replaced(pods: list[Manifest]) -> bool | None:
            return True if any(is_ready(pod) for pod in pods if pod["metadata"]["name"] != before) else None

        self.kube.wait_list("Pod", NAMESPACE, "a new operator is ready", replaced, labels=OPERATOR_LABELS)

    @contextmanager
    def down(self) -> Iterator[None]:
        """No operator runs during the block; afterwards one is ready again."""
        (deployment,) = self.kube.list_("Deployment", NAMESPACE, labels=OPERATOR_LABELS)
        name = deployment["metadata"]["name"]
        self.kube.patch("Deployment", name, NAMESPACE, {"spec": {"replicas": 0}})
        try:
            self.kube.wait_list(
                "Pod", NAMESPACE, "no operator runs", lambda pods: True if not pods else None, labels=OPERATOR_LABELS
            )
            yield
        finally:
            self.kube.patch("Deployment", name, NAMESPACE, {"spec": {"replicas": 1}})
            self.kube.wait_list(
                "Pod",
                NAMESPACE,
                "the operator is ready again",
                lambda pods: True if any(is_ready(pod) for pod in pods) else None,
                labels=OPERATOR_LABELS,
            )

    def log(self, about: str, lines: int = 400) -> str:
        """Its last lines that mention `about`, and all that are errors."""
        said = kubectl("-n", NAMESPACE, "logs", "-l", OPERATOR_LABELS, f"--tail={lines}", seconds=20)
        kept = [line for line in said.out.splitlines() if about in line or re.search(r"error|exception", line, re.I)]
        return "\n".join(kept[-60:]) or said.err


def is_installed(kube: Kube) -> bool:
    """Whether an operator is there and ready."""
    try:
        return any(is_ready(pod) for pod in kube.list_("Pod", NAMESPACE, labels=OPERATOR_LABELS))
    except RefusedError:
        return False
