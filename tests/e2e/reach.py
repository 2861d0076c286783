"""How a process outside the cluster's pods reaches a Service.

In the native cluster the tests run inside its network namespace (`python -m tests.e2e.cluster exec ...`), where
Service addresses work as they do for a pod: requests take the way of real traffic, pod by pod. On kind or an existing
cluster `kubectl port-forward` carries them; it stays with one pod, so tests that replace pods ask for `needs_service`.
Must not import: anything of Slipway.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.cluster.layout import DEFAULT_NAME, ClusterFolders
from tests.e2e.kube import Kube

NETWORK = ClusterFolders(DEFAULT_NAME).network_namespace
NETWORKS = ClusterFolders(DEFAULT_NAME).network_namespace_file.parent


@dataclass(frozen=True, slots=True)
class Address:
    """Where a Service's HTTP and gRPC ports can be reached from here; `grpc` is empty where the server has none."""

    http_url: str
    grpc: str


def native_cluster() -> str | None:
    """Name of the native cluster in whose network this process stands; None elsewhere."""
    here = Path("/proc/self/ns/net").stat()
    for place in NETWORKS.glob(f"{NETWORK}*"):
        if os.path.samestat(place.stat(), here):
            return place.name.removeprefix(f"{NETWORK}-") if place.name != NETWORK else DEFAULT_NAME
    return None


def is_inside() -> bool:
    """Whether Service addresses work here as they do for a pod."""
    return native_cluster() is not None


@contextmanager
def service(kube: Kube, name: str, namespace: str) -> Iterator[Address]:
    """The Service's address, for as long as the block lasts. Its ports are known by their names, http and grpc."""
    found = kube.get("Service", name, namespace)
    assert found is not None, f"there is no Service {namespace}/{name}"
    ports = {port["name"]: port["port"] for port in found["spec"]["ports"]}
    http, grpc = ports["http"], ports.get("grpc")
    if is_inside():
        address = found["spec"]["clusterIP"]
        _wait_for_listener(address, http)
        yield Address(f"http://{address}:{http}", f"{address}:{grpc}" if grpc else "")
        return
    with _forwarded(name, namespace, {http} | ({grpc} if grpc else set())) as local:
        yield Address(f"http://127.0.0.1:{local[http]}", f"127.0.0.1:{local[grpc]}" if grpc else "")


def _wait_for_listener(address: str, port: int, seconds: float = 15) -> None:
    """A pod is Ready a moment before the nodes have learned that the Service leads to it."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection((address, port), timeout=1).close()
        except OSError as error:
            if time.monotonic() > deadline:
                raise AssertionError(f"nothing answers at {address}:{port} after {seconds} s: {error}") from error
            time.sleep(0.05)
        else:
            return


@contextmanager
def _forwarded(name: str, namespace: str, wanted: set[int], seconds: float = 30) -> Iterator[dict[int, int]]:
    """`kubectl port-forward`: the Service's ports to local ones that the kernel chose; ended with the block."""
    process = subprocess.Popen(
        ["kubectl", "--namespace", namespace, "port-forward", f"service/{name}", *(f":{port}" for port in wanted)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    limit = threading.Timer(seconds, process.terminate)  # ends the readline below
    limit.start()
    try:
        local: dict[int, int] = {}
        said = ""
        while wanted - local.keys():
            line = process.stdout.readline()
            said += line
            assert line, f"kubectl port-forward to {namespace}/{name} gave no ports within {seconds} s: {said}"
            # it names the container's port, which for a served model is the Service's
            if match := re.search(r"127\.0\.0\.1:(\d+) -> (\d+)", line):
                local[int(match[2])] = int(match[1])
        limit.cancel()
        yield local
    finally:
        limit.cancel()
        process.terminate()
        process.wait(timeout=10)
