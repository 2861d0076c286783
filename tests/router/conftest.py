"""A stage for one router: model pods on loopback, a DNS that knows them, an Envoy between."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from slipway.api import ModelDeployment
from slipway.render.routing import Backend, Split
from tests.router.envoys import Router, find_envoy, until
from tests.router.names import Names
from tests.router.pods import GRPC_PORT, HTTP_PORT, ModelPod
from tests.unit.specs import NAME, NAMESPACE, Json, deployment

STABLE, CANARY = "aaaaaaaaaa", "bbbbbbbbbb"


class Stage:
    """What a test sets up, and what ends with it."""

    def __init__(self, program: str, folder: Path) -> None:
        self.program = program
        self.names = Names()
        self._folder = folder
        self._pods: list[ModelPod] = []
        self._routers: list[Router] = []
        self._of: dict[str, list[str]] = {}

    def pod(self, workload: str, *, has_grpc: bool = False, name: str | None = None) -> ModelPod:
        """A pod that is ready: it is found under its workload's name."""
        pod = ModelPod(name or workload, has_grpc=has_grpc)
        self._pods.append(pod)
        self.resolve(workload, [*self._of.get(workload, []), pod.address])
        return pod

    def resolve(self, workload: str, addresses: list[str]) -> None:
        """The workload's headless Service has these addresses now."""
        self._of[workload] = addresses
        self.names.put(f"{NAME}-{workload}.{NAMESPACE}.svc.cluster.local", addresses)

    def prepare(self, split: Split, changes: Json | None = None) -> Router:
        """A router that is not started yet."""
        folder = self._folder / f"router-{len(self._routers)}"
        folder.mkdir()
        router = Router(self.program, folder, model(changes), split, self.names.port)
        self._routers.append(router)
        return router

    def router(self, split: Split, changes: Json | None = None) -> Router:
        return self.prepare(split, changes).start()

    def close(self) -> None:
        for router in self._routers:
            router.kill()
        for pod in self._pods:
            pod.close()
        self.names.close()


def model(changes: Json | None = None) -> ModelDeployment:
    return deployment({"rollout": {"steps": [{"weight": 5}]}, **(changes or {})})


def backend(workload: str, weight: int, *versions: int, has_grpc: bool = False) -> Backend:
    return Backend(workload, weight, versions, HTTP_PORT, GRPC_PORT if has_grpc else None)


def alone(*, has_grpc: bool = False) -> Split:
    return Split((backend(STABLE, 100, 1, has_grpc=has_grpc),))


def both(weight: int, *, has_grpc: bool = False) -> Split:
    """The canary's weight."""
    return Split((backend(STABLE, 100 - weight, 1, has_grpc=has_grpc), backend(CANARY, weight, 2, has_grpc=has_grpc)))


def reaches(router: Router, workload: str, count: int) -> None:
    """Waits until the router knows so many endpoints of the workload."""

    def known() -> bool:
        report = router.report()
        return report is not None and report.endpoints.get(workload) == count

    until(f"{count} endpoints of {workload}", known)


@pytest.fixture(scope="session")
def program() -> str:
    found = find_envoy()
    if found is None:
        pytest.skip("no Envoy: `make routing` takes the image's, or put one on PATH")
    return found


@pytest.fixture
def stage(program: str, tmp_path: Path) -> Iterator[Stage]:
    made = Stage(program, tmp_path)
    yield made
    made.close()
