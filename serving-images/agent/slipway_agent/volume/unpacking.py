"""Archives and image layers are unpacked in a process of their own, which may end instead of the agent.

Whatever an archive makes a library do (read a header of gigabytes, go round for ever, crash), it does it to a child of
ours: with limits of its own on memory, processor, open files and the size of a file; first in line when the container
runs out of memory; in a process group of its own; gone when the agent is gone. The child says one line, how it ended,
and the agent believes nothing else of it. Invariant: when these functions return or raise, no child is left.
"""

import json
import os
import selectors
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import slipway_agent
from slipway_agent.model.errors import Reason, SpecError
from slipway_agent.model.ledger import describe_bytes
from slipway_agent.model.limits import Budget, Limits, refuse_layers
from slipway_agent.volume.models_volume import find_room

MEMORY_BYTES = 96 << 20
"""Of the 256 MiB that the agent's container has. 50,000 entries of a zip take 48 of them, 100,000 80; a tar 20."""
CPU_SECONDS, CPU_BYTES_A_SECOND, CPU_ENTRIES_A_SECOND = 20, 2 << 20, 1000
"""A slow core unpacks ten times as fast as that; what takes longer is made to take long."""
POLL_SECONDS = 0.1  # between two looks whether the work was called off
ANSWER_BYTES = 64 << 10
STARVED_BYTES, STARVED_LOOKS = 256 << 10, 10
ATTEMPTS = 2  # who ends a child from outside may not mean this archive
_START = "import sys; sys.path.append(sys.argv[1]); from slipway_agent.volume.unpacking_child import main; main()"


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
    full_order = {
        **order,
        "target": str(target.parent.resolve() / target.name),
        "where": unpacking.where,
        "what": unpacking.what,
        "packed": packed_bytes,
        "limits": asdict(unpacking.limits),
        "room": asdict(room),
        "parent": os.getpid(),
        "rlimits": {"DATA": MEMORY_BYTES, "FSIZE": allowed_bytes + 1, "CPU": cpu_seconds, "NOFILE": 64, "CORE": 0},
    }
    attempts = 1 if "layers" in order else ATTEMPTS  # a layer is gone once it is applied
    for attempt in range(1, attempts + 1):
        _clear(target)
        ended, said = _run_child(full_order, unpacking.check)
        answer = _read_answer(said)
        if answer is not None:
            return _judge(answer, unpacking.where)
        if ended == -signal.SIGXCPU:
            raise _refuse(unpacking.where, f"needs more than {cpu_seconds} s of a processor to unpack")
        if attempt == attempts:
            raise _refuse(unpacking.where, f"can't be unpacked: what unpacks it was ended {_name_ending(ended)}")
    raise AssertionError


def _run_child(order: Mapping[str, Any], check: Callable[[], None]) -> tuple[int, bytes]:
    """The child's end, and all it said."""
    with os.fdopen(os.memfd_create("order"), "wb+") as written:  # not a pipe: an order of any size can't block
        written.write(json.dumps(order).encode())
        written.seek(0)
        child = subprocess.Popen(
            # isolated: neither the environment nor a file in the folder that it starts in says what is imported
            [sys.executable, "-I", "-S", "-B", "-c", _START, str(Path(slipway_agent.__file__).parents[1])],
            stdin=written,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env={key: os.environ[key] for key in ("LD_LIBRARY_PATH",) if key in os.environ},
            process_group=0,
        )
    with child:
        try:
            return _listen(child, check)
        finally:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)


def _listen(child: "subprocess.Popen[bytes]", check: Callable[[], None]) -> tuple[int, bytes]:
    assert child.stdout is not None
    said, starved = b"", 0
    with selectors.DefaultSelector() as selector:
        selector.register(child.stdout, selectors.EVENT_READ)
        while len(said) <= ANSWER_BYTES:
            check()
            starved = starved + 1 if _is_starved(child.pid) else 0
            if starved == STARVED_LOOKS:
                child.kill()
                said = b'{"memory": true}\n'
                break
            if selector.select(POLL_SECONDS):
                chunk = os.read(child.stdout.fileno(), ANSWER_BYTES)
                if not chunk:
                    break
                said += chunk
    if len(said) > ANSWER_BYTES:
        child.kill()  # it would wait for somebody to read on
    while True:
        check()
        try:
            return child.wait(POLL_SECONDS), said
        except subprocess.TimeoutExpired:
            continue


def _is_starved(child: int) -> bool:
    """Whether it has all the memory that it may. Python 3.11 may go round for ever then: what lets it begin to handle a
    MemoryError needs 32 bytes (ceval.c, exception_unwind)."""
    try:
        line = next(line for line in Path(f"/proc/{child}/status").read_text().splitlines() if line[:7] == "VmData:")
    except (OSError, StopIteration):
        return False  # its processor time ends it
    return int(line.split()[1]) * 1024 > MEMORY_BYTES - STARVED_BYTES


def _read_answer(said: bytes) -> dict[str, Any] | None:
    """The one line; None for no line, or anything else."""
    if len(said) > ANSWER_BYTES or not said.endswith(b"\n"):
        return None
    try:
        answer = json.loads(said)
    except ValueError:
        return None
    return answer if isinstance(answer, dict) else None


def _judge(answer: Mapping[str, Any], where: str) -> str:
    if "reason" in answer:
        raise SpecError(Reason(answer["reason"]), str(answer["message"]))
    if "errno" in answer:
        raise OSError(answer["errno"], str(answer["strerror"]))
    if answer.get("memory"):
        raise _refuse(where, f"needs more than {describe_bytes(MEMORY_BYTES)} of memory to unpack")
    if "defect" in answer:
        raise _refuse(where, f"can't be unpacked: {answer['defect']}")
    return str(answer.get("folder", ""))


def _refuse(where: str, what: str) -> SpecError:
    advice = "Pack it again with common tools, or give the model as a folder"
    return SpecError(Reason.UNSUPPORTED_ARCHIVE, f"{where} {what}. {advice}")


def _name_ending(ended: int) -> str:
    try:
        return f"by {signal.Signals(-ended).name}" if ended < 0 else f"with status {ended}"
    except ValueError:
        return f"by signal {-ended}"


def _clear(target: Path) -> None:
    """What an attempt before left."""
    shutil.rmtree(target, ignore_errors=True)
