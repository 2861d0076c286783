"""What stands before a driver and looks like one passes on what isn't its own matter."""

from pathlib import Path

from slipway_agent.model.signature import Signature
from slipway_agent.servers.base import REQUEST_SECONDS, Answer, Server


class PassingServer:
    """The part of the Server protocol that a wrapper leaves to the wrapped one."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def holds_model(self, folder: Path) -> bool:
        return self._server.holds_model(folder)

    def accepted_files(self) -> str:
        return self._server.accepted_files()

    def name_files(self, folder: Path) -> None:
        self._server.name_files(folder)

    def read_boot(self) -> frozenset[int]:
        return self._server.read_boot()

    def write_boot(self, versions: frozenset[int]) -> None:
        self._server.write_boot(versions)

    def ask(self, version: int, body: object, seconds: float = REQUEST_SECONDS) -> Answer:
        return self._server.ask(version, body, seconds)

    def signature(self, version: int) -> Signature | None:
        return self._server.signature(version)
