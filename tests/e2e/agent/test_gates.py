"""Golden requests and signatures beside each real server: what the agent asks before a version counts as ready.

Each server needs what the tests beside it need; those that aren't there are skipped.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from onnx import TensorProto, helper

from tests.e2e.agent import (
    test_beside_custom,
    test_beside_onnxruntime,
    test_beside_tensorflow_serving,
    test_beside_torchserve,
    test_beside_triton,
)
from tests.e2e.agent.pair import MODEL, Beside, Processes, infer_body
from tests.e2e.stand_in import tensorflow as stand_in

ADVICE = "Correct the model, or the expected answers where the new ones are right (spec.rollout.gates.golden)"


def slow_multiplier(factor: float) -> bytes:
    """Multiplies, after some 20 ms of matrices that depend on the input."""
    size, turns = 700, 4
    nodes = [
        helper.make_node("Mul", ["x", "factor"], ["product"]),
        helper.make_node("ReduceMean", ["x"], ["mean"], keepdims=0),
        helper.make_node("Expand", ["mean", "square"], ["m0"]),
    ]
    nodes += [helper.make_node("MatMul", [f"m{turn}", "m0"], [f"m{turn + 1}"]) for turn in range(turns)]
    nodes += [
        helper.make_node("ReduceMean", [f"m{turns}"], ["rest"], keepdims=0),
        helper.make_node("Mul", ["rest", "nothing"], ["zero"]),
        helper.make_node("Add", ["product", "zero"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        MODEL,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", 2])],
        [
            helper.make_tensor("factor", TensorProto.FLOAT, [1], [factor]),
            helper.make_tensor("nothing", TensorProto.FLOAT, [1], [0.0]),
            helper.make_tensor("square", TensorProto.INT64, [2], [size, size]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    content: bytes = model.SerializeToString()
    return content


@dataclass(frozen=True)
class Subject:
    """One server. `open`: its pair in a folder, and where TensorFlow's models are.

    `expected`: the answer to `request` of a version that multiplies by that. `differs`: what is said where 2.0 came and
    1.0 was expected.
    """

    open: Callable[[Path, Callable[[], Path]], Any]
    missing: str | None
    request: dict[str, Any]
    expected: Callable[[float], Any]
    differs: str
    signature: dict[str, Any] | None
    slow: Callable[[Any], dict[str, Any]]
    settings: dict[str, Any] = field(default_factory=dict)


TENSORS = {
    "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}],
    "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 2]}],
}
ALLOWED = "off by 1, and 0.0001 is allowed"


def protocol_answer(factor: float) -> dict[str, Any]:
    return {"outputs": [{"name": "y", "shape": [1, 2], "data": [[factor, factor]]}]}


def protocol_subject(open_pair: Callable[[Path], Any], missing: str | None) -> Subject:
    def slow(pair: Any) -> dict[str, Any]:
        pair.put(1, slow_multiplier(1.0))
        return {"request": infer_body([[1.0, 1.0]]), "response": protocol_answer(1.0)}

    differs = f"outputs[y].data[0] is 2, expected 1: {ALLOWED}; outputs[y].data[1] is 2, expected 1: {ALLOWED}"
    return Subject(
        lambda folder, _: open_pair(folder), missing, infer_body([[1.0, 1.0]]), protocol_answer, differs, TENSORS, slow
    )


def slow_tensorflow(pair: Any) -> dict[str, Any]:
    pair.put(1)
    return {"request": {"signature_name": "slow", "instances": [20_000.0]}, "response": {"predictions": [1.0]}}


def slow_torchserve(pair: Any) -> dict[str, Any]:
    pair.put(1)
    return {"request": {"x": [1.0], "sleep": 0.05}, "response": {"y": [1.0]}}


SUBJECTS = {
    "Triton": protocol_subject(
        test_beside_triton.Pair, None if test_beside_triton.ROOT else "SLIPWAY_TRITON_ROOT isn't set"
    ),
    "ONNXRuntime": protocol_subject(
        test_beside_onnxruntime.OnnxRuntimePair,
        None if test_beside_onnxruntime.ROOT else "SLIPWAY_ONNXRUNTIME_ROOT isn't set",
    ),
    "Custom": protocol_subject(test_beside_custom.CustomPair, None),
    "TensorFlowServing": Subject(
        lambda folder, made: test_beside_tensorflow_serving.Pair(folder, made()),
        None if stand_in.PYTHON else stand_in.WHY_SKIPPED,
        {"instances": [[1.0, 1.0]]},
        lambda factor: {"predictions": [[factor, factor]]},
        f"predictions[0][0] is 2, expected 1: {ALLOWED}; predictions[0][1] is 2, expected 1: {ALLOWED}",
        TENSORS,
        slow_tensorflow,
    ),
    "TorchServe": Subject(
        lambda folder, _: test_beside_torchserve.TorchServePair(folder),
        None if test_beside_torchserve.ROOT else "SLIPWAY_TORCHSERVE_ROOT isn't set",
        {"x": [1.0]},
        lambda factor: {"y": [factor]},
        f"y[0] is 2, expected 1: {ALLOWED}",
        None,
        slow_torchserve,
    ),
}


@dataclass
class Beneath:
    """A pair and what its server's requests look like."""

    pair: Any
    subject: Subject

    def golden(self, factor: float, **changes: Any) -> dict[str, Any]:
        """Two requests, of which the first is answered by `factor` by a version that multiplies by it."""
        first = {"name": "ones", "request": self.subject.request, "response": self.subject.expected(factor)}
        return {"requests": [first | changes]}

    def start(self) -> None:
        self.pair.start_agent()
        self.pair.until(lambda: self.pair.probe("/startz") == 200)
        self.pair.start_server()

    def restart_agent(self) -> None:
        self.pair.kill("agent")
        self.pair.start_agent()
        self.pair.until(lambda: self.pair.probe("/healthz") == 200)

    def until_failed(self, version: int, reason: str) -> str:
        """The message, once the version has failed for that reason."""

        def failures() -> list[dict[str, Any]]:
            versions: list[dict[str, Any]] = self.pair.status()["versions"]
            return [each for each in versions if each["version"] == version and each["state"] == "Failed"]

        self.pair.until(lambda: bool(failures()))
        (failed,) = failures()
        assert failed["reason"] == reason
        return str(failed["message"])


