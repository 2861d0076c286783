"""A mutant on trial: the quick suites run against a copy of the tree with the fault in it.

The working tree is never touched. A mutant is killed only by a test that passes without it, and that, where it isn't
one that noticed it before, fails at it twice: a test that fails anyway, or now and then, proves nothing.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .table import Change

SUITES = ("tests/unit", "tests/golden", "tests/transition")
OURS = "test_mutation.py"
"""Left out of the copies: it looks for the table's mutants, and would notice each of them."""
LIMIT_SECONDS = 900
FAILED = re.compile(r"^(?:FAILED|ERROR) (\S+?::\w+)", re.MULTILINE)
COLLECTED_NOTHING = 5  # pytest's exit code


@dataclass(frozen=True, slots=True)
class Result:
    """state: killed, survived, broken (nothing can be said: no import, or a test that fails anyway), late or not found.

    by: the test that noticed it, or what is wrong.
    """

    state: str
    by: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Copy:
    """A copy of the tree. sound: tests that passed in it without any fault."""

    root: Path
    sound: set[str] = field(default_factory=set)

    def run(self, arguments: Sequence[str]) -> tuple[int | None, str]:
        """pytest's exit code, None past the limit; and the first test that failed, or what it printed last."""
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-rfE", "--tb=no", "-p", "no:cacheprovider"]
        places = (self.root / below for below in ("operator", "serving-images/agent", "."))
        process = subprocess.Popen(
            [*command, "--hypothesis-seed=0", *arguments],
            cwd=self.root,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, places))},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            output, _ = process.communicate(timeout=LIMIT_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            return None, f"no end within {LIMIT_SECONDS} s"
        failed = FAILED.search(output)
        return process.returncode, failed[1] if failed else output.strip()[-300:]

    def judge(self, change: Change, stages: Sequence[Sequence[str]]) -> Result:
        """Try one mutant; the first stage with a failing test ends it."""
        started = time.monotonic()
        path = self.root / change.path
        source, at = path.read_text(), path.stat()
        code: int | None = 0
        said, is_repeated = "", True
        try:
            path.write_text(change.apply(source))
            # A compiled module is known by its source's time, in seconds, and size: both may be the former mutant's.
            os.utime(path, (at.st_atime, at.st_mtime + 2 + change.start))
            for number, stage in enumerate(stages):
                code, said = self.run(stage) if stage else (0, "")
                if code not in (0, COLLECTED_NOTHING):
                    is_repeated = number == 0 or self.run([said])[0] == code
                    break
        finally:
            path.write_text(source)
            os.utime(path, (at.st_atime, at.st_mtime))
        state = {0: "survived", COLLECTED_NOTHING: "survived", 1: "killed", None: "late"}.get(code, "broken")
        if state == "killed" and not is_repeated:
            state, said = "broken", f"{said} fails now and then"
        elif state == "killed" and said not in self.sound:
            if self.run([said])[0] != 0:
                state, said = "broken", f"{said} fails without it, too"
            self.sound.add(said)
        return Result(state, "" if state == "survived" else said, time.monotonic() - started)


def copy_tree(root: Path, to: Path) -> Copy:
    """All that git has, or would take, of the working tree."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout
    for name in filter(None, listed.split("\0")):
        if (root / name).exists() and Path(name).name != OURS:
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, to / name)
    return Copy(to)


def stages_of(root: Path, change: Change, hints: Sequence[str]) -> list[list[str]]:
    """What to run: the tests that noticed it before, the files that speak of its module, all."""
    texts = {path: path.read_text() for suite in SUITES for path in sorted((root / suite).rglob("test_*.py"))}
    named = [
        f"{path.relative_to(root)}::{hint}"
        for hint in hints
        for path, text in texts.items()
        if re.search(rf"^def {hint}\(", text, re.MULTILINE)
    ]
    module = re.compile(rf"\b{change.path.stem}\b")
    near = [path for path, text in texts.items() if module.search(text)]
    near.sort(key=lambda path: (change.path.stem not in path.stem, "transition" in path.parts))
    return [named, [str(path.relative_to(root)) for path in near], list(SUITES)]
