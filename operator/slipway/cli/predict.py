"""`predict`: a request from a file to a pod of a revision, or to one of each, compared.

Must not import: kubernetes.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from slipway.cli import clock
from slipway.cli.client import Answer, Request
from slipway.cli.compare import Compared, compare, content_type, parse_json, route_of
from slipway.cli.errors import CommandError, Exit, failed, misused, not_found
from slipway.cli.history import read_history
from slipway.cli.output import plain, written
from slipway.cli.session import Session
from slipway.cli.terminal import complain
from slipway.cli.view import RevisionView, Role, View, view_of
from slipway.cli.watch import is_ready
from slipway.revisions import Revision

ROLES: Mapping[str, tuple[Role | None, ...]] = {
    "service": (None,),
    "stable": ("stable",),
    "canary": ("canary",),
    "both": ("stable", "canary"),
}
"""Whom `--to` asks. None: whom the Service chooses."""
NOT_SENT = frozenset({"host", "content-length", "connection", "authorization", "transfer-encoding"})
"""Headers that the way through the API server needs for itself."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One revision's answer. revision: None where the Service chose. where: the pod or Service that was asked."""

    to: str
    revision: str | None
    version: int | None
    where: str
    answer: Answer

    @property
    def is_success(self) -> bool:
        """2xx."""
        return 200 <= self.answer.status < 300


def read_body(file: str) -> bytes:
    """The request's body, of a file or of stdin."""
    try:
        return sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except FileNotFoundError:
        raise CommandError(Exit.NOT_FOUND, f"there is no file {file}") from None
    except OSError as error:
        raise failed(f"{file} can't be read: {error.strerror}") from None


def read_headers(typed: Sequence[str]) -> dict[str, str]:
    """Headers as curl takes them."""
    headers = {}
    for line in typed:
        name, colon, value = line.partition(":")
        if not colon or not name.strip():
            raise misused(f"-H {line!r} is no header; write it as in 'Name: value'")
        if name.strip().lower() in NOT_SENT:
            raise misused(f"-H {name.strip()} can't be sent through the API server; leave it out")
        headers[name.strip()] = value.strip()
    return headers


def predict(
    session: Session,
    name: str,
    to: str,
    body: bytes,
    headers: Mapping[str, str],
    timeout_seconds: float,
    form: str | None,
) -> None:
    """Ask, and show the answer. Raises CommandError(FAILED) when an answer is no success."""
    view = view_of(session.model(name), clock.now())
    typed = {each.lower() for each in headers}
    sent = dict(headers) | ({} if "content-type" in typed else {"Content-Type": content_type(body)})
    history = {each.hash: each for each in read_history(session.world.list_revisions(view.name))}
    roles = ROLES[to]
    routes = [_revision_of(role, view, history) for role in roles]  # all are known before the first is asked
    asked = [
        _ask(session, view, role, revision, Request("", body, sent, timeout_seconds))
        for role, revision in zip(roles, routes, strict=True)
    ]
    compared = compare(asked[0].answer.body, asked[1].answer.body) if len(asked) == 2 else None
    _show(session, view, asked, compared, form)
    for each in asked:
        if not each.is_success:
            raise failed(f"{each.to} answered {each.answer.status}: the request or the model is wrong, see its answer")


def _revision_of(role: Role | None, view: View, history: Mapping[str, Revision]) -> Revision:
    shown = view.of_role(role or "stable") or (view.of_role("canary") if role is None else None)
    if shown is None:
        why = "no revision is taking over" if role == "canary" else "nothing serves yet"
        raise not_found(f"{view.name} has no {role or 'stable'} revision now: {why}; status shows how far it is")
    if shown.revision not in history:
        raise not_found(f"revision {shown.revision} has no ControllerRevision; wait until the operator wrote it")
    return history[shown.revision]


