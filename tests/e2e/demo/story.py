"""The second half of `make demo`: a good canary is promoted and a bad one rolled back, under traffic, as it happens.

Everything that is told is read from outside: the ModelDeployment's status, and what clients were answered.
Invariant: the story ends; each wait has a limit, and a late one raises TimedOutError with what was seen last.
"""

from __future__ import annotations

import json
import sys
import textwrap
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from examples.canary.versions import BAD, GOOD
from tests.e2e import reach
from tests.e2e.generator import Loaded, clients_of, load_on
from tests.e2e.kube import Kube, Manifest, kubectl
from tests.e2e.traffic import GRPC, KEPT
from tests.e2e.wire import inference_protocol

MANIFEST = Path(__file__).resolve().parents[3] / "examples" / "canary" / "modeldeployment.yaml"
NAME, BEFORE = "digits", 2
RATE = 100.0
SHARES = {KEPT: 0.5, GRPC: 0.5}
STORY_SECONDS = 120.0
OWN_WORDS = "bias_of_the_classes"
"""What version 4's errors hold, and nobody else's."""
WIDTH, BAR = 92, 20
GREY, GREEN, RED, BOLD, PLAIN = "\033[90m", "\033[32m", "\033[31m", "\033[1m", "\033[0m"


class StoryError(Exception):
    """It went otherwise than it should; the message says how."""


def begin(namespace: str) -> None:
    """Adds the steps to what serves: from now on routers split the requests."""
    done = kubectl("-n", namespace, "apply", "-f", str(MANIFEST))
    if done.status != 0:
        raise StoryError(f"kubectl apply refused {MANIFEST.name}:\n{done.err}")


def has_routers(found: Manifest | None) -> bool | None:
    """Whether the Service leads to routers, and version 2 serves alone behind them."""
    status = (found or {}).get("status") or {}
    if found is None or status.get("observedGeneration") != found["metadata"]["generation"]:
        return None
    is_there = (status.get("traffic") or {}).get("serviceTarget") == "Router"
    is_alone = (status.get("stable") or {}).get("version") == BEFORE and not status.get("canary")
    return True if is_there and is_alone and not status.get("previous") else None


def tell(kube: Kube, namespace: str, images: Sequence[Sequence[float]]) -> None:
    """Both rollouts, each under traffic of its own."""
    asked = [inference_protocol(NAME, "image", image) for image in images]
    clients = f"clients ask {RATE:.0f} times a second, REST and gRPC, on kept connections"
    _title("A better version reaches clients step by step")
    print(f"  version {GOOD} is applied: {_command(GOOD)}\n  {clients}\n")
    with _traffic(kube, namespace, asked) as loaded:
        told = _Told(GOOD, loaded)
        _apply(namespace, GOOD)
        kube.wait("ModelDeployment", NAME, namespace, "version 3 is promoted", told.until_promoted, STORY_SECONDS)
        loaded.more(int(RATE))
    _close(loaded, None)
    _title("A worse one is taken back by itself")
    print(f"  version {BAD} fails for bold digits, and nobody noticed: {_command(BAD)}\n")
    with _traffic(kube, namespace, asked) as loaded:
        told = _Told(BAD, loaded)
        _apply(namespace, BAD)
        kube.wait("ModelDeployment", NAME, namespace, "version 4 is taken back", told.until_taken_back, STORY_SECONDS)
        loaded.more(int(RATE))
    _close(loaded, told)


