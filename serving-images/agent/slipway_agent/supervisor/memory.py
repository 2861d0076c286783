"""What is remembered from one container of the agent to the next: `.agent/readiness.json` on the models volume.

The volume is read-only to the server. A record of before the node's last start counts for nothing: after a crash files
may have lost what they held, and the worker verifies them first.
"""

import json
import os
from contextlib import suppress
from pathlib import Path

from slipway_agent.model.readiness import Verdict, read_verdict, write_verdict

NAME = "readiness.json"


class Memory:
    """`models`: the volume's root."""

    def __init__(self, models: Path, boot_id: str) -> None:
        self._place = models / ".agent" / NAME
        self._boot_id = boot_id

    def read(self) -> Verdict | None:
        """None where nothing can be relied on."""
        try:
            raw = json.loads(self._place.read_text())
            return read_verdict(raw["verdict"]) if raw["boot"] == self._boot_id else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write(self, verdict: Verdict) -> None:
        """Whole; on a full volume there is no record rather than an old one."""
        working = self._place.with_name(f"{NAME}.new")
        try:
            self._place.parent.mkdir(parents=True, exist_ok=True)
            working.write_text(json.dumps({"boot": self._boot_id, "verdict": write_verdict(verdict)}))
            os.replace(working, self._place)
        except OSError:
            for stale in (working, self._place):
                with suppress(OSError):
                    stale.unlink()
