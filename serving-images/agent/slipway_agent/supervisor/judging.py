"""What the probes are answered: by the worker while it speaks, else by what is remembered and confirmed by the server.

    worker              remembered      readiness
    speaks              anything        what it says
    silent or away      serving         what the server answers now to the remembered question
    silent or away      else            no: out of the Service, or never in it

A worker that has just started doesn't take a pod out whose server answers: its first look may have met a busy server.
Pure: no I/O, no clock; `confirm` puts a question to the server.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias

from slipway_agent.model.readiness import ReadinessQuestion, Verdict

FRESH_SECONDS = 5.0  # a turn takes at most a second, unless the server hangs: then it is asked directly
SETTLED_SECONDS = 15.0  # a worker that has run so long and saw no server ready is believed
HOPELESS_SECONDS = 120.0  # without a word of any worker, and nothing served: another container may do better

Confirm: TypeAlias = Callable[[ReadinessQuestion], bool]


@dataclass(frozen=True, slots=True)
class Heard:
    """The running worker's last word.

    age_seconds: since it was said. worker_seconds: how long that worker had run then. has_served: it has seen the pod
    serve.
    """

    verdict: Verdict
    age_seconds: float = 0.0
    worker_seconds: float = SETTLED_SECONDS
    has_served: bool = False


@dataclass(frozen=True, slots=True)
class Judgement:
    """words: why not; empty where it is good."""

    is_good: bool
    words: str = ""


GOOD = Judgement(True)


def is_fresh(heard: Heard | None) -> bool:
    """The worker lives, and judges."""
    return heard is not None and heard.verdict.is_judging and heard.age_seconds <= FRESH_SECONDS


def remember(before: Verdict | None, heard: Heard) -> Verdict | None:
    """What is remembered once this was heard."""
    verdict = heard.verdict
    if not verdict.is_judging or (before is not None and before.is_serving and _is_unsettled(heard)):
        return before
    return replace(verdict, why_not_started="", why_not_ready="")


def _is_unsettled(heard: Heard) -> bool:
    """It says that the pod doesn't serve and can't know better yet."""
    said = heard.verdict
    return not (said.is_serving or said.stays_out or heard.has_served or heard.worker_seconds >= SETTLED_SECONDS)


def judge_start(heard: Heard | None, remembered: Verdict | None, away: str) -> Judgement:
    """/startz. away: why no worker speaks."""
    if heard is not None and is_fresh(heard):
        return _judge(heard.verdict.may_start, heard.verdict.why_not_started)
    said = heard.verdict.why_not_started if heard is not None else ""
    return _judge(remembered is not None and remembered.may_start, said or away)


def judge_ready(
    heard: Heard | None, remembered: Verdict | None, is_ordered_out: bool, away: str, confirm: Confirm
) -> Judgement:
    """/readyz. is_ordered_out: agent.json names the pod in `out`, which the remembered verdict didn't know."""
    if heard is not None and is_fresh(heard):
        said = _judge(heard.verdict.is_serving, heard.verdict.why_not_ready)
        if said.is_good or not _is_unsettled(heard) or remembered is None or not remembered.is_serving:
            return said
        return GOOD if _is_confirmed(remembered, confirm) else said
    if is_ordered_out:
        return Judgement(False, f"the operator takes the pod out for its server's errors, and {away}")
    words = heard.verdict.why_not_ready if heard is not None else ""
    if remembered is None or not remembered.is_serving:
        return Judgement(False, words or away)
    if _is_confirmed(remembered, confirm):
        return GOOD
    return Judgement(False, f"the server doesn't say that version {remembered.version} is ready, and {away}")


def judge_live(silent_seconds: float, remembered: Verdict | None, away: str, confirm: Confirm) -> Judgement:
    """/healthz. A new container costs the pod its readiness for a moment: never while it serves."""
    if silent_seconds < HOPELESS_SECONDS:
        return GOOD
    is_serving = remembered is not None and remembered.is_serving and _is_confirmed(remembered, confirm)
    return _judge(is_serving, f"{away}, for {silent_seconds:.0f} s")


def _is_confirmed(remembered: Verdict, confirm: Confirm) -> bool:
    return remembered.question is not None and confirm(remembered.question)


def _judge(is_good: bool, words: str) -> Judgement:
    return GOOD if is_good else Judgement(False, words)
