"""`make isolation`: everything that an attacker may try on the agent, each in a process of its own.

    python -m tests.isolation [--only WORDS]      all rows whose kind or name has these words

Prints a line for each kind (attempted, contained, the slowest, the largest), then each escape by name. Exits with 1
where something escaped. An attack that takes more than SECONDS, or whose process and its children together take more
memory than the agent's container has, has escaped, too.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from tests.isolation.attack import Attack, Outcome

MODULES = ("archives", "links", "servers", "paths")
SECONDS = 180.0  # some seconds each on an idle machine, ten for 50,000 files; many times that on a busy one
PEAK_MIB = 256.0  # of the agent's container


def collect(modules: Iterable[str] = MODULES) -> list[tuple[str, int, Attack]]:
    """(module, position there, attack) of all modules that exist."""
    found = []
    for name in modules:
        if importlib.util.find_spec(f"tests.isolation.{name}") is not None:
            attacks = importlib.import_module(f"tests.isolation.{name}").ATTACKS
            found += [(name, position, attack) for position, attack in enumerate(attacks)]
    return found


def attempt(module: str, position: int, attack: Attack, seconds: float = SECONDS) -> Outcome:
    """The attack, in a fresh process and a fresh folder, which is gone afterwards."""
    around = Path(tempfile.mkdtemp(prefix="isolation-"))
    folder = around / "in"
    folder.mkdir()
    began = time.monotonic()
    command = [sys.executable, "-m", "tests.isolation", "--one", module, str(position), str(folder)]
    try:
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, process_group=0) as process:
            try:
                said, complaint = process.communicate(timeout=seconds)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                return Outcome(attack, f"it took more than {seconds:g} s", time.monotonic() - began, 0.0)
            return _read(attack, process.returncode, said, complaint)
    finally:
        shutil.rmtree(around, ignore_errors=True)


def _read(attack: Attack, status: int, said: bytes, complaint: bytes) -> Outcome:
    try:
        answer = json.loads(said.splitlines()[-1])
        escaped, seconds, peak_mib = answer["escaped"], float(answer["seconds"]), float(answer["peak_mib"])
    except (ValueError, IndexError, KeyError, TypeError):
        last = complaint.decode(errors="replace").strip().rpartition("\n")[2]
        return Outcome(attack, f"it ended the process (status {status}): {last[:200]}", 0.0, 0.0)
    if escaped is None and peak_mib > PEAK_MIB:
        escaped = f"it took {peak_mib:.0f} MiB"
    return Outcome(attack, escaped, seconds, peak_mib)


def run_one(module: str, position: int, folder: Path) -> None:
    """What the fresh process does: one line of JSON."""
    attack = importlib.import_module(f"tests.isolation.{module}").ATTACKS[position]
    began = time.monotonic()
    escaped = attack.attempt(folder)
    seconds = time.monotonic() - began
    # At worst both were at their largest at once. A child counts what its parent had when it was started, too.
    peaks = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    print(json.dumps({"escaped": escaped, "seconds": seconds, "peak_mib": sum(peaks) / 1024}))


def describe(outcomes: Sequence[Outcome]) -> list[str]:
    """The table, then the escapes."""
    lines = [f"{'kind':<10}{'attempted':>10}{'contained':>10}{'slowest s':>11}{'peak MiB':>10}"]
    for kind in dict.fromkeys(outcome.attack.kind for outcome in outcomes):
        own = [outcome for outcome in outcomes if outcome.attack.kind == kind]
        contained = sum(outcome.escaped is None for outcome in own)
        slowest, peak = max(outcome.seconds for outcome in own), max(outcome.peak_mib for outcome in own)
        lines.append(f"{kind:<10}{len(own):>10}{contained:>10}{slowest:>11.1f}{peak:>10.0f}")
    escapes = [outcome for outcome in outcomes if outcome.escaped is not None]
    return lines + [f"ESCAPED  {each.attack.kind}  {each.attack.name}: {each.escaped}" for each in escapes]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.isolation", description="Attacks on the agent.")
    parser.add_argument("--only", default="", help="rows whose kind or name has these words")
    parser.add_argument("--verbose", action="store_true", help="a line for each row")
    parser.add_argument("--one", nargs=3, metavar=("MODULE", "POSITION", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one is not None:
        module, position, folder = options.one
        run_one(module, int(position), Path(folder))
        return 0
    outcomes = []
    for module, position, attack in collect():
        if options.only not in f"{attack.kind} {attack.name}":
            continue
        outcomes.append(attempt(module, position, attack))
        if options.verbose:
            last = outcomes[-1]
            print(
                f"{last.seconds:6.1f} s {last.peak_mib:5.0f} MiB  {attack.name}: {last.escaped or 'contained'}",
                flush=True,
            )
    print("\n".join(describe(outcomes)), flush=True)
    status = int(any(outcome.escaped is not None for outcome in outcomes) or not outcomes)
    if not options.only and importlib.util.find_spec("tests.isolation.survival") is not None:
        status |= int(bool(importlib.import_module("tests.isolation.survival").main()))
    return status


if __name__ == "__main__":
    sys.exit(main())
