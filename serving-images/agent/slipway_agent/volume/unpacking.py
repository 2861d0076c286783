"""Archives and image layers are unpacked in a process of their own, which may end instead of the agent.

Whatever an archive makes a library do (read a header of gigabytes, go round for ever, crash), it does it to a confined
process of ours, with limits on memory, processor, open files and the size of a file. It says one line, how it ended,
and the agent believes nothing else of it. Invariant: when these functions return or raise, no child is left.
"""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from slipway_agent.confined.process import Bounds, Ended, run
from slipway_agent.model.errors import Reason, SpecError
from slipway_agent.model.ledger import describe_bytes
from slipway_agent.model.limits import Budget, Limits, refuse_layers
from slipway_agent.volume.models_volume import find_room

MEMORY_BYTES = 96 << 20
"""Of the 256 MiB that the agent's container has. 50,000 entries of a zip take 48 of them, 100,000 80; a tar 20."""
CPU_SECONDS, CPU_BYTES_A_SECOND, CPU_ENTRIES_A_SECOND = 20, 2 << 20, 1000
"""A slow core unpacks ten times as fast as that; what takes longer is made to take long."""
ATTEMPTS = 2  # who ends a child from outside may not mean this archive
SCRIPT = Path(__file__).with_name("unpacking_child.py")


@dataclass(frozen=True, slots=True)
class Unpacking:
    """What one unpacking is: its place and its size's subject in messages, its limits, and who may call it off.

    check: called ten times a second; what it raises ends the child.
    """

    where: str
    what: str
    limits: Limits
    check: Callable[[], None]


@dataclass(frozen=True, slots=True)
class LayerFile:
    """A layer that was pulled. name: of a file that is a layer by itself; None: a tar, plain or packed."""

    path: Path
    name: str | None


def unpack_archive(kind: str, archive: Path, target: Path, unpacking: Unpacking) -> None:
    """A zip or tar.gz below `target`, which must not exist.

    SpecError for what is in it and for each limit; OSError of the disk; what `unpacking.check` raises.
    """
    packed_bytes = archive.stat().st_size
    _run({"kind": kind, "archive": str(archive.resolve())}, packed_bytes, target, unpacking)


def unpack_layers(layers: Sequence[LayerFile], target: Path, unpacking: Unpacking) -> Path:
    """An image's layers, applied in order below `target`, which must not exist; the folder that holds the model.

    Errors as of `unpack_archive`. A layer that is a file is moved.
    """
    refuse_layers(len(layers), unpacking.where)
    packed_bytes = sum(layer.path.stat().st_size for layer in layers)
    order = {"kind": "layers", "layers": [[str(layer.path.resolve()), layer.name] for layer in layers]}
    folder = _run(order, packed_bytes, target, unpacking)
    return target / "models" if folder == "models" else target


def _run(order: Mapping[str, Any], packed_bytes: int, target: Path, unpacking: Unpacking) -> str:
    """What the child answers as its folder."""
    room = find_room(target.parent)
    allowed_bytes = Budget(unpacking.where, unpacking.what, packed_bytes, unpacking.limits, room).allowed_bytes
    cpu_seconds = (
        CPU_SECONDS
        + (packed_bytes + allowed_bytes // 20) // CPU_BYTES_A_SECOND
        + unpacking.limits.entries // CPU_ENTRIES_A_SECOND
    )
    question = {
        **order,
        "target": str(target.parent.resolve() / target.name),
        "where": unpacking.where,
        "what": unpacking.what,
        "packed": packed_bytes,
        "limits": asdict(unpacking.limits),
        "room": asdict(room),
    }
    bounds = Bounds({"DATA": MEMORY_BYTES, "FSIZE": allowed_bytes + 1, "CPU": cpu_seconds, "NOFILE": 64})
    attempts = 1 if "layers" in order else ATTEMPTS  # a layer is gone once it is applied
    for left in reversed(range(attempts)):
        shutil.rmtree(target, ignore_errors=True)  # what an attempt before left
        answer = run(SCRIPT, question, bounds, unpacking.check)
        if not isinstance(answer, Ended):
            return _judge(answer, unpacking.where)
        if answer.limit == "CPU":
            raise _refuse(unpacking.where, f"needs more than {cpu_seconds} s of a processor to unpack")
        if answer.limit == "DATA":
            raise _lack_memory(unpacking.where)
        if not left:
            raise _refuse(unpacking.where, f"can't be unpacked: what unpacks it {answer.words}")
    raise AssertionError


def _judge(answer: Mapping[str, Any], where: str) -> str:
    if "reason" in answer:
        raise SpecError(Reason(answer["reason"]), str(answer["message"]))
    if "errno" in answer:
        raise OSError(answer["errno"], str(answer["strerror"]))
    if answer.get("memory"):
        raise _lack_memory(where)
    if "defect" in answer:
        raise _refuse(where, f"can't be unpacked: {answer['defect']}")
    return str(answer.get("folder", ""))


def _lack_memory(where: str) -> SpecError:
    return _refuse(where, f"needs more than {describe_bytes(MEMORY_BYTES)} of memory to unpack")


def _refuse(where: str, what: str) -> SpecError:
    advice = "Pack it again with common tools, or give the model as a folder"
    return SpecError(Reason.UNSUPPORTED_ARCHIVE, f"{where} {what}. {advice}")
