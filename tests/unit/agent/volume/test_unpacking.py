"""What unpacks may end instead of the agent: every end of it is told in words, and leaves no process."""

import errno
import gzip
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from slipway_agent.model.errors import CancelledError, Reason, SpecError
from slipway_agent.model.limits import DEFAULT_LIMITS, LAYERS, Limits, Room
from slipway_agent.volume import unpacking as module
from slipway_agent.volume.models_volume import ModelVolume, ensure_room, explain_disk, find_room
from slipway_agent.volume.unpacking import LayerFile, Unpacking, unpack_archive, unpack_layers

WHERE = "https://x/m.zip"


def go_on() -> None:
    """Nobody calls it off."""


def order(limits: Limits = DEFAULT_LIMITS) -> Unpacking:
    return Unpacking(WHERE, "version 3", limits, go_on)


def write_zip(path: Path, **files: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def write_tar(path: Path, **files: bytes) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def children(process: int | None = None) -> set[int]:
    tasks = Path(f"/proc/{process or 'self'}/task").iterdir()
    return {int(child) for task in tasks for child in (task / "children").read_text().split()}


@pytest.fixture(autouse=True)
def no_process_is_left() -> Iterator[None]:
    before = children()
    yield
    assert children() <= before


Child = Callable[[str], None]


@pytest.fixture
def child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Child:
    """Another script than the one that unpacks."""

    def replace(text: str) -> None:
        (tmp_path / "child.py").write_text(text)
        monkeypatch.setattr(module, "SCRIPT", tmp_path / "child.py")

    return replace


def found_in(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_each_kind_is_unpacked(tmp_path: Path) -> None:
    files = {"model.onnx": b"weights" * 1000, "a/b": b""}
    unpack_archive("zip", write_zip(tmp_path / "a.zip", **files), tmp_path / "zip", order())
    unpack_archive("tar.gz", write_tar(tmp_path / "a.tar.gz", **files), tmp_path / "tar", order())
    layers = [LayerFile(tmp_path / "a.tar.gz", None), LayerFile(write_zip(tmp_path / "own"), "models/kept.zip")]
    place = unpack_layers(layers, tmp_path / "image", order())
    assert found_in(tmp_path / "zip") == found_in(tmp_path / "tar") == files
    assert (place, list(found_in(place))) == (tmp_path / "image" / "models", ["kept.zip"])
    assert not (tmp_path / "a.tar.gz").exists(), "a layer that is applied isn't there twice"


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        (
            Limits(unpacked_bytes=1000),
            r"unpacks to 1\.2 KiB, and spec\.storage\.limits\.unpackedSize is 1000 B\. Raise it",
        ),
        (Limits(entries=1), r"holds 2 files and folders, and 1 may be unpacked\. Raise spec\.storage\.limits\.entries"),
    ],
)
def test_a_limit_that_is_met_is_named_with_its_size_and_its_field(tmp_path: Path, limits: Limits, words: str) -> None:
    archive = write_zip(tmp_path / "a.zip", a=b"x" * 1000, b=b"y" * 200)
    with pytest.raises(SpecError, match=words) as refusal:
        unpack_archive("zip", archive, tmp_path / "content", order(limits))
    assert refusal.value.reason is Reason.UNSUPPORTED_ARCHIVE
    assert found_in(tmp_path) == {"a.zip": archive.read_bytes()}, "nothing was written before"


def test_without_a_field_the_packed_size_says_what_may_come_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [DEFAULT_LIMITS.unpacked(packed) for packed in (0, 3 << 20, 1 << 30)] == [1 << 30, 1 << 30, 20 << 30]
    block = gzip.compress(b"\0" * (1 << 20))
    member = tarfile.TarInfo("model.onnx")
    member.size = 2 << 30
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(member.tobuf()) + block * 2048)
    with pytest.raises(
        SpecError, match=r"unpacks to at least 2\.0 GiB, and 2\.\d MiB may become 1\.0 GiB: 20 times"
    ) as refusal:
        unpack_archive("tar.gz", tmp_path / "a.tar.gz", tmp_path / "content", order())
    assert "set spec.storage.limits.unpackedSize" in refusal.value.message


