"""Log lines: a constant message and key-values, as text for people or as JSON for collectors."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime

STANDARD = set(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class _Lines(logging.Formatter):
    def __init__(self, *, as_json: bool) -> None:
        super().__init__()
        self._as_json = as_json

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        values = {key: value for key, value in vars(record).items() if key not in STANDARD and key[:4] != "k8s_"}
        if record.exc_info:
            values["exception"] = self.formatException(record.exc_info)
        if self._as_json:
            line = {"time": moment, "level": record.levelname, "logger": record.name, "message": record.getMessage()}
            return json.dumps(line | values, default=str)
        pairs = " ".join(f"{key}={value!r}" if " " in str(value) else f"{key}={value}" for key, value in values.items())
        return f"{moment} {record.levelname:<7} {record.getMessage()} {pairs}".rstrip()


def configure_logs(log_format: str, level: str) -> None:
    """Send all logs to standard error in one form. kopf's chatter about each event starts at WARNING."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Lines(as_json=log_format == "json"))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.getLogger("kopf").setLevel(logging.WARNING)
    logging.getLogger("aiohttp").setLevel(logging.WARNING)