@dataclass(slots=True)
class _Told:
    """What was told so far of a rollout to `version`."""

    version: int
    loaded: Loaded
    begin: float = field(default_factory=time.monotonic)
    said: set[str] = field(default_factory=set)
    failed_at: float | None = None

    def until_promoted(self, found: Manifest | None) -> bool | None:
        """Tells what is new; True once the version has all requests."""
        status = self._tell(found)
        if (status.get("stable") or {}).get("version") != self.version:
            self._mistake(status)
            return None
        if self._once("promoted"):
            self._line(100, f"{_in(GREEN, 'promoted')}: all requests go to version {self.version}")
        return True

    def until_taken_back(self, found: Manifest | None) -> bool | None:
        """Tells what is new; True once it is rejected and has no request any more."""
        status = self._tell(found)
        if (status.get("stable") or {}).get("version") == self.version:
            raise StoryError(f"version {self.version} was promoted")
        return True if _reason(status) == "RolledBack" and not status.get("canary") else None

    def _tell(self, found: Manifest | None) -> dict[str, Any]:
        status: dict[str, Any] = (found or {}).get("status") or {}
        if found is None or status.get("observedGeneration") != found["metadata"]["generation"]:
            return {}
        canary, step = status.get("canary") or {}, status.get("step") or {}
        if canary and self._once("prepares"):
            self._line(0, f"pods of version {self.version} start beside the old ones")
        weight = canary.get("weightInForce")
        if weight and self._once(f"weight {weight}"):
            place = f"step {step.get('index', '?')} of {step.get('count', '?')}"
            self._line(weight, f"{place}: {weight} % of the requests to version {self.version}")
        verdict = status.get("verdict") or {}
        if weight and verdict.get("result") == "Pass" and self._once(f"pass {step.get('index')}"):
            self._line(weight, f"verdict {_in(GREEN, 'Pass')}: {verdict['message'].split('; ')[0]}")
        if _reason(status) == "RolledBack" and self._once("fail"):
            self.failed_at = time.monotonic()
            why = (status.get("rejected") or [{}])[-1]
            self._line(0, f"verdict {_in(RED, 'Fail')}: {why.get('message', '')}")
            self._line(0, f"{_in(GREEN, 'taken back')}: all requests go to the version before")
        return status

    def _mistake(self, status: dict[str, Any]) -> None:
        if _reason(status) == "RolledBack":
            raise StoryError(f"version {self.version} was taken back: {(status.get('rejected') or [{}])[-1]}")

    def _once(self, what: str) -> bool:
        is_new = what not in self.said
        self.said.add(what)
        return is_new

    def _line(self, weight: int, text: str) -> None:
        lines = textwrap.wrap(text, WIDTH - 34) or [""]
        print(f"  {time.monotonic() - self.begin:5.1f} s  {_bar(weight)}  {lines[0]}", flush=True)
        for line in lines[1:]:
            print(f"{'':33}{line}", flush=True)


@contextmanager
def _traffic(kube: Kube, namespace: str, asked: Sequence[Any]) -> Iterator[Loaded]:
    with (
        reach.service(kube, NAME, namespace) as address,
        load_on(clients_of(address, asked, RATE, SHARES)) as loaded,
    ):
        loaded.more(int(RATE))
        yield loaded


def _apply(namespace: str, version: int) -> None:
    change = json.dumps({"spec": {"model": {"version": version}}})
    done = kubectl("-n", namespace, "patch", "modeldeployment", NAME, "--type=merge", f"--patch={change}")
    if done.status != 0:
        raise StoryError(f"kubectl patch was refused:\n{done.err}")


def _command(version: int) -> str:
    return _in(GREY, f"spec.model.version: {version}")


def _close(loaded: Loaded, told: _Told | None) -> None:
    records = loaded.records.values()
    failures = [(due, words) for record in records for due, words in record.failures]
    own = [due for due, words in failures if OWN_WORDS in words]
    others = [words for _, words in failures if OWN_WORDS not in words]
    asked = sum(len(record.due) for record in records)
    mark = _in(GREEN, "✔") if not others else _in(RED, "✘")
    print(f"\n  {mark} {asked:,} requests meanwhile, lost: {_in(BOLD, str(len(others)))}", end="")
    if told is not None:
        share = loaded.by()[str(told.version)] + len(own)
        print(f"; version {told.version} got {share} of them and failed {len(own)}", end="")
        if own and told.failed_at is not None:
            print(
                f",\n    the last one {max(0.0, max(own) - told.failed_at):.1f} s after the verdict was known", end=""
            )
    print(f"\n    {_in(RED, others[0])}" if others else "")


def _reason(status: dict[str, Any]) -> str:
    return next((str(one["reason"]) for one in status.get("conditions") or [] if one["type"] == "Promoted"), "")


def _title(text: str) -> None:
    print(f"\n{_in(BOLD, text)} {_in(GREY, '─' * max(0, WIDTH - len(text) - 1))}\n")


def _bar(weight: int) -> str:
    """The old version's share and, in green, the new one's."""
    share = 0 if weight == 0 else max(1, round(weight * BAR / 100))
    return _in(GREY, "░" * (BAR - share)) + _in(GREEN, "█" * share)


def _in(colour: str, text: str) -> str:
    return f"{colour}{text}{PLAIN}" if sys.stdout.isatty() else text
