"""Why a version isn't there, and when it is tried again.

Pure: no I/O, no clock; `now` is in seconds of any one clock. Imports `config` and `model` alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from slipway_agent.config import Config
from slipway_agent.model.errors import AgentError, Reason, SpecError, TransientError
from slipway_agent.model.server_state import Gone, Refused

PERMANENT_RETRY_SECONDS = 60.0
MISSING_RETRY_SECONDS = 5.0  # a look at a folder costs nothing, and a copy that is under way ends soon
MISSING_ATTEMPTS = 120  # at that distance
TRANSIENT_FIRST_SECONDS, TRANSIENT_LONGEST_SECONDS = 1.0, 30.0
DEATHS = 2  # the first one may have had another cause
DEADLY_WORDS = "It ended the server twice, and isn't loaded again before its bytes or the server's settings change"


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a version isn't there. `retry_at` is on the World's clock; `attempts` counts from 1.

    `is_confirmed`: the source was asked since, and still has the bytes that the server refused.
    `is_outdated`: the configuration it happened under has changed since, or the server ended while it loaded others
    too. It is asked anew, and until then the failure says nothing about what is wanted now.
    `deaths`: how often the server ended while it loaded this version, and nothing else that was new.
    """

    reason: Reason
    message: str
    is_permanent: bool
    attempts: int
    retry_at: float
    fingerprint: str | None = None
    is_confirmed: bool = False
    is_outdated: bool = False
    is_suspect: bool = False
    deaths: int = 0

    def outdate(self, now: float) -> "Failure":
        return replace(self, retry_at=now, is_outdated=True)


def is_deadly(failure: Failure | None) -> bool:
    """Proven to end the server; asking for it again would take what serves with it."""
    return failure is not None and failure.deaths >= DEATHS and not failure.is_outdated


def is_waiting(failure: Failure | None, now: float) -> bool:
    return failure is not None and now < failure.retry_at


def remember(error: AgentError, now: float, earlier: Failure | None) -> Failure:
    """The failure to remember. Transient ones double from 1 to 30 s, or wait as long as the source asked.

    A third transient failure in a row waits 4 s; a digest that doesn't match waits 60 s, however often.
    """
    attempts = earlier.attempts + 1 if earlier is not None and earlier.reason == error.reason else 1
    asked_seconds = error.retry_after_seconds if isinstance(error, TransientError) else None
    fingerprint = error.fingerprint if isinstance(error, SpecError) else None
    is_permanent = error.reason is not Reason.SOURCE_UNAVAILABLE
    retry_at = now + _wait_seconds(error.reason, attempts, asked_seconds)
    return Failure(error.reason, error.message, is_permanent, attempts, retry_at, fingerprint=fingerprint)


def repeat(failure: Failure, now: float) -> Failure:
    """The source still holds the bytes that were refused: the same failure once more."""
    attempts = failure.attempts + 1
    retry_at = now + _wait_seconds(failure.reason, attempts, None)
    return Failure(
        failure.reason, failure.message, failure.is_permanent, attempts, retry_at, fingerprint=failure.fingerprint
    )


def _wait_seconds(reason: Reason, attempts: int, asked_seconds: float | None) -> float:
    if reason in (Reason.SOURCE_NOT_FOUND, Reason.VERSION_NOT_FOUND) and asked_seconds is None:
        return MISSING_RETRY_SECONDS if attempts < MISSING_ATTEMPTS else PERMANENT_RETRY_SECONDS
    if reason is not Reason.SOURCE_UNAVAILABLE:
        wait_seconds = PERMANENT_RETRY_SECONDS
    else:
        wait_seconds = min(TRANSIENT_FIRST_SECONDS * 2.0 ** min(attempts - 1, 10), TRANSIENT_LONGEST_SECONDS)
    return max(wait_seconds, asked_seconds or 0.0)


def blame(
    outcome: Refused | Gone, asked: frozenset[int], ready: frozenset[int], served: int | None
) -> Mapping[int, str]:
    """Which versions made a load fail, with the message for each. `ready`: what was ready before it, or came to be.

    A server that names versions is believed. One that doesn't, or that ended, is asked again without the extra ones
    that were new; only when none is left is it the served version's fault. A server that was gone before it was asked
    died of something else, and one that ended with nothing else loaded is judged by the kubelet's restarts, not by us:
    no version is blamed. Nor is one that was seen ready while the load went on: it is loaded, and what the load still
    waited for (labels, unloads) isn't its fault.
    """
    if isinstance(outcome, Refused) and (named := asked & outcome.words.keys()):
        return {version: outcome.words[version] for version in named}
    if isinstance(outcome, Gone) and not outcome.was_asked:
        return {}
    new = asked - ready
    if new - {served}:
        return dict.fromkeys(new - {served}, outcome.message)
    if served is not None and (isinstance(outcome, Refused) or (served in new and asked - {served})):
        return {served: outcome.message}
    return {}


def note_death(failure: Failure, earlier: Failure | None, is_alone: bool, now: float) -> Failure:
    """The failure of a version that the server ended with. `is_alone`: it was the only new one; else it is suspect."""
    deaths = (earlier.deaths if earlier is not None else 0) + is_alone
    if not is_alone:
        return replace(failure, deaths=deaths, is_suspect=True).outdate(now)
    words = f"{failure.message}. {DEADLY_WORDS}" if deaths >= DEATHS else failure.message
    return replace(failure, deaths=deaths, message=words)


def confirm(failure: Failure, now: float) -> Failure:
    """The source still has the bytes that the server refused: they may be asked for again. Those that end the server
    may not, and their source is looked at again instead."""
    if is_deadly(failure):
        return replace(failure, retry_at=now + PERMANENT_RETRY_SECONDS)
    return replace(failure, is_confirmed=True)


def configures_alike(before: Config, now: Config) -> bool:
    """Whether a server has the same to load and to obey: golden requests are only asked of it, and it knows neither
    whether its pod is in the Service nor who signed what it loads."""
    source = replace(before.source, public_keys=now.source.public_keys)
    unknown = replace(before, source=source, drain_seconds=now.drain_seconds, is_held=now.is_held, is_out=now.is_out)
    return now == replace(unknown, generation=now.generation, golden=now.golden, question=now.question)


def may_correct(before: Config, now: Config, version: int, failure: Failure) -> bool:
    """Whether a version that failed may do better under a changed configuration. A deadly one must have been given
    other settings, or be asked for as the served one: a label is no reason to end a server."""
    if not is_deadly(failure):
        return True
    is_asked_for = version == now.served != before.served
    settings = (before.runtime, before.settings, before.memory, before.warmup, before.golden)
    return is_asked_for or settings != (now.runtime, now.settings, now.memory, now.warmup, now.golden)
