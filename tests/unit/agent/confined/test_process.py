"""A confined process: what it may use, what it can't see, and that it never outlives its caller."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from slipway_agent.confined.process import Bounds, Ended, run
from slipway_agent.model.errors import CancelledError

MIB = 1 << 20
FILE_BYTES = 64 << 10
BOUNDS = Bounds({"AS": 256 * MIB, "FSIZE": FILE_BYTES})
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
    assert run(doubles, {"number": 21}, BOUNDS, go_on) == {"double": 42}


def test_it_sees_nothing_of_the_agents_environment(script: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIPWAY_SERVER_KEY", "secret")
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    shows = script("print(json.dumps({'names': sorted(os.environ), 'folder': os.getcwd(), 'path': sys.path}))")
    answer = run(shows, {}, BOUNDS, go_on)
    assert isinstance(answer, dict)
    assert answer["names"] == ["LC_ALL", "MALLOC_ARENA_MAX"]
    assert answer["folder"] == "/"
    assert str(shows.parent) not in answer["path"]  # type: ignore[operator]


def test_an_argparse_beside_the_script_or_the_agent_isnt_imported(
    script: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = script("").parent
    (folder / "argparse.py").write_text("raise SystemExit('taken over')")
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.chdir(folder)
    imports = script("import argparse; print(json.dumps({'from': argparse.__file__}))")
    assert isinstance(run(imports, {}, BOUNDS, go_on), dict)


def test_more_memory_than_it_may_have_is_an_error_of_its_own(script: Write) -> None:
    takes = script("x = bytearray(512 << 20); print('{}')")
    assert run(takes, {}, BOUNDS, go_on) == Ended("ended with status 1: MemoryError")


def test_a_larger_file_than_it_may_write_ends_it(script: Write, tmp_path: Path) -> None:
    place = tmp_path / "out"
    writes = script(f"f = open({str(place)!r}, 'wb'); f.write(b'x' * (1 << 20)); f.flush(); print('{{}}')")
    ended = run(writes, {}, BOUNDS, go_on)
    assert isinstance(ended, Ended)
    assert place.stat().st_size <= FILE_BYTES


def test_an_endless_answer_is_none(script: Write) -> None:
    talks = script("while True: sys.stdout.write('x' * 4096)")
    assert run(talks, {}, BOUNDS, go_on) == Ended("was ended for an answer of more than 64.0 KiB", is_its_own=True)


def test_one_that_complains_at_length_is_heard_to_its_end(script: Write) -> None:
    complains = "sys.stderr.write('x' * (1 << 20) + '\\nat \\x1blast'); "
    assert run(script(complains + "print('{}')"), {}, BOUNDS, go_on) == {}
    assert run(script(complains + "sys.exit(3)"), {}, BOUNDS, go_on) == Ended("ended with status 3: at last")


def test_one_that_goes_round_for_ever_is_ended_by_its_time(script: Write) -> None:
    ended = run(script("while True: pass"), {}, Bounds({"CPU": 1}), go_on)
    assert ended == Ended("was ended with all the time of a processor taken that it may use", True, "CPU")


def test_an_answer_is_read_whole_whoever_it_leaves_behind(script: Write) -> None:
    """One that it started holds its output open: it isn't waited for, and ends with it."""
    leaves = script(
        "child = os.fork()\nif child == 0: time.sleep(600)\nprint(json.dumps({'child': child, 'pad': 'x' * 60_000}))"
    )
    answer = run(leaves, {}, BOUNDS, go_on)
    assert isinstance(answer, dict)
    assert len(str(answer["pad"])) == 60_000
    until(lambda: not is_alive(int(str(answer["child"]))))


def test_a_question_of_any_size_gets_there_whether_it_is_read_or_not(script: Write) -> None:
    question = {"text": "x" * (1 << 20)}
    assert run(script("print('{}')"), question, BOUNDS, go_on) == {}
    counts = script("print(json.dumps({'length': len(json.load(sys.stdin)['text'])}))")
    assert run(counts, question, BOUNDS, go_on) == {"length": 1 << 20}


@pytest.mark.parametrize("name", ["AS", "DATA"])
def test_one_that_is_out_of_memory_and_doesnt_end_is_ended(script: Write, name: str) -> None:
    starves = script(
        "kept = []\ntry:\n    while True: kept.append(bytearray(40_000))\nexcept MemoryError:\n    time.sleep(600)"
    )
    ended = run(starves, {}, Bounds({name: 64 * MIB}), go_on)
    assert ended == Ended("was ended with all the memory taken that it may use", True, name)


def test_limits_are_in_force_by_their_names(script: Write) -> None:
    asks = script(
        "import resource as r; print(json.dumps({n: r.getrlimit(getattr(r, f'RLIMIT_{n}'))[0] for n in "
        "('CPU', 'NOFILE', 'FSIZE', 'CORE')}))"
    )
    rlimits = {"CPU": 7, "NOFILE": 64, "FSIZE": 1 << 20}
    assert run(asks, {}, Bounds(rlimits), go_on) == {**rlimits, "CORE": 0}


def test_packages_are_there_for_who_needs_them(script: Write) -> None:
    looks = script(
        "from importlib.util import find_spec\nprint(json.dumps({'found': find_spec('pytest') is not None}))"
    )
    assert run(looks, {}, BOUNDS, go_on) == {"found": False}
    assert run(looks, {}, Bounds(BOUNDS.rlimits, needs_packages=True), go_on) == {"found": True}


@pytest.mark.parametrize("said", ["", "nonsense", "[1]", "[" * 30_000])
def test_what_is_no_answer_counts_as_none(script: Write, said: str) -> None:
    assert isinstance(run(script(f"print({said!r})"), {}, BOUNDS, go_on), Ended)


def test_one_that_is_killed_says_by_which_signal(script: Write) -> None:
    assert run(script("os.kill(os.getpid(), 9)"), {}, BOUNDS, go_on) == Ended("was ended by SIGKILL")
    aborts = script("os.abort()")
    assert run(aborts, {}, BOUNDS, go_on) == Ended("was ended by SIGABRT", is_its_own=True)


def test_the_kernel_would_end_it_before_the_agent(script: Write) -> None:
    tells = script("print(json.dumps({'score': int(open('/proc/self/oom_score_adj').read())}))")
    assert run(tells, {}, BOUNDS, go_on) == {"score": 1000}


WAITS = (  # once its number is in the file `pid` beside it
    "place = os.path.dirname(__file__) + '/pid'; open(place + '.new', 'w').write(str(os.getpid())); "
    "os.rename(place + '.new', place); time.sleep(600)"
)


def test_one_that_is_called_off_is_gone(script: Write, tmp_path: Path) -> None:
    note, waits = tmp_path / "pid", script(WAITS)

    def call_off() -> None:
        if note.exists():
            raise CancelledError

    with pytest.raises(CancelledError):
        run(waits, {}, BOUNDS, call_off)
    assert not is_alive(int(note.read_text()))


def test_it_ends_with_the_agent(script: Write, tmp_path: Path) -> None:
    note, waits = tmp_path / "pid", script(WAITS)
    agent = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys; from pathlib import Path; from slipway_agent.confined.process import Bounds, run\n"
            f"run(Path(sys.argv[1]), {{}}, Bounds({{'FSIZE': {FILE_BYTES}}}), lambda: None)",
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
