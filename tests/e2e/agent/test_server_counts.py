"""What the operator reads of a server's own counts, beside the real servers: known requests, and what is made of them.

The same environment as the tests beside each server; without its installation a server's test is skipped.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import requests
from onnx import TensorProto, helper
from tritonclient.utils import InferenceServerException

from slipway.controller.server_counts import ServerCounts
from slipway.model.signals import LATENCY_BOUNDS_MILLISECONDS, Counts
from slipway.observe.pods import Pod
from slipway.observe.server_counts import Counter
from slipway.runtimes import RUNTIMES
from tests.e2e.agent import (
    test_beside_onnxruntime,
    test_beside_tensorflow_serving,
    test_beside_torchserve,
    test_beside_triton,
)
from tests.e2e.agent.pair import MODEL, Beside, infer_body, multiplier
from tests.e2e.ask import grpc_client
from tests.e2e.stand_in import tensorflow as stand_in
from tests.e2e.torchserve_api import RefusedError, torch_grpc

POD = Pod("pod", "uid", "carrier", True, False, "127.0.0.1", None, None)
GOOD, FAILING = infer_body([[1.0, 1.0], [2.0, 2.0]]), infer_body([[1.0, 1.0]])


def counts(runtime: str, port: int, version: int) -> Counts:
    """As a pass of the operator reads them."""

    async def read() -> Counts:
        reading = ServerCounts()
        try:
            counter = Counter(runtime, port, RUNTIMES[runtime].metrics, MODEL, version)
            found = await reading.read([POD], {"carrier": counter})
        finally:
            await reading.close()
        assert (found.missing, found.trouble) == (0, "")
        return found.counts["uid"]["carrier"]

    return asyncio.run(read())


def fragile() -> bytes:
    """An ONNX model that fails while it computes when its input has an odd number of rows, and returns it otherwise."""
    folds = [helper.make_tensor(name, TensorProto.INT64, [2], [-1, size]) for name, size in (("four", 4), ("two", 2))]
    graph = helper.make_graph(
        [helper.make_node("Reshape", ["x", "four"], ["z"]), helper.make_node("Reshape", ["z", "two"], ["y"])],
        MODEL,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", 2])],
        folds,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    content: bytes = model.SerializeToString()
    return content


class TritonPair(test_beside_triton.Pair):
    def server_command(self) -> list[str]:
        command = [word for word in super().server_command() if word != "--allow-metrics=false"]
        return [*command, f"--metrics-port={self.metrics_port}", "--metrics-address=127.0.0.1"]


@pytest.fixture
def pairs() -> Iterator[list[Any]]:
    """Those that were started; they are stopped whatever happens."""
    started: list[Any] = []
    yield started
    for pair in started:
        pair.stop()


def ask(pair: Beside, body: dict[str, Any], version: int | None = None) -> int:
    path = f"/v2/models/{MODEL}" + (f"/versions/{version}" if version else "") + "/infer"
    return requests.post(pair.url + path, json=body, timeout=10).status_code


def ask_by_grpc(pair: Beside, rows: int) -> bool:
    """Whether it was answered well."""
    with grpc_client(f"127.0.0.1:{pair.grpc_port}", MODEL) as client:
        try:
            client.infer({"x": np.ones((rows, 2), np.float32)})
        except InferenceServerException:
            return False
    return True


def ask_known_requests(pair: Beside) -> None:
    """Of the fragile version 2: 5 well answered, 3 failed, 1 refused; of them unversioned 4, 2 and 1."""
    assert [ask(pair, GOOD), ask(pair, GOOD), ask(pair, GOOD), ask(pair, GOOD, 2)] == [200] * 4
    assert [ask(pair, FAILING), ask(pair, FAILING, 2)] == [500] * 2
    assert ask(pair, infer_body([[1.0, 1.0, 1.0]])) == 400
    assert [ask_by_grpc(pair, 2), ask_by_grpc(pair, 1)] == [True, False]
    assert ask(pair, FAILING, 1) == 200  # version 1 is another matter


def begin(pair: Beside, pairs: list[Any], **settings: Any) -> None:
    pairs.append(pair)
    pair.put(1, multiplier(1.0))
    pair.put(2, fragile())
    pair.want(2, 1, **settings)
    pair.boot()
    pair.until(lambda: pair.states() == {1: "Available", 2: "Available"})


@pytest.mark.skipif(test_beside_triton.ROOT is None, reason="SLIPWAY_TRITON_ROOT doesn't name a Triton installation")
@pytest.mark.parametrize("instances", [1, 2])
def test_triton_s_counts_are_those_of_the_served_version(instances: int, tmp_path: Path, pairs: list[Any]) -> None:
    """It counts what names the version, too, and nothing that it refuses before computing; errors that our backend
    returned are errors, whichever of its processes returned them."""
    pair = TritonPair(tmp_path)
    begin(pair, pairs, instanceCount=instances)
    before = counts("Triton", pair.metrics_port, 2)
    ask_known_requests(pair)
    # the page is written anew every two seconds
    pair.until(lambda: counts("Triton", pair.metrics_port, 2).requests == before.requests + 8)
    assert counts("Triton", pair.metrics_port, 2) == replace(before, requests=before.requests + 8, errors=3)


@pytest.mark.skipif(
    test_beside_onnxruntime.ROOT is None, reason="SLIPWAY_ONNXRUNTIME_ROOT doesn't name an installation"
)
def test_onnx_runtime_s_counts_are_those_of_unversioned_requests(tmp_path: Path, pairs: list[Any]) -> None:
    pair = test_beside_onnxruntime.OnnxRuntimePair(tmp_path)
    begin(pair, pairs)
    assert counts("ONNXRuntime", pair.metrics_port, 2) == Counts(within=(0,) * len(LATENCY_BOUNDS_MILLISECONDS))
    ask_known_requests(pair)
    found = counts("ONNXRuntime", pair.metrics_port, 2)
    assert (found.requests, found.errors, found.refusals) == (7, 2, 1)
    assert found.within[-1] == 7
    assert list(found.within) == sorted(found.within)


@pytest.mark.skipif(stand_in.PYTHON is None, reason=stand_in.WHY_SKIPPED)
def test_tensorflow_serving_s_counts_leave_the_agent_s_questions_out(tmp_path: Path, pairs: list[Any]) -> None:
    pair = test_beside_tensorflow_serving.Pair(tmp_path, stand_in.make_models(tmp_path / "made"))
    pairs.append(pair)
    pair.put(2)
    pair.want(2)
    pair.start_agent()
    pair.until(lambda: pair.probe("/startz") == 200)
    pair.start_server()
    pair.until(lambda: pair.probe("/readyz") == 200, 60)

    def page() -> str:
        return requests.get(f"http://127.0.0.1:{pair.rest_port}/monitoring/prometheus/metrics", timeout=5).text

    asked = page()
    pair.until(lambda: page() != asked)  # the agent has asked once more
    assert counts("TensorFlowServing", pair.rest_port, 2).requests == 0
    for _ in range(3):
        pair.multiply()
    with pytest.raises(requests.HTTPError):
        pair.multiply("/versions/7")
    found = counts("TensorFlowServing", pair.rest_port, 2)
    assert (found.requests, found.errors, found.refusals) == (4, 0, 1)
    assert found.within[-1] == 4


@pytest.mark.skipif(test_beside_torchserve.ROOT is None, reason="SLIPWAY_TORCHSERVE_ROOT doesn't name an image's root")
def test_torchserve_counts_no_failed_grpc_request_and_is_refused_therefore(tmp_path: Path, pairs: list[Any]) -> None:
    """Why it is no source: what fails on gRPC is among the requests, and nowhere among the failures."""
    pair = test_beside_torchserve.TorchServePair(tmp_path)
    pairs.append(pair)
    pair.put(1)
    pair.want(1)
    pair.boot()

    def failures() -> dict[str, float]:
        page = requests.get(f"http://127.0.0.1:{pair.metrics_port}/metrics", timeout=5).text
        lines = (line.split("{") for line in page.splitlines() if line.startswith(("Requests5XX{", "ts_inference_req")))
        return {name: float(rest.split()[-1]) for name, rest in lines}

    with torch_grpc(f"127.0.0.1:{pair.grpc_port}", MODEL) as client:
        client.predict({"x": [1.0]})
        before = failures()
        with pytest.raises(grpc.RpcError):
            client.predict({"no": "x"})
    with pytest.raises(RefusedError):
        pair.predict({"no": "x"})
    pair.until(lambda: failures()["ts_inference_requests_total"] == before["ts_inference_requests_total"] + 2)
    assert failures()["Requests5XX"] - before.get("Requests5XX", 0) == 1
    assert RUNTIMES["TorchServe"].metrics is None
