"""TorchServe, with the `.mar` files of torch-model-archiver: served, updated in place, rolled, refused in words."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.e2e import models_torch, reach
from tests.e2e.load import GRPC, KEPT, NEW, Ask, Load, nothing_lost
from tests.e2e.stage import Served, Stage, config_map_volume
from tests.e2e.test_rollout import needs_service, restarts, then_loads_while_serving, then_rolls
from tests.e2e.torchserve_api import RefusedError, torch_grpc, torch_rest

pytestmark = pytest.mark.usefixtures("operator", "torchserve_image")
ONE = {"x": [1.0]}


@pytest.fixture(scope="module")
def torchserve_image(needs_image: Callable[..., None]) -> None:
    needs_image("torchserve")


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Multipliers by 1, 2 and 3, the first of which says that it is version 7.5; one that raises; and the colours."""
    folder = tmp_path_factory.mktemp("mar")
    made: dict[str, Path] = {
        "first": models_torch.multiplier(folder / "1", 1.0, said="7.5"),
        "second": models_torch.multiplier(folder / "2", 2.0),
        "third": models_torch.multiplier(folder / "3", 3.0),
        "broken": models_torch.broken(folder / "broken"),
        "colours": models_torch.colours(folder / "colours", sharpness=4.0),
    }
    return {name: path.read_bytes() for name, path in made.items()}


def given(stage: Stage, archives: dict[str, bytes], *versions: str, **spec: Any) -> Served:
    """Those archives as versions 1, 2 … of the model `multiplier`, the first served unless `version` says another."""
    stage.given_files("archives", archives)
    paths = {name: f"multiplier/{number}/{name}.mar" for number, name in enumerate(versions, 1)}
    version = spec.pop("version", 1)
    assert isinstance(version, int)
    volume = config_map_volume("models", paths, "archives")
    return stage.given("multiplier", "volume://models/multiplier", version, [volume], runtime="TorchServe", **spec)


@contextmanager
def load_on(served: Served, ended_pods: int) -> Iterator[Load]:
    """Constant load, on for the whole block; nothing of it may be lost."""

    @contextmanager
    def kept() -> Iterator[Ask]:
        with torch_rest(address.http_url, served.name) as client:
            yield lambda: int(client.predict(ONE)["y"][0])

    @contextmanager
    def new() -> Iterator[Ask]:
        with torch_rest(address.http_url, served.name, keep=False) as client:
            yield lambda: int(client.predict(ONE)["y"][0])

    @contextmanager
    def channel() -> Iterator[Ask]:
        with torch_grpc(address.grpc, served.name) as client:
            yield lambda: int(client.predict(ONE)["y"][0])

    with (
        reach.service(served.kube, served.name, served.namespace) as address,
        nothing_lost({KEPT: kept, NEW: new, GRPC: channel}, ended_pods) as load,
    ):
        yield load


def answers(served: Served) -> float:
    with (
        reach.service(served.kube, served.name, served.namespace) as address,
        torch_rest(address.http_url, served.name, keep=False) as client,
    ):
        return float(client.predict(ONE)["y"][0])


@pytest.fixture(scope="module")
def models(module_stage: Stage, archives: dict[str, bytes]) -> dict[str, Served]:
    """Two that the tests only read, applied together: the multiplier with two versions loaded, and the colours."""
    multiplier = given(
        module_stage,
        archives,
        "first",
        "second",
        version=2,
        versionPolicy={"latest": {"count": 2}},
        batching={"maxBatchSize": 4, "maxDelayMicroseconds": 1500},
    )
    volume = config_map_volume("models", {"colours": "colours.mar"}, "archives")
    colours = module_stage.given("colours", "volume://models/colours.mar", 1, [volume], runtime="TorchServe")
    return {"multiplier": multiplier, "colours": colours}


@pytest.fixture
def multiplier(models: dict[str, Served]) -> Served:
    served = models["multiplier"].then_ready()
    served.then("VersionsReady", "True")
    return served


def test_rest_and_grpc_answer_with_and_without_a_version(multiplier: Served) -> None:
    with (
        reach.service(multiplier.kube, multiplier.name, multiplier.namespace) as address,
        torch_rest(address.http_url, multiplier.name) as by_rest,
        torch_grpc(address.grpc, multiplier.name) as by_grpc,
    ):
        for ask in (by_rest, by_grpc):
            assert [ask.predict({"x": [1, 4]}, version)["y"] for version in (None, 1, 2)] == [[2, 8], [1, 4], [2, 8]]
        with pytest.raises(RefusedError) as refused:
            by_rest.predict(ONE, 3)
        assert refused.value.status == 404


def test_a_default_handler_answers_pictures(models: dict[str, Served]) -> None:
    colours = models["colours"].then_ready()
    with (
        reach.service(colours.kube, colours.name, colours.namespace) as address,
        torch_rest(address.http_url, colours.name) as client,
    ):
        for rgb, name in (((250, 5, 5), "red"), ((5, 250, 5), "green"), ((5, 5, 250), "blue")):
            found = client.predict(models_torch.picture(*rgb))
            assert max(found, key=found.get) == name


@needs_service
def test_requests_are_counted_and_management_is_out_of_reach(multiplier: Served) -> None:
    (pod,) = multiplier.pods()
    at = pod["status"]["podIP"]
    counted = requests.get(f"http://{at}:8082/metrics", timeout=10).text
    assert 'ts_inference_requests_total{model_name="multiplier",model_version="1"' in counted
    for port in (8083, 7071):
        with pytest.raises(requests.ConnectionError):
            requests.get(f"http://{at}:{port}/models", timeout=5)
    assert requests.post(f"http://{at}:8080/models?url=any", timeout=5).status_code == 404


@pytest.mark.alone  # load of which nothing may be lost
@needs_service
def test_a_new_version_loads_into_serving_pods_and_no_connection_is_dropped(
    stage: Stage, archives: dict[str, bytes]
) -> None:
    served = given(stage, archives, "first", "second", rollout={"bakeSeconds": 5}).then_ready()
    then_loads_while_serving(served, load_on(served, ended_pods=0), 2, {1, 2})


@pytest.mark.alone  # load of which nothing may be lost
@needs_service
def test_a_rolling_update_loses_nothing(stage: Stage, archives: dict[str, bytes]) -> None:
    served = given(stage, archives, "first", replicas=2).then_ready()
    then_rolls(served, load_on(served, ended_pods=2), runtime={"env": [{"name": "ANY", "value": "other"}]})


def test_a_handler_that_raises_is_told_in_its_words_and_the_old_version_serves(
    stage: Stage, archives: dict[str, bytes]
) -> None:
    served = given(stage, archives, "first", "broken").then_ready()
    before = restarts(served.pods())
    served.when_spec(model={"version": 2})
    served.then(
        "Promoted", "False", "RolledBack", says=["LoadFailed", "ValueError: the tokenizer's vocabulary is empty"]
    )
    served.then("Ready", "True")
    assert answers(served) == 1.0
    assert restarts(served.pods()) == before
