"""The request that a served version is asked now and then, and how it answers. Values; `plan.probe` judges."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Question:
    """A request in the server's own REST form, or the golden `file` in the version's folder whose first one it is."""

    request: object = None
    file: str | None = None


@dataclass(frozen=True, slots=True)
class Probe:
    """How the served version answers. The default is the one that hasn't begun.

    `version`: the one that is asked; None: none is. `failures`: server errors in a row. `message`: the last one's
    words. `is_failing`: None while nothing is known. `asked`, `failed`, `refused`: how many requests there were since
    the date `since`, and of these failed (5xx) and refused (4xx): whoever reads the server's own counts takes them off.
    `next_at`: when it is asked again.
    """

    version: int | None = None
    failures: int = 0
    is_failing: bool | None = None
    message: str = ""
    asked: int = 0
    failed: int = 0
    refused: int = 0
    next_at: float = 0.0
    since: str = ""
