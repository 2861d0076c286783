"""A View drawn for a terminal: revisions, steps, gates, verdict, transitions, and the next commands.

Every picture also reads well without colours, in a pipe (lines are not wrapped) and on an ASCII terminal. The width
comes in as a Canvas; nothing here reads the terminal.
Must not import: kubernetes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import chain
from types import MappingProxyType

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from slipway.api.status import read_time
from slipway.cli.counters import Curve, spark
from slipway.cli.resolve import WAYS, Hint
from slipway.cli.view import GateView, RevisionView, StepView, View, age, duration

ROLE_STYLES = {"stable": "green", "canary": "yellow", "previous": "blue"}
RESULT_STYLES = {"Pass": "green", "Fail": "bold red", "Inconclusive": "yellow", "Error": "magenta"}
UNDER_WAY = ("InProgress", "Paused", "Deploying", "Loading", "WaitingForCapacity", "Refreshing", "AgentsTooOld")
REFUSAL_SHOWN_SECONDS = 3600
LABEL_WIDTH = 10
MESSAGE_WIDTH = 30
"""A list with less room than this leaves messages out."""
NARROW = 60
"""Below this width only the most important columns are shown."""
LABELS = {"VersionsReady": "versions", "Reconciling": "waits", "AgentsOutdated": "agents"}
"""Labels of conditions whose name is too long for a label."""


@dataclass(frozen=True, slots=True)
class Canvas:
    """Width and signs of the output. is_unicode: it can show more than ASCII."""

    width: int
    is_unicode: bool = True

    def sign(self, name: str) -> str:
        """A sign, or its ASCII form."""
        return SIGNS[name][0 if self.is_unicode else 1]

    def cut(self, text: Text, width: int) -> None:
        """Shorten a text to that many columns, with a sign at its end where something is missing."""
        if text.cell_len > width:
            text.truncate(width - len(self.sign("cut")))
            text.append(self.sign("cut"))


SIGNS = {
    "on": ("●", "*"),
    "taking over": ("◐", "+"),
    "warm": ("○", "o"),
    "done": ("✓", "ok"),
    "current": ("▶", ">"),
    "next": ("·", "."),
    "failed": ("✗", "FAILED"),
    "waiting": ("…", "--"),
    "cut": ("…", "..."),
    "full": ("━", "#"),
    "empty": ("─", "-"),
    "between": (" · ", " - "),
    "arrow": ("→", "->"),
    "none": ("-", "-"),
}


def draw(
    view: View,
    now: datetime,
    canvas: Canvas,
    program: str,
    hints: Sequence[Hint],
    *,
    curves: Mapping[str, Curve] = MappingProxyType({}),
    most_transitions: int = 5,
) -> RenderableType:
    """The whole picture. program: `slipway` or `kubectl slipway`, for the hints. curves: by workload."""
    parts: list[RenderableType] = [_head(view, canvas), Text(), _revisions(view, canvas)]
    if curves:
        parts += [Text(), _curves(view, canvas, curves)]
    facts = _facts(view, now, canvas)
    if facts.row_count:
        parts += [Text(), facts]
    if view.transitions and most_transitions:
        parts += [Text(), _transitions(view, now, canvas, most_transitions)]
    if hints:
        parts += [Text(), _hints(hints, program, canvas)]
    return Group(*parts)


def _head(view: View, canvas: Canvas) -> Text:
    between = canvas.sign("between")
    is_well = not view.troubles or view.of_role("canary") is not None
    pods = f"{view.ready_pods} of {view.desired_pods} pods ready"
    if view.ready_pods > view.desired_pods:
        pods = f"{view.ready_pods} pods ready, {view.desired_pods} desired"
    head = Text()
    head.append(view.name, "bold")
    head.append(f" in {view.namespace}", "dim")
    head.append(between, "dim")
    head.append(view.phase or "the operator has not read it yet", "green" if is_well and view.phase else "yellow")
    head.append(f"{between}{pods}\n")
    head.append(f"{view.runtime}{between}{view.uri}", "dim")
    return head


# --- revisions ---


def _revisions(view: View, canvas: Canvas) -> RenderableType:
    if not view.revisions:
        return Text("no revision has pods yet", "yellow")
    is_split = any(each.weight_percent is not None or each.weight_in_force is not None for each in view.revisions)
    is_narrow = canvas.width < NARROW
    table = Table(box=None, pad_edge=False, padding=(0, 1 if is_narrow else 2, 0, 0), header_style="dim")
    table.add_column("", no_wrap=True)
    table.add_column("REVISION", no_wrap=True)
    table.add_column("VERSION", justify="right", no_wrap=True)
    table.add_column("READY", justify="right", no_wrap=True)
    bar = min(24, canvas.width - 64) if is_split else 0
    if is_split:
        table.add_column("WEIGHT", justify="right")
        table.add_column("FORCE" if is_narrow else "IN FORCE", justify="right", no_wrap=True)
    if bar >= 8:
        table.add_column("", no_wrap=True)
    for revision in view.revisions:
        style = ROLE_STYLES[revision.role]
        row = [
            Text(f"{_role_sign(revision, canvas)} {_role(revision, view)}", style),
            Text(revision.revision, "bold" if revision.role != "previous" else ""),
            Text(str(revision.version or canvas.sign("none"))),
            Text(str(revision.ready_pods), "" if revision.ready_pods else "red"),
        ]
        if is_split:
            row += [Text(_percent(revision.weight_percent, canvas)), _in_force(revision, canvas)]
        if bar >= 8:
            shown = revision.weight_in_force if revision.weight_in_force is not None else revision.weight_percent or 0
            row.append(_bar(shown / 100, bar, style, canvas))
        table.add_row(*row)
    return table


def _role(revision: RevisionView, view: View) -> str:
    """The first revision replaces no other."""
    return "first" if revision.role == "canary" and view.of_role("stable") is None else revision.role


def _role_sign(revision: RevisionView, canvas: Canvas) -> str:
    return canvas.sign({"stable": "on", "canary": "taking over", "previous": "warm"}[revision.role])


def _percent(weight: int | None, canvas: Canvas) -> str:
    return canvas.sign("none") if weight is None else f"{weight} %"


def _in_force(revision: RevisionView, canvas: Canvas) -> Text:
    differs = revision.weight_in_force != revision.weight_percent
    return Text(_percent(revision.weight_in_force, canvas), "yellow" if differs else "")


def _bar(share: float, width: int, style: str, canvas: Canvas) -> Text:
    full = round(max(0.0, min(1.0, share)) * width)
    if share > 0:
        full = max(1, full)
    bar = Text().append(canvas.sign("full") * full, style)
    return bar.append(canvas.sign("empty") * (width - full), "dim")


def _curves(view: View, canvas: Canvas, curves: Mapping[str, Curve]) -> Table:
    """Errors and latency of each revision with requests, on one scale."""
    table = Table.grid(padding=(0, 1, 0, 0))
    shown = {each.role: curves[each.workload] for each in view.revisions if each.workload in curves}
    width = max(6, min(30, (canvas.width - 52) // 2))
    top_share = max((share or 0 for curve in shown.values() for share in curve.error_shares), default=0)
    top_latency = max((each or 0 for curve in shown.values() for each in curve.latencies), default=0)
    for role, curve in shown.items():
        share, latency = _last(curve.error_shares), _last(curve.latencies)
        table.add_row(
            Text(f"{role:<{LABEL_WIDTH - 1}}", ROLE_STYLES[role]),
            Text(spark(curve.error_shares, max(top_share, 0.01), width, is_unicode=canvas.is_unicode), "red"),
            Text(f"{canvas.sign('none') if share is None else f'{share:.1%}'.replace('%', ' %'):>6} errors"),
            Text(spark(curve.latencies, top_latency, width, is_unicode=canvas.is_unicode), "cyan"),
            Text(f"p99 {canvas.sign('none') if latency is None else f'{latency:g} ms':>8}"),
            Text(f"{curve.requests_per_second:>6.1f}/s", "dim"),
        )
    return table


def _last(points: Sequence[float | None]) -> float | None:
    return points[-1] if points else None


# --- facts ---


Facts = Iterator[tuple[str, RenderableType]]
"""Labels, and what stands beside each."""


def _facts(view: View, now: datetime, canvas: Canvas) -> Table:
    table = Table.grid(padding=(0, 1, 0, 0))
    table.add_column(width=LABEL_WIDTH - 1, style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for label, fact in chain(_progress(view, canvas), _judgement(view, canvas), _problems(view, now)):
        table.add_row(label, fact)
    return table


def _progress(view: View, canvas: Canvas) -> Facts:
    """How far the rollout is, and what it waits for."""
    room = canvas.width - LABEL_WIDTH - 1
    canary = view.of_role("canary")
    if canary is not None and not view.steps and canary.strategy in WAYS and view.of_role("stable") is not None:
        yield "arrives", f"{WAYS[canary.strategy]} ({canary.strategy})"
    if view.steps:
        yield "steps", _steps(view, room, canvas)
        if hold := _hold(view, room, canvas):
            yield "", hold
    if view.is_promote_requested:
        yield "promoted", Text("by a person, straight to 100 %", "yellow")
    if view.waits_for and not (view.current_step and view.current_step.left_seconds):
        text = Text(view.waits_for, "yellow" if view.waits_for_person else "")
        if view.patience_seconds is not None and not view.waits_for_person:
            left = f"{duration(view.patience_seconds)} left, then it is taken back"
            text.append(f"{canvas.sign('between')}{left}", "dim")
        yield "waits for", text
    if view.bake_left_seconds is not None:
        yield "bake", _bake(view, room, canvas)


def _judgement(view: View, canvas: Canvas) -> Facts:
    """What gates, analysis and traffic say about the revisions."""
    if view.gates:
        yield "gates", Text("   ").join(_gate(gate, canvas) for gate in view.gates)
    if view.verdict is not None:
        text = Text().append(view.verdict.result, RESULT_STYLES[view.verdict.result])
        text.append(f"{canvas.sign('between')}{view.verdict.reason}", "dim")
        yield "verdict", text.append(f"\n{view.verdict.message}" if view.verdict.message else "")
    if view.judging:
        yield "judging", Text(view.judging, "yellow" if view.verdict is None else "dim")
    if view.traffic_message:
        yield "traffic", Text(view.traffic_message, "yellow")
    for revision in view.revisions:
        if revision.rolls_because:
            yield "why", f"not in place: {revision.rolls_because}"


def _problems(view: View, now: datetime) -> Facts:
    """A rollback that stands, rejected revisions, troubles, and the last command where it was refused."""
    if view.pinned is not None:
        pinned = f"{view.pinned.revision} serves instead of {view.pinned.instead_of}, until the spec names another"
        yield "rollback", Text(f"{pinned} or a newer version is found", "yellow")
    for each in view.rejected:
        if not any(each.message in trouble.message for trouble in view.troubles):
            text = Text().append(f"{each.revision} ", "bold").append(each.reason, "red")
            text.append(f", {age(read_time(each.at), now)} ago: {each.message.removeprefix(f'{each.reason}: ')}")
            yield "rejected", text
    for trouble in view.troubles:
        is_under_way = trouble.reason in UNDER_WAY
        if is_under_way and trouble.type == "Promoted" and (view.step_index or view.bake_left_seconds is not None):
            continue  # the steps say it, or the bake
        text = Text().append(trouble.reason, "yellow" if is_under_way else "red")
        yield LABELS.get(trouble.type, trouble.type), text.append(f"\n{trouble.message}" if trouble.message else "")
    command = view.last_command
    moment = read_time(command.at) if command is not None and not command.accepted else None
    if command is not None and moment is not None and (now - moment).total_seconds() < REFUSAL_SHOWN_SECONDS:
        text = Text(f"{command.verb} {command.revision}, {age(moment, now)} ago: ")
        yield "refused", text.append(command.message, "red")


def _steps(view: View, room: int, canvas: Canvas) -> Text:
    """✓ 5 %  ✓ 25 %  ▶ pause  · 100 %, on as many lines as needed."""
    chunks = [_step(step, canvas) for step in view.steps]
    if view.step_index == 0:
        chunks.insert(0, Text(f"{canvas.sign('current')} prepares", "bold yellow"))
    lines = [Text()]
    for chunk in chunks:
        if lines[-1].cell_len and lines[-1].cell_len + 3 + chunk.cell_len > room:
            lines.append(Text())
        lines[-1] += chunk if not lines[-1].cell_len else Text("   ") + chunk
    return Text("\n").join(lines)


def _step(step: StepView, canvas: Canvas) -> Text:
    style = {"done": "green", "current": "bold yellow", "next": "dim"}[step.stage]
    what = "pause" if step.weight_percent is None else f"{step.weight_percent} %"
    return Text(f"{canvas.sign(step.stage)} {what}", style)


def _hold(view: View, room: int, canvas: Canvas) -> Text | None:
    """The hold of the current step as a bar; None without one."""
    step = view.current_step
    if step is None or not step.hold_seconds or step.left_seconds is None or view.waits_for_person:
        return None
    words = f" {duration(step.left_seconds)} of {duration(step.hold_seconds)} left"
    width = min(30, room - len(words))
    bar = _bar(1 - step.left_seconds / step.hold_seconds, width, "yellow", canvas) if width >= 8 else Text()
    return bar.append(words)


def _bake(view: View, room: int, canvas: Canvas) -> Text:
    left = view.bake_left_seconds or 0
    previous = view.of_role("previous")
    stays = f"{previous.revision} stays warm" if previous else "the version before stays loaded"
    words = f" {duration(left)} left, {stays}"
    width = min(30, room - len(words))
    share = 1 - left / view.bake_seconds if view.bake_seconds else 1.0
    bar = _bar(share, width, "blue", canvas) if width >= 8 else Text()
    return bar.append(words)


def _gate(gate: GateView, canvas: Canvas) -> Text:
    sign, style = {"passed": ("done", "green"), "waiting": ("waiting", "yellow"), "failed": ("failed", "red")}[
        gate.state
    ]
    return Text(f"{canvas.sign(sign)} {gate.name}", style)


# --- transitions and hints ---


def _transitions(view: View, now: datetime, canvas: Canvas, most: int) -> Table:
    """One line a transition, cut to the width: the newest message also stands above, whole."""
    has_revision = canvas.width >= 100
    rows = [
        (
            Text(f"{age(read_time(each.at), now)} ago", "dim"),
            *([Text(each.revision, "dim")] if has_revision else []),
            Text(each.reason),
            Text(" ".join(each.message.split()), "dim"),
        )
        for each in view.transitions[:most]
    ]
    before = [max(row[place].cell_len for row in rows) for place in range(len(rows[0]) - 1)]
    before[0] = max(before[0], LABEL_WIDTH - 1)
    table = Table.grid(padding=(0, 1, 0, 0))
    table.add_column(justify="right", width=before[0])
    for row in rows:
        canvas.cut(row[-1], max(10, canvas.width - sum(before) - len(before)))
        table.add_row(*row)
    return table


def _hints(hints: Sequence[Hint], program: str, canvas: Canvas) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    for place, hint in enumerate(hints):
        verb, _, rest = hint.words.partition(" ")
        table.add_row(
            Text("next" if place == 0 else "", "dim"),
            Text(f"{program} {verb} {rest}", "bold" if place == 0 else ""),
            Text("" if canvas.width < NARROW else hint.effect, "dim"),
        )
    return table


# --- lists ---


def draw_list(views: Sequence[View], now: datetime, canvas: Canvas, *, everywhere: bool) -> Table:
    """One line a ModelDeployment: the columns of `kubectl get mdep`, its rollout, and its first trouble."""
    has_runtime = not everywhere or canvas.width >= 90
    heads = (
        *(["NAMESPACE"] if everywhere else []),
        "NAME",
        *(["RUNTIME"] if has_runtime else []),
        *("VERSION", "READY", "STATUS", "ROLLOUT", "AGE"),
    )
    rows = [_list_row(view, now, canvas, everywhere=everywhere, has_runtime=has_runtime) for view in views]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="")
    for head in heads:
        table.add_column(head, no_wrap=True)
    widths = [max(len(head), *(row[place].cell_len for row in rows)) + 2 for place, head in enumerate(heads)]
    room = canvas.width - sum(widths)
    if room >= MESSAGE_WIDTH:
        table.add_column("MESSAGE", no_wrap=True)
    for view, row in zip(views, rows, strict=True):
        message = Text(" ".join(view.troubles[0].message.split()) if view.troubles else "", "dim")
        if room >= MESSAGE_WIDTH:
            canvas.cut(message, room)
        table.add_row(*row, *([message] if room >= MESSAGE_WIDTH else []))
    return table


def _list_row(view: View, now: datetime, canvas: Canvas, *, everywhere: bool, has_runtime: bool) -> list[Text]:
    shown = view.shown
    style = "green" if not view.troubles else "yellow" if view.of_role("canary") else "red"
    return [
        *([Text(view.namespace)] if everywhere else []),
        Text(view.name, "bold"),
        *([Text(view.runtime)] if has_runtime else []),
        Text(str(shown.version if shown and shown.version else canvas.sign("none"))),
        Text(f"{view.ready_pods}/{view.desired_pods}", "" if view.ready_pods >= view.desired_pods else "yellow"),
        Text(view.phase or canvas.sign("none"), style),
        _rollout(view, canvas),
        Text(age(view.created, now)),
    ]


def _rollout(view: View, canvas: Canvas) -> Text:
    """→ 3 at 25 %, step 2/4."""
    canary = view.of_role("canary")
    if canary is None:
        if view.bake_left_seconds is not None:
            return Text(f"bake, {duration(view.bake_left_seconds)} left", "blue")
        return Text("rolled back", "yellow") if view.pinned else Text(canvas.sign("none"), "dim")
    if canary is view.shown:
        return Text("first", "yellow")  # it takes over from none: its version stands beside the name
    words = f"{canvas.sign('arrow')} {canary.version or '?'}"
    if canary.weight_percent is not None:
        words += f" at {canary.weight_percent} %"
    if view.steps:
        words += f", step {view.step_index}/{len(view.steps)}"
    return Text(words + (", paused" if view.waits_for_person else ""), "yellow")
