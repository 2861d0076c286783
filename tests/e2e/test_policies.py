"""Version policies mean the same on every server: what is loaded, what answers by number, and what without one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.e2e import models_torch, reach
from tests.e2e.agent.pair import multiplier
from tests.e2e.kube import Manifest
from tests.e2e.stage import Served, Stage, config_map_volume, eventually
from tests.e2e.test_rollout import restarts
from tests.e2e.test_tensorflow_serving import make_saved_models

pytestmark = [pytest.mark.usefixtures("operator"), pytest.mark.matrix]

MODEL = "multiplier"
VERSIONS = (1, 2, 3)
INPUT = {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1.0, 1.0]}]}
POLICIES: tuple[tuple[Manifest, list[int]], ...] = (
    ({"latest": {"count": 2}}, [2, 3]),
    ({"latest": None, "specific": {"versions": [1, 3]}}, [1, 3]),
    ({"specific": None, "all": {}}, [1, 2, 3]),
    ({"all": None, "latest": {"count": 1}}, [3]),
)


def ask_open_inference(url: str, version: int | None) -> requests.Response:
    path = f"/v2/models/{MODEL}" + (f"/versions/{version}" if version else "")
    return requests.post(f"{url}{path}/infer", json=INPUT, timeout=30)


def ask_torchserve(url: str, version: int | None) -> requests.Response:
    return requests.post(f"{url}/predictions/{MODEL}" + (f"/{version}" if version else ""), json={"x": [1]}, timeout=30)


def ask_tensorflow(url: str, version: int | None) -> requests.Response:
    path = f"/v1/models/{MODEL}" + (f"/versions/{version}" if version else "")
    return requests.post(f"{url}{path}:predict", json={"instances": [[1.0, 1.0]]}, timeout=30)


def number_in(answer: Any) -> int:
    """The version that gave the answer: it multiplies by its own number."""
    match answer:
        case {"outputs": [{"data": [factor, *_]}]} | {"predictions": [[factor, *_]]} | {"y": [factor, *_]}:
            return int(factor)
    raise AssertionError(f"no answer of a multiplier: {answer}")


Ask = Callable[[str, int | None], requests.Response]


def given_onnx(stage: Stage, folder: Path) -> dict[str, Any]:
    stage.given_files("files", {f"m-{n}": multiplier(float(n)) for n in VERSIONS})
    volume = config_map_volume("models", {f"m-{n}": f"{n}/model.onnx" for n in VERSIONS}, "files")
    return {"uri": "volume://models", "volumes": [volume]}


def given_archives(stage: Stage, folder: Path) -> dict[str, Any]:
    made = {f"m-{n}": models_torch.multiplier(folder / str(n), float(n)).read_bytes() for n in VERSIONS}
    stage.given_files("files", made)
    volume = config_map_volume("models", {f"m-{n}": f"{n}/m.mar" for n in VERSIONS}, "files")
    return {"uri": "volume://models", "volumes": [volume]}


def given_saved_models(stage: Stage, folder: Path) -> dict[str, Any]:
    return {"uri": f"pvc://{make_saved_models(stage)}/{MODEL}"}


SERVERS: dict[str, tuple[str, Ask, Callable[[Stage, Path], dict[str, Any]]]] = {
    "Triton": ("triton", ask_open_inference, given_onnx),
    "ONNXRuntime": ("onnxruntime", ask_open_inference, given_onnx),
    "TorchServe": ("torchserve", ask_torchserve, given_archives),
    "TensorFlowServing": ("test-tensorflow-serving", ask_tensorflow, given_saved_models),
}


@pytest.mark.parametrize("runtime", list(SERVERS))
def test_each_policy_loads_the_same_versions_on_every_server(
    stage: Stage, needs_image: Callable[..., None], tmp_path: Path, runtime: str
) -> None:
    image, ask, given = SERVERS[runtime]
    needs_image(image)
    place = given(stage, tmp_path)
    names = {"name": MODEL, "versions": {str(n): str(n) for n in VERSIONS}}
    served = stage.given(MODEL, place["uri"], 3, place.get("volumes", ()), model=names, runtime=runtime).then_ready()
    before = restarts(served.pods())
    for policy, loaded in POLICIES:
        served.when_spec(versionPolicy=policy)
        then_loaded(served, loaded)
        then_answers(served, ask, {None: 3} | {version: version for version in loaded})
    assert restarts(served.pods()) == before


def then_loaded(served: Served, loaded: list[int]) -> None:
    """Waits until status says that exactly these are loaded."""

    def holds(found: Manifest | None) -> bool | None:
        versions = ((found or {}).get("status") or {}).get("versions") or []
        states = [(one["version"], one["state"]) for one in versions]
        return True if states == [(version, "Available") for version in loaded] else None

    served.kube.wait("ModelDeployment", served.name, served.namespace, f"{loaded} are loaded", holds)


def then_answers(served: Served, ask: Ask, expected: dict[int | None, int]) -> None:
    """Waits until what is asked for by these numbers is answered by these versions, and nothing else is answered."""
    eventually(f"answers are {expected}", lambda: answers(served, ask) == expected)


def answers(served: Served, ask: Ask) -> dict[int | None, int]:
    """What is asked for → which version answered; what is refused is left out."""
    found = {}
    with reach.service(served.kube, served.name, served.namespace) as address:
        for version in (None, *VERSIONS):
            answer = ask(address.http_url, version)
            if answer.status_code == 200:
                found[version] = number_in(answer.json())
    return found
