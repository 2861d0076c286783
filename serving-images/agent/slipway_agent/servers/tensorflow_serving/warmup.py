"""spec.warmup in TensorFlow Serving's own mechanism: assets.extra/tf_serving_warmup_requests in the version's folder.

The server answers what that file holds before it calls a version AVAILABLE, so that no client ever meets a cold one:
the highest version gets the unversioned requests from that moment on. A file that the model brought stays, first.

The requests are the REST API's predictions; the file is a TFRecord of PredictionLog (saved_model_warmup.md,
apis/prediction_log.proto, predict.proto, model.proto; tensor.proto of TensorFlow 2.21), written here without either.
What can't be turned into tensors is refused before the server sees it. Pure but for `write_warm_up`.
"""

import base64
import binascii
import os
import shutil
import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from slipway_agent.model.errors import Reason, SpecError
from slipway_agent.servers.tensorflow_serving.saved_model import SERVE_TAG, MetaGraph, UnreadableError, read_saved_model
from slipway_agent.volume.safe_open import open_ordinary

FILE = Path("assets.extra") / "tf_serving_warmup_requests"
DEFAULT_SIGNATURE = "serving_default"
_STRING = 7
# types.proto: number → (name, struct's letter)
_NUMBERS = {
    1: ("float", "f"), 2: ("double", "d"), 3: ("int32", "i"), 4: ("uint8", "B"), 5: ("int16", "h"), 6: ("int8", "b"),
    9: ("int64", "q"), 10: ("bool", "?"), 17: ("uint16", "H"), 19: ("half", "e"), 22: ("uint32", "I"),
    23: ("uint64", "Q"),
}  # fmt: skip
_FLOATS = frozenset("fde")


class _UnusableError(Exception):
    """The request can't be one of this signature; the message says why."""


def write_warm_up(folder: Path, model: str, requests: Sequence[object]) -> None:
    """Add the requests to the version's warm-up file. SpecError(WarmupFailed) names the one that can't be asked."""
    try:
        graph = next(graph for graph in read_saved_model(folder / "saved_model.pb") if SERVE_TAG in graph.tags)
    except (OSError, UnreadableError, StopIteration):
        return  # the server refuses such a model, in its own words
    records = b"".join(
        frame(compose_log(model, graph, body, position)) for position, body in enumerate(requests, start=1)
    )
    place = folder / FILE
    place.parent.mkdir(exist_ok=True)
    working = place.with_name(place.name + ".new")
    with working.open("wb") as writing:
        if place.exists():
            with open_ordinary(place) as kept:
                shutil.copyfileobj(kept, writing)  # a model's own may be larger than the memory
        writing.write(records)
    os.replace(working, place)  # never into the file that is there: it may be another's, by a link


def compose_log(model: str, graph: MetaGraph, body: object, position: int) -> bytes:
    """A PredictionLog with the request in it, serialized."""
    try:
        name, tensors = _read_request(graph, body)
    except _UnusableError as cause:
        raise SpecError(
            Reason.WARMUP_FAILED,
            f"request {position} of spec.warmup can't be asked: {cause}. Write it as clients do for "
            f'/v1/models/{model}:predict, as in {{"instances": [...]}}',
        ) from cause
    spec = _field(1, model.encode()) + _field(3, name.encode())
    inputs = b"".join(_field(2, _field(1, key.encode()) + _field(2, tensor)) for key, tensor in sorted(tensors.items()))
    request = _field(1, spec) + inputs
    return _field(6, _field(1, request))  # PredictionLog.predict_log, PredictLog.request


def _read_request(graph: MetaGraph, body: object) -> tuple[str, Mapping[str, bytes]]:
    """The signature's name, and a TensorProto for each of its inputs."""
    if not isinstance(body, Mapping):
        raise _UnusableError("it is no object")
    name = body.get("signature_name", DEFAULT_SIGNATURE)
    if name not in graph.signatures:
        raise _UnusableError(f"the model has no signature {name!r}, but {', '.join(sorted(graph.signatures))}")
    types = graph.signatures[name]
    if ("instances" in body) == ("inputs" in body):
        raise _UnusableError("it needs either 'instances' or 'inputs'")
    values = _columns(body["instances"], types) if "instances" in body else _named(body["inputs"], types)
    if set(values) != set(types):
        raise _UnusableError(
            f"it has the inputs {', '.join(sorted(values))}, and {name} takes {', '.join(sorted(types))}"
        )
    return str(name), {key: _tensor(key, value, types[key]) for key, value in values.items()}


