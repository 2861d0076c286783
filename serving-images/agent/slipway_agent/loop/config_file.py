"""agent.json and recorded.json as they are mounted: read again when they change."""

from collections.abc import Callable, Mapping
from pathlib import Path

from slipway_agent.config import Config, parse_config, parse_recorded
from slipway_agent.model.errors import Reason, SpecError
from slipway_agent.reporting.log import Log
from slipway_agent.reporting.report import ErrorReport
from slipway_agent.servers.by_runtime import KINDS

RECORDED_NAME = "recorded.json"


class ConfigFile:
    """`error`: why the file as it is now isn't in force; None while it is. A file that can't be used leaves the one
    before in force. `pod`: the name of the agent's pod, by which it knows its turn."""

    def __init__(self, path: Path, log: Log, pod: str = "") -> None:
        self._path = path
        self._log = log
        self._pod = pod
        self._seen_stamp: tuple[int, int, int] | None = None
        self._text: str | None = None
        self.error: ErrorReport | None = None

    def has_changed(self) -> bool:
        """Since `follow` read it. A look costs nothing."""
        return self._stamp() != self._seen_stamp

    def follow(self, take_up: Callable[[Config], None]) -> None:
        """Have a changed file taken up. `take_up` raises SpecError for what it refuses."""
        stamp = self._stamp()
        if stamp is not None and stamp == self._seen_stamp:
            return
        try:
            text = self._path.read_text()
        except (OSError, UnicodeDecodeError) as cause:
            self._seen_stamp = None
            words = cause.strerror if isinstance(cause, OSError) else str(cause)
            self._refuse(f"{self._path} can't be read: {words}. The operator mounts it from a ConfigMap")
            return
        self._seen_stamp = stamp
        if text != self._text:
            try:
                take_up(parse_config(text, KINDS, self._pod))
            except SpecError as refusal:
                self._refuse(refusal.message)
                return
            self._text = text
        self.error = None

    def read_recorded(self) -> Mapping[int, str]:
        """The digests that versions had before, as the operator has them now; none where they can't be read."""
        try:
            return parse_recorded((self._path.parent / RECORDED_NAME).read_text())
        except (OSError, UnicodeDecodeError):
            return {}

    def _stamp(self) -> tuple[int, int, int] | None:
        """Other content, another stamp; None when it can't be looked at."""
        try:
            status = self._path.stat()
        except OSError:
            return None
        return (status.st_mtime_ns, status.st_ino, status.st_size)

    def _refuse(self, message: str) -> None:
        if self.error is None or self.error.message != message:
            self._log.error("configuration refused", reason=Reason.CONFIG_INVALID.value, detail=message)
        self.error = ErrorReport(Reason.CONFIG_INVALID, True, message)
