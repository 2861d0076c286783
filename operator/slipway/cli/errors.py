"""How a command ends: its exit code, and the one line that a person reads when it is not 0.

Must not import: anything of Slipway.
"""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """Exit codes for scripts; docs/cli.md lists them."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    TIMED_OUT = 4
    NO_CLUSTER = 5
    INTERRUPTED = 130


class CommandError(Exception):
    """A command fails. `message` is one line: what is wrong, where, and what to do next.

    may_pass: the same request may succeed in a while.
    """

    def __init__(self, code: Exit, message: str, *, may_pass: bool = False) -> None:
        super().__init__(message)
        self.code = code
        self.message = " ".join(message.split())
        self.may_pass = may_pass


def failed(message: str) -> CommandError:
    """The command was refused, or it went wrong."""
    return CommandError(Exit.FAILED, message)


def misused(message: str) -> CommandError:
    """The command line makes no sense."""
    return CommandError(Exit.USAGE, message)


def not_found(message: str) -> CommandError:
    """There is no such object or revision."""
    return CommandError(Exit.NOT_FOUND, message)
