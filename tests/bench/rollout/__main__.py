"""`make bench-rollout`: what a rollout costs its clients, how fast a bad canary is off, and what the router adds; each
figure beside its goal. See README.md for what each one means.

Runs inside the cluster's network, with the operator of the working tree installed by its chart. It never fails for
being slow; exit code 1 means that something could not be measured at all.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.bench.on_cluster import Report, is_installed, new_stage, say
from tests.bench.rollout import lost, off, router
from tests.bench.rollout.subject import Subject, given
from tests.bench.serving.figures import Figure
from tests.e2e.kube import Kube
from tests.e2e.models import train_digits

PARTS = {
    "a": "requests lost",
    "b": "how fast a bad canary is off",
    "c": "weights in force",
    "d": "latency that the router adds",
    "e": "memory of the router",
}


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench-rollout", description=__doc__)
    parser.add_argument(
        "--only", default="abcde", help="parts, such as a or bd: " + "; ".join(map(": ".join, PARTS.items()))
    )
    parser.add_argument(
        "--event", default="", help="of part a, only events with one of these in their title: abort,killed"
    )
    parser.add_argument("--rate", type=float, default=300, help="requests a second, all clients together (default 300)")
    parser.add_argument("--runs", type=int, default=20, help="runs of part b (default 20)")
    parser.add_argument("--rounds", type=int, default=6, help="pairs of windows of part d (default 6)")
    parser.add_argument("--keep", action="store_true", help="leave the namespace as it is in the end")
    chosen = parser.parse_args(arguments)
    if unknown := set(chosen.only) - PARTS.keys():
        parser.error(f"there is no part {', '.join(sorted(unknown))}; there are: {', '.join(PARTS)}")
    return chosen


def measure(part: str, kube: Kube, chosen: argparse.Namespace) -> Iterator[Figure]:
    """One part's figures, of a subject in a namespace of its own."""
    with new_stage(kube, "rollout", keeps=chosen.keep) as stage:
        with tempfile.TemporaryDirectory(prefix="slipway-bench-") as folder:
            digits = train_digits(Path(folder))
        yield from figures_of(part, given(stage, digits), chosen)


def figures_of(part: str, subject: Subject, chosen: argparse.Namespace) -> Iterator[Figure]:
    match part:
        case "a":
            yield from lost.measure(subject, chosen.rate, chosen.event)
        case "b":
            yield from off.measure(subject, chosen.runs)
        case "c":
            yield from router.measure_weights(subject, chosen.rate)
        case "d":
            yield from router.measure_overhead(subject, chosen.rate, chosen.rounds)
        case _:
            yield from router.measure_memory(subject)


def main() -> int:
    chosen = parse_arguments()
    if not is_installed(("operator", "agent", "triton", "router")):
        return 1
    kube, report = Kube(), Report()
    for part in chosen.only:
        say(PARTS[part])
        report.take(PARTS[part], measure(part, kube, chosen))
    return report.end()


if __name__ == "__main__":
    sys.exit(main())
