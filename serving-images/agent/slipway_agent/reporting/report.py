"""What the agent reports: /status and /metrics, composed from the same World that `plan` decides by.

Pure. The JSON is a contract with the operator (schema 1); a field is added, never changed.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from slipway_agent import __version__
from slipway_agent.model.errors import Reason
from slipway_agent.model.golden import GoldenReport, GoldenState
from slipway_agent.model.probe import Probe
from slipway_agent.model.signature import Signature, render_signatures
from slipway_agent.plan.discovery import Listing
from slipway_agent.plan.failures import Failure
from slipway_agent.plan.memory_budget import find_shortages
from slipway_agent.plan.world import World, is_out, is_ready, is_satisfied, is_serving, may_start

SCHEMA = 1
STAMP_LENGTH = 16
MESSAGE_LIMIT = 1500  # characters of a server's complaint about a probe
ABILITIES = ("out", "question", "signatures", "turn", "verify")
"""What the operator can count on, sorted: that a pod named in `out` leaves the Service when its server fails; that the
server is asked what `golden`, `probe` or `warmup` say now and then; that signatures are told; that a pod waits for its
turn, drains and is held; that nothing unsigned is published where that is asked for. A word never changes its meaning;
an operator that doesn't know one passes it by."""
SHOWN_VERSIONS = 256
"""Of what a source holds, the newest: the operator keeps no more, and reads no answer over 256 KiB."""


class State(StrEnum):
    PENDING = "Pending"
    FETCHING = "Fetching"
    VERIFIED = "Verified"
    LOADING = "Loading"
    AVAILABLE = "Available"
    FAILED = "Failed"
    UNLOADING = "Unloading"


@dataclass(frozen=True, slots=True)
class VersionReport:
    version: int
    state: State
    reason: str
    message: str
    sha256: str | None
    size_bytes: int | None
    fetched_bytes: int
    since: str
    signed_by: str | None = None


@dataclass(frozen=True, slots=True)
class ErrorReport:
    reason: Reason
    is_permanent: bool
    message: str


@dataclass(frozen=True, slots=True)
class LabelReport:
    """A label that can't point at its version yet."""

    label: str
    version: int
    message: str


@dataclass(frozen=True, slots=True)
class Report:
    """The default is the report before the first agent.json was read. `serving`: what answers unversioned requests,
    the highest version that is ready, whichever is wanted. `signatures`: of loaded versions, None where the server
    has none; one that is missing hasn't been read yet. `golden`: None without golden requests, or before the first.
    `is_out`: the pod is out of the Service since its server answers with errors.
    Fourteen fields: they are the answer's own."""

    generation: str | None = None
    served: int | None = None
    may_start: bool = False
    is_serving: bool = False
    is_ready: bool = False
    serving: int | None = None
    versions: tuple[VersionReport, ...] = ()
    labels: tuple[LabelReport, ...] = ()
    error: ErrorReport | None = None
    listing: Listing = field(default_factory=Listing)
    golden: GoldenReport | None = None
    signatures: Mapping[int, Signature | None] = field(default_factory=dict)
    probe: Probe = field(default_factory=Probe)
    is_out: bool = False


@dataclass(frozen=True, slots=True)
class Counters:
    """Since the agent's start; only ever grow."""

    fetched_bytes: int = 0
    fetch_seconds: float = 0.0
    fetches: Mapping[str, int] = field(default_factory=dict)
    loads: Mapping[str, int] = field(default_factory=dict)

    def count_fetch(self, result: str, fetched_bytes: int, seconds: float) -> "Counters":
        return replace(
            self,
            fetched_bytes=self.fetched_bytes + fetched_bytes,
            fetch_seconds=self.fetch_seconds + seconds,
            fetches={**self.fetches, result: self.fetches.get(result, 0) + 1},
        )

    def count_load(self, result: str) -> "Counters":
        return replace(self, loads={**self.loads, result: self.loads.get(result, 0) + 1})


