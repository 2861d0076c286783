"""The ONNX backend of the Triton image, on real onnxruntime sessions and a stand-in for Triton's own module."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
from onnx import TensorProto, helper

SOURCE = Path(__file__).resolve().parents[3] / "serving-images" / "triton" / "backends" / "onnxruntime" / "model.py"

Array = np.ndarray[Any, Any]


class RefusedByTritonError(Exception):
    """Stands in for pb_utils.TritonModelException."""


@dataclass
class Tensor:
    called: str
    array: Array

    def name(self) -> str:
        return self.called

    def as_numpy(self) -> Array:
        return self.array


@dataclass
class Response:
    output_tensors: Sequence[Tensor] = ()
    error: Any = None

    def array(self, name: str = "y") -> Array:
        assert self.error is None, self.error.message
        (found,) = (tensor.array for tensor in self.output_tensors if tensor.called == name)
        return found


@dataclass
class Request:
    tensors: dict[str, Array]
    wanted: list[str] = field(default_factory=lambda: ["y"])

    def inputs(self) -> list[Tensor]:
        return [Tensor(name, array) for name, array in self.tensors.items()]

    def requested_output_names(self) -> list[str]:
        return self.wanted


class MetricFamily:
    """Counters by their labels; what was counted stays in `counted`."""

    COUNTER = "COUNTER"
    counted: ClassVar[dict[tuple[str, str, str, str], int]] = {}

    def __init__(self, name: str, description: str, kind: str) -> None:
        self.name, self.kind = name, kind

    def Metric(self, labels: dict[str, str]) -> Any:  # noqa: N802  Triton's own name
        key = (self.name, labels["model"], labels["version"], labels["fault"])

        def increment(by: int) -> None:
            self.counted[key] = self.counted.get(key, 0) + by

        return SimpleNamespace(increment=increment)


@pytest.fixture(scope="module")
def backend() -> Iterator[Any]:
    stand_in = ModuleType("triton_python_backend_utils")

    class TritonError:
        INVALID_ARG, INTERNAL = "INVALID_ARG", "INTERNAL"

        def __init__(self, message: str, code: str) -> None:
            self.message, self.code = message, code

    vars(stand_in).update(
        Tensor=Tensor,
        InferenceResponse=Response,
        TritonError=TritonError,
        TritonModelException=RefusedByTritonError,
        MetricFamily=MetricFamily,
        Logger=SimpleNamespace(log_info=lambda message: None),
    )
    sys.modules[stand_in.__name__] = stand_in
    spec = importlib.util.spec_from_file_location("slipway_onnxruntime_backend", SOURCE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[stand_in.__name__], sys.modules[spec.name]


def write_model(
    folder: Path,
    *,
    op: str = "Identity",
    datatype: int = TensorProto.FLOAT,
    dims: Sequence[str | int] = ("N", 3),
    output_dims: Sequence[str | int] | None = None,
    outputs: Sequence[str] = ("y",),
    opset: int = 17,
) -> Path:
    """y = op(x), as version 1 below `folder`; a second output is a mask of booleans."""
    types = (datatype, TensorProto.BOOL)
    graph = helper.make_graph(
        [helper.make_node(op, ["x"], list(outputs))],
        "graph",
        [helper.make_tensor_value_info("x", datatype, dims)],
        [
            helper.make_tensor_value_info(name, of_type, dims if output_dims is None else output_dims)
            for name, of_type in zip(outputs, types, strict=False)
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    (folder / "1").mkdir(parents=True, exist_ok=True)
    (folder / "1" / "model.onnx").write_bytes(model.SerializeToString())
    return folder


def make_config(max_batch_size: int = 0, **more: Any) -> dict[str, Any]:
    return {"name": "m", "max_batch_size": max_batch_size, "input": [], "output": [], "parameters": {}, **more}


def completed(backend: Any, folder: Path, config: dict[str, Any]) -> dict[str, Any]:
    backend.complete_config(config, folder / "1")
    return config


def served(backend: Any, folder: Path, max_batch_size: int = 0, **more: Any) -> Any:
    """The model as Triton has it after loading."""
    config = completed(backend, folder, make_config(max_batch_size, **more))
    model = backend.TritonPythonModel()
    model.initialize(
        {
            "model_config": json.dumps(config),
            "model_name": "model",
            "model_repository": str(folder),
            "model_version": "1",
            "model_instance_kind": "CPU",
            "model_instance_device_id": "0",
            "model_instance_name": "m_0",
        }
    )
    return model


def rows(*values: float) -> Array:
    """One row of three for each value."""
    return np.array([[value] * 3 for value in values], dtype=np.float32)


# --- completing the config --------------------------------------------------------------------------------------------


def test_without_a_batch_all_dims_are_the_models(backend: Any, tmp_path: Path) -> None:
    config = completed(backend, write_model(tmp_path), make_config())
    assert config["input"] == [{"name": "x", "data_type": "TYPE_FP32", "dims": [-1, 3]}]
    assert config["output"] == [{"name": "y", "data_type": "TYPE_FP32", "dims": [-1, 3]}]
    assert "dynamic_batching" not in config


def test_with_a_batch_the_first_dim_is_left_out_and_batching_is_on(backend: Any, tmp_path: Path) -> None:
    config = completed(backend, write_model(tmp_path), make_config(8))
    assert config["input"][0]["dims"] == [3]
    assert config["dynamic_batching"] == {}


def test_one_number_per_row_is_reshaped(backend: Any, tmp_path: Path) -> None:
    config = completed(backend, write_model(tmp_path, dims=("N",)), make_config(8))
    assert config["input"][0] == {"name": "x", "data_type": "TYPE_FP32", "dims": [1], "reshape": {"shape": []}}


def test_what_a_person_wrote_stays(backend: Any, tmp_path: Path) -> None:
    config = make_config(8, dynamic_batching={"max_queue_delay_microseconds": 100})
    config["input"] = [{"name": "x", "data_type": "TYPE_INVALID", "dims": [3]}]
    completed(backend, write_model(tmp_path), config)
    assert config["input"] == [{"name": "x", "data_type": "TYPE_FP32", "dims": [3]}]
    assert config["dynamic_batching"] == {"max_queue_delay_microseconds": 100}


def test_complete_config_is_not_touched_and_the_model_not_read(backend: Any, tmp_path: Path) -> None:
    tensor = {"data_type": "TYPE_FP32", "dims": [3]}
    config = make_config(input=[{"name": "x", **tensor}], output=[{"name": "y", **tensor}])
    before = json.dumps(config)
    assert json.dumps(completed(backend, tmp_path / "absent", config)) == before


@pytest.mark.parametrize(
    ("datatype", "expected"),
    [
        (TensorProto.BOOL, "TYPE_BOOL"),
        (TensorProto.FLOAT16, "TYPE_FP16"),
        (TensorProto.DOUBLE, "TYPE_FP64"),
        (TensorProto.INT8, "TYPE_INT8"),
        (TensorProto.INT64, "TYPE_INT64"),
        (TensorProto.UINT8, "TYPE_UINT8"),
        (TensorProto.UINT64, "TYPE_UINT64"),
        (TensorProto.STRING, "TYPE_STRING"),
    ],
)
def test_datatypes(backend: Any, tmp_path: Path, datatype: int, expected: str) -> None:
    config = completed(backend, write_model(tmp_path, datatype=datatype), make_config())
    assert config["input"][0]["data_type"] == expected


# --- refusals, in plain words -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "max_batch_size", "words"),
    [
        ({"datatype": TensorProto.BFLOAT16}, 0, "no tensor type"),
        ({"dims": (1, 3)}, 8, "fixed first dimension 1"),
        ({"dims": ()}, 8, "scalar"),
        ({"opset": 99}, 0, "lower opset_version"),
        ({"op": "Frobnicate"}, 0, "operator that onnxruntime"),
    ],
)
def test_what_cannot_be_served_is_refused(
    backend: Any, tmp_path: Path, model: dict[str, Any], max_batch_size: int, words: str
) -> None:
    with pytest.raises(backend.ModelRefusedError, match=words):
        completed(backend, write_model(tmp_path, **model), make_config(max_batch_size))


@pytest.mark.parametrize("content", [b"", b"no model at all", b"\x08\x08\x12"])
def test_damaged_file_is_called_damaged(backend: Any, tmp_path: Path, content: bytes) -> None:
    (write_model(tmp_path) / "1" / "model.onnx").write_bytes(content)
    with pytest.raises(
        backend.ModelRefusedError, match=rf"1/model\.onnx: not an ONNX model, or damaged \({len(content)} b"
    ):
        completed(backend, tmp_path, make_config())


def test_missing_file_is_named(backend: Any, tmp_path: Path) -> None:
    with pytest.raises(backend.ModelRefusedError, match=r"1/model\.onnx: can't be read"):
        completed(backend, tmp_path, make_config())


def test_wrong_name_in_the_config_lists_the_models_own(backend: Any, tmp_path: Path) -> None:
    config = make_config(input=[{"name": "z", "data_type": "TYPE_FP32", "dims": [3]}])
    with pytest.raises(backend.ModelRefusedError, match=r"'z'; the model's own are: x"):
        completed(backend, write_model(tmp_path), config)


def test_wrong_datatype_in_the_config_names_both(backend: Any, tmp_path: Path) -> None:
    config = make_config(output=[{"name": "y", "data_type": "TYPE_INT64", "dims": [-1, 3]}])
    with pytest.raises(backend.ModelRefusedError, match=r"says TYPE_INT64 .* the model says TYPE_FP32"):
        completed(backend, write_model(tmp_path), config)


def test_gpu_instance_is_refused_by_the_cpu_build(backend: Any) -> None:
    with pytest.raises(backend.ModelRefusedError, match="official Triton image"):
        backend.providers_for("GPU", "0")


# --- requests ---------------------------------------------------------------------------------------------------------


def test_requests_of_a_batch_get_their_own_rows(backend: Any, tmp_path: Path) -> None:
    model = served(backend, write_model(tmp_path, op="Neg"), max_batch_size=8)
    responses = model.execute([Request({"x": rows(1)}), Request({"x": rows(2, 3)}), Request({"x": rows(4)})])
    assert [response.array().tolist() for response in responses] == [
        rows(-1).tolist(),
        rows(-2, -3).tolist(),
        rows(-4).tolist(),
    ]


def test_bad_request_fails_alone(backend: Any, tmp_path: Path) -> None:
    model = served(backend, write_model(tmp_path), max_batch_size=8)
    bad = Request({"x": np.zeros((1, 4), dtype=np.float32)})
    good, refused, also_good = model.execute([Request({"x": rows(1)}), bad, Request({"x": rows(2)})])
    assert good.array().tolist() == rows(1).tolist()
    assert also_good.array().tolist() == rows(2).tolist()
    assert refused.error.code == "INVALID_ARG"


def test_returned_errors_are_counted_by_whose_fault_they_are(backend: Any, tmp_path: Path) -> None:
    MetricFamily.counted.clear()
    model = served(backend, write_model(tmp_path), max_batch_size=8)
    bad = Request({"x": np.zeros((1, 4), dtype=np.float32)})
    model.execute([Request({"x": rows(1)}), bad, Request({"x": rows(2)})])
    assert MetricFamily.counted == {("slipway_returned_errors", "model", "1", "caller"): 1}


def test_model_that_mixes_its_batch_answers_each_request_by_itself(backend: Any, tmp_path: Path) -> None:
    model = served(backend, write_model(tmp_path, op="Unique", output_dims=("M",)), max_batch_size=8)
    responses = model.execute([Request({"x": rows(1)}), Request({"x": rows(1)})])
    assert [response.array().tolist() for response in responses] == [[1.0], [1.0]]


def test_only_the_outputs_asked_for_come_back(backend: Any, tmp_path: Path) -> None:
    model = served(backend, write_model(tmp_path, op="Dropout", outputs=("y", "mask")))
    both, one = model.execute([Request({"x": rows(1)}, wanted=["y", "mask"]), Request({"x": rows(1)}, wanted=["mask"])])
    assert [tensor.name() for tensor in both.output_tensors] == ["y", "mask"]
    assert [tensor.name() for tensor in one.output_tensors] == ["mask"]


def test_text_goes_in_and_out_as_bytes(backend: Any, tmp_path: Path) -> None:
    model = served(backend, write_model(tmp_path, datatype=TensorProto.STRING), max_batch_size=4)
    text = np.array([["a", "ü".encode(), b""]], dtype=object)
    (response,) = model.execute([Request({"x": text})])
    assert response.array().tolist() == [[b"a", "ü".encode(), b""]]


def test_text_that_is_not_utf8_is_refused_alone(backend: Any, tmp_path: Path) -> None:
    model = served(backend, write_model(tmp_path, datatype=TensorProto.STRING), max_batch_size=4)
    bad, good = (Request({"x": np.array([[content] * 3], dtype=object)}) for content in (b"\xff", b"fine"))
    refused, answered = model.execute([bad, good])
    assert "not UTF-8" in refused.error.message
    assert answered.array().tolist() == [[b"fine"] * 3]


def test_scalar_is_carried_as_one_element(backend: Any, tmp_path: Path) -> None:
    model = served(backend, write_model(tmp_path, dims=()))
    (response,) = model.execute([Request({"x": np.array([2.5], dtype=np.float32)})])
    assert response.array().tolist() == [2.5]


# --- threads ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("processors", "counts", "threads"), [(2.0, [1], 2), (2.0, [2], 1), (0.5, [1], 1), (2.5, [], 3), (8.0, [2, 2], 2)]
)
def test_threads_share_the_cpu_limit(backend: Any, processors: float, counts: list[int], threads: int) -> None:
    config = {"instance_group": [{"count": count} for count in counts]}
    assert backend.threads_for(config, processors) == threads


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({"cpu.max": "50000 100000\n"}, 0.5),
        ({"cpu/cpu.cfs_quota_us": "25000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 0.25),
    ],
)
def test_cpu_limit_is_read_from_either_cgroup_version(
    backend: Any, tmp_path: Path, files: dict[str, str], limit: float
) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    assert backend.cpu_limit(tmp_path) == limit


@pytest.mark.parametrize("files", [{}, {"cpu.max": "max 100000\n"}])
def test_without_a_cpu_limit_the_affinity_counts(backend: Any, tmp_path: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    assert backend.cpu_limit(tmp_path) >= 1.0


def test_thread_count_parameter_wins_and_nonsense_is_refused(backend: Any) -> None:
    def options(value: str) -> Any:
        return backend.session_options(make_config(parameters={"intra_op_thread_count": {"string_value": value}}), 2.0)

    assert options("7").intra_op_num_threads == 7
    with pytest.raises(backend.ModelRefusedError, match="'many'; write a whole number"):
        options("many")
