"""A confined process: what it may use, what it can't see, and that it never outlives its caller."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from slipway_agent.confined.process import Ended, Limits, run
from slipway_agent.model.errors import CancelledError

MIB = 1 << 20
LIMITS = Limits(memory_bytes=256 * MIB, file_bytes=64 << 10)
AGENT = Path(__file__).resolve().parents[4] / "serving-images" / "agent"


def go_on() -> None:
    pass


Write = Callable[[str], Path]


@pytest.fixture
def script(tmp_path: Path) -> Write:
    def write(text: str) -> Path:
        place = tmp_path / "script.py"
        place.write_text("import json, os, sys, time\n" + text)
        return place

    return write


def test_a_question_gets_its_answer(script: Write) -> None:
    doubles = script("print(json.dumps({'double': 2 * json.load(sys.stdin)['number']}))")
    assert run(doubles, {"number": 21}, LIMITS, go_on) == {"double": 42}


def test_it_sees_nothing_of_the_agents_environment(script: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIPWAY_SERVER_KEY", "secret")
    shows = script("print(json.dumps({'names': sorted(os.environ), 'folder': os.getcwd(), 'path': sys.path}))")
    answer = run(shows, {}, LIMITS, go_on)
    assert isinstance(answer, dict)
    assert answer["names"] == ["LC_ALL", "MALLOC_ARENA_MAX"]
    assert answer["folder"] == "/"
    assert str(shows.parent) not in answer["path"]  # type: ignore[operator]


def test_an_argparse_beside_the_script_isnt_imported(script: Write) -> None:
    (script("").parent / "argparse.py").write_text("raise SystemExit('taken over')")
    imports = script("import argparse; print(json.dumps({'from': argparse.__file__}))")
    assert isinstance(run(imports, {}, LIMITS, go_on), dict)


def test_more_memory_than_it_may_have_is_an_error_of_its_own(script: Write) -> None:
    takes = script("x = bytearray(512 << 20); print('{}')")
    assert run(takes, {}, LIMITS, go_on) == Ended("it ended with status 1: MemoryError")


def test_a_larger_file_than_it_may_write_ends_it(script: Write, tmp_path: Path) -> None:
    place = tmp_path / "out"
    writes = script(f"f = open({str(place)!r}, 'wb'); f.write(b'x' * (1 << 20)); f.flush(); print('{{}}')")
    ended = run(writes, {}, LIMITS, go_on)
    assert isinstance(ended, Ended)
    assert place.stat().st_size <= LIMITS.file_bytes


def test_an_endless_answer_is_none(script: Write) -> None:
    talks = script("while True: sys.stdout.write('x' * 4096)")
    assert isinstance(run(talks, {}, LIMITS, go_on), Ended)


@pytest.mark.parametrize("said", ["", "nonsense", "[1]", "[" * 30_000])
def test_what_is_no_answer_counts_as_none(script: Write, said: str) -> None:
    assert isinstance(run(script(f"print({said!r})"), {}, LIMITS, go_on), Ended)


def test_one_that_is_killed_says_by_which_signal(script: Write) -> None:
    assert run(script("os.kill(os.getpid(), 9)"), {}, LIMITS, go_on) == Ended("it was ended by signal 9")
    aborts = script("os.abort()")
    assert run(aborts, {}, LIMITS, go_on) == Ended("it was ended by signal 6", is_its_own=True)


def test_the_kernel_would_end_it_before_the_agent(script: Write) -> None:
    tells = script("print(json.dumps({'score': int(open('/proc/self/oom_score_adj').read())}))")
    assert run(tells, {}, LIMITS, go_on) == {"score": 1000}


def test_one_that_is_called_off_is_gone(script: Write, tmp_path: Path) -> None:
    note = tmp_path / "pid"
    waits = script(
        f"open({str(note)!r} + '.new', 'w').write(str(os.getpid())); os.rename({str(note)!r} + '.new', "
        f"{str(note)!r}); time.sleep(600)"
    )

    def call_off() -> None:
        if note.exists():
            raise CancelledError

    with pytest.raises(CancelledError):
        run(waits, {}, LIMITS, call_off)
    assert not is_alive(int(note.read_text()))


def test_it_ends_with_the_agent(script: Write, tmp_path: Path) -> None:
    note = tmp_path / "pid"
    waits = script(
        f"open({str(note)!r} + '.new', 'w').write(str(os.getpid())); os.rename({str(note)!r} + '.new', "
        f"{str(note)!r}); time.sleep(600)"
    )
    agent = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys; from pathlib import Path; from slipway_agent.confined.process import Limits, run\n"
            f"run(Path(sys.argv[1]), {{}}, Limits({LIMITS.memory_bytes}, {LIMITS.file_bytes}), lambda: None)",
            str(waits),
        ],
        env={**os.environ, "PYTHONPATH": str(AGENT)},
    )
    until(note.exists)
    child = int(note.read_text())
    assert is_alive(child)
    agent.send_signal(signal.SIGKILL)
    agent.wait()
    until(lambda: not is_alive(child))


def is_alive(process: int) -> bool:
    """A zombie, which waits for nothing but to be collected, isn't."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)