def test_memory_that_runs_out_is_the_childs_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MEMORY_BYTES", 12 << 20)
    archive = write_zip(tmp_path / "a.zip", **{f"{number}": b"" for number in range(20_000)})
    with pytest.raises(SpecError, match=r"m\.zip needs more than 12\.0 MiB of memory to unpack"):
        unpack_archive("zip", archive, tmp_path / "content", order())


def test_more_layers_than_any_tool_makes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=f"has {LAYERS + 1} layers, and {LAYERS} are pulled"):
        unpack_layers([LayerFile(tmp_path / "x", None)] * (LAYERS + 1), tmp_path / "content", order())


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("import os; os.kill(os.getpid(), 9)", "was ended by SIGKILL"),
        ("import os; os.abort()", "was ended by SIGABRT"),
        (f"import os; os.kill(os.getpid(), {int(signal.SIGXCPU)})", "needs more than .* s of a processor"),
        ("raise SystemExit(3)", "ended with status 3"),
        ("pass", "ended with status 0"),
        ("print('no JSON')", "ended with status 0"),
        ("print('x' * 200_000)", "was ended"),
        ("print('[]')", "ended with status 0"),
        ("print('{\"memory\": true}')", "needs more than .* of memory"),
        (
            "kept = []\nwhile True:\n try: kept.append(bytearray(40_000))\n except MemoryError: 0",
            "more than .* of memory",
        ),
        ('print(\'{"defect": "KeyError: x"}\')', "can't be unpacked: KeyError: x"),
    ],
)
def test_whatever_the_child_does_is_one_refusal(tmp_path: Path, child: Child, script: str, words: str) -> None:
    child(script)
    with pytest.raises(SpecError, match=words) as refusal:
        unpack_archive("zip", write_zip(tmp_path / "a.zip"), tmp_path / "content", order())
    assert refusal.value.reason is Reason.UNSUPPORTED_ARCHIVE
    assert "or give the model as a folder" in refusal.value.message


def test_a_child_that_is_ended_once_is_started_again(tmp_path: Path, child: Child) -> None:
    seen = str(tmp_path / "seen")
    first = f"import os, runpy; os.path.exists({seen!r}) or (open({seen!r}, 'w'), os.abort()); "
    child(f"{first}runpy.run_path({str(module.SCRIPT)!r}, run_name='__main__')")
    unpack_archive("zip", write_zip(tmp_path / "a.zip", a=b"x"), tmp_path / "content", order())
    assert found_in(tmp_path / "content") == {"a": b"x"}


def test_a_full_disk_is_told_as_ever(tmp_path: Path, child: Child) -> None:
    answer = json.dumps({"errno": errno.ENOSPC, "strerror": os.strerror(errno.ENOSPC)})
    child(f"print({answer!r})")
    with pytest.raises(OSError) as failure:  # noqa: PT011 - its number is looked at
        unpack_archive("zip", write_zip(tmp_path / "a.zip"), tmp_path / "content", order())
    told = explain_disk(failure.value, "version 3", "unpacked")
    assert (told.reason, "filled up while version 3 was unpacked" in told.message) == (Reason.DISK_FULL, True)


def test_it_can_be_called_off_within_a_moment(tmp_path: Path, child: Child) -> None:
    child("import time; time.sleep(600)")
    looks = iter(range(3))

    def check() -> None:
        if next(looks) == 2:
            raise CancelledError

    called_off = Unpacking("x", "x", DEFAULT_LIMITS, check)
    with pytest.raises(CancelledError):
        unpack_archive("zip", write_zip(tmp_path / "a.zip"), tmp_path / "content", called_off)


