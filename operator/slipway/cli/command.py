"""A person's command: one annotation, and the operator's answer to it.

Invariant: nothing but that annotation is written; the spec belongs to its owner.
Must not import: kubernetes.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from slipway.api.status import CommandStatus, read_status
from slipway.cli import clock
from slipway.cli.client import Client, Json
from slipway.cli.errors import CommandError, Exit, failed, not_found
from slipway.cli.terminal import complain

COMMAND_ANNOTATION = "slipway.dev/command"
FIRST_LOOK_SECONDS = 0.1
LONGEST_LOOK_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Command:
    """A command to a ModelDeployment. revision: a hash; a command that arrives late does nothing to another one."""

    name: str
    verb: str
    revision: str
    id: str

    @property
    def text(self) -> str:
        """The annotation's value."""
        return f"{self.verb}/{self.revision}/{self.id}"


def new_command(name: str, verb: str, revision: str) -> Command:
    """A command with an id of its own: two people who type the same give two commands."""
    return Command(name, verb, revision, f"{clock.now():%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}")


def write_command(client: Client, command: Command, body: Json) -> None:
    """Write the annotation. Prints a note when it replaces a command that the operator has not read yet."""
    unread = _unread(body)
    if unread:
        complain(f"note: the operator has not read {unread!r} yet; {command.verb} replaces it")
    client.annotate(command.name, COMMAND_ANNOTATION, command.text)


def _unread(body: Json) -> str | None:
    text = _annotation(body)
    last = read_status(body.get("status")).last_command
    read_id = last.id if last is not None else None
    return text if text and text.rpartition("/")[2] != read_id else None


def _annotation(body: Json) -> str:
    return str(((body.get("metadata") or {}).get("annotations") or {}).get(COMMAND_ANNOTATION, ""))


def wait_for_answer(client: Client, command: Command, timeout_seconds: float) -> CommandStatus:
    """The operator's answer. Raises CommandError when none comes in time, or when another command comes between."""
    began = clock.seconds()
    pause = FIRST_LOOK_SECONDS
    while True:
        body = client.read_model(command.name)
        if body is None:
            raise not_found(f"ModelDeployment {command.name} was deleted before the operator read the command")
        last = read_status(body.get("status")).last_command
        if last is not None and last.id == command.id:
            return last
        if (current := _annotation(body)) != command.text:
            raise failed(_replaced(command, current))
        left = began + timeout_seconds - clock.seconds()
        if left <= 0:
            raise CommandError(
                Exit.TIMED_OUT,
                f"the operator has not read the command within {timeout_seconds:g} s; is it running? It will carry the "
                f"command out when it runs again. To withdraw it: kubectl -n {client.namespace} annotate mdep "
                f"{command.name} {COMMAND_ANNOTATION}-",
            )
        clock.sleep(min(pause, left))
        pause = min(pause * 1.5, LONGEST_LOOK_SECONDS)


def _replaced(command: Command, current: str) -> str:
    if not current:
        return f"somebody removed annotation {COMMAND_ANNOTATION} before the operator read {command.verb}"
    return f"{current!r} replaced the command before the operator read it"
