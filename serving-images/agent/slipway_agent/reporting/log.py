"""The agent's log: a constant message and key-values, one line each, as JSON or for a person's eye.

SLIPWAY_LOG_FORMAT=json|console (default json); SLIPWAY_LOG_LEVEL=debug|info (default info). A line is written whole,
so lines of several threads don't mix. Imports nothing of the agent.
"""

import json
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TextIO


class Log:
    def __init__(self, environment: Mapping[str, str], stream: TextIO | None = None) -> None:
        self._is_console = environment.get("SLIPWAY_LOG_FORMAT") == "console"
        self._says_debug = environment.get("SLIPWAY_LOG_LEVEL") == "debug"
        self._stream = stream if stream is not None else sys.stderr

    def debug(self, message: str, **fields: object) -> None:
        if self._says_debug:
            self._write("debug", message, fields)

    def info(self, message: str, **fields: object) -> None:
        self._write("info", message, fields)

    def warning(self, message: str, **fields: object) -> None:
        self._write("warning", message, fields)

    def error(self, message: str, **fields: object) -> None:
        self._write("error", message, fields)

    def _write(self, level: str, message: str, fields: Mapping[str, object]) -> None:
        now = datetime.now(UTC)
        if self._is_console:
            words = " ".join(f"{name}={_plain(value)}" for name, value in fields.items())
            line = f"{now:%H:%M:%S} {level.upper():7} {message} {words}".rstrip()
        else:
            record = {"time": format_date(now), "level": level, "message": message, **fields}
            line = json.dumps(record, default=str)
        try:
            self._stream.write(line + "\n")
            self._stream.flush()
        except (OSError, ValueError):
            pass  # nobody reads the log any more; the work goes on


def format_date(moment: datetime) -> str:
    """RFC 3339 in UTC to the millisecond."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _plain(value: object) -> str:
    word = str(value)
    return json.dumps(word) if not word or any(each in word for each in ' "=\n') else word