@pytest.fixture(scope="module")
def tensorflow_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stand_in.make_models(tmp_path_factory.mktemp("made"))


@pytest.fixture(params=list(SUBJECTS))
def beneath(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Beneath]:
    subject = SUBJECTS[request.param]
    if subject.missing is not None:
        pytest.skip(subject.missing)
    pair: Processes = subject.open(tmp_path, lambda: request.getfixturevalue("tensorflow_models"))
    yield Beneath(pair, subject)
    pair.stop()
    said = (tmp_path / "agent.log").read_text() if (tmp_path / "agent.log").exists() else ""
    assert "Traceback" not in said
    assert "failed at its own work" not in said


def test_a_version_that_answers_as_expected_becomes_ready_and_its_signature_is_told(beneath: Beneath) -> None:
    pair = beneath.pair
    pair.put(1)
    pair.want(1, golden=beneath.golden(1.0, maxLatencyMilliseconds=5000))
    beneath.start()
    pair.until(lambda: pair.probe("/readyz") == 200)
    pair.until(lambda: "1" in pair.status()["signatures"])
    status = pair.status()
    assert pair.states() == {1: "Available"}
    assert status["golden"]["version"] == 1
    assert status["golden"]["state"] == "Passed"
    assert re.fullmatch(r"1 of 1 answered as expected, slowest \d+\.\d ms", status["golden"]["message"])
    assert status["signatures"] == {"1": beneath.subject.signature}


def test_a_version_that_answers_otherwise_is_never_ready_and_says_where_it_differs(beneath: Beneath) -> None:
    pair = beneath.pair
    pair.put(2)
    pair.want(2, golden=beneath.golden(1.0))
    beneath.start()
    message = beneath.until_failed(2, "GoldenFailed")
    assert message == f'golden request "ones" (1 of 1): {beneath.subject.differs}. {ADVICE}'
    status = pair.status()
    assert (status["error"]["reason"], status["golden"]["state"]) == ("GoldenFailed", "Failed")
    assert pair.probe("/readyz") == 503
    # as the container's restart and the agent's would have it
    beneath.restart_agent()
    assert beneath.until_failed(2, "GoldenFailed") == message
    assert pair.probe("/readyz") == 503
    # the expected answer was wrong: nothing is loaded again for that
    server = pair.pid_of("server")
    pair.want(2, golden=beneath.golden(2.0))
    pair.until(lambda: pair.probe("/readyz") == 200)
    assert pair.status()["golden"]["state"] == "Passed"
    assert pair.pid_of("server") == server