def compose_report(
    world: World,
    listing: Listing,
    previous: Report,
    *,
    date: str,
    config_error: ErrorReport | None = None,
    golden: GoldenReport | None = None,
    signatures: Mapping[int, Signature | None] | None = None,
) -> Report:
    """`date` is now in RFC 3339; a version that is in the state of `previous` keeps that one's `since`."""
    leaving = frozenset(world.published) | world.server.ready | world.boot
    versions = sorted({*world.config.load, *leaving})
    before = {each.version: each for each in previous.versions}
    reports = tuple(_describe(world, version, before.get(version), date, golden) for version in versions)
    return Report(
        generation=world.config.generation,
        served=world.config.served,
        may_start=may_start(world),
        is_serving=is_serving(world),
        is_ready=is_ready(world),
        serving=max(world.server.ready, default=None),
        versions=reports,
        labels=tuple(_describe_labels(world)),
        error=config_error or _served_error(world),
        listing=listing,
        golden=golden,
        signatures={version: each for version, each in (signatures or {}).items() if version in world.server.ready},
        probe=world.probe,
        is_out=is_out(world),
    )


def _describe_labels(world: World) -> Iterable[LabelReport]:
    for label, version in sorted(world.config.labels.items()):
        if version not in world.config.load:
            words = "which isn't loaded: neither the served version nor the version policy names it"
        elif version not in world.server.ready:
            words = f"which isn't loaded yet, and is {find_state(world, version).value}"
        else:
            continue
        message = f"the label {label} names version {version}, {words}. It is left out; the other labels stand"
        yield LabelReport(label, version, message)


def find_failure(world: World, version: int) -> Failure | None:
    """What keeps this version from being there, if anything does."""
    fetch_failure = world.fetch_failures.get(version)
    if fetch_failure is not None and not is_satisfied(world, version):
        return fetch_failure
    load_failure = world.load_failures.get(version)
    if load_failure is not None and not load_failure.is_outdated:
        return load_failure
    return find_shortages(world).get(version)


def find_state(world: World, version: int) -> State:
    if version not in world.config.load:
        return State.UNLOADING
    failure = find_failure(world, version)
    if failure is not None and failure.is_permanent:
        return State.FAILED
    if version in world.server.ready:
        return State.AVAILABLE
    if not is_satisfied(world, version):
        is_fetching = world.fetching is not None and world.fetching.version == version
        return State.FETCHING if is_fetching or failure is not None else State.PENDING
    is_loading = version in world.loading if world.loading is not None else version in world.boot
    return State.LOADING if is_loading else State.VERIFIED


def _describe(
    world: World, version: int, before: VersionReport | None, date: str, golden: GoldenReport | None
) -> VersionReport:
    state = find_state(world, version)
    failure = find_failure(world, version) if state is not State.UNLOADING else None
    published, fetching = world.published.get(version), world.fetching
    size_bytes: int | None = None
    fetched_bytes = 0
    if fetching is not None and fetching.version == version:
        size_bytes, fetched_bytes = fetching.total_bytes, fetching.fetched_bytes
    elif published is not None:
        size_bytes = fetched_bytes = published.size_bytes
    message = failure.message if failure is not None else ""
    if not message and state is State.LOADING and not world.server.is_alive:
        message = "waiting for the server to answer"
    elif not message and state is State.LOADING and golden is not None and golden.version == version:
        message = golden.message if golden.state is GoldenState.RUNNING else ""
    return VersionReport(
        version=version,
        state=state,
        reason=failure.reason.value if failure is not None else "",
        message=message,
        sha256=published.sha256 if published is not None else None,
        size_bytes=size_bytes,
        fetched_bytes=fetched_bytes,
        since=before.since if before is not None and before.state is state else date,
        signed_by=published.signed_by if published is not None else None,
    )


def _served_error(world: World) -> ErrorReport | None:
    served = world.config.served
    failure = find_failure(world, served) if served is not None else None
    return None if failure is None else ErrorReport(failure.reason, failure.is_permanent, failure.message)


