"""Tensors of the Open Inference Protocol: nothing is rounded, cut or guessed on its way."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from slipway_onnxruntime.tensors import FROM_ONNX, NUMPY, InvalidTensorError, from_bytes, from_json, to_bytes, to_json

NUMBERS = [name for name in NUMPY if name != "BYTES"]
SHAPES = arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)


def test_every_datatype_of_the_protocol_has_an_onnx_type() -> None:
    assert sorted(FROM_ONNX.values()) == sorted(NUMPY)


@settings(deadline=None)
@given(st.data(), st.sampled_from(NUMBERS))
def test_an_array_comes_back_from_bytes_and_from_json(data: st.DataObject, datatype: str) -> None:
    dtype = np.dtype(NUMPY[datatype])
    elements = arrays.from_dtype(dtype, allow_nan=False, allow_infinity=False)
    array = data.draw(arrays.arrays(dtype, SHAPES, elements=elements))
    for back in (
        from_bytes("x", datatype, array.shape, to_bytes(array)),
        from_json("x", datatype, array.shape, to_json(array)),
        from_json("x", datatype, array.shape, array.tolist() if array.ndim else [array.tolist()]),
    ):
        assert back.dtype == array.dtype
        np.testing.assert_array_equal(back, array)


@pytest.mark.parametrize("data", [[0, 2**63], [2**64 - 1, 1], [[2**63], [3]]])
def test_whole_numbers_on_both_sides_of_2_to_the_63_lose_no_digit(data: list[Any]) -> None:
    flat = [value for part in data for value in (part if isinstance(part, list) else [part])]
    assert to_json(from_json("x", "UINT64", [2], data)) == flat


@pytest.mark.parametrize("data", [[-1, 2**63], [0, 2**64], [0.5, 2**63], [None, 1]])
def test_what_is_no_unsigned_whole_number_is_refused(data: list[Any]) -> None:
    with pytest.raises(InvalidTensorError, match="UINT64"):
        from_json("x", "UINT64", [2], data)


@settings(deadline=None)
@given(arrays.arrays(object, SHAPES, elements=st.text()))
def test_text_comes_back_from_bytes_and_from_json(array: Any) -> None:
    for back in (
        from_bytes("x", "BYTES", array.shape, to_bytes(array)),
        from_json("x", "BYTES", array.shape, to_json(array)),
    ):
        np.testing.assert_array_equal(back, array)


@pytest.mark.parametrize(
    ("datatype", "shape", "data", "words"),
    [
        ("FP32", [2], [1.0], "holds 2 values, and 1 came"),
        ("FP32", [-1], [1.0], "holds -1 values"),
        ("FP32", [1], ["1"], "no FP32"),
        ("FP32", [1], [None], "no FP32"),
        ("FP32", [1], None, "no FP32"),
        ("FP32", [1], [True], "no FP32"),
        ("FP32", [3], [[1.0], [1.0, 2.0]], "no regular list"),
        ("INT8", [1], [128], "lies outside INT8"),
        ("UINT8", [1], [-1], "lies outside UINT8"),
        ("INT64", [1], [1.5], "no INT64"),
        ("UINT64", [1], [2**64], "UINT64"),
        ("BOOL", [1], [1], "no BOOL"),
        ("BYTES", [1], [7], "element 0 is no text"),
        ("FP8", [1], [1.0], "'FP8' isn't one of"),
    ],
)
def test_json_that_is_no_such_tensor_is_refused(datatype: str, shape: list[int], data: Any, words: str) -> None:
    with pytest.raises(InvalidTensorError, match=words) as refused:
        from_json("x", datatype, shape, data)
    assert "input 'x'" in str(refused.value)


@pytest.mark.parametrize(
    ("datatype", "shape", "content", "words"),
    [
        ("FP32", [2], b"1234", "takes 8 bytes, and 4 came"),
        ("FP16", [-2], b"1234", "came"),
        ("BYTES", [1], b"\x05\0\0\0abc", "in the middle of element 0"),
        ("BYTES", [1], b"\x05\0", "in the middle of element 0"),
        ("BYTES", [2], struct.pack("<I", 1) + b"a", "holds 2 values, and 1 came"),
        ("BYTES", [1], struct.pack("<I", 1) + b"\xff", "not UTF-8"),
    ],
)
def test_bytes_that_are_no_such_tensor_are_refused(datatype: str, shape: list[int], content: bytes, words: str) -> None:
    with pytest.raises(InvalidTensorError, match=words):
        from_bytes("x", datatype, shape, content)
