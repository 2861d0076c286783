"""`promote`, `pause`, `resume`, `skip`, `abort`, `retry` and `rollback`: checked, written, waited for, told.

Must not import: kubernetes.
"""

from __future__ import annotations

from slipway.api.status import CommandStatus
from slipway.cli import clock
from slipway.cli.command import Order, give, new_order, wait
from slipway.cli.errors import failed
from slipway.cli.history import read_history
from slipway.cli.output import plain, written
from slipway.cli.resolve import choose_revision, revision_before, target_of
from slipway.cli.session import Session
from slipway.cli.view import View, view_of
from slipway.revisions import Revision


def steer(
    session: Session,
    verb: str,
    name: str,
    form: str | None,
    *,
    to: str | None,
    waits: bool,
    timeout_seconds: float,
) -> None:
    """Give a command. Raises CommandError(FAILED) when it can't work, or when the operator refuses it."""
    body = session.model(name)
    view = view_of(body, clock.now())
    revision = _back_to(session, view, to) if verb == "rollback" else target_of(verb, view)
    order = new_order(view.name, verb, revision)
    give(session.world, order, body)
    said = wait(session.world, order, timeout_seconds) if waits else None
    if form is not None:
        session.terminal.write(written(_document(order, view, said), form))
    elif said is None:
        session.terminal.write(f"{verb} of {revision} is written; the operator reads it when it looks next\n")
    elif said.accepted:
        session.terminal.write(f"{view.name}: {said.message or verb + ' is carried out'}\n")
    if said is not None and not said.accepted:
        raise failed(f"the operator does not {verb} {revision}: {said.message}")


def _back_to(session: Session, view: View, to: str | None) -> str:
    history = read_history(session.world.list_revisions(view.name))
    chosen = revision_before(history, view) if to is None else choose_revision(to, history, view)
    _refuse_no_change(chosen, view)
    return chosen.hash


def _refuse_no_change(chosen: Revision, view: View) -> None:
    stable, canary = view.of_role("stable"), view.of_role("canary")
    if canary is not None and canary.revision == chosen.hash:
        raise failed(f"revision {chosen.hash} is taking over already; promote sends it to 100 % now")
    if stable is not None and stable.revision == chosen.hash and canary is None:
        raise failed(f"revision {chosen.hash} (version {chosen.version}) serves already; history lists the others")


def _document(order: Order, view: View, said: CommandStatus | None) -> dict[str, object]:
    """What the operator said; null before it said anything."""
    return {
        "name": view.name,
        "namespace": view.namespace,
        "verb": order.verb,
        "revision": order.revision,
        "id": order.id,
        "accepted": None if said is None else said.accepted,
        "message": None if said is None else said.message,
        "at": None if said is None else plain(said.at),
    }