AGENT = """
import sys
from pathlib import Path
from slipway_agent.config import Config, Source
from slipway_agent.fetching.pipeline import Job, fetch_version, open_source
from slipway_agent.servers.triton.config import TritonSpec
from slipway_agent.servers.triton.driver import TritonServer
from slipway_agent.sources.base import Progress
from slipway_agent.volume import unpacking
from slipway_agent.volume.models_volume import ModelVolume

root = Path(sys.argv[1])
unpacking.SCRIPT = root / "child.py"
volume = ModelVolume(root / "models", "digits")
server = TritonServer(volume, TritonSpec(), 3, None)
config = Config("g", "Triton", "digits", Source("pvc://c", str(root), {3: "3.tar.gz"}), 3, (3,))
job = Job(3, config.source.location(3), None)
fetch_version(job, open_source(config, server), volume, server, Progress())
"""


def test_an_agent_that_is_killed_takes_what_unpacks_with_it(tmp_path: Path, child: Child) -> None:
    child("import json, sys, time; open(json.load(sys.stdin)['target'], 'w'); time.sleep(600)")
    write_tar(tmp_path / "3.tar.gz", **{"model.onnx": b"x"})
    agent = subprocess.Popen(
        [sys.executable, "-c", AGENT, str(tmp_path)], env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    )
    content = tmp_path / "models/.staging/3/content"
    try:
        wait_until(lambda: content.exists() or agent.poll() is not None)
        (process,) = children(agent.pid)
    finally:
        agent.kill()
        agent.wait()
    wait_until(lambda: not is_running(process))
    assert list((tmp_path / "models/repository/digits").iterdir()) == []
    ModelVolume(tmp_path / "models", "digits").clean_staging(())
    assert not content.exists()


def wait_until(holds: object) -> None:
    assert callable(holds)
    deadline = time.monotonic() + 120
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def is_running(process: int) -> bool:
    try:
        return " Z " not in Path(f"/proc/{process}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


# the volume's own limit


def test_what_a_volume_with_a_size_limit_can_take_is_told_by_its_field(tmp_path: Path) -> None:
    volume = ModelVolume(tmp_path / "models", "digits")
    volume.limit(100 << 20)
    staging = volume.staging(3)
    before = find_room(staging).free_bytes
    (staging / "some").write_bytes(b"x" * (10 << 20))
    os.link(staging / "some", staging / "again")
    assert 10 << 20 <= before - find_room(staging).free_bytes < 11 << 20, "two names are one file"
    with pytest.raises(SpecError) as refusal:
        ensure_room(staging, 90 << 20, "version 3 (s3://b/3)")
    assert refusal.value.reason is Reason.DISK_FULL
    assert "version 3 (s3://b/3) needs 90.0 MiB and the pod's model volume has 7" in refusal.value.message
    assert "left of spec.storage.sizeLimit (100.0 MiB). Raise it, or load fewer versions" in refusal.value.message
    volume.limit(None)
    ensure_room(staging, 90 << 20, "version 3")


def test_an_extra_version_that_would_fill_the_volume_is_refused_before_it_is_written(tmp_path: Path) -> None:
    volume = ModelVolume(tmp_path / "models", "digits")
    volume.limit(50 << 20)
    archive = write_tar(tmp_path / "2.tar.gz", a=b"\0" * (20 << 20), b=b"\0" * (20 << 20))
    with pytest.raises(SpecError, match=r"version 3, unpacked, needs at least 40\.0 MiB and .*sizeLimit \(50\.0 MiB\)"):
        unpack_archive("tar.gz", archive, volume.staging(2) / "content", order())
    volume.limit(None)


def test_room_without_a_size_limit_is_the_nodes(tmp_path: Path) -> None:
    refusal = Room(5).lacking("version 3", "6 B")
    assert refusal.message == (
        "version 3 needs 6 B and the pod's model volume has 5 B free. Free some on the node, or load fewer versions"
    )
