"""A pod's agent and server: what is loaded for agent.json and a source, and what they say of it.

The contract with the operator is said here once for all tests that play agents (serving-images/agent/README.md).
Pure: time comes in. Must not import slipway.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from tests.simulation.pods import Mount
from tests.simulation.requests import Tally

Json = dict[str, Any]

ORDERS_KEY = "agent.json"
SERVER_RESTART_SECONDS = 3
LOAD_FAILED: Json = {"reason": "LoadFailed", "permanent": True, "message": "the server says: version 2 is no ONNX"}
SIGNATURE: Json = {
    "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 64]}],
    "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 10]}],
}
"""Of every version for which a test says nothing else."""

AGENT: Json = {"release": "0.1.0", "abilities": ["out", "question", "signatures", "turn", "verify"]}
"""What an agent says of itself."""


@dataclass
class Source:
    """Where the versions of a model are, and how it goes with each.

    at_source: those that a listing finds. unlisted: those that can be had though no listing finds them.
    changed: version → another content of it since. heavy: those that fit into a server only by themselves.
    slow: those that take for ever to load. fetching: those that take for ever to come.
    broken: version → the error that agents report. wrong: those that answer golden requests wrongly.
    deadly: those that end the server that loads them.
    signatures: version → what it takes and gives. erring: those that answer every request with a server error once they
    are loaded, their own golden or warm-up request included. unsigned: those that nobody signed. verifying: those whose
    verification isn't over yet where they serve.
    """

    at_source: set[int] = field(default_factory=lambda: {1, 2, 3})
    unlisted: set[int] = field(default_factory=set)
    changed: dict[int, str] = field(default_factory=dict)
    heavy: set[int] = field(default_factory=set)
    slow: set[int] = field(default_factory=set)
    fetching: set[int] = field(default_factory=set)
    broken: dict[int, Json] = field(default_factory=dict)
    wrong: set[int] = field(default_factory=set)
    deadly: set[int] = field(default_factory=set)
    signatures: dict[int, Json] = field(default_factory=dict)
    erring: set[int] = field(default_factory=set)
    unsigned: set[int] = field(default_factory=set)
    verifying: set[int] = field(default_factory=set)

    def found(self) -> dict[str, str]:
        """Version → stamp, as agents list the source."""
        return {str(version): self.changed.get(version, "first") for version in sorted(self.at_source)}

    def state_of(self, version: int, loaded: set[int]) -> str:
        """What becomes of a version in a server that has loaded these."""
        if version in self.fetching:
            return "Fetching"
        is_there = version in self.at_source or version in self.unlisted
        if version in self.broken or not is_there or (loaded - {version} and version in self.heavy):
            return "Failed"
        return "Loading" if version in self.slow else "Available"

    def failure_of(self, version: int, orders: Json) -> Json:
        """What an agent says of a version that it can't have."""
        if version in self.broken:
            return self.broken[version]
        if "verify" in orders["source"] and version in self.unsigned:
            reason, words = "NotSigned", f"version {version} has no model.sig in its folder"
        elif version in self.deadly:
            reason, words = "LoadFailed", "the server ended during the load"
        elif version in self.wrong:
            reason, words = "GoldenFailed", "golden request 1: outputs[0].data[3] is 0.2, expected 0.9"
        elif version in self.heavy:
            reason = "NotEnoughMemory"
            words = f"version {version} needs 3.0 GiB beside 2.0 GiB of version 1, and the limit is 4.0 GiB"
        else:
            reason, words = "VersionNotFound", f"{orders['source']['uri']} has no version {version}; correct spec.model"
        return {"reason": reason, "permanent": True, "message": words}