def _columns(rows: object, types: Mapping[str, int]) -> Mapping[str, object]:
    """Rows, as the API calls them, input by input."""
    if not isinstance(rows, list) or not rows:
        raise _UnusableError("'instances' is no list with a row or more")
    if not all(_is_named(row) for row in rows):
        return _named(rows, types)
    keys = {key for row in rows for key in row}
    if any(key not in row for key in keys for row in rows):
        raise _UnusableError("its rows don't name the same inputs")
    return {str(key): [row[key] for row in rows] for key in keys}


def _named(inputs: object, types: Mapping[str, int]) -> Mapping[str, object]:
    if isinstance(inputs, Mapping) and _is_named(inputs):
        return {str(key): value for key, value in inputs.items()}
    if len(types) != 1:
        raise _UnusableError(f"its inputs have no names, and the signature takes {', '.join(sorted(types))}")
    return dict.fromkeys(types, inputs)


def _is_named(value: object) -> bool:
    return isinstance(value, Mapping) and list(value) != ["b64"]


def _tensor(name: str, value: object, dtype: int) -> bytes:
    """A TensorProto: dtype = 1, tensor_shape = 2, tensor_content = 4, string_val = 8."""
    shape = tuple(_shape(value))
    leaves = list(_leaves(name, value, shape))
    head = b"\x08" + _varint(dtype) + _field(2, b"".join(_field(2, b"\x08" + _varint(size)) for size in shape))
    if dtype == _STRING:
        return head + b"".join(_field(8, _bytes(name, leaf)) for leaf in leaves)
    if dtype not in _NUMBERS:
        raise _UnusableError(f"input {name} has a type that JSON can't carry")
    kind, letter = _NUMBERS[dtype]
    try:
        return head + _field(4, b"".join(struct.pack("<" + letter, _number(leaf, letter)) for leaf in leaves))
    except (struct.error, OverflowError, TypeError) as cause:
        raise _UnusableError(f"input {name} takes {kind}, and is given something else") from cause


def _shape(value: object) -> Iterator[int]:
    while isinstance(value, list):
        yield len(value)
        if not value:
            return
        value = value[0]


def _leaves(name: str, value: object, shape: tuple[int, ...]) -> Iterator[object]:
    if not shape:
        if isinstance(value, list):
            raise _UnusableError(f"input {name} is nested unevenly")
        yield value
        return
    if not isinstance(value, list) or len(value) != shape[0]:
        raise _UnusableError(f"input {name} is nested unevenly")
    for each in value:
        yield from _leaves(name, each, shape[1:])


def _number(leaf: object, letter: str) -> int | float | bool:
    if letter == "?":
        if isinstance(leaf, bool):
            return leaf
    elif isinstance(leaf, int | float) and not isinstance(leaf, bool):
        return float(leaf) if letter in _FLOATS else leaf
    raise TypeError


def _bytes(name: str, leaf: object) -> bytes:
    if isinstance(leaf, str):
        return leaf.encode()
    if isinstance(leaf, Mapping) and isinstance(leaf.get("b64"), str):
        try:
            return base64.b64decode(leaf["b64"], validate=True)
        except binascii.Error as cause:
            raise _UnusableError(f"input {name} isn't in base64") from cause
    raise _UnusableError(f"input {name} takes texts, and is given something else")


def _field(number: int, content: bytes) -> bytes:
    """A length-delimited field in protobuf's wire format."""
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    written = bytearray()
    while value > 0x7F:
        written.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*written, value])


def frame(record: bytes) -> bytes:
    """One record of a TFRecord file: its length and itself, each with a masked CRC-32C.

    >>> frame(b"").hex()
    '000000000000000029039807d8ea82a2'
    """
    length = struct.pack("<Q", len(record))
    return length + struct.pack("<I", _masked_crc(length)) + record + struct.pack("<I", _masked_crc(record))


def _crc_table() -> tuple[int, ...]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return tuple(table)


_CRC = _crc_table()


def _masked_crc(content: bytes) -> int:
    """TensorFlow's mask of the Castagnoli CRC (lib/hash/crc32c.h)."""
    crc = 0xFFFFFFFF
    for byte in content:
        crc = crc >> 8 ^ _CRC[(crc ^ byte) & 0xFF]
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
