"""A person's command: the annotation `slipway.dev/command: VERB/REVISION/ID`, acted on once.

The annotation names the revision that it is about, so that one that comes late does nothing to another revision; and it
never changes the spec, which belongs to whoever keeps it in Git.
Invariant: a command whose id is the last one's in status is not carried out again.
Pure.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Any

from slipway.api.status import ModelDeploymentStatus, Pinned
from slipway.api.v1alpha1 import GROUP
from slipway.model.rollout import Step
from slipway.model.rollout_state import RolloutState
from slipway.model.signals import Cause, Command

COMMAND_ANNOTATION = f"{GROUP}/command"
FORM = re.compile(r"([a-z]{1,32})/([a-z0-9]{1,63})/([-._A-Za-z0-9]{1,128})")


class TemplateChange(Enum):
    """What a command makes of the pod template of what serves.

    ANEW: it is rendered with today's images. BACK: the one before the last refresh holds again.
    """

    ANEW = auto()
    BACK = auto()


@dataclass(frozen=True, slots=True)
class CommandOutcome:
    """What a command makes of the state.

    command: None: there was none. is_accepted, message: what to tell the person. abort: why the canary is taken back.
    template: None: it stays; else `render.refresh` carries that out, and has the last word on what to tell.
    """

    state: RolloutState
    command: Command | None = None
    is_accepted: bool = False
    message: str = ""
    abort: Cause | None = None
    template: TemplateChange | None = None


@dataclass(frozen=True, slots=True)
class Ask:
    """A command, and what it is carried out on.

    spec_revision: the one that the spec names. history: the revisions that are kept. steps: of the canary.
    warm: the revision before the stable one, which an abort in bake goes back to at once: it has a ready pod, or is
    loaded in the same pods; None: there is none. is_refreshing: pods of what serves are being replaced by those of a
    refresh, or this command has begun that.
    """

    command: Command
    state: RolloutState
    spec_revision: str
    history: Collection[str]
    steps: Sequence[Step]
    warm: str | None
    is_refreshing: bool = False

    def refuse(self, message: str) -> CommandOutcome:
        """Nothing changes."""
        return CommandOutcome(self.state, self.command, is_accepted=False, message=message)

    def accept(
        self,
        message: str,
        state: RolloutState | None = None,
        *,
        abort: Cause | None = None,
        template: TemplateChange | None = None,
    ) -> CommandOutcome:
        """The state changes to that one, or the canary is taken back, or the pod template changes."""
        changed = self.state if state is None else state
        return CommandOutcome(changed, self.command, is_accepted=True, message=message, abort=abort, template=template)

    @property
    def shown(self) -> str | None:
        """The revision that serves; before anything does, the first one, which starts."""
        return self.state.stable or self.state.canary

    @property
    def is_to_take_over(self) -> bool:
        """Whether the spec names another revision than stable, which is about to be tried."""
        state = self.state
        is_rejected = any(each.revision == self.spec_revision for each in state.rejected)
        return self.spec_revision != state.stable and state.pinned is None and not is_rejected

    @property
    def is_of_refresh(self) -> bool:
        """Whether it names the revision whose pods a refresh is replacing, and nothing else is under way."""
        is_alone = self.state.stable is None or self.state.canary is None
        return self.is_refreshing and is_alone and self.command.revision == self.shown

    @property
    def is_of_bake(self) -> bool:
        """Whether it names the stable revision, which bakes, beside the one before or in the same pods.

        In the same pods it bakes only as long as the spec names it, and what a person rolled back to can't be aborted.
        """
        state = self.state
        if self.command.revision != state.stable:
            return False
        is_in_place = state.bake_until is not None and state.canary is None and state.pinned is None
        return state.previous is not None or (is_in_place and self.spec_revision == state.stable)

    @property
    def is_at_endless_pause(self) -> bool:
        """Whether the canary is in a step that only a person ends."""
        index = self.state.step_index
        return 0 < index <= len(self.steps) and self.steps[index - 1].hold_seconds is None


def read_command(body: Mapping[str, Any], stored: ModelDeploymentStatus) -> Command | None:
    """The command in the annotation, if it was not carried out yet. One that can't be read has an empty verb."""
    text = (body["metadata"].get("annotations") or {}).get(COMMAND_ANNOTATION)
    if not text:
        return None
    form = FORM.fullmatch(text)
    command = Command(*form.groups()) if form else Command("", "", str(text)[:128])
    done = stored.last_command
    return None if done is not None and done.id == command.id else command


