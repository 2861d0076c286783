"""Warm-up by the agent, for servers without a mechanism of their own: a version counts as ready once it has answered
the configured requests.

The wrapper stands before a driver and looks like one. `observe` hides a version that isn't warm; `load` sends the
requests to each version that isn't, the served one first, and undoes a load that brought a version that doesn't
answer well. A version is cold again when the server was seen without it, or when other bytes were published in its
place. What is warm is kept in the models volume, so that an agent that restarts beside a running server doesn't take
the pod out of service.

Limit: on a server that gives unversioned requests to the highest loaded version, they reach it while it warms up.
"""

import json
import threading
from collections.abc import Iterable, Sequence

from slipway_agent.model.errors import Reason
from slipway_agent.model.server_state import Gone, Loaded, LoadOutcome, Refused, ServerView
from slipway_agent.servers.base import Server
from slipway_agent.servers.wrappers.base import ServerWrapper
from slipway_agent.volume.models_volume import ModelVolume

_NOTE = "warm.json"
_Stamp = tuple[int, int]


class Warmth:
    """Which versions are warm, each with its folder's stamp then. Outlives a change of agent.json, and the agent.

    Used from the threads of `observe` and `load` at once.
    """

    def __init__(self, volume: ModelVolume) -> None:
        self._volume = volume
        self._lock = threading.Lock()
        self._stamps = _read_note(volume.read_note(_NOTE))

    def adopt(self, versions: Iterable[int]) -> None:
        """Count these as warm where nothing is known of them: they answered before anybody asked for a warm-up."""
        with self._lock:
            known = {version: self._stamp(version) for version in versions if version not in self._stamps}
            self._replace(known | self._stamps)

    def note(self, version: int) -> None:
        with self._lock:
            self._replace({**self._stamps, version: self._stamp(version)})

    def snapshot(self) -> dict[int, _Stamp]:
        with self._lock:
            return dict(self._stamps)

    def forget(self, cold: Iterable[int], known: dict[int, _Stamp]) -> None:
        """Make versions cold, except those that became warm since `known` was taken."""
        with self._lock:
            gone = {version for version in cold if self._stamps.get(version) == known.get(version)}
            self._replace({version: stamp for version, stamp in self._stamps.items() if version not in gone})

    def holds_current(self, version: int) -> bool:
        """Warm, with the bytes that are published now."""
        with self._lock:
            return self._stamps.get(version) == self._stamp(version)

    def _stamp(self, version: int) -> _Stamp:
        """Publishing renames a new folder into place: another inode."""
        try:
            status = (self._volume.repository / str(version)).stat()
        except OSError:
            return (0, 0)
        return (status.st_ino, status.st_mtime_ns)

    def _replace(self, stamps: dict[int, _Stamp]) -> None:
        if stamps == self._stamps:
            return
        self._stamps = stamps
        self._volume.write_note(_NOTE, json.dumps({str(version): stamp for version, stamp in sorted(stamps.items())}))


class WarmingServer(ServerWrapper):
    """`requests`: bodies in the server's own form; `served`: the version that is warmed first."""

    warms_itself = True

    def __init__(self, server: Server, requests: Sequence[object], served: int | None, warmth: Warmth) -> None:
        super().__init__(server)
        self._requests = requests
        self._served = served
        self._warmth = warmth

    def observe(self, versions: frozenset[int]) -> ServerView:
        known = self._warmth.snapshot()
        view = self._server.observe(versions)
        cold = (versions if view.is_alive else frozenset(known)) - view.ready
        self._warmth.forget(cold, known)
        return ServerView(view.is_alive, view.ready & self._warmth.snapshot().keys())

    def load(self, versions: frozenset[int]) -> LoadOutcome:
        before = self._server.read_boot()
        outcome = self._server.load(versions)
        if not isinstance(outcome, Loaded):
            return outcome
        words: dict[int, str] = {}
        for version in sorted(versions, key=lambda version: (version != self._served, version)):
            if self._warmth.holds_current(version):
                continue
            said = self._warm(version)
            if said is None:
                self._warmth.note(version)
                continue
            if not self._server.observe(versions).is_alive:
                self._restore_boot(before)
                return Gone(f"the server ended at version {version}'s {said}")
            words[version] = said
        if not words:
            return Loaded()
        return self._refuse(before, versions, words)

    def _warm(self, version: int) -> str | None:
        """None when every request was answered well, else which one wasn't and the server's words."""
        for position, body in enumerate(self._requests, start=1):
            said = self._server.ask(version, body).words
            if said is not None:
                return f"warm-up request {position} of {len(self._requests)}: {said}"
        return None

    def _refuse(self, before: frozenset[int], versions: frozenset[int], words: dict[int, str]) -> LoadOutcome:
        """The refusal, with the server holding again what its boot configuration named before the load."""
        message = "; ".join(f"version {version}: {said}" for version, said in sorted(words.items()))
        outcome = self._take_back(before, versions, Refused(message, words, Reason.WARMUP_FAILED))
        if before and before != versions:
            self._warmth.forget(versions - before, self._warmth.snapshot())
        return outcome


def _read_note(text: str | None) -> dict[int, _Stamp]:
    try:
        return {
            int(version): (int(inode), int(changed)) for version, (inode, changed) in json.loads(text or "").items()
        }
    except (ValueError, TypeError, AttributeError):
        return {}
