"""`predict`: one request to a revision's pod or to the Service; or to stable and canary, whose answers are compared.

Must not import: kubernetes.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from slipway.api.v1alpha1 import ModelDeploymentSpec
from slipway.cli import clock
from slipway.cli.client import Request, Response
from slipway.cli.compare import Compared, compare, parse_json
from slipway.cli.errors import CommandError, Exit, failed, misused, not_found
from slipway.cli.history import read_history
from slipway.cli.output import as_json, serialized
from slipway.cli.session import Session
from slipway.cli.terminal import complain
from slipway.cli.view import RevisionView, Role, View, view_of
from slipway.cli.watch import is_ready
from slipway.model.revision import Revision
from slipway.runtimes import RUNTIMES

ROLES: Mapping[str, tuple[Role | None, ...]] = {
    "service": (None,),
    "stable": ("stable",),
    "canary": ("canary",),
    "both": ("stable", "canary"),
}
"""`--to` → the roles that get the request. None: the Service chooses."""
NOT_SENT = frozenset({"host", "content-length", "connection", "authorization", "transfer-encoding"})
"""Headers that the connection to the API server sets itself."""


@dataclass(frozen=True, slots=True)
class Route:
    """Where a revision's pods take predictions."""

    port: int
    path: str


@dataclass(frozen=True, slots=True)
class Answer:
    """One revision's answer. revision None: the Service chose. where: the pod or Service that got the request."""

    to: str
    revision: str | None
    version: int | None
    where: str
    response: Response

    @property
    def is_success(self) -> bool:
        """2xx."""
        return 200 <= self.response.status < 300


def read_request(file: str, headers: Sequence[str], timeout_seconds: float) -> Request:
    """The request in a file, or from stdin with `-`, for no path yet. headers: as curl takes them, `Name: value`."""
    body, typed = _read_body(file), _parse_headers(headers)
    if "content-type" not in {name.lower() for name in typed}:
        is_json = parse_json(body) is not None
        typed["Content-Type"] = "application/json" if is_json else "application/octet-stream"
    return Request("", body, typed, timeout_seconds)


def _read_body(file: str) -> bytes:
    try:
        return sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except FileNotFoundError:
        raise CommandError(Exit.NOT_FOUND, f"there is no file {file}") from None
    except OSError as error:
        raise failed(f"{file} can't be read: {error.strerror}") from None


def _parse_headers(lines: Sequence[str]) -> dict[str, str]:
    headers = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not name.strip():
            raise misused(f"-H {line!r} is not a header; write it as 'Name: value'")
        if name.strip().lower() in NOT_SENT:
            raise misused(f"-H {name.strip()} can't be sent through the API server; leave it out")
        headers[name.strip()] = value.strip()
    return headers


def predict(session: Session, name: str, to: str, request: Request, format: str | None) -> None:
    """Send the request, and show the answers. Raises CommandError(FAILED) when one is not a 2xx."""
    view = view_of(session.model(name), clock.now())
    history = {each.hash: each for each in read_history(session.client.list_revisions(view.name))}
    roles = ROLES[to]
    revisions = [_revision_of(role, view, history) for role in roles]  # all are known before the first gets a request
    answers = [_send(session, view, role, revision, request) for role, revision in zip(roles, revisions, strict=True)]
    compared = compare(answers[0].response.body, answers[1].response.body) if len(answers) == 2 else None
    _show(session, view, answers, compared, format)
    for each in answers:
        if not each.is_success:
            raise failed(f"{each.to} answered {each.response.status}; the request or the model is wrong")


def _revision_of(role: Role | None, view: View, history: Mapping[str, Revision]) -> Revision:
    shown = view.of_role(role or "stable") or (view.of_role("canary") if role is None else None)
    if shown is None:
        why = "no revision is taking over" if role == "canary" else "nothing serves yet"
        raise not_found(f"{view.name} has no {role or 'stable'} revision now: {why}; status shows the rollout")
    if shown.revision not in history:
        raise not_found(f"revision {shown.revision} has no ControllerRevision yet; try again in a moment")
    return history[shown.revision]


