"""What the agent asks of a model server, whichever it is.

A server driver knows the server's file layout and its control endpoints, and nothing of fetching, retries or reports.
Each server is one module or package here and one line in `by_runtime`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeAlias

from slipway_agent.config import Config
from slipway_agent.model.readiness import ReadinessQuestion
from slipway_agent.model.server_state import LoadOutcome, ServerView
from slipway_agent.model.signature import Signature
from slipway_agent.volume.models_volume import ModelVolume

SERVER_KEY = "SLIPWAY_SERVER_KEY"  # the variable that holds the pod's shared secret
REQUEST_SECONDS = 60.0  # a first answer may wait for compilation

Say: TypeAlias = Callable[..., None]
"""`say(message, **fields)` writes one line of the log."""


def go_on() -> None:
    """For those whom nobody calls off."""


def say_nothing(message: str, **fields: object) -> None:
    """For those who have no log."""


@dataclass(frozen=True, slots=True)
class DriverInputs:
    """What a driver is made from. `key`: the pod's shared secret (SLIPWAY_SERVER_KEY), None when there is none."""

    volume: ModelVolume
    config: Config
    key: str | None = field(default=None, repr=False)
    say: Say = say_nothing


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of one predict request, and after how long.

    `words` is None where it was answered well, with `body`; else the server's own words, or what happened to it.
    `status`: of the HTTP answer, None where none came.
    """

    words: str | None
    body: bytes = b""
    seconds: float = 0.0
    status: int | None = None


class Server(Protocol):
    """Called from one thread for `observe` and from another for `load`; both may run at once."""

    @property
    def warms_itself(self) -> bool:
        """Whether the configuration's warm-up requests are run by the server's own mechanism, so that a version it
        calls ready has answered them. False: `servers.wrappers.warmup` runs them through `ask`."""

    def holds_model(self, folder: Path) -> bool:
        """Whether the folder has, directly in it, a file that makes it a model for this server."""

    def accepted_files(self) -> str:
        """The files `holds_model` looks for, for a message."""

    def name_files(self, folder: Path, check: Callable[[], None] = go_on) -> None:
        """Give a version's files the names that the server looks for, beside the names they have. `check` is called
        in what takes long, and raises when the version isn't wanted any more."""

    def observe(self, versions: frozenset[int]) -> ServerView:
        """Which of these versions are ready. Quick (well below a second) and never raises."""

    def read_boot(self) -> frozenset[int]:
        """What a server that starts now would load; empty when nothing readable is written."""

    def write_boot(self, versions: frozenset[int]) -> None:
        """Make a server that starts from now on load exactly these.

        SpecError when no configuration can be made of what there is: ModelInvalid for the model's own files,
        WarmupFailed for a request that can't be asked.
        """

    def load(self, versions: frozenset[int]) -> LoadOutcome:
        """Ask the running server for exactly these versions and wait for its answer.

        Loaded: the boot configuration says the same. Refused or Gone: it says what it said before, so that a server
        that starts again comes back as it was. SpecError as in `write_boot`.
        """

    def ask(self, version: int, body: object, seconds: float = REQUEST_SECONDS) -> Answer:
        """Send one predict request to this loaded version, in the server's own REST form, and wait for its answer.

        Called from the thread of `load`, and from another while nothing loads; never raises.
        """

    def readiness_question(self, version: int) -> ReadinessQuestion:
        """What the server answers well while it has that version ready: `observe` as one request, for the supervisor.

        Pure: nothing is asked, and the key is named, not told.
        """

    def signature(self, version: int) -> Signature | None:
        """What this loaded version takes and gives; None when this server doesn't say.

        TransientError when it can't be asked now. Called from a thread of its own.
        """
