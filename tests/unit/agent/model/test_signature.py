"""Signatures: what servers say of a version's inputs and outputs, and how that is told."""

import json
from typing import Any

import pytest

from slipway_agent.model.signature import SAID_LIMIT_BYTES, Signature, Tensor, read_metadata, render_signatures
from slipway_agent.servers.tensorflow_serving import signature as tensorflow_signature

X = {"name": "x", "datatype": "FP32", "shape": [-1, 4]}
Y = {"name": "y", "datatype": "INT64", "shape": ["-1"]}
DIGITS = Signature((Tensor("x", "FP32", (-1, 4)),), (Tensor("y", "INT64", (-1,)),))


def test_the_protocols_metadata_is_read() -> None:
    body = json.dumps({"name": "digits", "inputs": [X], "outputs": [Y]}).encode()
    assert read_metadata(body) == DIGITS
    optional = read_metadata(body, frozenset({"x"}))
    assert optional is not None
    assert optional.inputs[0].is_optional


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"[]",
        b"{}",
        b'"x"',
        b"[" * 100_000,
        json.dumps({"inputs": [], "outputs": []}).encode(),
        json.dumps({"inputs": [X], "outputs": [{"name": "y"}]}).encode(),
        json.dumps({"inputs": [X | {"shape": None}], "outputs": [Y]}).encode(),
        json.dumps({"inputs": [X | {"name": 1}], "outputs": [Y]}).encode(),
        json.dumps({"inputs": ["x"], "outputs": [Y]}).encode(),
    ],
)
def test_what_is_no_metadata_tells_nothing(said: bytes) -> None:
    assert read_metadata(said) is None
    assert tensorflow_signature.read_metadata(said) is None


def tensorflow_tensor(dtype: str, *sizes: int, unknown_rank: bool = False) -> dict[str, Any]:
    dim = [{"size": str(size), "name": ""} for size in sizes]
    return {"name": "serving_default_x:0", "dtype": dtype, "tensor_shape": {"dim": dim, "unknown_rank": unknown_rank}}


def tensorflow_metadata(inputs: dict[str, Any], outputs: dict[str, Any], name: str = "serving_default") -> bytes:
    signatures = {name: {"inputs": inputs, "outputs": outputs, "method_name": "tensorflow/serving/predict"}}
    return json.dumps({"metadata": {"signature_def": {"signature_def": signatures}}}).encode()


def test_tensorflows_metadata_is_read_in_the_protocols_words() -> None:
    body = tensorflow_metadata(
        {"text": tensorflow_tensor("DT_STRING", unknown_rank=True), "image": tensorflow_tensor("DT_FLOAT", -1, 28, 28)},
        {"wave": tensorflow_tensor("DT_COMPLEX64", -1), "one": tensorflow_tensor("DT_INT64")},
    )
    assert tensorflow_signature.read_metadata(body) == Signature(
        (Tensor("image", "FP32", (-1, 28, 28)), Tensor("text", "BYTES", None)),
        (Tensor("one", "INT64", ()), Tensor("wave", "DT_COMPLEX64", (-1,))),
    )


def test_a_model_without_the_default_signature_tells_none() -> None:
    body = tensorflow_metadata({"x": tensorflow_tensor("DT_FLOAT")}, {"y": tensorflow_tensor("DT_FLOAT")}, "classify")
    assert tensorflow_signature.read_metadata(body) is None


def test_signatures_are_told_by_version_and_none_as_null() -> None:
    optional = Signature((Tensor("x", "BYTES", None, is_optional=True),), DIGITS.outputs)
    assert render_signatures({2: None, 3: DIGITS, 4: optional}, first=3) == {
        "3": {"inputs": [X], "outputs": [Y | {"shape": [-1]}]},
        "4": {
            "inputs": [{"name": "x", "datatype": "BYTES", "shape": None, "optional": True}],
            "outputs": [Y | {"shape": [-1]}],
        },
        "2": None,
    }


def test_what_is_told_is_bounded_and_the_served_version_has_its_room_first() -> None:
    large = Signature(tuple(Tensor(f"{number:0500}", "FP32", (-1,)) for number in range(100)), DIGITS.outputs)
    said = render_signatures({1: large, 2: large, 3: DIGITS, 4: large}, first=1)
    assert [version for version, told in said.items() if told is not None] == ["1", "3"]
    assert len(json.dumps(said)) <= SAID_LIMIT_BYTES + 100
