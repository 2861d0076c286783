"""What an attack on the agent is, and how it is told.

An attack is tried in a folder of its own and says what got through, or None where it was contained. Contained means:
nothing outside the target was read or written, the agent goes on, and who applied the model is told in one sentence.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Attack:
    """One row of `make isolation`.

    kind: archive, link, server or path. attempt: a fresh folder → None, or one clause that says what got through.
    """

    kind: str
    name: str
    attempt: Callable[[Path], str | None]


@dataclass(frozen=True, slots=True)
class Outcome:
    """escaped: None where it was contained. peak_mib: of the process that tried it, its children included."""

    attack: Attack
    escaped: str | None
    seconds: float
    peak_mib: float
