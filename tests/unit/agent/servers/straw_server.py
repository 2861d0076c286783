"""A server that holds what it is told and answers as a test says: for what stands before a driver."""

from collections.abc import Callable
from pathlib import Path

from slipway_agent.model.readiness import ReadinessQuestion
from slipway_agent.model.server_state import Loaded, LoadOutcome, ServerView
from slipway_agent.model.signature import Signature
from slipway_agent.servers.base import REQUEST_SECONDS, Answer, go_on


class StrawServer:
    """A server that holds what it is told, and answers as `answer` says."""

    warms_itself = False

    def __init__(self) -> None:
        self.is_alive = True
        self.held: frozenset[int] = frozenset()
        self.boot: frozenset[int] = frozenset()
        self.loads: list[frozenset[int]] = []
        self.asked: list[tuple[int, object]] = []
        self.answer: Callable[[int, object], str | None] = lambda version, body: None
        self.bodies: Callable[[int, object], tuple[bytes, float]] = lambda version, body: (b"{}", 0.001)
        self.refusal: LoadOutcome | None = None

    def holds_model(self, folder: Path) -> bool:
        return True

    def accepted_files(self) -> str:
        return "anything"

    def name_files(self, folder: Path, check: Callable[[], None] = go_on) -> None:
        """Nothing."""

    def observe(self, versions: frozenset[int]) -> ServerView:
        return ServerView(True, self.held & versions) if self.is_alive else ServerView()

    def read_boot(self) -> frozenset[int]:
        return self.boot

    def write_boot(self, versions: frozenset[int]) -> None:
        self.boot = versions

    def load(self, versions: frozenset[int]) -> LoadOutcome:
        self.loads.append(versions)
        if self.refusal is not None:
            return self.refusal
        self.held = self.boot = versions
        return Loaded()

    def ask(self, version: int, body: object, seconds: float = REQUEST_SECONDS) -> Answer:
        self.asked.append((version, body))
        words = self.answer(version, body)
        return Answer(words) if words is not None else Answer(None, *self.bodies(version, body))

    def readiness_question(self, version: int) -> ReadinessQuestion:
        return ReadinessQuestion(1, f"/{version}")

    def signature(self, version: int) -> Signature | None:
        return None

    def start(self) -> None:
        self.held, self.is_alive = self.boot, True

    def kill(self) -> None:
        self.held, self.is_alive = frozenset(), False