def carry_out(
    command: Command | None,
    state: RolloutState,
    spec_revision: str,
    history: Collection[str],
    steps: Sequence[Step],
    *,
    warm: str | None = None,
    is_refreshing: bool = False,
    is_lost: bool = False,
) -> CommandOutcome:
    """Carry a command out on the state; the arguments are as in `Ask`. is_lost: status was, and what it told."""
    pinned = state.pinned
    if pinned is not None and (pinned.instead_of != spec_revision or pinned.revision not in history):
        state = replace(state, pinned=None)  # the spec names another revision now
    if command is None:
        return CommandOutcome(state)
    ask = Ask(command, state, spec_revision, history=history, steps=steps, warm=warm, is_refreshing=is_refreshing)
    if not command.verb:
        return ask.refuse(
            f"annotation {COMMAND_ANNOTATION} is not of the form VERB/REVISION/ID; let kubectl slipway write it"
        )
    if command.verb not in VERBS:
        return ask.refuse(f"{command.verb} is no command; there are {', '.join(VERBS)}")
    is_canary = state.canary is not None and state.canary == command.revision and state.stable is not None
    is_meant = is_canary or (ask.is_of_bake and command.verb in IN_BAKE)
    if command.verb == "abort" and not is_meant and ask.is_of_refresh:
        return ask.accept(
            f"pods of revision {command.revision} go back to the pod template before the refresh",
            template=TemplateChange.BACK,
        )
    if command.verb in ON_CANARY and not is_meant:
        return ask.refuse(_nothing_runs(ask))
    if command.verb in BY_STEPS and not ask.is_of_bake and not steps and not state.is_paused:
        return ask.refuse(f"{command.verb} needs a rollout by steps; this one goes pod by pod, or in place")
    if is_lost and command.verb in ONCE:
        return ask.refuse(f"status was lost, and with it whether this was carried out. Say it again: {command.verb}")
    return VERBS[command.verb](ask)


def _nothing_runs(ask: Ask) -> str:
    revision, pinned = ask.command.revision, ask.state.pinned
    nothing = f"revision {revision} isn't taking over now, so there is nothing to {ask.command.verb}"
    if pinned is not None and revision == pinned.revision:
        return (
            f"{nothing}: a person rolled back to it. To serve revision {pinned.instead_of} again: kubectl slipway retry"
        )
    return nothing


def _abort(ask: Ask) -> CommandOutcome:
    before = ask.state.previous
    if ask.is_of_bake and ask.warm is None and before is None:
        return ask.refuse("the revision before it isn't loaded any more. To go back to it: kubectl slipway rollback")
    if ask.is_of_bake and ask.warm is None:
        return ask.refuse(
            f"revision {before}, which it would go back to, has no ready pod now, so requests would be lost. "
            f"Try again, or let it take over once it has: kubectl slipway rollback --to {before}"
        )
    return ask.accept(f"revision {ask.command.revision} is taken back", abort=Cause("Aborted", "a person aborted it"))


def _promote(ask: Ask) -> CommandOutcome:
    revision, state = ask.command.revision, ask.state
    if ask.is_of_bake:
        return ask.accept(f"the bake of revision {revision} is over", replace(state, bake_until=None))
    index = len(ask.steps) if state.step_index else 0
    changed = replace(state, is_paused=False, is_promote_requested=True, step_index=index, step_since=None)
    when = "now" if state.step_index else "once its pods are ready and its gates have passed"
    return ask.accept(f"revision {revision} goes to 100 % {when}", replace(changed, progress_since=None))


def _pause(ask: Ask) -> CommandOutcome:
    return ask.accept("the rollout is paused where it is", replace(ask.state, is_paused=True))


