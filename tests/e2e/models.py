"""Real models for the e2e tests: the example's digits, and cases of the `onnx` package's own backend test data.

Invariant: nothing here is committed or fetched. The digits are trained when the tests start; the ONNX cases, their
inputs, expected outputs and tolerances are read from the installed package.
Must not import: anything of Kubernetes.
"""

from __future__ import annotations

import functools
import importlib
import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from examples.digits import train

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Sample:
    """One held-out image [64], the digit on it, and each version's label and probabilities [10] by scikit-learn."""

    image: list[float]
    digit: int
    labels: dict[int, int]
    probabilities: dict[int, list[float]]


@dataclass(frozen=True, slots=True)
class Digits:
    """The trained example: the ONNX file of each version, its accuracy, and held-out samples."""

    files: dict[int, bytes]
    samples: list[Sample]

    @property
    def images(self) -> Array:
        """float32 [N, 64]."""
        return np.array([sample.image for sample in self.samples], np.float32)

    def probabilities(self, version: int) -> Array:
        """float32 [N, 10], as scikit-learn computes them."""
        return np.array([sample.probabilities[version] for sample in self.samples], np.float32)


def train_digits(folder: Path) -> Digits:
    """Trains the example below `folder`, unless it is there already, and reads it."""
    if not (folder / "digits.json").exists():
        train.write(folder)
    stored = json.loads((folder / "digits.json").read_text())["samples"]
    return Digits(
        files={number: (folder / "digits" / str(number) / "model.onnx").read_bytes() for number in (1, 2)},
        samples=[
            Sample(
                image=sample["image"],
                digit=sample["digit"],
                labels={int(number): answer["label"] for number, answer in sample["answers"].items()},
                probabilities={int(number): answer["probabilities"] for number, answer in sample["answers"].items()},
            )
            for sample in stored
        ],
    )


@dataclass(frozen=True, slots=True)
class OnnxCase:
    """One model of the onnx package's backend tests, with one set of inputs and outputs, by tensor name."""

    name: str
    file: bytes
    inputs: dict[str, Array]
    outputs: dict[str, Array]
    rtol: float
    atol: float

    def agrees(self, outputs: dict[str, Array]) -> None:
        """Asserts that `outputs` are the expected ones, the way the onnx package's own runner compares."""
        assert set(outputs) == set(self.outputs)
        for name, expected in self.outputs.items():
            got = outputs[name]
            assert got.shape == expected.shape, f"{self.name}: {name} has shape {got.shape}, not {expected.shape}"
            if expected.dtype == object:
                np.testing.assert_array_equal(got, expected)
            else:
                assert got.dtype == expected.dtype, f"{self.name}: {name} is {got.dtype}, not {expected.dtype}"
                np.testing.assert_allclose(got, expected, rtol=self.rtol, atol=self.atol)


NODE_CASES = {
    # case: module of onnx.backend.test.case.node that holds it. Chosen for their dtypes and shapes.
    "test_and_bcast3v1d": "and_",  # bool [3,4,5] and [5] -> bool
    "test_max_float16": "max",  # float16 x 2 -> float16
    "test_string_concat": "string_concat",  # strings x 2 -> strings
    "test_string_split_basic": "string_split",  # strings -> strings [2,2], int64 [2]
    "test_split_variable_parts_1d_opset18": "split",  # float32, int64 -> float32 x 2
    "test_scatternd": "scatternd",  # float32 [4,4,4], int64 [2,1], float32 [2,4,4] -> float32
}
"""The opset of each is at most 20, so that an ONNX Runtime from 1.17 on loads it."""


@functools.cache
def onnx_cases() -> dict[str, OnnxCase]:
    """All the cases that the tests serve, by name."""
    return {case.name: case for case in (*_node_cases(), _folder_case("test_Conv2d"), _light_case("squeezenet"))}


def _node_cases() -> list[OnnxCase]:
    """Cases that the package generates in code. Only their modules are imported: all of them take seconds."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the package computes infinities on purpose
        node = importlib.import_module("onnx.backend.test.case.node")
        for module in sorted(set(NODE_CASES.values())):
            importlib.import_module(f"onnx.backend.test.case.node.{module}")
    cases = {}
    for case in node._NodeTestCases:
        if case.name in NODE_CASES:
            inputs, outputs = case.data_sets[0]
            cases[case.name] = _case(case.name, case.model, inputs, outputs, case.rtol, case.atol)
    missing = sorted(NODE_CASES.keys() - cases.keys())
    assert not missing, f"the installed onnx {onnx.__version__} has no {missing}; choose other cases in NODE_CASES"
    return list(cases.values())


def _data_folder() -> Path:
    return Path(onnx.__file__).parent / "backend" / "test" / "data"


def _folder_case(name: str) -> OnnxCase:
    """A case exported by PyTorch, stored as files. Its tolerance is that of the package's loader."""
    folder = _data_folder() / "pytorch-converted" / name
    model = onnx.load(folder / "model.onnx")
    data = folder / "test_data_set_0"
    inputs = [_tensor(path) for path in sorted(data.glob("input_*.pb"))]
    outputs = [_tensor(path) for path in sorted(data.glob("output_*.pb"))]
    return _case(name, model, inputs, outputs, rtol=1e-3, atol=1e-7)


def _light_case(name: str) -> OnnxCase:
    """A whole network with generated weights; its input is made the way the package's runner makes it."""
    stored = json.loads((_data_folder() / "real" / f"test_{name}" / "data.json").read_text())
    model = onnx.load(_data_folder() / "light" / f"light_{name}.onnx")
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = []
    for value in model.graph.input:
        if value.name not in weights:
            shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
            count = int(np.prod(shape))
            inputs.append((np.arange(count).reshape(shape) / count).astype(np.float32))
    outputs = [_tensor(_data_folder() / "light" / f"light_{name}_output_0.pb")]
    return _case(f"test_{name}", model, inputs, outputs, rtol=stored["rtol"], atol=stored["atol"])


def _tensor(path: Path) -> Array:
    tensor = onnx.TensorProto()
    tensor.ParseFromString(path.read_bytes())
    return numpy_helper.to_array(tensor)


def _case(
    name: str, model: onnx.ModelProto, inputs: list[Array], outputs: list[Array], rtol: float, atol: float
) -> OnnxCase:
    weights = {tensor.name for tensor in model.graph.initializer}
    input_names = [value.name for value in model.graph.input if value.name not in weights]
    output_names = [value.name for value in model.graph.output]
    return OnnxCase(
        name=name,
        file=model.SerializeToString(),
        inputs=dict(zip(input_names, inputs, strict=True)),
        outputs=dict(zip(output_names, outputs, strict=True)),
        rtol=rtol,
        atol=atol,
    )
