"""What a model server answers: which versions are ready, and what became of a load. Values."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from slipway_agent.model.errors import Reason


@dataclass(frozen=True, slots=True)
class ServerView:
    """What the server answered last. `is_alive` False: it doesn't listen (yet, or any more), and nothing is ready."""

    is_alive: bool = False
    ready: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Loaded:
    """The server holds exactly what it was asked to."""


@dataclass(frozen=True, slots=True)
class Refused:
    """The server said no. `words` per version where it named versions; `message` is all that it said."""

    message: str
    words: Mapping[int, str] = field(default_factory=dict)
    reason: Reason = Reason.LOAD_FAILED


@dataclass(frozen=True, slots=True)
class Gone:
    """The server ended, or stopped to answer, in the middle of the request.

    `was_asked`: False where it was gone before it heard of the load, and so can't have died of it.
    """

    message: str
    was_asked: bool = True


LoadOutcome: TypeAlias = Loaded | Refused | Gone