def _resume(ask: Ask) -> CommandOutcome:
    if not ask.state.is_paused and not ask.is_at_endless_pause:
        return ask.refuse("the rollout isn't paused")
    changed = replace(ask.state, is_paused=False, progress_since=None)
    return ask.accept("the rollout goes on", _in_next_step(changed) if ask.is_at_endless_pause else changed)


def _skip(ask: Ask) -> CommandOutcome:
    index = ask.state.step_index
    if index == 0:
        return ask.refuse("the canary still prepares: there is no step to skip yet")
    if index >= len(ask.steps):
        return ask.refuse("the canary is in its last step: there is none to skip to")
    still = "; it is still paused there, until kubectl slipway resume" if ask.state.is_paused else ""
    return ask.accept(
        f"step {index} is skipped, and the canary goes to step {index + 1}{still}", _in_next_step(ask.state)
    )


def _retry(ask: Ask) -> CommandOutcome:
    revision, state = ask.command.revision, ask.state
    forgiven = replace(state, rejected=tuple(each for each in state.rejected if each.revision != revision))
    if state.pinned is not None and revision == state.pinned.instead_of:
        return ask.accept(f"revision {revision} is tried again", replace(forgiven, pinned=None))
    if forgiven == state:
        return ask.refuse(f"revision {revision} isn't rejected, so there is nothing to retry")
    return ask.accept(f"revision {revision} is tried again", forgiven)


def _roll_back(ask: Ask) -> CommandOutcome:
    target, state = ask.command.revision, ask.state
    forgiven = replace(state, rejected=tuple(each for each in state.rejected if each.revision != target))
    if target not in ask.history:
        known = ", ".join(sorted(ask.history)) or "none"
        return ask.refuse(f"revision {target} isn't in the history ({known})")
    if target == ask.spec_revision and state.pinned is None:
        what = "already, but rejected: kubectl slipway retry tries it again" if forgiven != state else "already"
        return ask.refuse(f"revision {target} is the spec's own {what}")
    if target == ask.spec_revision:
        return ask.accept(f"the spec's revision {target} serves again", replace(forgiven, pinned=None))
    return ask.accept(
        f"revision {target} serves instead of {ask.spec_revision} as soon as its pods are ready, until the spec names "
        "another, a newer version is found, or kubectl slipway retry",
        replace(forgiven, pinned=Pinned(revision=target, instead_of=ask.spec_revision)),
    )


def _refresh(ask: Ask) -> CommandOutcome:
    revision, state, shown = ask.command.revision, ask.state, ask.shown
    if revision != shown:
        serving = f"revision {shown} does" if shown is not None else "nothing does yet"
        return ask.refuse(f"revision {revision} doesn't serve; {serving}, and only that one's pods can be refreshed")
    if revision not in ask.history:
        return ask.refuse(f"ControllerRevision of revision {revision} is gone, and with it what its pods are made of")
    if state.stable is not None and (state.canary is not None or ask.is_to_take_over):
        coming = state.canary or ask.spec_revision
        return ask.refuse(
            f"revision {coming} is taking over. Once that has ended (or: kubectl slipway abort), say refresh again"
        )
    if state.bake_until is not None or state.previous is not None:
        return ask.refuse(
            f"revision {revision} bakes: what it is compared with would change. Once that is over (or: kubectl slipway "
            "promote ends it), say refresh again"
        )
    return ask.accept(
        f"pods of revision {revision} are replaced by such with today's agent and images", template=TemplateChange.ANEW
    )


def _in_next_step(state: RolloutState) -> RolloutState:
    return replace(state, step_index=state.step_index + 1, step_since=None, progress_since=None)


ON_CANARY = ("promote", "abort", "skip", "pause", "resume")
BY_STEPS = ("promote", "skip", "pause", "resume")
IN_BAKE = ("promote", "abort")
ONCE = ("skip", "resume", "refresh")
"""Carried out a second time, they would take a canary past a pause that nobody ended, or restart pods in an upgrade."""
VERBS: Mapping[str, Callable[[Ask], CommandOutcome]] = {
    "promote": _promote,
    "abort": _abort,
    "skip": _skip,
    "pause": _pause,
    "resume": _resume,
    "retry": _retry,
    "rollback": _roll_back,
    "refresh": _refresh,
}
