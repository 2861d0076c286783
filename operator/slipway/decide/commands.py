"""A person's command: the annotation `slipway.dev/command: VERB/REVISION/ID`, acted on once.

The annotation names the revision that it is about, so that one that comes late does nothing to another revision; and it
never changes the spec, which belongs to whoever keeps it in Git.
Invariant: a command whose id is the last one's in status is not carried out again.
Pure.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from slipway.api.status import ModelDeploymentStatus, Pinned
from slipway.api.v1alpha1 import GROUP
from slipway.model.rollout import RolloutState, Step
from slipway.model.signals import Cause, Command

COMMAND_ANNOTATION = f"{GROUP}/command"
FORM = re.compile(r"([a-z]{1,32})/([a-z0-9]{1,63})/([-._A-Za-z0-9]{1,128})")
ON_CANARY = ("promote", "abort", "skip", "pause", "resume")
VERBS = (*ON_CANARY, "retry", "rollback")


@dataclass(frozen=True, slots=True)
class CommandOutcome:
    """What a command makes of the state.

    command: None: there was none. is_accepted, message: what to tell the person.
    abort: why the canary is to be taken back. retry: whether the spec's revision is to be forgiven.
    """

    state: RolloutState
    pinned: Pinned | None
    command: Command | None = None
    is_accepted: bool = False
    message: str = ""
    abort: Cause | None = None


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
    pinned: Pinned | None,
    asked: str,
    history: Collection[str],
    steps: Sequence[Step],
    *,
    is_warm: bool = True,
) -> CommandOutcome:
    """Carry a command out on the state.

    asked: the revision that the spec names. history: the revisions that are kept. steps: of the canary.
    is_warm: the revision before the stable one has a ready pod, where it is kept for the bake.
    """
    step_count = len(steps)
    here = steps[state.step_index - 1] if 0 < state.step_index <= step_count else None
    is_at_endless_pause = here is not None and here.hold_seconds is None
    if pinned is not None and (pinned.instead_of != asked or pinned.revision not in history):
        pinned = None  # the spec names another revision now
    if command is None:
        return CommandOutcome(state, pinned)

    def refuse(message: str) -> CommandOutcome:
        return CommandOutcome(state, pinned, command, is_accepted=False, message=message)

    def accept(message: str, changed: RolloutState = state, *, abort: Cause | None = None) -> CommandOutcome:
        return CommandOutcome(changed, pinned, command, is_accepted=True, message=message, abort=abort)

    if not command.verb:
        return refuse(f"annotation {COMMAND_ANNOTATION} is no VERB/REVISION/ID; write it with kubectl slipway")
    if command.verb not in VERBS:
        return refuse(f"{command.verb} is no command; there are {', '.join(VERBS)}")
    if command.verb == "rollback":
        return _rollback(command, state, pinned, asked, history)
    if command.verb == "retry":
        if pinned is not None and command.revision == pinned.instead_of:
            kept = tuple(each for each in state.rejected if each.revision != command.revision)
            return CommandOutcome(
                replace(state, rejected=kept), None, command, True, f"revision {command.revision} is tried again"
            )
        if command.revision not in {each.revision for each in state.rejected}:
            return refuse(f"revision {command.revision} isn't rejected, so there is nothing to retry")
        kept = tuple(each for each in state.rejected if each.revision != command.revision)
        return accept(f"revision {command.revision} is tried again", replace(state, rejected=kept))
    in_bake = state.previous is not None and command.revision == state.stable
    if in_bake and command.verb == "promote":
        return accept(f"the bake of revision {command.revision} is over", replace(state, bake_until=None))
    if in_bake and command.verb == "abort" and not is_warm:
        return refuse(
            f"revision {state.previous}, which it would go back to, has no ready pod now, so requests would be lost. "
            f"Try again, or let it take over once it has: kubectl slipway rollback --to {state.previous}"
        )
    if in_bake and command.verb == "abort":
        return accept(f"revision {command.revision} is taken back", abort=Cause("Aborted", "a person aborted it"))
    if state.canary is None or state.canary != command.revision or state.stable is None:
        return refuse(f"revision {command.revision} isn't taking over now, so there is nothing to {command.verb}")
    match command.verb:
        case "abort":
            return accept(f"revision {command.revision} is taken back", abort=Cause("Aborted", "a person aborted it"))
        case _ if step_count == 0:
            return refuse(f"{command.verb} needs a rollout by steps; this one goes pod by pod, or in place")
        case "pause":
            return accept("the rollout is paused where it is", replace(state, is_paused=True))
        case "resume":
            if not state.is_paused and not is_at_endless_pause:
                return refuse("the rollout isn't paused")
            changed = replace(state, is_paused=False, progress_since=None)
            return accept("the rollout goes on", _next_step(changed) if is_at_endless_pause else changed)
        case "skip":
            if state.step_index == 0:
                return refuse("the canary still prepares: there is no step to skip yet")
            if state.step_index >= step_count:
                return refuse("the canary is in its last step: there is none to skip to")
            return accept(f"step {state.step_index} is skipped", _next_step(replace(state, is_paused=False)))
        case _:
            index = step_count if state.step_index else 0
            changed = replace(state, is_paused=False, is_promote_requested=True, step_index=index, step_since=None)
            return accept(f"revision {command.revision} goes to 100 % now", replace(changed, progress_since=None))


def _next_step(state: RolloutState) -> RolloutState:
    return replace(state, step_index=state.step_index + 1, step_since=None, progress_since=None)


def _rollback(
    command: Command, state: RolloutState, pinned: Pinned | None, asked: str, history: Collection[str]
) -> CommandOutcome:
    target = command.revision
    forgiven = replace(state, rejected=tuple(each for each in state.rejected if each.revision != target))
    if target not in history:
        known = ", ".join(sorted(history)) or "none"
        return CommandOutcome(state, pinned, command, False, f"revision {target} isn't in the history ({known})")
    if target == asked:
        if pinned is None:
            what = "and rejected; kubectl slipway retry tries it again" if forgiven != state else "already"
            return CommandOutcome(state, pinned, command, False, f"revision {target} is the spec's own {what}")
        return CommandOutcome(forgiven, None, command, True, f"the spec's revision {target} serves again")
    message = f"revision {target} serves instead of {asked}, until the spec names another"
    return CommandOutcome(forgiven, Pinned(revision=target, instead_of=asked), command, True, message)