def render_status(report: Report, pod: str = "") -> dict[str, object]:
    error, shown = report.error, choose_shown(report)
    return {
        "schema": SCHEMA,
        "pod": pod,
        "agent": {"release": __version__, "abilities": list(ABILITIES)},
        "generation": report.generation,
        "served": report.served,
        "ready": report.is_ready,
        "serving": report.serving,
        "traffic": report.is_serving,
        "listed": list(shown),
        "found": _render_found(report.listing, shown),
        "listError": _render_list_error(report.listing),
        "versions": [
            {
                "version": each.version,
                "state": each.state.value,
                "reason": each.reason,
                "message": each.message,
                "sha256": each.sha256,
                "bytes": each.size_bytes,
                "fetchedBytes": each.fetched_bytes,
                "since": each.since,
                "signedBy": each.signed_by,
            }
            for each in report.versions
        ],
        "labels": [
            {
                "label": each.label,
                "version": each.version,
                "reason": Reason.LABEL_NOT_LOADED.value,
                "message": each.message,
            }
            for each in report.labels
        ],
        "golden": _render_golden(report.golden),
        "signatures": render_signatures(report.signatures, report.served),
        "probe": _render_probe(report.probe),
        "error": None
        if error is None
        else {"reason": error.reason.value, "permanent": error.is_permanent, "message": error.message},
    }


def _render_golden(golden: GoldenReport | None) -> dict[str, object] | None:
    if golden is None:
        return None
    return {"version": golden.version, "state": golden.state.value, "message": golden.message}


def _render_probe(probe: Probe) -> dict[str, object] | None:
    if probe.version is None:
        return None
    return {
        "version": probe.version,
        "failing": probe.is_failing,
        "message": probe.message[:MESSAGE_LIMIT],
        "asked": probe.asked,
        "failed": probe.failed,
        "refused": probe.refused,
        "since": probe.since,
    }


def render_listing(report: Report) -> dict[str, object]:
    listing = report.listing
    found = _render_found(listing, choose_shown(report))
    return {"token": listing.token, "found": found, "error": _render_list_error(listing)}


def choose_shown(report: Report) -> tuple[int, ...]:
    """Which of the versions found are reported: the newest, the newest up to the served one, and those that it has.

    Where the served version is named by hand, a version policy counts downwards from it, however many are newer.
    With 1000 found, 500 served and 7 loaded: 7, 245 to 500 and 745 to 1000.
    """
    found = sorted(report.listing.found)
    served = report.served
    up_to_served = [] if served is None else [version for version in found if version <= served]
    named = {each.version for each in report.versions} & report.listing.found.keys()
    return tuple(sorted({*found[-SHOWN_VERSIONS:], *up_to_served[-SHOWN_VERSIONS:], *named}))


def _render_found(listing: Listing, shown: Iterable[int]) -> dict[str, str | None]:
    """Stamps are hashes: their beginning is enough to compare, and keeps the answer small."""
    stamps = {version: listing.found[version] for version in shown}
    return {str(version): stamp[:STAMP_LENGTH] if stamp is not None else None for version, stamp in stamps.items()}


def _render_list_error(listing: Listing) -> dict[str, str] | None:
    error = listing.error
    return None if error is None else {"reason": error.reason.value, "message": error.message}


def render_metrics(report: Report, counters: Counters) -> str:
    """Prometheus' text format, version 0.0.4."""
    by_state = dict.fromkeys(State, 0)
    for each in report.versions:
        by_state[each.state] += 1
    lines = [
        *_metric("slipway_agent_ready", "gauge", "1 while the served version answers.", [("", int(report.is_ready))]),
        *_metric(
            "slipway_agent_versions",
            "gauge",
            "Model versions by state.",
            [(f'{{state="{state.value}"}}', count) for state, count in by_state.items()],
        ),
        *_metric(
            "slipway_agent_fetched_bytes_total",
            "counter",
            "Bytes fetched from the source.",
            [("", counters.fetched_bytes)],
        ),
        *_metric(
            "slipway_agent_fetch_seconds_total",
            "counter",
            "Seconds spent on fetching, verifying and unpacking.",
            [("", round(counters.fetch_seconds, 3))],
        ),
        *_metric("slipway_agent_fetches_total", "counter", "Fetches by result.", _labelled(counters.fetches)),
        *_metric("slipway_agent_loads_total", "counter", "Loads by result.", _labelled(counters.loads)),
    ]
    return "\n".join(lines) + "\n"


def _labelled(counts: Mapping[str, int]) -> list[tuple[str, float]]:
    return [(f'{{result="{result}"}}', count) for result, count in sorted(counts.items())]


def _metric(name: str, kind: str, words: str, samples: Iterable[tuple[str, float]]) -> list[str]:
    rows = [f"{name}{labels} {value}" for labels, value in samples]
    return [f"# HELP {name} {words}", f"# TYPE {name} {kind}", *rows]
