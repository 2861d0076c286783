"""What a SavedModel offers, read from its saved_model.pb without TensorFlow: tags, signatures, types of inputs.

Only protobuf's wire format is known here, and a few fields (saved_model.proto and meta_graph.proto of TensorFlow 2.21):
SavedModel.meta_graphs = 2; MetaGraphDef.meta_info_def = 1, with tags = 4; MetaGraphDef.signature_def = 5, a map to
SignatureDef, with inputs = 1, a map to TensorInfo, with dtype = 2. Everything else, the graph above all, is stepped
over, so a model of gigabytes takes no memory and no time.

Pure but for `read_saved_model`, which maps one file.
"""

import mmap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

META_GRAPHS, META_INFO, SIGNATURES, TAGS = 2, 1, 5, 4
MAP_KEY, MAP_VALUE, INPUTS, DTYPE = 1, 2, 1, 2
SERVE_TAG = "serve"
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class UnreadableError(Exception):
    """The bytes are no SavedModel."""


@dataclass(frozen=True, slots=True)
class MetaGraph:
    """One graph of a SavedModel. `signatures`: name → its inputs → their types, as numbers of types.proto.

    TensorFlow's own bookkeeping (`__saved_model_init_op`) is not among them.
    """

    tags: frozenset[str]
    signatures: Mapping[str, Mapping[str, int]]


def read_saved_model(file: Path) -> tuple[MetaGraph, ...]:
    """The graphs of a saved_model.pb. UnreadableError for other bytes, OSError when the file can't be read."""
    with file.open("rb") as opened:
        if file.stat().st_size == 0:
            raise UnreadableError("the file is empty")
        with mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return parse_saved_model(content)


def parse_saved_model(content: bytes | mmap.mmap) -> tuple[MetaGraph, ...]:
    graphs = [
        _parse_meta_graph(content, begin, end)
        for number, begin, end in _fields(content, 0, len(content))
        if number == META_GRAPHS
    ]
    if not graphs:
        raise UnreadableError("it holds no graph")
    return tuple(graphs)


def _parse_meta_graph(content: bytes | mmap.mmap, begin: int, end: int) -> MetaGraph:
    tags: set[str] = set()
    signatures: dict[str, Mapping[str, int]] = {}
    for number, inner, inner_end in _fields(content, begin, end):
        if number == META_INFO:
            tags.update(_text(content, *each) for found, *each in _fields(content, inner, inner_end) if found == TAGS)
        elif number == SIGNATURES:
            name, (value, value_end) = _entry(content, inner, inner_end)
            if not name.startswith("__saved_model_"):
                signatures[name] = _parse_inputs(content, value, value_end)
    return MetaGraph(frozenset(tags), signatures)


def _parse_inputs(content: bytes | mmap.mmap, begin: int, end: int) -> Mapping[str, int]:
    inputs = {}
    for number, inner, inner_end in _fields(content, begin, end):
        if number == INPUTS:
            name, (value, value_end) = _entry(content, inner, inner_end)
            inputs[name] = _whole(content, value, value_end, DTYPE)
    return inputs


def _entry(content: bytes | mmap.mmap, begin: int, end: int) -> tuple[str, tuple[int, int]]:
    """Key of a map's entry, and where its value begins; what is left out is empty."""
    key, value = "", (begin, begin)
    for number, inner, inner_end in _fields(content, begin, end):
        if number == MAP_KEY:
            key = _text(content, inner, inner_end)
        elif number == MAP_VALUE:
            value = (inner, inner_end)
    return key, value


def _whole(content: bytes | mmap.mmap, begin: int, end: int, wanted: int) -> int:
    """The last whole number of that field; 0 without one."""
    found = 0
    for number, at, _ in _every_field(content, begin, end):
        if number == wanted:
            found = _varint(content, at, end)[0]
    return found


def _text(content: bytes | mmap.mmap, begin: int, end: int) -> str:
    return content[begin:end].decode(errors="replace")


def _fields(content: bytes | mmap.mmap, begin: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Number, begin and end of each length-delimited field of the message between `begin` and `end`."""
    for number, at, length in _every_field(content, begin, end):
        if length is not None:
            yield number, at, at + length


def _every_field(content: bytes | mmap.mmap, begin: int, end: int) -> Iterator[tuple[int, int, int | None]]:
    """Number of each field, where its content begins, and how long it is; None for what isn't length-delimited."""
    at = begin
    while at < end:
        key, at = _varint(content, at, end)
        number, kind = key >> 3, key & 7
        if number == 0:
            raise UnreadableError("it isn't in protobuf's format")
        if kind == _VARINT:
            yield number, at, None
            _, at = _varint(content, at, end)
        elif kind in (_FIXED64, _FIXED32):
            yield number, at, None
            at += 8 if kind == _FIXED64 else 4
        elif kind == _BYTES:
            length, at = _varint(content, at, end)
            if at + length > end:
                raise UnreadableError("it ends too early")
            yield number, at, length
            at += length
        else:
            raise UnreadableError("it isn't in protobuf's format")
    if at != end:
        raise UnreadableError("it ends too early")


def _varint(content: bytes | mmap.mmap, at: int, end: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= end:
            raise UnreadableError("it ends too early")
        byte = content[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if not byte & 0x80:
            return value, at
    raise UnreadableError("it isn't in protobuf's format")
