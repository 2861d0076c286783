"""Golden requests: the served version counts as ready once it has answered them as expected.

The wrapper stands before a driver (or before the one that warms it up) and looks like one. `observe` hides a served
version that wasn't cleared yet; `load` asks it, and undoes a load that brought a version that answers otherwise.
A version is cleared for good, by its digest: a server that starts again answers no other way. One that stood before
there were golden requests, or under others, is cleared as it is: they are for what is new, and never make unready what
serves. What is cleared is kept in the models volume.

Limit: on a server that gives unversioned requests to the highest loaded version, they reach it while it is asked.
"""

import errno
import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from slipway_agent.model.errors import Reason
from slipway_agent.model.golden import (
    FORM,
    Golden,
    GoldenReport,
    GoldenRequest,
    GoldenState,
    MalformedError,
    find_differences,
    read_requests,
)
from slipway_agent.model.server_state import Gone, Loaded, LoadOutcome, Refused, ServerView
from slipway_agent.model.untrusted_json import parse_json
from slipway_agent.servers.base import REQUEST_SECONDS, Server
from slipway_agent.servers.wrappers.base import ServerWrapper
from slipway_agent.volume.models_volume import ModelVolume
from slipway_agent.volume.safe_open import Tree

_NOTE = "golden.json"
WARM_ASKS = 3  # the fastest counts: one slow answer on a shared node is no slow model
FILE_LIMIT_BYTES = 8 << 20
MESSAGE_LIMIT = 1500
FAILURES_SAID = 3
ADVICE = "Correct the model, or the expected answers where the new ones are right ({place})"


@dataclass(frozen=True, slots=True)
class Passed:
    """What a version passed: the digest it had, the golden requests by their fingerprint, and how it went."""

    digest: str | None
    fingerprint: str
    message: str


class Clearance:
    """Which versions need not be asked any more. Outlives a change of agent.json, and the agent.

    Used from the threads of `observe`, of `load` and of the loop at once. `digest_of`: of the published bytes.
    """

    def __init__(self, volume: ModelVolume, digest_of: Callable[[int], str | None]) -> None:
        self._volume = volume
        self.digest_of = digest_of
        self._lock = threading.Lock()
        self._passed: dict[int, Passed] = _read_note(volume.read_note(_NOTE))
        self._going: GoldenReport | None = None
        self._expected = ""

    def expect(self, fingerprint: str) -> None:
        """From now on these requests count, and answers to others count for nothing."""
        with self._lock:
            self._expected, self._going = fingerprint, None

    def adopt(self, standing: Mapping[int, str | None]) -> None:
        """These versions served before, with these digests: they aren't asked."""
        with self._lock:
            self._replace({version: Passed(digest, "", "") for version, digest in standing.items()} | self._passed)

    def clear(self, version: int, passed: Passed) -> None:
        with self._lock:
            if passed.fingerprint != self._expected:
                return
            self._going = None
            self._replace({**self._passed, version: passed})

    def refuse(self, version: int, fingerprint: str, message: str) -> None:
        with self._lock:
            if fingerprint != self._expected:
                return
            self._going = GoldenReport(version, GoldenState.FAILED, message)
            self._replace({each: passed for each, passed in self._passed.items() if each != version})

    def say(self, version: int, fingerprint: str, message: str) -> None:
        """How far the requests are."""
        with self._lock:
            if fingerprint == self._expected:
                self._going = GoldenReport(version, GoldenState.RUNNING, message)

    def say_nothing(self) -> None:
        """What was going on isn't any more."""
        self._going = None

    def forget_stale(self, version: int) -> None:
        """The server was seen without it: bytes that came in place of the cleared ones have to pass themselves."""
        passed = self._passed.get(version)
        if passed is not None and passed.digest != self.digest_of(version):
            with self._lock:
                self._replace({each: kept for each, kept in self._passed.items() if each != version})

    def is_clear(self, version: int) -> bool:
        """With the bytes that are published now, or with those that the server holds since before them."""
        return version in self._passed

    def holds(self, version: int, digest: str | None) -> bool:
        passed = self._passed.get(version)
        return passed is not None and passed.digest == digest

    def report(self, version: int) -> GoldenReport | None:
        """How that version and the expected requests go; None while they haven't begun."""
        going, passed = self._going, self._passed.get(version)
        if going is not None and going.version == version:
            return going
        if passed is None:
            return None
        is_asked = passed.fingerprint == self._expected
        words = passed.message if is_asked else f"not asked: version {version} served before these requests came"
        return GoldenReport(version, GoldenState.PASSED, words)

    def _replace(self, passed: dict[int, Passed]) -> None:
        if passed == self._passed:
            return
        self._passed = passed
        said = {str(version): [each.digest, each.fingerprint, each.message] for version, each in sorted(passed.items())}
        self._volume.write_note(_NOTE, json.dumps(said))


