"""Starts the operator under a sampling profiler of CPU time: `python -m tests.bench.controller.profiled FILE MODULE`.

Each few milliseconds of CPU time (not of wall time: waiting costs nothing and is not shown) the kernel's timer
interrupts the main thread and the stack of that moment is counted; the samples share the CPU time of the process.
Cheap enough to leave the figures as they are, unlike cProfile, which doubles the cost of many small calls. A C
function's time is its Python caller's.
Written at the end: collapsed stacks in FILE (any flame graph viewer reads them) and FILE.txt with three tables:
by package, by function itself, by function with what it calls.
"""

import atexit
import runpy
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from types import FrameType

INTERVAL_SECONDS = 0.002
Stack = tuple[str, ...]  # outermost first


def name_of(frame: FrameType) -> str:
    """module:function, with a plain file name where a module has none."""
    module = frame.f_globals.get("__name__") or Path(frame.f_code.co_filename).stem
    return f"{module}:{frame.f_code.co_qualname}"


def tables(stacks: Counter[Stack], cpu_seconds: float, rows: int = 45) -> str:
    """The three tables, in CPU seconds; the kernel may tick more slowly than asked, so samples are shares."""
    by_package: Counter[str] = Counter()
    by_itself: Counter[str] = Counter()
    by_all: Counter[str] = Counter()
    for stack, count in stacks.items():
        by_itself[stack[-1]] += count
        by_package[stack[-1].partition(":")[0].partition(".")[0]] += count
        for name in set(stack):
            by_all[name] += count
    total = stacks.total() or 1
    each = cpu_seconds / total
    lines = [f"{cpu_seconds:.2f} CPU seconds in {stacks.total()} samples"]
    for title, counts in (
        ("by package (where the CPU was)", by_package),
        ("by function, itself", by_itself),
        ("by function, with what it calls", by_all),
    ):
        lines += ["", title]
        lines += [
            f"{count * each:8.2f} s {100 * count / total:5.1f} %  {name}" for name, count in counts.most_common(rows)
        ]
    return "\n".join(lines) + "\n"


def sample_until_exit(file: Path) -> None:
    """Starts the timer; the files are written when the interpreter exits."""
    stacks: Counter[Stack] = Counter()

    def on_timer(_signal: int, frame: FrameType | None) -> None:
        names = []
        while frame is not None:
            names.append(name_of(frame))
            frame = frame.f_back
        stacks[tuple(reversed(names))] += 1

    def write() -> None:
        signal.setitimer(signal.ITIMER_PROF, 0)
        file.write_text("".join(f"{';'.join(stack)} {count}\n" for stack, count in stacks.most_common()))
        file.with_name(file.name + ".txt").write_text(tables(stacks, time.process_time()))

    atexit.register(write)
    signal.signal(signal.SIGPROF, on_timer)
    signal.siginterrupt(signal.SIGPROF, False)
    signal.setitimer(signal.ITIMER_PROF, INTERVAL_SECONDS, INTERVAL_SECONDS)


if __name__ == "__main__":
    sample_until_exit(Path(sys.argv[1]))
    module = sys.argv[2]
    sys.argv = [module]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
