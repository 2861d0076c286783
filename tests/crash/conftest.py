"""The control plane that the crash tests share, and the server their operators are forked from."""

import asyncio
import multiprocessing.context
import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.apiserver import ApiServer, Manifest, read_access, read_crds

from .launcher import fork_server

REPOSITORY = Path(__file__).parents[2]
MODULE = os.environ.get("SLIPWAY_CRASH_MODULE", "slipway")


@dataclass(frozen=True, slots=True)
class ControlPlane:
    """What a test needs to reach the API server and to start operators."""

    kubeconfig: Path
    context: multiprocessing.context.ForkServerContext
    module: str


async def _prepare(kubeconfig: Path, crds: list[Manifest]) -> None:
    async with ApiServer(read_access(kubeconfig)) as api:
        await api.install_crds(crds)


@pytest.fixture(scope="session")
def control_plane() -> ControlPlane:
    if "KUBECONFIG" not in os.environ:
        pytest.exit("The crash tests need a control plane of their own: run them as `python -m tests.crash`.", 2)
    kubeconfig = Path(os.environ["KUBECONFIG"])
    asyncio.run(_prepare(kubeconfig, read_crds(REPOSITORY / "crds")))
    # The fork server takes its import path from here.
    path = [os.environ.get("PYTHONPATH", ""), str(REPOSITORY / "operator"), str(REPOSITORY)]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, path))
    return ControlPlane(kubeconfig, fork_server(MODULE), MODULE)
