"""What servers' own metrics say of a model's requests, on pages as the real servers write them; and what is refused."""

from __future__ import annotations

import doctest
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipway.model.revision import Revision, spec_of, user_choice
from slipway.model.signals import LATENCY_BOUNDS_MILLISECONDS, Counts
from slipway.observe import prometheus_text
from slipway.observe.server_counts import Counter, counters_of, read_counts
from slipway.runtimes import RUNTIMES
from tests.unit.specs import deployment

TRITON = """\
# HELP nv_inference_request_success Number of successful inference requests, all batch sizes
# TYPE nv_inference_request_success counter
nv_inference_request_success{model="digits",version="1"} 1
nv_inference_request_success{model="digits",version="2"} 10
nv_inference_request_success{model="other",version="2"} 500
# TYPE nv_inference_request_failure counter
nv_inference_request_failure{model="digits",reason="OTHER",version="1"} 70
nv_inference_request_failure{model="digits",reason="BACKEND",version="2"} 3
nv_inference_request_failure{model="digits",reason="CANCELED",version="2"} 2
nv_inference_request_failure{model="digits",reason="REJECTED",version="2"} 1
nv_inference_request_failure{model="digits",reason="OTHER",version="2"} 0
# TYPE nv_inference_request_duration_us counter
nv_inference_request_duration_us{model="digits",version="2"} 20925
# TYPE slipway_returned_errors counter
slipway_returned_errors{fault="server",model="digits",version="2"} 2
slipway_returned_errors{fault="caller",model="digits",version="2"} 1
slipway_returned_errors{fault="server",model="digits",version="1"} 9
"""
TRITON_BEFORE_24_08 = """\
nv_inference_request_success{model="digits",version="2"} 10.000000
nv_inference_request_failure{model="digits",version="2"} 4.000000
"""
TENSORFLOW = """\
# TYPE :tensorflow:serving:request_count counter
:tensorflow:serving:request_count{model_name="digits",status="OK"} 134
:tensorflow:serving:request_count{model_name="digits",status="INTERNAL"} 5
:tensorflow:serving:request_count{model_name="digits",status="INVALID_ARGUMENT"} 4
:tensorflow:serving:request_count{model_name="another",status="INTERNAL"} 40
# TYPE :tensorflow:serving:request_latency histogram
:tensorflow:serving:request_latency_bucket{model_name="digits",API="",entrypoint="REST",le="10"} 100
:tensorflow:serving:request_latency_bucket{model_name="digits",API="",entrypoint="REST",le="+Inf"} 100
:tensorflow:serving:request_latency_count{model_name="digits",API="",entrypoint="REST"} 100
:tensorflow:serving:request_latency_bucket{model_name="digits",API="predict",entrypoint="REST",le="642.684"} 1
:tensorflow:serving:request_latency_bucket{model_name="digits",API="predict",entrypoint="REST",le="12143.5"} 7
:tensorflow:serving:request_latency_bucket{model_name="digits",API="predict",entrypoint="REST",le="+Inf"} 9
:tensorflow:serving:request_latency_sum{model_name="digits",API="predict",entrypoint="REST"} 4000
:tensorflow:serving:request_latency_count{model_name="digits",API="predict",entrypoint="REST"} 9
:tensorflow:serving:request_latency_bucket{model_name="digits",API="Predict",entrypoint="GRPC",le="642.684"} 25
:tensorflow:serving:request_latency_bucket{model_name="digits",API="Predict",entrypoint="GRPC",le="12143.5"} 25
:tensorflow:serving:request_latency_bucket{model_name="digits",API="Predict",entrypoint="GRPC",le="+Inf"} 25
:tensorflow:serving:request_latency_count{model_name="digits",API="Predict",entrypoint="GRPC"} 25
"""


def onnx_page(within: dict[str, int], outcomes: dict[tuple[str, str], int]) -> str:
    """A page of the ONNX Runtime server: `within` by the bound's seconds, `outcomes` by (asked, outcome)."""
    answers = [
        f'slipway_inference_requests_total{{asked="{asked}",model="digits",outcome="{outcome}",version="2"}} {count}.0'
        for (asked, outcome), count in outcomes.items()
    ]
    buckets = [
        f'slipway_inference_seconds_bucket{{asked="unversioned",le="{bound}",model="digits",version="2"}} {count}.0'
        for bound, count in within.items()
    ]
    return "\n".join([*answers, *buckets, 'model_infer_request_failure_total{model="digits",version="2"} 6.0', ""])


def counter(runtime: str, version: int | None = 2) -> Counter:
    return Counter(runtime, 1, RUNTIMES[runtime].metrics, "digits", version)


def test_the_examples_in_the_module_are_true() -> None:
    assert doctest.testmod(prometheus_text).failed == 0


def test_triton_counts_the_served_version_s_requests_and_the_errors_that_its_backend_returned() -> None:
    assert read_counts(TRITON, counter("Triton")) == Counts(requests=16, errors=6, refusals=3)


def test_triton_without_reasons_counts_every_failure_as_an_error() -> None:
    assert read_counts(TRITON_BEFORE_24_08, counter("Triton")) == Counts(requests=14, errors=4)