def test_a_version_that_answers_too_slowly_is_never_ready(beneath: Beneath) -> None:
    pair = beneath.pair
    golden = beneath.subject.slow(pair)
    pair.want(1, golden={"requests": [golden | {"maxLatencyMilliseconds": 1}]})
    beneath.start()
    message = beneath.until_failed(1, "GoldenFailed")
    said = re.match(r"golden request 1 of 1: the fastest of 3 warm answers took (\d+\.\d) ms, at most 1 ms", message)
    assert said is not None, message
    assert float(said[1]) > 5
    assert pair.probe("/readyz") == 503


def test_a_file_beside_the_model_is_asked_and_a_missing_one_is_said(beneath: Beneath) -> None:
    pair = beneath.pair
    pair.put(1)
    pair.want(1, golden={"file": "golden.json"})
    beneath.start()
    message = beneath.until_failed(1, "GoldenUnreadable")
    assert message.startswith("there is no golden.json in the folder of version 1, and spec.rollout.gates.golden.file")
    assert pair.probe("/readyz") == 503
    (pair.source / "1" / "golden.json").write_text(json.dumps(beneath.golden(1.0)["requests"]))
    pair.want(1, golden={"file": "golden.json", "tolerance": {"relative": 0.001}})
    pair.until(lambda: pair.probe("/readyz") == 200, 60)
    assert pair.status()["golden"]["state"] == "Passed"


def test_golden_requests_that_go_or_change_leave_what_stands_alone(beneath: Beneath) -> None:
    pair = beneath.pair
    pair.put(1)
    pair.want(1, golden=beneath.golden(1.0))
    beneath.start()
    pair.until(lambda: pair.probe("/readyz") == 200)
    pair.until(lambda: '"load ended"' in (pair.folder / "agent.log").read_text())
    loads = (pair.folder / "agent.log").read_text().count('"load begins"')
    server = pair.pid_of("server")
    for golden in (None, beneath.golden(7.0), None):
        pair.want(1, golden=golden, **beneath.subject.settings)
        wanted = json.loads((pair.folder / "agent.json").read_text())["generation"]
        pair.until(lambda wanted=wanted: pair.status()["generation"] == wanted)
        ends_at = time.monotonic() + 0.8
        while time.monotonic() < ends_at:
            assert pair.probe("/readyz") == 200
        assert pair.states() == {1: "Available"}
        said = pair.status()["golden"]
        assert said == (
            golden
            and {
                "version": 1,
                "state": "Passed",
                "message": "not asked: version 1 served before these requests came",
            }
        )
    # neither is it asked again after a restart
    pair.want(1, golden=beneath.golden(7.0))
    beneath.restart_agent()
    pair.until(lambda: pair.status()["ready"] and pair.probe("/readyz") == 200)
    assert (pair.folder / "agent.log").read_text().count('"load begins"') == loads
    assert pair.pid_of("server") == server


def test_a_version_that_comes_beside_the_old_one_and_answers_otherwise_leaves_that_one_serving(
    beneath: Beneath,
) -> None:
    pair = beneath.pair
    if isinstance(pair, test_beside_custom.CustomPair):
        pytest.skip("a Custom container holds one version")
    pair.put(1)
    pair.put(2)
    pair.want(1)
    beneath.start()
    pair.until(lambda: pair.probe("/readyz") == 200)
    pair.want(2, golden=beneath.golden(1.0))
    message = beneath.until_failed(2, "GoldenFailed")
    assert beneath.subject.differs in message
    assert pair.probe("/readyz") == 200
    pair.until(lambda: pair.multiply() == 1.0)
    assert pair.states() == {1: "Unloading", 2: "Failed"}
    pair.want(2, golden=beneath.golden(2.0))
    pair.until(lambda: pair.states() == {2: "Available"})
    assert pair.multiply() == 2.0


def test_an_unanswered_golden_request_is_said_in_the_servers_words(beneath: Beneath) -> None:
    pair = beneath.pair
    pair.put(1)
    pair.want(1, golden=beneath.golden(1.0, request={"no": "sense"}))
    beneath.start()
    message = beneath.until_failed(1, "GoldenFailed")
    assert message.startswith('golden request "ones" (1 of 1) failed: ')


@pytest.mark.parametrize("rows", [0, 8])
def test_tritons_shapes_have_the_batchs_dimension(tmp_path: Path, rows: int) -> None:
    """With max_batch_size the configuration's dims leave it out; the metadata doesn't."""
    if SUBJECTS["Triton"].missing:
        pytest.skip(SUBJECTS["Triton"].missing)
    pair: Beside = test_beside_triton.Pair(tmp_path)
    try:
        pair.put(1)
        pair.want(1, maxBatchSize=rows)
        pair.boot()
        pair.until(lambda: pair.status()["signatures"] == {"1": TENSORS})
    finally:
        pair.stop()
