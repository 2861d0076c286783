"""`promote`, `pause`, `resume`, `skip`, `abort`, `retry` and `rollback`: check, write, wait, print the answer.

Must not import: kubernetes.
"""

from __future__ import annotations

from slipway.api.status import CommandStatus
from slipway.cli import clock
from slipway.cli.command import Command, new_command, wait_for_answer, write_command
from slipway.cli.errors import failed
from slipway.cli.history import read_history
from slipway.cli.output import as_json, serialized
from slipway.cli.resolve import choose_revision, revision_before, revision_for
from slipway.cli.session import Session
from slipway.cli.view import View, view_of
from slipway.model.revision import Revision


def steer(
    session: Session,
    verb: str,
    name: str,
    format: str | None,
    *,
    to: str | None,
    waits: bool,
    timeout_seconds: float,
) -> None:
    """Give a command. Raises CommandError(FAILED) when it can't work, or when the operator refuses it."""
    body = session.model(name)
    view = view_of(body, clock.now())
    revision = _rollback_revision(session, view, to) if verb == "rollback" else revision_for(verb, view)
    command = new_command(view.name, verb, revision)
    write_command(session.client, command, body)
    answer = wait_for_answer(session.client, command, timeout_seconds) if waits else None
    if format is not None:
        session.terminal.write(serialized(_document(command, view, answer), format))
    elif answer is None:
        session.terminal.write(f"{verb} of {revision} is written; the operator reads it in its next pass\n")
    elif answer.accepted:
        session.terminal.write(f"{view.name}: {answer.message or verb + ' is carried out'}\n")
    if answer is not None and not answer.accepted:
        raise failed(f"the operator does not {verb} {revision}: {answer.message}")


def _rollback_revision(session: Session, view: View, to: str | None) -> str:
    history = read_history(session.client.list_revisions(view.name))
    chosen = revision_before(history, view) if to is None else choose_revision(to, history, view)
    _refuse_no_change(chosen, view)
    return chosen.hash


def _refuse_no_change(chosen: Revision, view: View) -> None:
    stable, canary = view.of_role("stable"), view.of_role("canary")
    if canary is not None and canary.revision == chosen.hash:
        raise failed(f"revision {chosen.hash} is taking over already; promote sends it to 100 % now")
    if stable is not None and stable.revision == chosen.hash and canary is None:
        raise failed(f"revision {chosen.hash} (version {chosen.version}) serves already; history lists the others")


def _document(command: Command, view: View, answer: CommandStatus | None) -> dict[str, object]:
    """answer None: not waited for; its fields are null."""
    return {
        "name": view.name,
        "namespace": view.namespace,
        "verb": command.verb,
        "revision": command.revision,
        "id": command.id,
        "accepted": None if answer is None else answer.accepted,
        "message": None if answer is None else answer.message,
        "at": None if answer is None else as_json(answer.at),
    }