@dataclass
class Agent:
    """One pod's: its orders as they are mounted, what is loaded, which version served last, what its server counted.

    left_at: since when it keeps out of the Service to go over. down_until: its server is being started again.
    died_of: versions that ended its server. is_old: it knows of no turns. is_dead: its server's backend ended, and the
    server doesn't notice. name: its pod's, by which it knows its turn.
    """

    mount: Mount = field(default_factory=Mount)
    orders: Json | None = None
    loaded: set[int] = field(default_factory=set)
    served: int | None = None
    answers: Tally = field(default_factory=Tally)
    left_at: float | None = None
    down_until: float = 0
    died_of: set[int] = field(default_factory=set)
    is_old: bool = False
    is_dead: bool = False
    name: str = ""

    @property
    def serving(self) -> int | None:
        """The version that an unversioned request gets."""
        return max(self.loaded, default=None)

    def read(self, data: Json, nudge: str | None, now: float, pod: str = "") -> None:
        """Its ConfigMap is read anew. pod: the agent's own, by which it knows its turn."""
        self.mount.read(data, nudge, now)
        self.name = pod
        self.orders = json.loads(data[ORDERS_KEY])
        turn = None if self.is_old else self.orders.get("turn")
        if turn and pod in turn["pods"]:
            self.orders = {name: value for name, value in self.orders.items() if name != "golden"} | turn

    @property
    def _stands(self) -> bool:
        """What served last still does."""
        return self.served in self.loaded

    def follow(self, source: Source, now: float = 0) -> bool:
        """Load what the orders say. Returns whether the pod may get traffic."""
        if self.orders is None:
            return False
        if now < self.down_until:
            return False
        served, is_held = self.orders["served"], bool(self.orders.get("held")) and not self.is_old
        drain_seconds, before = self.orders.get("drainSeconds"), self.served
        is_to_load = served not in self.loaded and self._state_of(served, source) in ("Loading", "Available")
        if drain_seconds is not None and self._stands and is_to_load:
            self.left_at = now if self.left_at is None else self.left_at
            if now - self.left_at < drain_seconds:
                return False
        if is_to_load and served in source.deadly:
            self.died_of.add(served)
            self.loaded = set() if before is None else {before}
            self.down_until = now + SERVER_RESTART_SECONDS
            return False
        may, is_loading = self._load(source), drain_seconds is not None and served in source.slow
        self.left_at = now if (is_held and served in self.loaded) or (is_loading and self._stands) else None
        return may and self.left_at is None and not self.is_out(source)

    def fails(self, source: Source) -> bool:
        """Its server answers its own request with errors; a minute and a half is a moment here."""
        return self.is_dead or self.serving in source.erring

    def is_out(self, source: Source) -> bool:
        """It keeps out of the Service since its server fails and the operator has seen others serve."""
        return self.name in ((self.orders or {}).get("out") or ()) and self.fails(source)

    def _state_of(self, version: int, source: Source) -> str:
        if version in self.died_of or self._refuses(version, source):
            return "Failed"
        return source.state_of(version, self.loaded)

    def _refuses(self, version: int, source: Source) -> bool:
        """It is to verify what it loads, and nobody signed that."""
        is_asked_to = "verify" in (self.orders or {}).get("source", {})
        return is_asked_to and not self.is_old and version in source.unsigned

    def _load(self, source: Source) -> bool:
        assert self.orders is not None
        served, load, before = self.orders["served"], set(self.orders["load"]) - self.died_of, self.served
        if self.orders.get("golden") and served in source.wrong:
            self.loaded = load - source.wrong
            return False
        self.loaded |= {version for version in load if self._state_of(version, source) == "Available"}
        if served in self.loaded:
            self.served = served
            self.loaded &= load
        return served in self.loaded or before in self.loaded

    def report(self, source: Source, since: str) -> Json | None:
        """What it answers to GET /status (schema 1); None: it has no orders yet. since: of every state."""
        if (orders := self.orders) is None:
            return None
        versions = [self._version(number, orders, source) for number in sorted({*orders["load"], *self.loaded})]
        failed = {each["version"] for each in versions if each["state"] == "Failed"}
        served = orders["served"]
        is_in = self.left_at is None and not self.is_out(source) and (served in self.loaded or self._stands)
        now = {"traffic": is_in, "probe": self._probe(orders, source, since), "agent": AGENT}
        newer = {} if self.is_old else now
        return {
            **newer,
            "schema": 1,
            "generation": orders["generation"],
            "served": served,
            "ready": served in self.loaded,
            "serving": self.serving,
            "listed": sorted(source.at_source),
            "found": source.found(),
            "versions": [{**each, "since": since} for each in versions],
            "error": source.failure_of(served, orders) if served in failed else None,
            "signatures": {str(version): source.signatures.get(version, SIGNATURE) for version in self.loaded},
        }

    def _probe(self, orders: Json, source: Source, since: str) -> Json | None:
        if not any(orders.get(each) for each in ("golden", "probe", "warmup")) or orders["served"] not in self.loaded:
            return None
        fails = self.fails(source)
        return {
            "version": orders["served"],
            "failing": fails,
            "message": "stub process is not healthy" if fails else "",
            **dict.fromkeys(("asked", "failed", "refused"), 0),
            "since": since,
        }

    def _version(self, version: int, orders: Json, source: Source) -> Json:
        state = "Available" if version in self.loaded else self._state_of(version, source)
        if orders.get("golden") and version in source.wrong:
            state = "Failed"
        if version not in orders["load"]:
            state = "Unloading"
        keys = orders["source"].get("verify", {}).get("keys", [])
        signed_by = sha256(keys[0].strip().encode()).hexdigest() if keys else None
        if version in source.unsigned | source.verifying or self.is_old:
            signed_by = None
        if self._refuses(version, source):
            state = "Failed"  # where it is loaded already, it stays so
        failure = source.failure_of(version, orders) if state == "Failed" else {"reason": "", "message": ""}
        return {
            "signedBy": signed_by,
            "version": version,
            "state": state,
            "reason": failure["reason"],
            "message": failure["message"],
            "sha256": None if state == "Failed" else orders.get("sha256", {}).get(str(version)) or f"{version:064x}",
            "bytes": 1000,
            "fetchedBytes": 1000,
        }
