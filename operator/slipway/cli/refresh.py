"""`refresh`: today's agent and images for one ModelDeployment, or for all that have something to refresh.

`--all` begins the next one when the pods of the one before are replaced, and stops where new pods don't come up: an
image that can't be pulled must not go through a fleet. Ctrl-C ends the waiting alone; what was begun goes on in the
cluster, and the same command later takes up what is left, since what is refreshed has nothing to refresh any more.
Invariant: nothing but the command annotation is written, and with --dry-run nothing at all.
Must not import: kubernetes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from slipway.api.status import Condition, ModelDeploymentStatus, read_status
from slipway.cli import clock
from slipway.cli.client import Client, Json
from slipway.cli.command import Command, new_command, wait_for_answer, write_command
from slipway.cli.errors import CommandError, Exit, failed, not_found
from slipway.cli.resolve import not_refreshable, revision_for
from slipway.cli.session import Session
from slipway.cli.view import View, view_of

LOOK_SECONDS = 1.0
PATIENCE_SECONDS = 60.0
"""How long an API server may be down in mid-wait: long enough to restart one."""
ANSWER_SECONDS = 30.0


def refresh_one(session: Session, name: str, *, waits: bool, timeout_seconds: float, is_dry: bool) -> None:
    """Refresh one. Raises CommandError(FAILED) when the operator refuses it, or its new pods don't come up."""
    body = session.model(name)
    view = view_of(body, clock.now())
    if is_dry:
        session.terminal.write(f"{_line(view.name, not_refreshable(view) or _why(view))}\n")
        return
    run = _begin(session.client, body)
    session.terminal.write(f"{_line(view.name, run.answer)}\n")
    if not waits:
        return
    while not run.look():
        clock.sleep(LOOK_SECONDS)
        run.give_up_after(timeout_seconds)
    session.terminal.write(f"{_line(view.name, run.outcome)}\n")


def refresh_all(session: Session, *, everywhere: bool, at_once: int, timeout_seconds: float, is_dry: bool) -> None:
    """Refresh all that have something to refresh, so many at a time. Raises CommandError at the first that fails."""
    bodies = session.client.list_models(everywhere=everywhere)
    if not everywhere:
        session.refuse_unknown_namespace(bodies)
    bodies = sorted(bodies, key=lambda body: (str(body["metadata"]["namespace"]), str(body["metadata"]["name"])))
    chosen = _choose(session, bodies, everywhere=everywhere)
    if not chosen:
        session.terminal.write(f"nothing to refresh in {len(bodies)} ModelDeployments\n")
        return
    if is_dry:
        for each in chosen:
            session.terminal.write(f"{_line(each.label, _why(each.view))}\n")
        session.terminal.write(f"{len(chosen)} of {len(bodies)} would be refreshed, {at_once} at a time\n")
        return
    _Fleet(session, chosen, at_once, timeout_seconds).run()


@dataclass(frozen=True, slots=True)
class _Chosen:
    """A ModelDeployment to refresh. label: how lines name it."""

    label: str
    body: Json
    view: View


def _choose(session: Session, bodies: Sequence[Json], *, everywhere: bool) -> list[_Chosen]:
    """Those with something to refresh that can be refreshed now; of the others with something, why not is told."""
    chosen = []
    for body in bodies:
        view = view_of(body, clock.now())
        label = f"{view.namespace}/{view.name}" if everywhere else view.name
        if view.agents is None:
            session.terminal.write(f"{_line(label, 'left out: the operator has not said how old its agents are')}\n")
        elif view.agents.status == "True" or view.agents.reason == "RefreshAvailable":
            why_not = not_refreshable(view) or ("a refresh is under way" if view.is_refreshing else "")
            if why_not:
                session.terminal.write(f"{_line(label, f'left out: {why_not}')}\n")
            else:
                chosen.append(_Chosen(label, body, view))
    return chosen


def _why(view: View) -> str:
    """What there is to refresh, as the operator says it, without its hint."""
    if view.agents is None:
        return "the operator has not said how old its agents are"
    return view.agents.message.partition(". ")[0]


def _line(label: str, words: str) -> str:
    return f"{label}: {words}"


# --- one after the other ---


