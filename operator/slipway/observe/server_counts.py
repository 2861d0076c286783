"""What model servers count by themselves: the source of counts where no router stands before them.

Each server's page is Prometheus' text form; `runtimes` say which of its metrics mean what. What a server can't tell is
refused when the spec is read, never taken as zero: a page without the samples means that nothing was asked yet.
Invariant: a page that can't be read is an error for the caller, never a count.
Must not import: I/O. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from slipway.api.v1alpha1 import ModelDeployment
from slipway.model.revision import Revision, spec_of
from slipway.model.signals import LATENCY_BOUNDS_MILLISECONDS, Counts
from slipway.observe.prometheus_text import Sample, lines_of, read_sample
from slipway.runtimes import RUNTIMES, Metrics, Samples


@dataclass(frozen=True, slots=True)
class Counter:
    """Where a workload's pods count: http://POD:port/path, and what to read there.

    metrics: None: its server counts too little. runtime: the server's name, for a person. version: the one that
    unversioned requests get; None: not known, all versions count. is_asked: the pods' agents ask it, too, now and then:
    what they asked is none of the clients' requests.
    """

    runtime: str
    port: int
    metrics: Metrics | None
    model: str
    version: int | None
    is_asked: bool = False


def counters_of(
    deployment: ModelDeployment,
    revisions: Mapping[str, Revision],
    carried: Mapping[str, str],
    asked: Collection[str] = (),
) -> dict[str, Counter]:
    """Workload → where its pods count, for those whose revision is known. carried: workload → its revision's hash.
    asked: the workloads whose agents ask their servers.

    Each by its own revision: one of them may run on another server.
    """
    found = {}
    for workload, name in carried.items():
        revision = revisions.get(name)
        if revision is None:
            continue
        spec = spec_of(deployment, revision)
        runtime = RUNTIMES[spec.runtime.name]
        metrics = runtime.metrics
        numbers = {port.name: port.number for port in runtime.ports(spec)}
        port = numbers[metrics.port] if metrics is not None else 0
        model = spec.model.name or deployment.name
        version, is_asked = revision.version or None, workload in asked
        found[workload] = Counter(spec.runtime.name, port, metrics, model, version, is_asked=is_asked)
    return found


def read_counts(page: str, counter: Counter) -> Counts:
    """What a pod's page says of the model's requests since its server started. Raises ValueError for another page.

    On servers that count by version, those of the served one: unversioned requests get that. Whether a request named
    the version, only ONNXRuntime tells.

    A latency is counted as within a bound when it surely is not above it: within the server's own next higher bound.
    Answers that the server times not at all (TensorFlow Serving's errors) count as quick: they are judged as errors.
    """
    metrics = counter.metrics
    assert metrics is not None, "a server that counts nothing is not asked"
    fixed = {}
    if metrics.model_label is not None:
        fixed[metrics.model_label] = counter.model
    if metrics.version_label is not None and counter.version is not None:
        fixed[metrics.version_label] = str(counter.version)
    names = {each.metric for each in (*metrics.requests, *metrics.errors, *metrics.refusals)}
    if metrics.latency is not None:
        names.add(f"{metrics.latency.metric}_bucket")
    samples = [
        sample
        for sample in map(read_sample, lines_of(page, frozenset(names)))
        if all(sample.labels.get(label) == value for label, value in fixed.items())
    ]

    def total(wanted: Sequence[Samples]) -> int:
        return sum(_whole(sample) for each in wanted for sample in samples if _fits(sample, each))

    requests, errors, refusals = total(metrics.requests), total(metrics.errors), total(metrics.refusals)
    if metrics.latency is None:
        return Counts(requests, errors, refusals)
    timed = Samples(f"{metrics.latency.metric}_bucket", metrics.latency.only, metrics.latency.without)
    within = _within([sample for sample in samples if _fits(sample, timed)], metrics.latency_unit_seconds, requests)
    return Counts(requests, errors, refusals, within)


def _fits(sample: Sample, wanted: Samples) -> bool:
    """Whether the sample is one of these; a label that it lacks is the empty text, as in Prometheus."""
    return (
        sample.name == wanted.metric
        and all(sample.labels.get(label, "") in values for label, values in wanted.only.items())
        and not any(sample.labels.get(label, "") in values for label, values in wanted.without.items())
    )


def _whole(sample: Sample) -> int:
    if not math.isfinite(sample.value) or sample.value < 0:
        raise ValueError(f"{sample.name} is {sample.value}: no count")
    return round(sample.value)


def _within(samples: Sequence[Sample], unit_seconds: float, requests: int) -> tuple[int, ...]:
    """For each of our bounds, the answers that are not surely slower."""
    cumulative: dict[float, int] = {}
    for sample in samples:
        # rounded: 0.0075 s is 7.5 ms, whatever a binary fraction makes of it
        bound = round(float(sample.labels["le"]) * unit_seconds * 1000, 6)
        cumulative[bound] = cumulative.get(bound, 0) + _whole(sample)
    bounds = sorted(cumulative)
    timed = cumulative[bounds[-1]] if bounds else 0
    untimed = max(0, requests - timed)
    return tuple(
        min(requests, next((cumulative[own] for own in bounds if own >= bound), timed) + untimed)
        for bound in LATENCY_BOUNDS_MILLISECONDS
    )
