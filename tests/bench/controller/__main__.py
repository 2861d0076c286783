"""`python -m tests.bench.controller --count 1000`: what the operator costs and how fast it is, beside others.

Starts a control plane without a kubelet in a network namespace of its own (twice, fresh each time: bare loop, then
operator), measures there, and prints one table. It never fails for being slow: a benchmark on a shared machine that
fails builds is switched off within a week. Exit code 1 means that something could not be measured at all.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import aiohttp

from tests.apiserver import RequestError
from tests.bench.figures import Goal, percentile
from tests.e2e.cluster.control_plane import audit_log
from tests.e2e.cluster.layout import ClusterFolders

from .figures import GOALS_ARE_FOR, Figure, render_table
from .measure import Captured, Measured, Options, capture_and_run_bare_loop, describe, measure_operator, say
from .operator_process import OperatorError

CLUSTER = (sys.executable, "-m", "tests.e2e.cluster")
NAME = "bench"


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.controller", description=__doc__)
    parser.add_argument("-n", "--count", type=int, default=1000, help="ModelDeployments created at once (default 1000)")
    parser.add_argument("--changes", type=int, default=200, help="spec changes to time; 0 leaves them out")
    parser.add_argument("--changes-per-second", type=float, default=10.0)
    parser.add_argument("--idle-seconds", type=float, default=60.0, help="0 leaves it out")
    parser.add_argument(
        "--settle-seconds",
        type=float,
        default=300.0,
        help="how long at most to wait for the controller-manager (20 requests a second) to make all pods",
    )
    parser.add_argument("--no-bare", action="store_true", help="leave the bare loop out")
    parser.add_argument("--no-restart", action="store_true", help="leave the restart out")
    parser.add_argument(
        "--profile", action="store_true", help="sample the operator's CPU time and print what costs what"
    )
    parser.add_argument("--keep", action="store_true", help="leave the last control plane running")
    parser.add_argument("--module", default="slipway", help="the operator, as `python -m MODULE` (default slipway)")
    parser.add_argument("--crds", default="crds", help="the folder of CRDs to install")
    parser.add_argument("--out", default="", help="where logs, recording and profiles go (default: a temporary folder)")
    parser.add_argument("--inside", choices=("bare", "operator"), help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def options_of(arguments: argparse.Namespace) -> Options:
    return Options(
        count=arguments.count,
        changes=arguments.changes,
        changes_per_second=arguments.changes_per_second,
        idle_seconds=arguments.idle_seconds,
        settle_seconds=arguments.settle_seconds,
        bare=not arguments.no_bare,
        restart=not arguments.no_restart,
        profile=arguments.profile,
        module=arguments.module,
        crds=arguments.crds,
        out=arguments.out,
    )


def figures_of(captured: Captured, measured: Measured, count: int) -> list[Figure]:
    """The table's rows; goals and the others' figures are issue 3's."""
    bare, rate = captured.bare, measured.writes_per_second
    ratio = rate / bare.writes_per_second if bare and rate else None
    ratio_with_creation = rate / bare.writes_per_second_with_creation if bare and rate else None
    cpu = measured.cpu_seconds_a_write
    latencies = measured.latencies
    return [
        Figure(
            "all children written, s", measured.all_children_seconds, 1, Goal("at most", 25), "37.9", "13.9", "12.3"
        ),
        Figure("bare loop, writes/s", bare.writes_per_second if bare else None, 0),
        Figure("operator, writes/s", measured.writes_per_second, 0, bare_kopf="406"),
        Figure("operator / bare loop", ratio, 2, Goal("at least", 0.8)),
        Figure("  if the loop creates them, too", ratio_with_creation, 2),
        Figure("bare loop, CPU ms a write", bare.cpu_seconds / bare.writes * 1000 if bare else None, 2),
        Figure("operator, CPU ms a write", cpu * 1000 if cpu else None, 2),
        Figure("writes an object", measured.writes / count, 2, Goal("at most", 8)),  # issue 12's Service for metrics
        Figure("change → child, p50, s", percentile(latencies, 50) if latencies else None, 3),
        Figure("change → child, p99, s", percentile(latencies, 99) if latencies else None, 3, Goal("at most", 0.3)),
        Figure("restart → empty queue, s", measured.restart_seconds, 1, Goal("at most", 5), "23"),
        Figure(
            "writes of a restart",
            None if measured.restart_writes is None else measured.restart_writes.total(),
            0,
            Goal("at most", 0),
            "2,915",
        ),
        Figure("resident memory, peak, MiB", measured.peak_resident, 0, Goal("at most", 120), "149", "163", "93"),
        Figure("  of it anonymous, MiB", measured.peak_anonymous, 0),
        Figure("resident after restart, MiB", measured.restart_peak_resident or None, 0, Goal("at most", 120)),
        Figure("CPU until all children, s", measured.create_cpu_seconds, 1, bare_kopf="3.3"),
        Figure("CPU until settled, s", measured.settle_cpu_seconds, 1),
        Figure(
            "writes while idle",
            None if measured.idle_writes is None else measured.idle_writes.total(),
            0,
            Goal("at most", 0),
        ),
    ]