class GoldenServer(ServerWrapper):
    """`served`: the version that is asked; the others stay as the wrapped server says."""

    def __init__(self, server: Server, golden: Golden, served: int, volume: ModelVolume, clearance: Clearance) -> None:
        super().__init__(server)
        self._golden = golden
        self._fingerprint = golden.fingerprint()
        self._served = served
        self._volume = volume
        self._clearance = clearance

    @property
    def warms_itself(self) -> bool:
        return self._server.warms_itself

    def observe(self, versions: frozenset[int]) -> ServerView:
        view = self._server.observe(versions)
        if self._served not in view.ready:
            self._clearance.forget_stale(self._served)
            return view
        if self._clearance.is_clear(self._served):
            return view
        return ServerView(view.is_alive, view.ready - {self._served})

    def load(self, versions: frozenset[int]) -> LoadOutcome:
        before, served = self._server.read_boot(), self._served
        digest = self._clearance.digest_of(served)
        outcome = self._server.load(versions)
        if not isinstance(outcome, Loaded) or served not in versions or self._clearance.holds(served, digest):
            return outcome
        try:
            requests = self._read_requests()
        except MalformedError as cause:
            return self._refuse(before, versions, str(cause), Reason.GOLDEN_UNREADABLE)
        failures, slowest_seconds = self._ask_all(requests)
        if not failures:
            words = (
                f"{len(requests)} of {len(requests)} answered as expected, slowest {describe_seconds(slowest_seconds)}"
            )
            self._clearance.clear(served, Passed(digest, self._fingerprint, words))
            return Loaded()
        if not self._server.observe(versions).is_alive:
            self._restore_boot(before)
            self._clearance.say_nothing()
            return Gone(f"the server ended at version {served}'s {failures[0]}")
        return self._refuse(before, versions, self._explain(failures, len(requests)), Reason.GOLDEN_FAILED)

    def _refuse(self, before: frozenset[int], versions: frozenset[int], message: str, reason: Reason) -> LoadOutcome:
        self._clearance.refuse(self._served, self._fingerprint, message)
        return self._take_back(before, versions, Refused(message, {self._served: message}, reason))

    def _explain(self, failures: list[str], count: int) -> str:
        said = "; ".join(failures[:FAILURES_SAID])
        if len(failures) > 1 or count > 1:
            said = f"{len(failures)} of {count} golden requests failed: {said}"
        if len(failures) > FAILURES_SAID:
            said += f"; and {len(failures) - FAILURES_SAID} more"
        place = "spec.rollout.gates.golden"
        if self._golden.file is not None:
            place = f"{self._golden.file} in the version's folder"
        advice = ADVICE.format(place=place)
        return f"{said[: MESSAGE_LIMIT - len(advice)]}. {advice}"

    # the requests

    def _read_requests(self) -> tuple[GoldenRequest, ...]:
        """MalformedError says which file isn't there, or what it isn't."""
        name = self._golden.file
        return self._golden.requests if name is None else read_file(self._volume, self._served, name)

    def _ask_all(self, requests: tuple[GoldenRequest, ...]) -> tuple[list[str], float]:
        """What failed, each with the request's name, and the longest answer. One without an answer ends it."""
        failures: list[str] = []
        slowest_seconds = 0.0
        for position, request in enumerate(requests, start=1):
            words = f"asking golden request {position} of {len(requests)}"
            self._clearance.say(self._served, self._fingerprint, words)
            name = f'golden request "{request.name}" ({position} of {len(requests)})'
            if request.name is None:
                name = f"golden request {position} of {len(requests)}"
            answer = self._server.ask(self._served, request.request, _patience_seconds(request))
            if answer.words is not None:
                failures.append(f"{name} failed: {answer.words}")
                break
            if words := self._compare(request, answer.body):
                failures.append(f"{name}: {words}")
                slowest_seconds = max(slowest_seconds, answer.seconds)
                continue
            words, seconds = self._measure(request, answer.seconds)
            slowest_seconds = max(slowest_seconds, seconds)
            if words:
                failures.append(f"{name}: {words}")
        return failures, slowest_seconds

    def _compare(self, request: GoldenRequest, body: bytes) -> str:
        """How the answer differs from the expected one; empty when it doesn't."""
        try:
            got = parse_json(body)
        except (ValueError, RecursionError):
            return f"its answer isn't JSON: {body[:100].decode(errors='replace')!r}"
        found = find_differences(request.response, got, self._golden.tolerance)
        if not found.count:
            return ""
        said = "; ".join(map(str, found.first[:2]))
        more = found.count - len(found.first[:2])
        return f"{said}; {more} more differ" if more else said

    def _measure(self, request: GoldenRequest, first_seconds: float) -> tuple[str, float]:
        """Words when it takes too long, and how long it takes once warm: a first answer may have compiled something."""
        limit = request.max_latency_milliseconds
        if limit is None:
            return "", first_seconds
        fastest_seconds = first_seconds
        for turn in range(WARM_ASKS):
            answer = self._server.ask(self._served, request.request, _patience_seconds(request))
            if answer.words is not None:
                return f"it failed the second time: {answer.words}", fastest_seconds
            fastest_seconds = answer.seconds if turn == 0 else min(fastest_seconds, answer.seconds)
            if fastest_seconds * 1000 <= limit:
                return "", fastest_seconds
        return (
            f"the fastest of {WARM_ASKS} warm answers took {describe_seconds(fastest_seconds)}, at most "
            f"{limit} ms are allowed (maxLatencyMilliseconds)"
        ), fastest_seconds


