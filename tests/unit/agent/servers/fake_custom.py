"""A container of somebody's own: it reads the folder that `current` leads to when it starts, and serves that alone.

A version whose model says `deadly` ends the container at its first look.
"""

from collections.abc import Mapping
from typing import Any

from slipway_agent.servers.custom import LINK
from tests.unit.agent.servers.fake_http import FakeServer, Said


class FakeContainer(FakeServer):
    model_file = "weights.bin"
    serves = ""

    def boot(self) -> None:
        self.serves = (self.folder.parents[1] / LINK / self.model_file).read_text()

    def answer(self, method: str, path: str, body: Any, headers: Mapping[str, str]) -> Said:
        if path.endswith(":predict"):
            return (200, "") if body == {"a": 1} else (422, {"detail": "no a"})
        if self.serves == "deadly":
            self.kill()
            return None
        return 200, ""
