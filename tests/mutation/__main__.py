"""`python -m tests.mutation`: does the suite still notice what it noticed before? Prints a table; make mutants runs it.

The gate is the committed table, mutants.toml: exit code 1 unless each of its mutants is found and killed. With --more N
as many are drawn by --seed and shown below it; they decide nothing.
"""

from __future__ import annotations

import argparse
import queue
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .drawn import draw
from .table import TABLE, Change, Mutant, NotFoundError, find, read_sources, read_table
from .trial import Copy, Result, copy_tree, stages_of

ROOT = Path(__file__).parents[2]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.add_argument("--only", nargs="+", metavar="ID", help="these of the table alone")
    parser.add_argument("--more", type=int, default=0, metavar="N", help="draw so many beside the table's")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="copies of the tree at work at once")
    parser.add_argument("--find", action="store_true", help="say where they are, and run nothing")
    options = parser.parse_args(arguments)
    mutants, words, areas = read_table(TABLE.read_text())
    mutants = [each for each in mutants if not options.only or each.id in options.only]
    sources = {area: read_sources(ROOT, area) for area in areas}
    work: list[tuple[Mutant, Change]] = []
    missing = []
    for each in mutants:
        try:
            work.append((each, find(each, sources[each.area], words)))
        except NotFoundError as cause:
            missing.append((each, Result("not found", str(cause), 0)))
    more = draw(ROOT, areas, options.seed, options.more)
    extra = [
        (Mutant(f"seed {options.seed}, {n}", area, what, change.function, "", change.text), change)
        for n, (area, what, change) in enumerate(more, 1)
    ]
    started = time.monotonic()
    results = [] if options.find else try_all([*work, *extra], options.jobs)
    table = [(each, Result("found", "", 0)) for each, _ in work] if options.find else results[: len(work)]
    places = {each.id: change for each, change in [*work, *extra]}
    for each, result in [*table, *missing, *results[len(work) :]]:
        print(line_of(each, places.get(each.id), result))
    killed = sum(result.state == "killed" for _, result in table)
    print(f"{killed} of {len(mutants)} killed in {time.monotonic() - started:.0f} s")
    return 0 if killed == len(mutants) or (options.find and not missing) else 1


def try_all(work: Sequence[tuple[Mutant, Change]], jobs: int) -> list[tuple[Mutant, Result]]:
    """Each mutant's result, in order; `jobs` at a time, each in a copy of its own."""
    with tempfile.TemporaryDirectory(prefix="slipway-mutants-") as folder, ThreadPoolExecutor(jobs) as pool:
        free: queue.SimpleQueue[Copy] = queue.SimpleQueue()
        for number in range(jobs):
            free.put(copy_tree(ROOT, Path(folder) / str(number)))

        def attempt(each: tuple[Mutant, Change]) -> tuple[Mutant, Result]:
            mutant, change = each
            copy = free.get()
            try:
                result = copy.judge(change, stages_of(copy.root, change, mutant.killed_by))
            finally:
                free.put(copy)
            print(f"{mutant.id}: {result.state}, {result.seconds:.0f} s", file=sys.stderr, flush=True)
            return mutant, result

        return list(pool.map(attempt, work))


def line_of(mutant: Mutant, change: Change | None, result: Result) -> str:
    """A row of the table."""
    where = f"{change.path.stem}.{change.function}" if change is not None else mutant.function
    what = f"{mutant.id:<34} {mutant.area:<6} {result.state:<9} {result.seconds:>4.0f} s"
    return f"{what}  {where:<34} {mutant.meaning}" + (f"\n{'':<41} {result.by}" if result.by else "")


if __name__ == "__main__":
    sys.exit(main())
