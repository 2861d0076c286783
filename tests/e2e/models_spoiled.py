"""What can be wrong with a new version of the digits, as ONNX graphs: the same model, with something done to it.

Each keeps names, types and shapes, so that only what is spoiled differs; but for `another_signature`. Some are bad for
some requests only, and the client decides which: those whose image holds TRIGGER in its first pixel, where digits have
no ink. A good version answers such an image like any other.
Must not import: anything of Kubernetes or Slipway.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx
from onnx import NodeProto, TensorProto, helper

TRIGGER = 99.0
NO_MODEL = b"this is no model"
"""A version that no server loads."""
CLASSES = 10
ROWS_AT_ONCE = 1_500_000
"""Of ten numbers: 60 MB, and as JSON several times as much."""


def triggering(image: Sequence[float]) -> list[float]:
    """The image that makes a spoiled version do what it does."""
    return [TRIGGER, *image[1:]]


def wrong(good: bytes) -> bytes:
    """Answers quickly and without error: 9 where it sees 0, 8 where it sees 1."""
    return _with(
        good,
        [
            helper.make_node("Gather", ["good_probabilities", "own_reversed"], ["probabilities"], axis=1),
            helper.make_node("Sub", ["own_nine", "good_label"], ["label"]),
        ],
        [_ints("own_reversed", *range(CLASSES - 1, -1, -1)), _ints("own_nine", CLASSES - 1)],
        ("probabilities", "label"),
    )


def failing(good: bytes, always: bool = False) -> bytes:
    """Answers a triggered image with an internal error; or every image."""
    return _with(
        good,
        [
            *_flag(),
            helper.make_node("Add", ["own_classes", "own_flag"], ["own_size"]),
            # ten numbers don't make a table of eleven
            helper.make_node("Reshape", ["own_zeros", "own_size"], ["own_spoiled"]),
            helper.make_node("Add", ["good_probabilities", "own_spoiled"], ["probabilities"]),
        ],
        [
            *_flag_constants(-1.0 if always else TRIGGER / 2),
            _ints("own_classes", CLASSES),
            _floats("own_zeros", [0.0] * CLASSES),
        ],
        ("probabilities",),
    )


def talkative(good: bytes) -> bytes:
    """Answers a triggered image with ROWS_AT_ONCE rows: written as JSON, more than the server's process may hold.

    The kernel ends that process, and with it the container. (What the graph itself takes is another process' in Triton,
    which goes on without it.)
    """
    return _with(
        good,
        [
            *_flag(),
            helper.make_node("Mul", ["own_flag", "own_many"], ["own_more"]),
            helper.make_node("Add", ["own_more", "own_one"], ["own_count"]),
            helper.make_node("Concat", ["own_count", "own_one"], ["own_times"], axis=0),
            helper.make_node("Tile", ["good_probabilities", "own_times"], ["probabilities"]),
        ],
        [*_flag_constants(TRIGGER / 2), _ints("own_many", ROWS_AT_ONCE), _ints("own_one", 1)],
        ("probabilities",),
    )


def working(good: bytes, rounds: int) -> bytes:
    """Computes for nothing, in proportion to `rounds`: some 0.04 ms each on one core."""
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["square_in", "own_unit"], ["square_out"]),
            helper.make_node("Identity", ["go_on_in"], ["go_on_out"]),
        ],
        "round",
        [
            helper.make_tensor_value_info("number", TensorProto.INT64, []),
            helper.make_tensor_value_info("go_on_in", TensorProto.BOOL, []),
            helper.make_tensor_value_info("square_in", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("go_on_out", TensorProto.BOOL, []),
            helper.make_tensor_value_info("square_out", TensorProto.FLOAT, None),
        ],
    )
    return _with(
        good,
        [
            helper.make_node("ConstantOfShape", ["own_side"], ["own_empty"]),
            helper.make_node("EyeLike", ["own_empty"], ["own_unit"]),
            helper.make_node("Slice", ["image", "own_zero", "own_one", "own_one"], ["own_first_pixel"]),
            helper.make_node("ReduceMax", ["own_first_pixel"], ["own_seed"], keepdims=0),
            helper.make_node("Add", ["own_unit", "own_seed"], ["own_square"]),  # or it would be computed when loading
            helper.make_node("Loop", ["own_rounds", "", "own_square"], ["own_worked"], body=body),
            helper.make_node("ReduceMin", ["own_worked"], ["own_least"], keepdims=0),
            helper.make_node("Mul", ["own_least", "own_nothing"], ["own_spoiled"]),
            helper.make_node("Add", ["good_probabilities", "own_spoiled"], ["probabilities"]),
        ],
        [
            _ints("own_side", 160, 160),
            _ints("own_zero", 0),
            _ints("own_one", 1),
            helper.make_tensor("own_rounds", TensorProto.INT64, [], [rounds]),
            _floats("own_nothing", [0.0]),
        ],
        ("probabilities",),
    )


def another_signature(good: bytes) -> bytes:
    """Its probabilities are called scores: clients that read them by name find nothing."""
    return _with(
        good,
        [helper.make_node("Identity", ["good_probabilities"], ["scores"])],
        [],
        ("probabilities",),
        renamed={"probabilities": "scores"},
    )


def _flag() -> list[NodeProto]:
    """own_flag: int64, 1 where a first pixel is above own_flag_above, else 0. No optimizer can know it beforehand."""
    return [
        helper.make_node("Slice", ["image", "own_flag_from", "own_flag_to", "own_flag_axis"], ["own_first_pixel"]),
        helper.make_node("ReduceMax", ["own_first_pixel"], ["own_brightest"], keepdims=0),
        helper.make_node("Greater", ["own_brightest", "own_flag_above"], ["own_is_above"]),
        helper.make_node("Cast", ["own_is_above"], ["own_flag"], to=TensorProto.INT64),
    ]


def _flag_constants(above: float) -> list[TensorProto]:
    return [
        _ints("own_flag_from", 0),
        _ints("own_flag_to", 1),
        _ints("own_flag_axis", 1),
        _floats("own_flag_above", [above]),
    ]


def _ints(name: str, *values: int) -> TensorProto:
    return helper.make_tensor(name, TensorProto.INT64, [len(values)], values)


def _floats(name: str, values: Sequence[float]) -> TensorProto:
    return helper.make_tensor(name, TensorProto.FLOAT, [len(values)], values)


def _with(
    good: bytes,
    nodes: Sequence[NodeProto],
    constants: Sequence[TensorProto],
    taken: Sequence[str],
    renamed: dict[str, str] | None = None,
) -> bytes:
    """The graph with more nodes behind it. taken: outputs that the nodes read as good_NAME and write anew."""
    model = onnx.load_from_string(good)
    place = len(model.graph.node)  # what was spoiled once can be spoiled again
    names = {name: _numbered(f"good_{name}", place) for name in taken}
    for node in model.graph.node:
        node.output[:] = [names.get(name, name) for name in node.output]
        node.input[:] = [names.get(name, name) for name in node.input]
    for output in model.graph.output:
        output.name = (renamed or {}).get(output.name, output.name)
    for node in nodes:
        _number(node, place)
    for constant in constants:
        constant.name = _numbered(constant.name, place)
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(constants)
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def _numbered(name: str, place: int) -> str:
    return f"{name}_{place}" if name.startswith(("own_", "good_")) else name


def _number(node: NodeProto, place: int) -> None:
    node.input[:] = [_numbered(name, place) for name in node.input]
    node.output[:] = [_numbered(name, place) for name in node.output]
    for attribute in node.attribute:
        for inner in attribute.g.node:
            _number(inner, place)
