"""Warm-up requests in Triton's own configuration."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from slipway_agent.model.errors import Reason, SpecError
from slipway_agent.servers import textproto
from slipway_agent.servers.triton.config import TritonSpec, compose_config
from slipway_agent.servers.triton.warmup import read_requests, warmup_files


def body(**tensor: Any) -> dict[str, Any]:
    return {"inputs": [{"name": "x", "shape": [2, 2], "datatype": "FP32", "data": [[1, 2], [3, 4]]} | tensor]}


def entries(config: str) -> tuple[textproto.Message, ...]:
    found = [field.value for field in textproto.parse(config).named("model_warmup")]
    flat = [each for value in found for each in (value if isinstance(value, tuple) else (value,))]
    return tuple(each for each in flat if isinstance(each, textproto.Message))


def compose(bodies: list[Any], kept: str | None = None, **spec: Any) -> str:
    return compose_config(kept, "digits", (3,), "onnxruntime", TritonSpec(**spec), warmup=read_requests(bodies))


def the_input(entry: textproto.Message) -> textproto.Message:
    inputs = entry.first("inputs")
    assert isinstance(inputs, textproto.Message)
    value = inputs.first("value")
    assert isinstance(value, textproto.Message)
    return value


def test_without_batching_a_request_is_the_whole_tensor() -> None:
    requests = read_requests([body()])
    (entry,) = entries(compose([body()]))
    value = the_input(entry)
    assert entry.first("batch_size") == textproto.number(1)
    assert value.first("dims") == (textproto.number(2), textproto.number(2))
    assert value.first("data_type") == textproto.Scalar("TYPE_FP32")
    name = value.first("input_data_file")
    assert isinstance(name, textproto.Scalar)
    assert warmup_files(requests)[name.word.strip('"')] == struct.pack("<4f", 1, 2, 3, 4)


def test_with_batching_a_request_is_as_many_rows_of_the_first() -> None:
    (entry,) = entries(compose([body()], max_batch_size=8))
    value = the_input(entry)
    assert entry.first("batch_size") == textproto.number(2)
    assert value.first("dims") == (textproto.number(2),)
    name = value.first("input_data_file")
    assert isinstance(name, textproto.Scalar)
    assert warmup_files(read_requests([body()]))[name.word.strip('"')] == struct.pack("<2f", 1, 2)


def test_text_has_its_length_before_it() -> None:
    requests = read_requests([body(datatype="BYTES", shape=[2], data=["ab", "ü"])])
    assert b"\x02\0\0\0ab\x02\0\0\0\xc3\xbc" in warmup_files(requests).values()


def test_the_specs_requests_replace_the_kept_ones_and_none_leaves_them() -> None:
    kept = 'model_warmup [{ name: "mine" batch_size: 1 }]'
    assert [entry.first("name") for entry in entries(compose([], kept))] == [textproto.text("mine")]
    (entry,) = entries(compose([body()], kept))
    assert entry.first("name") == textproto.text("spec.warmup.requests[0]")


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"instances": [1]}, r"spec\.warmup\.requests\[1\] must be a request"),
        ([], r"requests\[1\] must be a request"),
        (body(shape=[3, 2]), r"requests\[1\]\.inputs\[0\]: the shape \[3, 2\] holds 6 values, and data has 4"),
        (body(datatype="FP8"), r"needs a name and a datatype"),
        (body(shape="2"), r"shape must be a list"),
        (body(data=["a", "b", "c", "d"]), "no FP32"),
        (body(datatype="INT8", data=[1, 2, 3, 400]), "no INT8"),
        (body(datatype="BYTES", data=[1, 2, 3, 4]), "no BYTES"),
    ],
)
def test_a_body_that_is_no_request_is_named(wrong: Any, words: str) -> None:
    with pytest.raises(SpecError, match=words) as refused:
        read_requests([body(), wrong])
    assert refused.value.reason is Reason.WARMUP_FAILED


@pytest.mark.parametrize(
    ("kept", "spec", "threads"),
    [
        (None, {"threads": 4}, "4"),
        (None, {"threads": 4, "instance_count": 2}, "2"),
        (None, {"threads": 1, "instance_count": 2}, "1"),
        (None, {}, None),
        (None, {"threads": 4, "gpu": True}, None),
        ('parameters { key: "intra_op_thread_count" value { string_value: "7" } }', {"threads": 4}, "7"),
        ("instance_group [{ count: 3 }]", {"threads": 6}, None),
        ('backend: "python"', {"threads": 4}, None),
    ],
    ids=["one instance", "shared", "at least one", "no limit", "gpu", "kept", "kept instances", "another backend"],
)
def test_threads_are_the_limits_share_of_each_instance(
    kept: str | None, spec: dict[str, Any], threads: str | None
) -> None:
    found = None
    for field in textproto.parse(compose([], kept, **spec)).named("parameters"):
        assert isinstance(field.value, textproto.Message)
        assert field.value.first("key") == textproto.text("intra_op_thread_count")
        value = field.value.first("value")
        assert isinstance(value, textproto.Message)
        assert found is None
        found = value.first("string_value")
    assert found == (None if threads is None else textproto.text(threads))
