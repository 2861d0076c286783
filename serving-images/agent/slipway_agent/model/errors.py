"""What can go wrong: stable reasons, and messages that a user can act on.

Invariant: every message says what, where and what to do next. Nothing here imports another module of the agent.
"""

from enum import StrEnum


class Reason(StrEnum):
    """Stable API: conditions of the ModelDeployment carry these."""

    SOURCE_NOT_FOUND = "SourceNotFound"
    VERSION_NOT_FOUND = "VersionNotFound"
    DIGEST_MISMATCH = "DigestMismatch"
    REDIRECT_REFUSED = "RedirectRefused"
    ACCESS_DENIED = "AccessDenied"
    SOURCE_UNAVAILABLE = "SourceUnavailable"
    UNSUPPORTED_ARCHIVE = "UnsupportedArchive"
    UNSAFE_PATH = "UnsafePath"
    NO_MODEL_FILE = "NoModelFile"
    MODEL_INVALID = "ModelInvalid"
    DISK_FULL = "DiskFull"
    LOAD_FAILED = "LoadFailed"
    CONFIG_INVALID = "ConfigInvalid"
    CONTENT_CHANGED = "ContentChanged"
    NOT_ENOUGH_MEMORY = "NotEnoughMemory"
    WARMUP_FAILED = "WarmupFailed"
    GOLDEN_FAILED = "GoldenFailed"
    GOLDEN_UNREADABLE = "GoldenUnreadable"
    LABEL_NOT_LOADED = "LabelNotLoaded"
    NOT_SIGNED = "NotSigned"
    VERIFICATION_FAILED = "VerificationFailed"


class AgentError(Exception):
    """An outcome that ends one piece of work; caught by the shell and turned into a report."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


class SpecError(AgentError):
    """Stays wrong until a person, or the source, changes something. It is tried again at a slow pace.

    `fingerprint` names the exact bytes that were judged (an ETag, sizes and times), so that the same bytes
    are not fetched a second time only to be refused again; None when nothing was judged.
    """

    def __init__(self, reason: Reason, message: str, fingerprint: str | None = None) -> None:
        super().__init__(reason, message)
        self.fingerprint = fingerprint


class TransientError(AgentError):
    """May pass by itself. `retry_after_seconds` is what the source asked for, None when it asked for nothing."""

    def __init__(self, message: str, retry_after_seconds: float | None = None) -> None:
        super().__init__(Reason.SOURCE_UNAVAILABLE, message)
        self.retry_after_seconds = retry_after_seconds


class UnchangedError(Exception):
    """The source still holds the bytes that were refused before: the earlier verdict stands."""


class CancelledError(Exception):
    """This work is no longer wanted."""