def read_file(volume: ModelVolume, version: int, name: str) -> tuple[GoldenRequest, ...]:
    """The golden requests in a file of a version's folder. MalformedError: it isn't there, or is no such file."""
    folder = Tree(volume.repository / str(version), follows=False)
    where = f"{name} in the folder of version {version}"
    try:
        raw = parse_json(folder.read_small(PurePosixPath(name).as_posix(), FILE_LIMIT_BYTES))
    except FileNotFoundError:
        raise MalformedError(
            f"there is no {where}, and spec.rollout.gates.golden.file names it. Put it beside the model: {FORM}"
        ) from None
    except OSError as cause:
        if cause.errno == errno.EFBIG:
            raise MalformedError(f"{where} is larger than {FILE_LIMIT_BYTES >> 20} MiB") from None
        raise MalformedError(f"{where} can't be read: {cause.strerror}") from cause
    except (ValueError, RecursionError) as cause:
        raise MalformedError(f"{where} isn't JSON ({cause}). It must be {FORM}") from cause
    return read_requests(raw, where)


def describe_seconds(seconds: float) -> str:
    """0.0021 is `2.1 ms`, 75 is `75.0 s`."""
    return f"{seconds * 1000:.1f} ms" if seconds < 10 else f"{seconds:.1f} s"


def _patience_seconds(request: GoldenRequest) -> float:
    """Twice the allowed time, where that is longer than any request gets."""
    return max(REQUEST_SECONDS, 2 * (request.max_latency_milliseconds or 0) / 1000)


def _read_note(text: str | None) -> dict[int, Passed]:
    try:
        raw: Mapping[str, Any] = parse_json(text or "")
        return {
            int(version): Passed(None if digest is None else str(digest), str(fingerprint), str(message))
            for version, (digest, fingerprint, message) in raw.items()
        }
    except (ValueError, TypeError, AttributeError):
        return {}