def _ask(session: Session, view: View, role: Role | None, revision: Revision, request: Request) -> Asked:
    if role is None:
        route = route_of(revision, view.name, names_version=False)
        answer = session.world.ask("services", view.name, "http", _at(request, route.path))
        return Asked("service", None, None, view.name, answer)
    shown = view.of_role(role)
    assert shown is not None
    route = route_of(revision, view.name, names_version=_shares_pods(shown, view))
    pod = _ready_pod(session, view, shown)
    answer = session.world.ask("pods", pod, str(route.port), _at(request, route.path))
    return Asked(role, revision.hash, revision.version, pod, answer)


def _at(request: Request, path: str) -> Request:
    return Request(path, request.body, request.headers, request.timeout_seconds)


def _shares_pods(shown: RevisionView, view: View) -> bool:
    """In place, two revisions are in one pod: each is asked by its version's number."""
    return any(other.role != shown.role and other.carrier == shown.carrier for other in view.revisions)


def _ready_pod(session: Session, view: View, shown: RevisionView) -> str:
    selector = f"slipway.dev/model={view.name},slipway.dev/revision={shown.carrier}"
    ready = [pod["metadata"]["name"] for pod in session.world.list_pods(selector) if is_ready(pod)]
    if not ready:
        raise failed(f"no pod of the {shown.role} revision {shown.revision} is ready; status says why")
    return str(min(ready))


# --- shown ---


def _show(
    session: Session, view: View, asked: Sequence[Asked], compared: list[Compared] | None, form: str | None
) -> None:
    if form is not None:
        session.terminal.write(written(_document(view, asked, compared), form))
        return
    if compared is not None:
        session.terminal.show(Group(_answers(asked), Text(), draw_comparison(compared)))
        return
    for each in asked:
        # Beside the answer, which alone goes to stdout: so it can be piped on.
        complain(f"{_who(each)} answered {each.answer.status} in {each.answer.milliseconds:.1f} ms")
        session.terminal.write(each.answer.body.decode(errors="replace").rstrip("\n") + "\n")


def _who(asked: Asked) -> str:
    if asked.revision is None:
        return f"Service {asked.where}"
    return f"{asked.to} {asked.revision} (version {asked.version}, pod {asked.where})"


def _answers(asked: Sequence[Asked]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for title in ("", "REVISION"):
        table.add_column(title, no_wrap=True)
    for title in ("VERSION", "STATUS", "MS"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("POD", overflow="fold")
    for each in asked:
        table.add_row(
            Text(each.to, "green" if each.to == "stable" else "yellow"),
            str(each.revision),
            str(each.version),
            Text(str(each.answer.status), "" if each.is_success else "red"),
            f"{each.answer.milliseconds:.1f}",
            Text(each.where, "dim"),
        )
    return table


def draw_comparison(compared: Sequence[Compared]) -> Table:
    """Output by output, how far the answers are apart."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("OUTPUT")
    table.add_column("VALUES", justify="right")
    table.add_column("DIFFER", justify="right")
    table.add_column("MOST", justify="right")
    table.add_column("RELATIVE", justify="right")
    for each in compared:
        if each.note:
            table.add_row(each.name, str(each.values or ""), Text(each.note, "red"), "", "")
            continue
        table.add_row(
            each.name,
            str(each.values),
            Text("same" if each.is_same else str(each.differing), "green" if each.is_same else "yellow"),
            "" if each.most_absolute is None else f"{each.most_absolute:.3g}",
            "" if each.most_relative is None else f"{each.most_relative:.2%}".replace("%", " %"),
        )
    return table


def _document(view: View, asked: Sequence[Asked], compared: list[Compared] | None) -> dict[str, Any]:
    answers = []
    for each in asked:
        body = parse_json(each.answer.body)
        answers.append(
            {
                "to": each.to,
                "revision": each.revision,
                "version": each.version,
                "where": each.where,
                "status": each.answer.status,
                "milliseconds": round(each.answer.milliseconds, 3),
                "body": body if body is not None else each.answer.body.decode(errors="replace"),
            }
        )
    return {
        "name": view.name,
        "namespace": view.namespace,
        "answers": answers,
        "compared": None if compared is None else plain(compared),
    }
