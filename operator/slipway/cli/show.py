"""`status`, `history` and `diff`: what is asked of the cluster for them, and how it is shown.

Must not import: kubernetes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from slipway.api import SpecError
from slipway.api.v1alpha1 import parse
from slipway.cli import clock
from slipway.cli.client import Json
from slipway.cli.difference import style_of, unified
from slipway.cli.errors import failed
from slipway.cli.history import Entry, changed_fields, entries_of, read_history, short_image
from slipway.cli.output import history_document, list_document, plain, status_document, written
from slipway.cli.picture import Canvas, draw, draw_list
from slipway.cli.resolve import choose_revision
from slipway.cli.session import Session
from slipway.cli.view import View, age, view_of
from slipway.cli.watch import follow_list, follow_model
from slipway.revisions import Revision, hash_of, user_choice

STATE_STYLES = {"stable": "green", "canary": "yellow", "previous": "blue", "rejected": "red"}


def show_list(session: Session, form: str | None, *, everywhere: bool, watches: bool) -> None:
    """All ModelDeployments of the namespace, or of all."""

    def views() -> list[View]:
        found = [view_of(body, clock.now()) for body in session.world.list_models(everywhere=everywhere)]
        if not everywhere:
            session.refuse_unknown_namespace(found)
        return sorted(found, key=lambda view: (view.namespace, view.name))

    def table() -> Table | Text:
        found = views()
        if not found:
            where = "any namespace" if everywhere else f"namespace {session.world.namespace}"
            return Text(f"no ModelDeployment in {where}", "yellow")
        return draw_list(found, clock.now(), session.terminal.canvas(), everywhere=everywhere)

    if form is not None:
        session.terminal.write(written(list_document(views()), form))
    elif watches:
        follow_list(session, table)
    else:
        session.terminal.show(table())


def show_status(
    session: Session, name: str, form: str | None, *, watches: bool, waits: bool, timeout_seconds: float | None
) -> None:
    """One ModelDeployment; followed with `watches` or `waits`."""
    body = session.model(name)
    name = body["metadata"]["name"]
    if watches or (waits and form is None):
        follow_model(session, name, is_live=watches, waits=waits, timeout_seconds=timeout_seconds)
        return
    if waits:
        try:
            follow_model(session.quiet(), name, is_live=False, waits=True, timeout_seconds=timeout_seconds)
        finally:
            _print_status(session, session.model(name), form)
        return
    _print_status(session, body, form)


def _print_status(session: Session, body: Json, form: str | None) -> None:
    view = view_of(body, clock.now())
    hints = session.hints(view)
    if form is not None:
        session.terminal.write(written(status_document(view, hints, session.typed), form))
        return
    session.terminal.show(draw(view, clock.now(), session.terminal.canvas(), session.typed, hints))


# --- history ---


def show_history(session: Session, name: str, form: str | None) -> None:
    """The revisions of one ModelDeployment, the newest first."""
    body = session.model(name)
    view = view_of(body, clock.now())
    entries = entries_of(session.world.list_revisions(view.name), view)
    if form is not None:
        session.terminal.write(written(history_document(view.name, view.namespace, entries), form))
    elif not entries:
        session.terminal.show(Text(f"{view.name} has no revision yet: the operator has not read its spec", "yellow"))
    else:
        session.terminal.show(draw_history(entries, session.terminal.canvas()))


def draw_history(entries: Sequence[Entry], canvas: Canvas) -> Group:
    """The history as a table; why revisions were rejected below it."""
    is_wide = canvas.width >= 110
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="")
    table.add_column("#", justify="right")
    table.add_column("REVISION", no_wrap=True)
    table.add_column("VERSION", justify="right")
    table.add_column("STATE", no_wrap=True)
    table.add_column("AGE", justify="right")
    if is_wide:
        table.add_column("IMAGE", overflow="fold")
        table.add_column("RESOURCES", overflow="fold")
    table.add_column("CHANGED", overflow="fold")
    now = clock.now()
    for entry in entries:
        cells = [
            Text(str(entry.number), "dim"),
            Text(entry.revision, "bold"),
            Text(str(entry.version or canvas.sign("none"))),
            Text(entry.state or canvas.sign("none"), STATE_STYLES.get(entry.state, "dim")),
            Text(age(entry.created, now)),
        ]
        if is_wide:
            amounts = " ".join(f"{key}={value}" for key, value in entry.resources.items())
            cells += [Text(short_image(entry.image)), Text(amounts or canvas.sign("none"))]
        cells.append(Text(", ".join(entry.changed) or canvas.sign("none"), "dim"))
        table.add_row(*cells)
    reasons = [
        Text()
        .append(f"{entry.revision} ", "bold")
        .append(f"{entry.rejected.reason}", "red")
        .append(f": {' '.join(entry.rejected.message.removeprefix(f'{entry.rejected.reason}: ').split())}")
        for entry in entries
        if entry.rejected is not None
    ]
    return Group(table, *([Text(), *reasons] if reasons else []))


# --- diff ---


def show_difference(session: Session, name: str, before: str | None, after: str | None, form: str | None) -> None:
    """What differs between two revisions: the named ones, else stable and what takes over or was rejected."""
    body = session.model(name)
    view = view_of(body, clock.now())
    history = read_history(session.world.list_revisions(view.name))
    if not history:
        raise failed(f"{view.name} has no revision yet: the operator has not read its spec")
    left = choose_revision(before if after is not None and before is not None else "stable", history, view)
    left_name, left_choice = _label(left, view), left.choice
    if before is not None:
        right = choose_revision(after if after is not None else before, history, view)
        right_name, right_choice = _label(right, view), right.choice
    else:
        right_name, right_choice = _asked(body, view, left, history)
    lines = unified(left_choice, right_choice, left_name, right_name)
    if form is not None:
        document = {
            "name": view.name,
            "namespace": view.namespace,
            "before": {"revision": hash_of(left_choice), "choice": plain(left_choice)},
            "after": {"revision": hash_of(right_choice), "choice": plain(right_choice)},
            "changed": list(changed_fields(left_choice, right_choice)),
        }
        session.terminal.write(written(document, form))
    elif not lines:
        session.terminal.show(Text(f"no difference: {left_name} is {right_name}"))
    else:
        session.terminal.show(Text("\n").join(Text(line, style_of(line)) for line in lines))


def _label(revision: Revision, view: View) -> str:
    roles = {each.revision: f"{each.role} " for each in reversed(view.revisions)}
    return f"{roles.get(revision.hash, '')}{revision.hash} (version {revision.version})"


def _asked(body: Json, view: View, stable: Revision, history: Sequence[Revision]) -> tuple[str, dict[str, Any]]:
    """What the spec asks for: the canary, or the spec as it is now."""
    by_hash = {revision.hash: revision for revision in history}
    canary = view.of_role("canary")
    if canary is not None and canary.revision in by_hash:
        return _label(by_hash[canary.revision], view), by_hash[canary.revision].choice
    try:
        spec = parse(body).spec
    except SpecError as error:
        raise failed(f"the spec can't be carried out ({error.message}); name the revisions to compare") from None
    if spec.model.version is None:  # it follows the newest; nothing newer is taking over
        spec = spec.model_copy(update={"model": spec.model.model_copy(update={"version": stable.version or None})})
    choice = user_choice(spec)
    kept = by_hash.get(hash_of(choice))
    bad = {entry.revision for entry in view.rejected}
    what = "the spec's rejected" if hash_of(choice) in bad else "the spec's"
    return (f"{what} {_label(kept, view)}" if kept else f"the spec, {hash_of(choice)}"), choice
