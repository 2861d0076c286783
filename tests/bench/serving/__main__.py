"""`make bench-serving`: what clients notice while a model is updated, found, fetched and first applied; each figure
beside its goal. See README.md for what each one means.

Runs inside the cluster's network, with the operator of the working tree installed by its chart. It never fails for
being slow; exit code 1 means that something could not be measured at all.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.bench.on_cluster import Report, is_installed, new_stage, say
from tests.bench.serving import discovery, first_answer, updates
from tests.bench.serving.figures import Figure
from tests.bench.serving.subjects import SUBJECTS, Subject, write_versions
from tests.e2e import store
from tests.e2e.install import image_references, load_images
from tests.e2e.kube import Kube
from tests.e2e.stage import Stage

PARTS = {
    "a": "rolling and hot updates under load",
    "b": "from stored to served, with no version named",
    "c": "download",
    "d": "apply to first answer, beside a hand-written Deployment",
}


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench-serving", description=__doc__)
    parser.add_argument(
        "--only", default="abcd", help="parts, such as a or bd: " + "; ".join(map(": ".join, PARTS.items()))
    )
    parser.add_argument("--runtime", default="", help=f"runtimes, separated by commas (default: {','.join(SUBJECTS)})")
    parser.add_argument("--rate", type=float, default=200, help="requests a second, all clients together (default 200)")
    parser.add_argument("--repeats", type=int, default=3, help="updates of each kind, and so on (default 3)")
    parser.add_argument("--before-seconds", type=float, default=10, help="undisturbed load before each update")
    parser.add_argument(
        "--strategies",
        default=",".join(updates.STRATEGIES),
        help="of part a, separated by commas (default: all): " + ", ".join(updates.STRATEGIES),
    )
    parser.add_argument("--keep", action="store_true", help="leave the namespaces as they are in the end")
    chosen = parser.parse_args(arguments)
    if unknown := set(chosen.only) - PARTS.keys():
        parser.error(f"there is no part {', '.join(sorted(unknown))}; there are: {', '.join(PARTS)}")
    chosen.runtime = [name for name in chosen.runtime.split(",") if name] or list(SUBJECTS)
    if unknown := set(chosen.runtime) - SUBJECTS.keys():
        parser.error(f"there is no runtime {', '.join(sorted(unknown))} here; there are: {', '.join(SUBJECTS)}")
    return chosen


def fill_claim(stage: Stage, subject: Subject) -> None:
    """The claim `models`, with the subject's versions in it."""
    with tempfile.TemporaryDirectory(prefix="slipway-bench-") as folder:
        write_versions(subject, Path(folder))
        store.claim(stage.kube, stage.namespace, "models")
        store.upload(stage.kube, stage.namespace, "models", Path(folder), image_references()["agent"], "IfNotPresent")


def measure_runtime(kube: Kube, subject: Subject, chosen: argparse.Namespace) -> Iterator[Figure]:
    """The chosen parts of one runtime."""
    load_images((subject.image,))
    if "a" in chosen.only:
        say(f"{subject.runtime}: {PARTS['a']}")
        with new_stage(kube, f"a-{subject.runtime}", keeps=chosen.keep) as stage:
            fill_claim(stage, subject)
            yield from updates.measure(
                stage, subject, chosen.strategies.split(","), chosen.rate, chosen.repeats, chosen.before_seconds
            )
    if "b" in chosen.only:
        say(f"{subject.runtime}: {PARTS['b']}")
        with new_stage(kube, f"b-{subject.runtime}", keeps=chosen.keep) as stage:
            yield from discovery.measure(stage, subject, chosen.rate, chosen.repeats)
    if "d" in chosen.only:
        say(f"{subject.runtime}: {PARTS['d']}")
        with new_stage(kube, f"d-{subject.runtime}", keeps=chosen.keep) as stage:
            yield from first_answer.measure(stage, subject, chosen.repeats)


def main() -> int:
    chosen = parse_arguments()
    if not is_installed(("operator", "agent")):
        return 1
    kube, report = Kube(), Report()
    for name in chosen.runtime:
        report.take(name, measure_runtime(kube, SUBJECTS[name](), chosen))
    if "c" in chosen.only:
        say(PARTS["c"])
        done = subprocess.run([sys.executable, "-m", "tests.bench.serving.download"], check=False)
        report.has_failed |= done.returncode != 0
    return report.end()


if __name__ == "__main__":
    sys.exit(main())
