"""The key that the agent shows to its server is in nothing that may get into a log line or an error's words."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from slipway_agent.loop.state import Surroundings
from slipway_agent.servers.base import DriverInputs
from slipway_agent.servers.local_http import LocalHttp

KEY = "drawn at random"


def test_what_holds_the_key_does_not_show_it() -> None:
    nothing: Any = None
    for holder in (
        DriverInputs(nothing, nothing, KEY),
        LocalHttp(8000, {"slipway-agent": KEY}),
        Surroundings(Path("/models"), KEY, nothing, frozenset, cast("Any", str)),
    ):
        assert KEY not in repr(holder)