def _send(session: Session, view: View, role: Role | None, revision: Revision, request: Request) -> Answer:
    if role is None:
        route = route_of(revision, view.name, names_version=False)
        response = session.client.send("services", view.name, "http", replace(request, path=route.path))
        return Answer("service", None, None, view.name, response)
    shown = view.of_role(role)
    assert shown is not None
    route = route_of(revision, view.name, names_version=_shares_pods(shown, view))
    pod = _ready_pod(session, view, shown)
    response = session.client.send("pods", pod, str(route.port), replace(request, path=route.path))
    return Answer(role, revision.hash, revision.version, pod, response)


def route_of(revision: Revision, name: str, *, names_version: bool) -> Route:
    """Where this revision's server takes predictions. names_version: ask by version, as its pods serve others too.

    Raises CommandError when the revision was made by a release whose fields this one doesn't know.
    """
    try:
        spec = ModelDeploymentSpec.model_validate(revision.choice)
    except ValueError:
        raise failed(
            f"revision {revision.hash} was written by another release of Slipway; update this command"
        ) from None
    runtime = RUNTIMES[spec.runtime.name]
    http = next(port for port in runtime.ports(spec) if port.name == "http")
    version = revision.version if names_version and revision.version else None
    return Route(http.number, runtime.predict_path(spec, spec.model.name or name, version))


def _shares_pods(shown: RevisionView, view: View) -> bool:
    """In place, two revisions are in one pod: a request names its version."""
    return any(other.role != shown.role and other.workload == shown.workload for other in view.revisions)


def _ready_pod(session: Session, view: View, shown: RevisionView) -> str:
    selector = f"slipway.dev/model={view.name},slipway.dev/revision={shown.workload}"
    ready = [pod["metadata"]["name"] for pod in session.client.list_pods(selector) if is_ready(pod)]
    if not ready:
        raise failed(f"no pod of the {shown.role} revision {shown.revision} is ready; status says why")
    return str(min(ready))


# --- shown ---


def _show(
    session: Session, view: View, answers: Sequence[Answer], compared: list[Compared] | None, format: str | None
) -> None:
    if format is not None:
        session.terminal.write(serialized(_document(view, answers, compared), format))
        return
    if compared is not None:
        session.terminal.show(Group(_draw_answers(answers), Text(), _draw_comparison(compared)))
        return
    for each in answers:
        # On stderr: stdout holds the answer alone, for a pipe.
        complain(f"{_who(each)} answered {each.response.status} in {each.response.milliseconds:.1f} ms")
        session.terminal.write(each.response.body.decode(errors="replace").rstrip("\n") + "\n")


def _who(answer: Answer) -> str:
    if answer.revision is None:
        return f"Service {answer.where}"
    return f"{answer.to} {answer.revision} (version {answer.version}, pod {answer.where})"


def _draw_answers(answers: Sequence[Answer]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for title in ("", "REVISION"):
        table.add_column(title, no_wrap=True)
    for title in ("VERSION", "STATUS", "MS"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("POD", overflow="fold")
    for each in answers:
        table.add_row(
            Text(each.to, "green" if each.to == "stable" else "yellow"),
            str(each.revision),
            str(each.version),
            Text(str(each.response.status), "" if each.is_success else "red"),
            f"{each.response.milliseconds:.1f}",
            Text(each.where, "dim"),
        )
    return table


def _draw_comparison(compared: Sequence[Compared]) -> Table:
    """A row for each output: how far the answers are apart."""
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


def _document(view: View, answers: Sequence[Answer], compared: list[Compared] | None) -> dict[str, Any]:
    return {
        "name": view.name,
        "namespace": view.namespace,
        "answers": [_answer_document(each) for each in answers],
        "compared": None if compared is None else as_json(compared),
    }


def _answer_document(answer: Answer) -> dict[str, Any]:
    body = parse_json(answer.response.body)
    return {
        "to": answer.to,
        "revision": answer.revision,
        "version": answer.version,
        "where": answer.where,
        "status": answer.response.status,
        "milliseconds": round(answer.response.milliseconds, 3),
        "body": body if body is not None else answer.response.body.decode(errors="replace"),
    }
