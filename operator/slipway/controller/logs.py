"""Log lines: a constant message and key-values, as text for people or as JSON for collectors."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from pythonjsonlogger.core import RESERVED_ATTRS, merge_record_extra
from pythonjsonlogger.json import JsonFormatter

STANDARD = frozenset(RESERVED_ATTRS) | {"taskName"}
KOPFS = "k8s_"
"""How the names of the values begin that kopf adds for its own handlers."""


class _Times(logging.Formatter):
    """Times as 2026-03-01T12:00:00.125Z."""

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802 — logging's name
        moment = datetime.fromtimestamp(record.created, UTC)
        return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


class _JsonLines(_Times, JsonFormatter):
    def __init__(self) -> None:
        names = {"asctime": "time", "levelname": "level", "name": "logger", "exc_info": "exception"}
        fields = ["asctime", "levelname", "name", "message"]
        super().__init__(fields, rename_fields=names, reserved_attrs=sorted(STANDARD), json_default=str)

    def process_log_record(self, log_data: dict[str, Any]) -> dict[str, Any]:
        return _without_kopfs(log_data)


class _TextLines(_Times):
    def format(self, record: logging.LogRecord) -> str:
        values = _without_kopfs(merge_record_extra(record, {}, reserved=STANDARD))
        if record.exc_info:
            values["exception"] = self.formatException(record.exc_info)
        pairs = " ".join(f"{key}={value!r}" if " " in str(value) else f"{key}={value}" for key, value in values.items())
        return f"{self.formatTime(record)} {record.levelname:<7} {record.getMessage()} {pairs}".rstrip()


def _without_kopfs(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if not key.startswith(KOPFS)}


def formatter(log_format: str) -> logging.Formatter:
    """What makes a line of a record. log_format: json or console."""
    return _JsonLines() if log_format == "json" else _TextLines()


def configure_logs(log_format: str, level: str) -> None:
    """Send all logs to standard error in one form. kopf's chatter about each event starts at WARNING."""
    handler = logging.StreamHandler()
    handler.setFormatter(formatter(log_format))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.getLogger("kopf").setLevel(logging.WARNING)
    logging.getLogger("aiohttp").setLevel(logging.WARNING)
