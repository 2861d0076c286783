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
    """Where a Service's HTTP and gRPC ports can be reached from here."""

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
    """The Service's address, for as long as the block lasts."""
    if is_inside():
        found = kube.get("Service", name, namespace)
        assert found is not None, f"there is no Service {namespace}/{name}"
        address = found["spec"]["clusterIP"]
        _wait_for_listener(address, 8000)
        yield Address(f"http://{address}:8000", f"{address}:8001")
        return
    with _forwarded(name, namespace) as (http_port, grpc_port):
        yield Address(f"http://127.0.0.1:{http_port}", f"127.0.0.1:{grpc_port}")


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
def _forwarded(name: str, namespace: str, seconds: float = 30) -> Iterator[tuple[int, int]]:
    """`kubectl port-forward` to ports that the kernel chose; ended with the block."""
    process = subprocess.Popen(
        ["kubectl", "--namespace", namespace, "port-forward", f"service/{name}", ":8000", ":8001"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    limit = threading.Timer(seconds, process.terminate)  # ends the readline below
    limit.start()
    try:
        ports: dict[int, int] = {}
        said = ""
        while {8000, 8001} - ports.keys():
            line = process.stdout.readline()
            said += line
            assert line, f"kubectl port-forward to {namespace}/{name} gave no ports within {seconds} s: {said}"
            if match := re.search(r"127\.0\.0\.1:(\d+) -> (\d+)", line):
                ports[int(match[2])] = int(match[1])
        limit.cancel()
        yield ports[8000], ports[8001]
    finally:
        limit.cancel()
        process.terminate()
        process.wait(timeout=10)
