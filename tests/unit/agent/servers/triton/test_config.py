"""config.pbtxt: what is generated, what of a kept one stays, and what is refused."""

from typing import Any

import pytest

from slipway_agent.model.errors import Reason, SpecError
from slipway_agent.servers.textproto import parse
from slipway_agent.servers.triton.config import TritonSpec, compose_config, detect_backend, read_versions

KEPT = """
name: "other"  # whatever the folder was called
platform: "onnxruntime_onnx"
max_batch_size: 8
version_policy: { latest { num_versions: 5 } }
input [ { name: "x" dims: [ 64 ] } ]
dynamic_batching { max_queue_delay_microseconds: 7 preserve_ordering: true }
instance_group [ { count: 3 } ]
parameters { key: "mine" value { string_value: "stays" } }
"""


def compose(kept: str | None = None, versions: tuple[int, ...] = (3,), **spec: Any) -> str:
    return compose_config(kept, "digits", versions, "onnxruntime", TritonSpec(**spec))


def test_a_model_without_a_config_gets_one() -> None:
    assert compose(versions=(3, 1)) == (
        'name: "digits"\nbackend: "onnxruntime"\n'
        "version_policy {\n  specific {\n    versions: [1, 3]\n  }\n}\n"
        "max_batch_size: 0\n"
        "instance_group: [\n  {\n    count: 1\n    kind: KIND_CPU\n  }\n]\n"
    )


def test_a_kept_config_keeps_all_but_name_and_version_policy() -> None:
    kept, composed = parse(KEPT), parse(compose(KEPT))
    changed = {field.name for field in kept.fields if field not in composed.fields}
    assert changed == {"name", "version_policy"}
    assert {field.name for field in composed.fields} == {field.name for field in kept.fields}
    assert composed.first("name") == parse('name: "digits"').first("name")
    assert read_versions(compose(KEPT)) == {3}


def test_what_the_spec_sets_overrides_a_kept_config() -> None:
    composed = parse(compose(KEPT, max_batch_size=32, max_queue_delay_microseconds=2000, instance_count=2, gpu=True))
    wanted = parse(
        "max_batch_size: 32 dynamic_batching { max_queue_delay_microseconds: 2000 preserve_ordering: true } "
        "instance_group: [{ count: 2 kind: KIND_GPU }]"
    )
    for field in wanted.fields:
        assert composed.first(field.name) == field.value


@pytest.mark.parametrize(
    ("spec", "printed"),
    [
        ({"max_batch_size": 32}, "max_batch_size: 32\ndynamic_batching {\n}\n"),
        ({"max_batch_size": 1}, "max_batch_size: 1\n"),
        ({"max_batch_size": 0}, "max_batch_size: 0\n"),
        ({"instance_count": 2}, "instance_group: [\n  {\n    count: 2\n    kind: KIND_CPU\n  }\n]\n"),
        ({"gpu": True}, "instance_group: [\n  {\n    count: 1\n    kind: KIND_GPU\n  }\n]\n"),
    ],
)
def test_the_spec_sets_only_what_it_names(spec: dict[str, Any], printed: str) -> None:
    assert printed in compose(**spec)


@pytest.mark.parametrize(
    ("kept", "spec", "words"),
    [
        ("name: ", {}, "it isn't protobuf text: line 1, column 7"),
        ("sequence_batching {}", {"max_batch_size": 4}, "it uses sequence_batching"),
        ("max_batch_size: 0", {"max_queue_delay_microseconds": 5}, "max_batch_size is 0"),
    ],
)
def test_a_config_that_cant_be_completed_is_refused_in_words(kept: str, spec: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError) as refusal:
        compose(kept, **spec)
    assert refusal.value.reason is Reason.MODEL_INVALID
    assert words in refusal.value.message


@pytest.mark.parametrize(
    ("names", "backend"),
    [
        (["model.onnx"], "onnxruntime"),
        (["digits-v3.onnx", "labels.txt"], "onnxruntime"),
        (["model.py", "model.onnx"], "onnxruntime"),
        (["model.py", "weights.onnx"], "python"),
        (["model.pt"], "pytorch"),
        (["model.plan"], "tensorrt"),
        (["model.savedmodel"], "tensorflow"),
        (["model.xml", "model.bin"], "openvino"),
        (["README.md"], None),
        ([], None),
    ],
)
def test_the_backend_follows_from_the_files(names: list[str], backend: str | None) -> None:
    assert detect_backend(names) == backend


def test_a_file_that_isnt_ours_names_no_versions() -> None:
    assert read_versions("version_policy: { latest { num_versions: 2 } }") == frozenset()
    assert read_versions("{") == frozenset()