def test_while_the_version_is_unknown_all_versions_count() -> None:
    assert read_counts(TRITON, counter("Triton", None)).requests == 87


def test_tensorflow_serving_s_questions_for_status_are_no_requests() -> None:
    found = read_counts(TENSORFLOW, counter("TensorFlowServing"))
    assert (found.requests, found.errors, found.refusals) == (43, 5, 4)


def test_a_latency_counts_as_within_a_bound_unless_it_is_surely_above_it() -> None:
    """Of the 34 that were timed, 26 took 0.64 ms at most and 32 took 12.1 ms; the 9 that failed are not timed."""
    found = read_counts(TENSORFLOW, counter("TensorFlowServing"))
    within = dict(zip(LATENCY_BOUNDS_MILLISECONDS, found.within, strict=True))
    assert (within[1], within[10], within[15]) == (32 + 9, 32 + 9, 34 + 9)
    assert within[60_000] == 43


def test_onnx_runtime_counts_unversioned_requests_alone_at_the_routers_own_bounds() -> None:
    outcomes = {
        ("unversioned", "ok"): 90,
        ("unversioned", "error"): 7,
        ("unversioned", "refused"): 3,
        ("named", "ok"): 1000,
        ("named", "error"): 500,
    }
    page = onnx_page({"0.001": 10, "0.0075": 60, "+Inf": 100}, outcomes)
    found = read_counts(page, counter("ONNXRuntime"))
    assert (found.requests, found.errors, found.refusals) == (100, 7, 3)
    within = dict(zip(LATENCY_BOUNDS_MILLISECONDS, found.within, strict=True))
    assert (within[1], within[2], within[7.5], within[10]) == (10, 60, 60, 100)


@pytest.mark.parametrize("runtime", ["Triton", "TensorFlowServing", "ONNXRuntime"])
def test_a_page_without_the_samples_says_that_nothing_was_asked(runtime: str) -> None:
    found = read_counts("# nothing yet\nprocess_start_time_seconds 1.7e9\n", counter(runtime))
    assert (found.requests, found.errors, found.refusals) == (0, 0, 0)
    assert not any(found.within)


@pytest.mark.parametrize(
    "line",
    [
        "nv_inference_request_success",
        'nv_inference_request_success{model="digits" 3',
        'nv_inference_request_success{model=digits,version="2"} 3',
        'nv_inference_request_success{="digits"} 3',
        'nv_inference_request_success{ ="digits"} 3',
        'nv_inference_request_success{model="digits",version="2"} three',
        'nv_inference_request_success{model="digits",version="2"} NaN',
        'nv_inference_request_success{model="digits",version="2"} -1',
    ],
)
def test_a_page_that_cant_be_read_is_no_count(line: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        read_counts(TRITON + line, counter("Triton"))


def test_a_line_of_another_metric_may_say_anything() -> None:
    assert read_counts('another{model="digits" 3\n# TYPE\n' + TRITON, counter("Triton")).requests == 16


@given(st.text(max_size=50), st.text(max_size=20))
def test_any_line_of_a_wanted_metric_is_read_or_refused(labels: str, value: str) -> None:
    try:
        found = read_counts(f"nv_inference_request_success{{{labels}}} {value}", counter("Triton"))
    except ValueError:
        return
    assert found.requests >= 0


@given(st.text(max_size=300))
def test_any_other_page_is_read_as_nothing_or_refused(page: str) -> None:
    try:
        found = read_counts(page, counter("Triton"))
    except ValueError:
        return
    assert found.requests >= 0


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=8), st.integers(0, 5000))
def test_within_never_falls_and_never_exceeds_the_requests(steps: list[int], requests: int) -> None:
    bounds = [*(str(0.003 * 4**power) for power in range(len(steps) - 1)), "+Inf"]
    cumulative = {bound: sum(steps[: index + 1]) for index, bound in enumerate(bounds)}
    found = read_counts(onnx_page(cumulative, {("unversioned", "ok"): requests}), counter("ONNXRuntime"))
    assert len(found.within) == len(LATENCY_BOUNDS_MILLISECONDS)
    assert list(found.within) == sorted(found.within)
    assert all(count <= requests for count in found.within)


# --- whose pods count where


def revision(version: int, **choice: Any) -> Revision:
    return Revision("", 1, version, user_choice(deployment(choice).spec), {}, {})


def test_each_workload_counts_as_its_own_revision_s_server_does() -> None:
    old = {"runtime": {"name": "TensorFlowServing"}, "model": {"name": "figures"}}
    asked = deployment({"model": {"version": 2}})
    found = counters_of(
        asked,
        {"one": revision(1, **old), "two": revision(2, model={"version": 2})},
        {"one": "one", "two": "two", "lost": "lost"},
    )
    assert {workload: (each.runtime, each.port, each.model, each.version) for workload, each in found.items()} == {
        "one": ("TensorFlowServing", 8501, "figures", 1),
        "two": ("Triton", 8002, "digits", 2),
    }
    assert spec_of(asked, revision(1, **old)).runtime.name == "TensorFlowServing"


def test_a_server_that_counts_nothing_says_why() -> None:
    assert all((runtime.metrics is None) == bool(runtime.uncounted) for runtime in RUNTIMES.values())
