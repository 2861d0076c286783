"""What operator and agent say to each other, of whichever checkout is on the path; and the recorder of older ones.

    orders     the agent.json of every golden case, in turn and held, as that operator writes it
    reports    GET /status in each phase of a version's life, as that agent writes it
    readings   what that agent makes of that operator's orders
    passes_by  whether that agent passes by a key that it doesn't know, at each level of agent.json

Recorded once for each landed state that pods may still run: check it out beside this one, then

    PYTHONPATH=OLD/operator:OLD/serving-images/agent:OLD:. python -m tests.neighbours.contract COMMIT

with this file copied into OLD/tests/neighbours first. What an older checkout has no word for is left out. Small: only
what one says to the other.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import sys
from pathlib import Path
from typing import Any

import yaml

from slipway.model import workload
from slipway.render import agent_orders
from slipway_agent.config import parse_config
from slipway_agent.model.errors import Reason, SpecError
from slipway_agent.model.golden import GoldenReport, GoldenState
from slipway_agent.plan.discovery import Listing
from slipway_agent.reporting.report import ErrorReport, Report, State, VersionReport, render_status
from slipway_agent.servers.by_runtime import KINDS
from tests.golden.test_manifests import CASES, rendered

Json = dict[str, Any]

RECORDED = Path(__file__).parent / "recorded"
POD = "digits-a"
SINCE = "2026-11-30T12:00:00Z"
KNOWS_ITS_POD: dict[str, str] = {"pod": POD} if "pod" in inspect.signature(parse_config).parameters else {}
LEVELS = ("", "source", "golden", "turn")


def orders() -> dict[str, Json]:
    """Case → agent.json of the workload that comes last."""
    found = {path.stem: _orders_of(path) for path in sorted(CASES.glob("*.yaml")) if ".rendered" not in path.stem}
    former, own = found["smallest"], found["smallest"] | {"served": 2, "load": [1, 2], "labels": {}}
    requests: Json = {"requests": [{"request": {"x": 1}, "response": {"y": 2}}], "file": None, "tolerance": {}}
    found["golden"] = {**former, "golden": requests}
    if hasattr(agent_orders, "in_turn"):
        turn = workload.Turn(pods=(POD,), leaves=True, is_held=True)
        found["turn"] = agent_orders.in_turn(own, former, turn)
        found["held"] = agent_orders.held(own)
        found["probe"] = agent_orders.with_question(former, {"request": {"x": 1}})
        found["out"] = agent_orders.without_pods(former, [POD])
    return found


def _orders_of(path: Path) -> Json:
    bodies = list(yaml.safe_load_all(path.read_text()))
    for body in bodies:
        body["metadata"] |= {"namespace": "models", "uid": "00000000-0000-4000-8000-000000000001"}
    # An older checkout's takes the bodies alone.
    takes: Json = {"case": path.stem, "bodies": bodies}
    children = rendered(**{name: takes[name] for name in inspect.signature(rendered).parameters})
    maps = [child for child in children if "agent.json" in (child.get("data") or {})]
    config: Json = json.loads(maps[-1]["data"]["agent.json"])
    return config


def reports() -> dict[str, Json]:
    """Phase of version 2 → the agent's answer."""
    listing = Listing(found={1: "a" * 20, 2: "b" * 20})
    refused = ErrorReport(Reason.LOAD_FAILED, True, "the server says: no ONNX")
    phases: dict[str, Report] = {
        "silent": Report(),
        "waiting": Report(generation="g", listing=listing),
        **{state.value: _report(state, listing=listing) for state in State},
        "refused": _report(State.FAILED, listing=listing, error=refused),
        "served": _report(State.AVAILABLE, listing=listing, is_ready=True, is_serving=True, serving=2),
        "kept out": _report(State.AVAILABLE, listing=listing, is_ready=True, is_serving=False, serving=2),
        "golden": _report(
            State.LOADING, listing=listing, golden=GoldenReport(2, GoldenState.RUNNING, "request 1 of 3")
        ),
    }
    return {phase: render_status(report, POD) for phase, report in phases.items()}


def _report(state: State, **more: Any) -> Report:
    message = "the server says: no ONNX" if state is State.FAILED else ""
    reason = "LoadFailed" if state is State.FAILED else ""
    digest = "d" * 64 if state not in (State.PENDING, State.FETCHING) else None
    version = VersionReport(2, state, reason, message, digest, 5, 5, SINCE)
    return Report(**{"generation": "g", "served": 2, "may_start": True, "versions": (version,), **more})


def readings(of: dict[str, Json]) -> dict[str, Json]:
    """Case → what this checkout's agent reads in those orders; {"refused": …}: it can't use them."""
    return {case: _reading(config) for case, config in of.items()}


def _reading(config: Json) -> Json:
    try:
        read = parse_config(json.dumps(config), KINDS, **KNOWS_ITS_POD)
    except SpecError as error:
        return {"refused": str(error)[:200]}
    fields = {each.name: getattr(read, each.name) for each in dataclasses.fields(read) if each.name != "generation"}
    plain = json.loads(json.dumps({name: _plain(value) for name, value in fields.items()}))
    return {name: value for name, value in plain.items() if value not in (None, False, [], {}, "")}


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {each.name: _plain(getattr(value, each.name)) for each in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(each) for each in value]
    return value if isinstance(value, str | int | float | bool | None) else repr(value)


def passes_by(of: dict[str, Json]) -> dict[str, bool]:
    """Level of agent.json → whether a key that nobody knows changes nothing there; of those that the orders have."""
    found: dict[str, bool] = {}
    for level in LEVELS:
        for config in of.values():
            if level and level not in config:
                continue
            strange = {"aKeyOfAnotherRelease": {"x": 1}}
            other = config | strange if not level else config | {level: config[level] | strange}
            found[level or "top"] = found.get(level or "top", True) and _reading(other) == _reading(config)
    return found


def spoken() -> Json:
    """All of it."""
    written = orders()
    return {
        "orders": written,
        "reports": reports(),
        "readings": readings(written),
        "passesBy": passes_by(written),
    }


if __name__ == "__main__":
    text = json.dumps(spoken(), sort_keys=True, separators=(",", ":"))
    RECORDED.mkdir(exist_ok=True)
    (RECORDED / f"{sys.argv[1]}.json").write_text(text + "\n")