@dataclass(slots=True)
class _Run:
    """One refresh under way. before: the reason of Degraded when it began. outcome: empty while it goes on."""

    client: Client
    command: Command
    answer: str
    before: str
    began: float
    heard: float
    outcome: str = ""

    def look(self) -> bool:
        """Look once. Returns whether it is over. Raises CommandError(FAILED) when new pods don't come up."""
        try:
            body = self.client.read_model(self.command.name)
        except CommandError as error:
            if not error.may_pass or clock.seconds() - self.heard > PATIENCE_SECONDS:
                raise
            return False
        self.heard = clock.seconds()
        if body is None:
            raise not_found(f"ModelDeployment {self.command.name} was deleted in the middle of its refresh")
        self.outcome = _outcome(read_status(body.get("status")), self.command, self.before)
        return bool(self.outcome)

    def give_up_after(self, seconds: float) -> None:
        """Raises CommandError(TIMED_OUT) when it has taken longer."""
        if clock.seconds() - self.began > seconds:
            raise CommandError(
                Exit.TIMED_OUT,
                f"the pods of {self.command.name} are not all replaced within {seconds:g} s; that goes on in the "
                "cluster, and the pods before serve until then. kubectl slipway status shows what it waits for; to go "
                f"back: kubectl slipway abort {self.command.name}",
            )


def _begin(client: Client, body: Json) -> _Run:
    """Write the command and hear the answer. Raises CommandError(FAILED) when the operator refuses."""
    view = view_of(body, clock.now())
    command = new_command(view.name, "refresh", revision_for("refresh", view))
    degraded = _true(read_status(body.get("status")), "Degraded")
    write_command(client, command, body)
    answer = wait_for_answer(client, command, ANSWER_SECONDS)
    if not answer.accepted:
        raise failed(f"the operator does not refresh {view.name}: {answer.message}")
    now, before = clock.seconds(), degraded.reason if degraded is not None else ""
    return _Run(client, command, answer.message, before=before, began=now, heard=now)


def _outcome(status: ModelDeploymentStatus, command: Command, before: str) -> str:
    """What became of a refresh that the operator has taken up, in words; empty while it goes on.

    Raises CommandError(FAILED) when new pods don't come up, or another command came after it.
    """
    last = status.last_command
    if last is None or last.id != command.id:
        raise failed(f"another command to {command.name} came after refresh: {last.verb if last else 'none is known'}")
    reconciling, degraded = _true(status, "Reconciling"), _true(status, "Degraded")
    reason = reconciling.reason if reconciling is not None else ""
    is_waiting = reason in ("WaitingForCapacity", "InProgress")
    if not is_waiting and degraded is not None and degraded.reason != before:
        raise failed(
            f"the new pods of {command.name} don't come up: {degraded.reason}: {degraded.message.rstrip('.')}. The "
            f"pods before serve on; kubectl slipway abort {command.name} goes back to them"
        )
    return "" if reconciling is not None else f"all pods are replaced; {status.ready} ready"


def _true(status: ModelDeploymentStatus, kind: str) -> Condition | None:
    """The condition where it is True."""
    found = status.condition(kind)
    return found if found is not None and found.status == "True" else None


@dataclass(slots=True)
class _Fleet:
    """`--all` under way. left: not begun yet, the next one first."""

    session: Session
    left: list[_Chosen]
    at_once: int
    timeout_seconds: float
    done: int = 0
    active: dict[str, _Run] = field(default_factory=dict)

    def run(self) -> None:
        """Until all are refreshed. Raises the CommandError of the first that fails, with how far it came."""
        total = len(self.left)
        try:
            while self.left or self.active:
                self._begin_some()
                self._look()
                if self.active:
                    clock.sleep(LOOK_SECONDS)
        except CommandError as error:
            rest = f"{self.done} of {total} are refreshed; {len(self.left)} were not begun"
            going = f", and {', '.join(sorted(self.active))} may still be on the way" if self.active else ""
            raise CommandError(error.code, f"{error.message.rstrip('.')}. {rest}{going}") from None
        except KeyboardInterrupt:
            rest = f"stopped: {self.done} of {total} are refreshed, {len(self.left)} were not begun"
            going = f"; {', '.join(sorted(self.active))} goes on in the cluster" if self.active else ""
            self.session.terminal.write(f"{rest}{going}\n")
            raise
        self.session.terminal.write(f"{self.done} of {total} are refreshed\n")

    def _begin_some(self) -> None:
        while self.left and len(self.active) < self.at_once:
            chosen = self.left.pop(0)
            client = self.session.client.within(str(chosen.body["metadata"]["namespace"]))
            body = client.read_model(str(chosen.body["metadata"]["name"]))  # it may have changed in the meantime
            why_not = not_refreshable(view_of(body, clock.now())) if body is not None else "it was deleted"
            if body is None or why_not:
                self.session.terminal.write(f"{_line(chosen.label, f'left out: {why_not}')}\n")
                continue
            self.session.terminal.write(f"{_line(chosen.label, 'begins')}\n")
            self.active[chosen.label] = _begin(client, body)

    def _look(self) -> None:
        for label, run in list(self.active.items()):
            if run.look():
                del self.active[label]
                self.done += 1
                self.session.terminal.write(f"{_line(label, run.outcome)}\n")
            else:
                run.give_up_after(self.timeout_seconds)
