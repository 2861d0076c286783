"""`make judgement`: nothing is promoted without a named reason, and nothing is rejected for want of room.

Two parts bring rollouts into trouble and keep what came of each (`Trial`): tests/transition/test_judgement.py on the
cluster that is a dictionary, tests/crash/judged.py on a real API server with played pods. This file runs both and
prints one table of what they kept. Standard library only, so that both parts can import it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

KEPT_IN = "SLIPWAY_JUDGEMENT"
"""The file that trials are written to, a line each; unset: nowhere."""
IN_MEMORY, ON_API_SERVER = "a dictionary as cluster", "a real API server"
PARTS: Mapping[str, Sequence[str]] = {
    IN_MEMORY: ("pytest", "-q", "-p", "no:cacheprovider", "tests/transition/test_judgement.py"),
    ON_API_SERVER: ("tests.crash", "--judged"),
}


@dataclass(frozen=True, slots=True)
class Trial:
    """A rollout in trouble, from its beginning to its end.

    deaths: operators that ended on the way. promotions: the reason that a transition names, of each revision that
    became stable; empty: none is named. rejections: what was held against revisions that had done nothing wrong.
    """

    part: str
    deaths: int
    promotions: Sequence[str]
    rejections: Sequence[str] = ()


class Story:
    """Who became stable, why, and who was rejected: read from every status in turn."""

    def __init__(self) -> None:
        self._stable: str | None = None
        self.first_stable = ""
        self.promotions: list[str] = []
        self.rejections: list[str] = []

    def hear(self, status: Mapping[str, Any]) -> None:
        """The next status. One without a stable revision (a status that was lost) says nothing of it."""
        for each in status.get("rejected", []):
            text = f"{each['revision']}: {each['reason']}: {each['message']}"
            if text not in self.rejections:
                self.rejections.append(text)
        stable = (status.get("stable") or {}).get("revision")
        if stable in (None, self._stable):
            return
        self._stable, self.first_stable = stable, self.first_stable or stable
        told = [each for each in status.get("transitions", []) if each["reason"] in ("Promoted", "RolledBack")]
        last = told[-1] if told else {}
        if last.get("reason") != "RolledBack":
            self.promotions.append((last.get("because") or "") if last.get("revision") == stable else "")


def keep(trial: Trial) -> None:
    """Writes it down, where somebody asked for that."""
    if path := os.environ.get(KEPT_IN):
        with open(path, "a") as kept:
            kept.write(json.dumps(asdict(trial)) + "\n")


def table(trials: Iterable[Trial]) -> str:
    """What came of all, a row for each part."""
    rows = [HEADINGS]
    parts: dict[str, list[Trial]] = {}
    for trial in trials:
        parts.setdefault(trial.part, []).append(trial)
    for part, own in parts.items():
        reasons = Counter(reason for trial in own for reason in trial.promotions)
        named = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()) if reason)
        rejected = sum(len(trial.rejections) for trial in own)
        deaths = sum(trial.deaths for trial in own)
        rows.append((part, str(len(own)), str(deaths), f"{reasons.total()}: {named}", str(reasons[""]), str(rejected)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


HEADINGS = ("on", "scenarios", "operators ended", "promotions", "for no named reason", "rejected for want of room")


def read_trials(path: Path) -> list[Trial]:
    return [Trial(**json.loads(line)) for line in path.read_text().splitlines()]


def main(arguments: Sequence[str]) -> int:
    """Runs both parts, or with `--quick` the first alone; the arguments are pytest's otherwise."""
    parts = [IN_MEMORY] if "--quick" in arguments else list(PARTS)
    more = [each for each in arguments if each != "--quick"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trials"
        path.touch()
        environment = {**os.environ, KEPT_IN: str(path)}
        codes = [
            subprocess.run([sys.executable, "-m", *PARTS[part], *more], env=environment, check=False).returncode
            for part in parts
        ]
        trials = read_trials(path)
    print(f"\n{table(trials)}")
    is_clean = all("" not in trial.promotions and not trial.rejections for trial in trials)
    return max([*codes, 0 if is_clean else 1])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
