"""A PersistentVolumeClaim with models in it, on any cluster, as a user who copies files would fill it.

A pod with the claim mounted takes a tar stream through `kubectl exec`; it needs an image with Python, nothing more.
Used by the tests and by `make demo`.
"""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

from tests.e2e.kube import Kube, Manifest, kubectl

UNPACK = "import sys, tarfile; tarfile.open(fileobj=sys.stdin.buffer, mode='r|').extractall('/models')"


class StoreError(Exception):
    """The claim can't be filled; the message says why, in kubectl's words."""


def claim(kube: Kube, namespace: str, name: str) -> None:
    """The claim, of the cluster's default StorageClass; one that exists stays as it is."""
    if kube.get("PersistentVolumeClaim", name, namespace) is None:
        kube.create(
            {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "metadata": {"name": name, "namespace": namespace},
                "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
            }
        )


def upload(kube: Kube, namespace: str, claim_name: str, folder: Path, image: str, pull_policy: str) -> None:
    """Everything below `folder` into the root of the claim. `image` needs a python3. Raises StoreError."""
    pod = f"upload-{claim_name}"
    kube.delete("Pod", pod, namespace, grace_seconds=0)
    kube.wait_gone("Pod", pod, namespace)
    kube.create(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": pod, "namespace": namespace},
            "spec": {
                "restartPolicy": "Never",
                "automountServiceAccountToken": False,
                "terminationGracePeriodSeconds": 0,
                # a fresh volume belongs to root, and not every kind of volume knows fsGroup
                "securityContext": {"runAsUser": 0, "seccompProfile": {"type": "RuntimeDefault"}},
                "containers": [
                    {
                        "name": "upload",
                        "image": image,
                        "imagePullPolicy": pull_policy,
                        "command": ["python3", "-c", "import time; time.sleep(600)"],
                        "volumeMounts": [{"name": "models", "mountPath": "/models"}],
                    }
                ],
                "volumes": [{"name": "models", "persistentVolumeClaim": {"claimName": claim_name}}],
            },
        }
    )
    try:
        kube.wait("Pod", pod, namespace, "the upload pod runs", _is_running)
        done = kubectl("-n", namespace, "exec", "-i", pod, "--", "python3", "-c", UNPACK, stdin=_tar(folder))
        if done.status != 0:
            raise StoreError(f"the models could not be copied to claim {namespace}/{claim_name}: {done.err.strip()}")
    finally:
        kube.delete("Pod", pod, namespace, grace_seconds=0)


def _is_running(pod: Manifest | None) -> bool | None:
    return True if pod and (pod.get("status") or {}).get("phase") == "Running" else None


def _tar(folder: Path) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for path in sorted(folder.iterdir()):
            tar.add(path, arcname=path.name, filter=_anybodys)
    return stream.getvalue()


def _anybodys(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    entry.mode = 0o755 if entry.isdir() else 0o644
    return entry