def run_inside(phase: str, options: Options) -> None:
    """One phase, in the cluster's network namespace; hands its result over by file."""
    captured_file = Path(options.out, "captured.json")
    if phase == "bare":
        asyncio.run(capture_and_run_bare_loop(options)).save(captured_file)
        return
    captured = Captured.load(captured_file)
    measured = asyncio.run(measure_operator(options, captured))
    figures = figures_of(captured, measured, options.count)
    Path(options.out, "figures.json").write_text(json.dumps([asdict(figure) for figure in figures], indent=1))
    print()
    print("\n".join(describe(measured, options.count)))
    if options.profile:
        for name in ("profile", "profile-restart") if options.restart else ("profile",):
            if (tables := Path(options.out, f"{name}.txt")).exists():
                print(f"\n{name} ({tables}):\n{tables.read_text()}")
    print()
    if options.count != GOALS_ARE_FOR:
        print(f"Goals and the others' figures are for {GOALS_ARE_FOR:,} ModelDeployments, not {options.count:,}.\n")
    print(render_table(figures))


def run_phase(phase: str, arguments: Sequence[str], out: str) -> None:
    """Starts a fresh control plane and runs one phase inside it."""
    subprocess.run([*CLUSTER, "up", "--control-plane-only", "--name", NAME, "--fresh", "--audit"], check=True)
    inside = [sys.executable, "-m", "tests.bench.controller", *arguments, "--out", out, "--inside", phase]
    environment = os.environ | {"SLIPWAY_AUDIT_LOG": str(audit_log(ClusterFolders(NAME)))}
    subprocess.run([*CLUSTER, "exec", "--name", NAME, *inside], check=True, env=environment)


def main() -> int:
    arguments = parse_arguments()
    if arguments.inside:
        try:
            run_inside(arguments.inside, options_of(arguments))
        except (OperatorError, RequestError, aiohttp.ClientError) as error:
            print(f"Can't measure: {error}", file=sys.stderr)
            return 1
        except BaseExceptionGroup as group:
            print(f"Can't measure: {group.exceptions[0]}", file=sys.stderr)
            return 1
        return 0
    out = arguments.out or tempfile.mkdtemp(prefix="slipway-bench-")
    Path(out).mkdir(parents=True, exist_ok=True)
    say(f"logs and recordings: {out}")
    try:
        for phase in ("bare", "operator"):
            run_phase(phase, sys.argv[1:], out)
    except subprocess.CalledProcessError as error:
        print(
            f"Stopped: {' '.join(map(str, error.cmd[-6:]))} ended with {error.returncode}; see above.", file=sys.stderr
        )
        return 1
    finally:
        if not arguments.keep:
            subprocess.run([*CLUSTER, "down", "--name", NAME], check=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
