"""A router's Envoy as a process on loopback: configured and asked as in a pod, its files swapped as a kubelet does.

What is changed of the operator's own configuration are addresses alone: each router has one for its listeners, another
for admin (in a pod: the pod's and loopback), and a DNS server of the test's.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from slipway.api import ModelDeployment
from slipway.controller.routers import Routers
from slipway.model.names import POD_VARIABLE, ROUTER_PORT, STATUS_PORT
from slipway.observe.router_reports import RouterPod, RouterReport
from slipway.render import envoy
from slipway.render.router import configure, render
from slipway.render.routing import Split
from tests.router.pods import new_address
from tests.unit.specs import IMAGES

Json = dict[str, Any]
Found = TypeVar("Found")


def find_envoy() -> str | None:
    """The image's own, where its root is mounted; else one on PATH."""
    if root := os.environ.get("SLIPWAY_ROOT_ROUTER"):
        return f"{root}/opt/envoy/bin/envoy"
    return shutil.which("envoy")


def until(what: str, found: Callable[[], Found | None], seconds: float = 15.0) -> Found:
    """Waits until it is something true. Raises AssertionError."""
    end = time.monotonic() + seconds
    while True:
        got = found()
        if got:
            return got
        assert time.monotonic() < end, f"not within {seconds:g} s: {what} (last: {got!r})"
        time.sleep(0.02)


def write_as_kubelet(folder: Path, files: Mapping[str, str]) -> None:
    """All files at once: a new folder, and a rename of the link `..data` to it."""
    fresh = folder / f"..{time.monotonic_ns()}"
    fresh.mkdir()
    for name, text in files.items():
        (fresh / name).write_text(text)
    (folder / "..data_tmp").symlink_to(fresh.name)
    old = (folder / "..data").readlink() if (folder / "..data").is_symlink() else None
    (folder / "..data_tmp").rename(folder / "..data")
    for name in files:
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(f"..data/{name}")
    if old is not None:
        shutil.rmtree(folder / old)


class Router:
    """One router. `process` is None before `start` and after `kill`."""

    def __init__(self, program: str, folder: Path, deployment: ModelDeployment, split: Split, dns_port: int) -> None:
        self.address, self.admin_address = new_address(), new_address()
        self.process: subprocess.Popen[bytes] | None = None
        self.environment = {**os.environ, POD_VARIABLE: "router"}
        self.split = split
        self._program, self._folder, self._dns_port = program, folder, dns_port
        self.deployment = deployment
        self._log = folder / "envoy.log"
        self.files = folder / "config"
        self.files.mkdir()
        self.tell(split)

    def tell(self, split: Split, deployment: ModelDeployment | None = None) -> str:
        """The ConfigMap changes, and the kubelet has seen it. Returns the generation."""
        self.deployment = deployment or self.deployment
        self.split = split
        config = configure(self.deployment, split)
        write_as_kubelet(self.files, {name: self._placed(name, text) for name, text in config.files.items()})
        return config.generation

    def tell_and_wait(self, split: Split, deployment: ModelDeployment | None = None) -> RouterReport:
        """The same, and it is in force."""
        generation = self.tell(split, deployment)
        return until("the generation is in force", lambda: self.report_of(generation))

    def _placed(self, name: str, text: str) -> str:
        text = text.replace('"0.0.0.0"', f'"{self.address}"').replace(
            f'"{envoy.ADMIN_ADDRESS}"', f'"{self.admin_address}"'
        )
        text = text.replace(envoy.FOLDER, str(self.files))
        if name == envoy.BOOTSTRAP_KEY:
            bootstrap = json.loads(text)
            server = {"socket_address": {"address": "127.0.0.1", "port_value": self._dns_port}}
            bootstrap["typed_dns_resolver_config"]["typed_config"]["resolvers"] = [server]
            text = json.dumps(bootstrap)
        return text

    @property
    def container(self) -> Json:
        """Its container, as the operator renders it."""
        routing = render(self.deployment, self.split, {}, IMAGES)
        [deployment] = [child.manifest for child in routing.children if child.kind == "Deployment"]
        [container] = deployment["spec"]["template"]["spec"]["containers"]
        found: Json = container
        return found

    def start(self) -> Router:
        args = [argument.replace(envoy.FOLDER, str(self.files)) for argument in self.container["args"]]
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [self._program, *args], stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=self.environment
            )
        until("it is ready", self.is_ready, 30)
        return self

    def is_ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.words
        try:
            return self.get("/ready", STATUS_PORT).status == 200
        except OSError:
            return False

    @property
    def words(self) -> str:
        """What it has logged."""
        return self._log.read_text(errors="replace")

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def drain(self, endpoint_removal_seconds: int, drain_seconds: int | None = None) -> subprocess.Popen[bytes]:
        """The preStop hook, begun: the operator's own command, with its waits shortened."""
        command = list(self.container["lifecycle"]["preStop"]["exec"]["command"])
        assert command[:2] == ["bash", "-c"]
        assert command[-4] == envoy.ADMIN_ADDRESS
        command[-4], command[-2] = self.admin_address, str(endpoint_removal_seconds)
        if drain_seconds is not None:
            command[-1] = str(drain_seconds)
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def terminate(self) -> None:
        """SIGTERM, which comes when the preStop hook has ended."""
        assert self.process is not None
        self.process.terminate()
        self.process.wait(10)
        self.process = None

    def get(
        self,
        path: str,
        port: int = ROUTER_PORT,
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        timeout: float = 30,
        body: bytes | None = None,
    ) -> Answer:
        """One request on a connection of its own."""
        connection = http.client.HTTPConnection(self.address, port, timeout=timeout)
        try:
            connection.request(method, path, body, dict(headers or {}))
            response = connection.getresponse()
            return Answer(response.status, response.read().decode(), dict(response.getheaders()))
        finally:
            connection.close()

    def report(self) -> RouterReport | None:
        """What it says of itself, as the operator reads it."""

        async def read() -> Mapping[str, RouterReport]:
            routers = Routers()
            try:
                return await routers.read([RouterPod("router", "uid", self.address, True, False, None, "uid/0")])
            finally:
                await routers.close()

        return asyncio.run(read()).get("uid")

    def report_of(self, generation: str) -> RouterReport | None:
        report = self.report()
        return report if report is not None and report.generation == generation else None

    def memory_bytes(self, kind: str) -> int:
        """RssAnon or VmRSS, of the process."""
        assert self.process is not None
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{kind}:"))


class Answer:
    """An HTTP answer, read to its end."""

    def __init__(self, status: int, body: str, headers: Mapping[str, str]) -> None:
        self.status, self.body, self.headers = status, body, headers

    @property
    def pod(self) -> str:
        """The name of the pod that answered."""
        return self.body.partition(" ")[0]
