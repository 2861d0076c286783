"""The part that wrappers share: they pass on what isn't their own matter, and undo a load that wasn't good enough."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from slipway_agent.model.readiness import ReadinessQuestion
from slipway_agent.model.server_state import Gone, Loaded, LoadOutcome, Refused
from slipway_agent.model.signature import Signature
from slipway_agent.servers.base import REQUEST_SECONDS, Answer, Server, go_on


class ServerWrapper:
    """Passes on all of the Server protocol but `observe`, `load` and `warms_itself`, which a wrapper has of its own."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def holds_model(self, folder: Path) -> bool:
        return self._server.holds_model(folder)

    def accepted_files(self) -> str:
        return self._server.accepted_files()

    def name_files(self, folder: Path, check: Callable[[], None] = go_on) -> None:
        self._server.name_files(folder, check)

    def read_boot(self) -> frozenset[int]:
        return self._server.read_boot()

    def write_boot(self, versions: frozenset[int]) -> None:
        self._server.write_boot(versions)

    def ask(self, version: int, body: object, seconds: float = REQUEST_SECONDS) -> Answer:
        return self._server.ask(version, body, seconds)

    def readiness_question(self, version: int) -> ReadinessQuestion:
        return self._server.readiness_question(version)

    def signature(self, version: int) -> Signature | None:
        return self._server.signature(version)

    def _take_back(self, before: frozenset[int], versions: frozenset[int], refusal: Refused) -> LoadOutcome:
        """The refusal, with the server holding again what it held; with nothing to go back to, it holds what it has."""
        if not before or before == versions:
            return refusal
        outcome = self._server.load(before)
        if not isinstance(outcome, Loaded):
            self._restore_boot(before)
        if isinstance(outcome, Gone):
            return outcome
        if isinstance(outcome, Refused):
            return replace(refusal, message=f"{refusal.message}; and the server wouldn't go back: {outcome.message}")
        return refusal

    def _restore_boot(self, before: frozenset[int]) -> None:
        """A server that starts again comes back as it was, without what has just failed."""
        if before:
            self._server.write_boot(before)
