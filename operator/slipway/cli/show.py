"""`status`, `history` and `diff`: read from the cluster, then print a picture or a document.

Must not import: kubernetes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from slipway.api import SpecError, parse
from slipway.cli import clock
from slipway.cli.client import Json
from slipway.cli.difference import style_of, unified
from slipway.cli.errors import failed
from slipway.cli.history import KeptRevision, changed_fields, kept_revisions, read_history, short_image
from slipway.cli.output import as_json, history_document, list_document, serialized, status_document
from slipway.cli.picture import Canvas, draw, draw_list
from slipway.cli.resolve import choose_revision
from slipway.cli.session import Session
from slipway.cli.view import View, age, view_of
from slipway.cli.watch import watch_list, watch_model
from slipway.model.revision import Revision, hash_of, user_choice

STATE_STYLES = {"stable": "green", "canary": "yellow", "previous": "blue", "rejected": "red"}


def show_list(session: Session, format: str | None, *, everywhere: bool, watches: bool) -> None:
    """All ModelDeployments of the namespace, or of all namespaces."""

    def views() -> list[View]:
        found = [view_of(body, clock.now()) for body in session.client.list_models(everywhere=everywhere)]
        if not everywhere:
            session.refuse_unknown_namespace(found)
        return sorted(found, key=lambda view: (view.namespace, view.name))

    def table() -> Table | Text:
        found = views()
        if not found:
            where = "any namespace" if everywhere else f"namespace {session.client.namespace}"
            return Text(f"no ModelDeployment in {where}", "yellow")
        return draw_list(found, clock.now(), session.terminal.canvas(), everywhere=everywhere)

    if format is not None:
        session.terminal.write(serialized(list_document(views()), format))
    elif watches:
        watch_list(session, table)
    else:
        session.terminal.show(table())


def show_status(
    session: Session, name: str, format: str | None, *, watches: bool, waits: bool, timeout_seconds: float | None
) -> None:
    """One ModelDeployment. watches: until Ctrl-C; waits: until its rollout has ended."""
    body = session.model(name)
    name = body["metadata"]["name"]
    if watches or (waits and format is None):
        watch_model(session, name, is_live=watches, waits=waits, timeout_seconds=timeout_seconds)
        return
    if waits:
        try:
            watch_model(session.quiet(), name, is_live=False, waits=True, timeout_seconds=timeout_seconds)
        finally:
            _print_status(session, session.model(name), format)
        return
    _print_status(session, body, format)


def _print_status(session: Session, body: Json, format: str | None) -> None:
    view = view_of(body, clock.now())
    hints = session.hints(view)
    if format is not None:
        session.terminal.write(serialized(status_document(view, hints, session.program), format))
        return
    session.terminal.show(draw(view, clock.now(), session.terminal.canvas(), session.program, hints))


# --- history ---


def show_history(session: Session, name: str, format: str | None) -> None:
    """The revisions of one ModelDeployment, the newest first."""
    body = session.model(name)
    view = view_of(body, clock.now())
    revisions = kept_revisions(session.client.list_revisions(view.name), view)
    if format is not None:
        session.terminal.write(serialized(history_document(view.name, view.namespace, revisions), format))
    elif not revisions:
        session.terminal.show(Text(f"{view.name} has no revision yet: the operator has not read the spec", "yellow"))
    else:
        session.terminal.show(draw_history(revisions, session.terminal.canvas()))


def draw_history(revisions: Sequence[KeptRevision], canvas: Canvas) -> Group:
    """The history as a table, and below it why revisions were rejected."""
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
    for each in revisions:
        cells = [
            Text(str(each.number), "dim"),
            Text(each.revision, "bold"),
            Text(str(each.version or canvas.sign("none"))),
            Text(each.state or canvas.sign("none"), STATE_STYLES.get(each.state, "dim")),
            Text(age(each.created, now)),
        ]
        if is_wide:
            amounts = " ".join(f"{key}={value}" for key, value in each.resources.items())
            cells += [Text(short_image(each.image)), Text(amounts or canvas.sign("none"))]
        cells.append(Text(", ".join(each.changed) or canvas.sign("none"), "dim"))
        table.add_row(*cells)
    reasons = [
        Text()
        .append(f"{each.revision} ", "bold")
        .append(f"{each.rejected.reason}", "red")
        .append(f": {' '.join(each.rejected.message.removeprefix(f'{each.rejected.reason}: ').split())}")
        for each in revisions
        if each.rejected is not None
    ]
    return Group(table, *([Text(), *reasons] if reasons else []))


# --- diff ---


def show_difference(session: Session, name: str, before: str | None, after: str | None, format: str | None) -> None:
    """The difference between two revisions. before alone: from stable to it. Neither: from stable to canary or spec."""
    body = session.model(name)
    view = view_of(body, clock.now())
    history = read_history(session.client.list_revisions(view.name))
    if not history:
        raise failed(f"{view.name} has no revision yet: the operator has not read the spec")
    left = choose_revision(before if after is not None and before is not None else "stable", history, view)
    left_name, left_choice = _label(left, view), left.choice
    if before is not None:
        right = choose_revision(after if after is not None else before, history, view)
        right_name, right_choice = _label(right, view), right.choice
    else:
        right_name, right_choice = _newest(body, view, left, history)
    lines = unified(left_choice, right_choice, left_name, right_name)
    if format is not None:
        document = {
            "name": view.name,
            "namespace": view.namespace,
            "before": {"revision": hash_of(left_choice), "choice": as_json(left_choice)},
            "after": {"revision": hash_of(right_choice), "choice": as_json(right_choice)},
            "changed": list(changed_fields(left_choice, right_choice)),
        }
        session.terminal.write(serialized(document, format))
    elif not lines:
        session.terminal.show(Text(f"no difference: {left_name} is {right_name}"))
    else:
        session.terminal.show(Text("\n").join(Text(line, style_of(line)) for line in lines))


def _label(revision: Revision, view: View) -> str:
    roles = {each.revision: f"{each.role} " for each in reversed(view.revisions)}
    return f"{roles.get(revision.hash, '')}{revision.hash} (version {revision.version})"


def _newest(body: Json, view: View, stable: Revision, history: Sequence[Revision]) -> tuple[str, dict[str, Any]]:
    """Name and choice of the canary; without a canary, of the spec as it is now."""
    by_hash = {revision.hash: revision for revision in history}
    canary = view.of_role("canary")
    if canary is not None and canary.revision in by_hash:
        return _label(by_hash[canary.revision], view), by_hash[canary.revision].choice
    try:
        spec = parse(body).spec
    except SpecError as error:
        raise failed(f"the spec is invalid ({error.message}); name the revisions to compare") from None
    if spec.model.version is None:  # unset: the newest found; stable serves it, or it was left or rejected
        left = [view.pinned.instead_of] if view.pinned else [each.revision for each in view.rejected]
        newest = max([stable.version, *(by_hash[name].version for name in left if name in by_hash)])
        spec = spec.model_copy(update={"model": spec.model.model_copy(update={"version": newest or None})})
    choice = user_choice(spec)
    kept = by_hash.get(hash_of(choice))
    is_rejected = hash_of(choice) in {each.revision for each in view.rejected}
    what = "the spec's rejected" if is_rejected else "the spec's"
    return (f"{what} {_label(kept, view)}" if kept else f"the spec, {hash_of(choice)}"), choice
