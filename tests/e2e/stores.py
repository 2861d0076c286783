"""An S3 server with one bucket, and an OCI registry, in a namespace of the tests (tests/e2e/images/{s3,registry})."""

from __future__ import annotations

import base64
import contextlib
import json
import socket
from dataclasses import dataclass, field
from typing import Any

import bcrypt
import obstore
from obstore.store import S3Store

from tests.e2e.install import image_references, load_images
from tests.e2e.kube import Manifest
from tests.e2e.stage import Stage, eventually, is_ready
from tests.storage.pushing import Pusher
from tests.storage.servers import Registry

NAME, BUCKET, PORT = "s3", "models", 7070
KEYS = {"AWS_ACCESS_KEY_ID": "tester", "AWS_SECRET_ACCESS_KEY": "a word for the tests"}
SECRET = "s3-keys"
REGISTRY, REGISTRY_PORT, LOGIN = "registry", 5000, "registry-login"
USER, PASSWORD = "ada", "love:lace"


@dataclass(frozen=True, slots=True)
class Bucket:
    """The running server. `storage`: what a ModelDeployment's spec.storage says of it."""

    store: S3Store
    storage: Manifest = field(default_factory=dict)

    @classmethod
    def started(cls, stage: Stage) -> Bucket:
        """Starts the server, waits until it answers, makes the bucket. Reached from inside the cluster's network."""
        load_images(("test-s3",))
        stage.given_object(_secret(SECRET, KEYS))
        service = _service(stage, NAME, PORT)
        stage.given_object(_s3_pod())
        _wait(stage, NAME, service)
        url = f"http://{service['spec']['clusterIP']}:{PORT}"
        store = S3Store(
            BUCKET,
            endpoint=url,
            access_key_id=KEYS["AWS_ACCESS_KEY_ID"],
            secret_access_key=KEYS["AWS_SECRET_ACCESS_KEY"],
            region="us-east-1",
            client_options={"allow_http": True},
        )
        endpoint = f"http://{NAME}.{stage.namespace}.svc:{PORT}"
        return cls(store, {"endpoint": endpoint, "secretRef": {"name": SECRET}})

    def put(self, key: str, content: bytes) -> None:
        """One object; it is stored when this returns."""
        obstore.put(self.store, key, content)

    def reads(self, stage: Stage, key: str) -> int:
        """How many requests for an object's bytes the server has answered so far."""
        said = stage.kubectl("logs", NAME).out
        return sum(f"/{BUCKET}/{key}" in line and "GET" in line for line in said.splitlines())


@dataclass(frozen=True, slots=True)
class OciRegistry:
    """The running registry, which wants a password. `storage`: what a ModelDeployment's spec.storage says of it."""

    push: Pusher
    host: str
    storage: Manifest = field(default_factory=dict)

    @classmethod
    def started(cls, stage: Stage) -> OciRegistry:
        """Starts the registry and waits until it answers. Reached from inside the cluster's network."""
        load_images(("test-registry",))
        hashed = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()
        stage.given_object(_secret("registry-passwords", {"htpasswd": f"{USER}:{hashed}\n"}))
        service = _service(stage, REGISTRY, REGISTRY_PORT)
        host = f"{REGISTRY}.{stage.namespace}.svc:{REGISTRY_PORT}"
        entry = {"auth": base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()}
        login = _secret(LOGIN, {".dockerconfigjson": json.dumps({"auths": {host: entry}})})
        stage.given_object(login | {"type": "kubernetes.io/dockerconfigjson"})
        stage.given_object(_registry_pod())
        _wait(stage, REGISTRY, service)
        registry = Registry(f"http://{service['spec']['clusterIP']}:{REGISTRY_PORT}", USER, PASSWORD)
        return cls(Pusher(registry), host, {"endpoint": f"http://{host}", "secretRef": {"name": LOGIN}})


def _secret(name: str, values: dict[str, str]) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name},
        "type": "Opaque",
        "stringData": values,
    }


def _service(stage: Stage, name: str, port: int) -> Manifest:
    return stage.given_object(
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": name},
            "spec": {"selector": {"app": name}, "ports": [{"name": "http", "port": port}]},
        }
    )


def _wait(stage: Stage, name: str, service: Manifest) -> None:
    """Until the pod is ready and the node has learned that the Service leads to it."""
    stage.kube.wait(
        "Pod", name, stage.namespace, f"{name} is ready", lambda pod: True if pod and is_ready(pod) else None
    )
    address = (service["spec"]["clusterIP"], service["spec"]["ports"][0]["port"])

    def answers() -> bool:
        with contextlib.suppress(OSError), socket.create_connection(address, timeout=1):
            return True
        return False

    eventually(f"{name} answers at {address}", answers)


def _s3_pod() -> Manifest:
    folders = {"buckets": "/buckets", "metadata": "/metadata", "tmp": "/tmp"}
    variables = {"ROOT_ACCESS_KEY_ID": "AWS_ACCESS_KEY_ID", "ROOT_SECRET_ACCESS_KEY": "AWS_SECRET_ACCESS_KEY"}
    # versitygw's buckets are folders: one that is mounted is one that exists
    mounts = [{"name": name, "mountPath": path} for name, path in folders.items()]
    mounts.append({"name": "bucket", "mountPath": f"/buckets/{BUCKET}"})
    env = [
        {"name": name, "valueFrom": {"secretKeyRef": {"name": SECRET, "key": key}}} for name, key in variables.items()
    ]
    volumes = [{"name": name, "emptyDir": {}} for name in (*folders, "bucket")]
    return _pod(NAME, "test-s3", PORT, {"env": env, "volumeMounts": mounts}, volumes)


def _registry_pod() -> Manifest:
    env = {
        "REGISTRY_AUTH": "htpasswd",
        "REGISTRY_AUTH_HTPASSWD_REALM": "models",
        "REGISTRY_AUTH_HTPASSWD_PATH": "/passwords/htpasswd",
    }
    mounts = [{"name": "blobs", "mountPath": "/var/lib/registry"}, {"name": "passwords", "mountPath": "/passwords"}]
    volumes: list[Manifest] = [
        {"name": "blobs", "emptyDir": {}},
        {"name": "passwords", "secret": {"secretName": "registry-passwords"}},
    ]
    more = {"env": [{"name": name, "value": value} for name, value in env.items()], "volumeMounts": mounts}
    return _pod(REGISTRY, "test-registry", REGISTRY_PORT, more, volumes)


def _pod(name: str, image: str, port: int, more: dict[str, Any], volumes: list[Manifest]) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 1,
            "securityContext": {"runAsNonRoot": True, "runAsUser": 65532, "runAsGroup": 65532, "fsGroup": 65532},
            "containers": [
                {
                    "name": name,
                    "image": image_references()[image],
                    "imagePullPolicy": "IfNotPresent",
                    "readinessProbe": {"tcpSocket": {"port": port}, "periodSeconds": 1},
                    "securityContext": {
                        "readOnlyRootFilesystem": True,
                        "allowPrivilegeEscalation": False,
                        "capabilities": {"drop": ["ALL"]},
                    },
                }
                | more
            ],
            "volumes": volumes,
        },
    }
