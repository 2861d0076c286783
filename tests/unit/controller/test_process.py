"""The operator as a process: its settings, its log lines, its liveness."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipway.controller.cache import Cache
from slipway.controller.health import MAX_SILENCE_SECONDS, Health, note_missing
from slipway.controller.kube import Cluster, TransientError
from slipway.controller.logs import configure_logs, formatter
from slipway.controller.settings import SettingsError, read_settings
from tests.unit.specs import NAME, NAMESPACE, body

# ---- settings


def test_without_any_variable_there_are_settings() -> None:
    settings = read_settings({})
    assert settings.namespaces == ()
    assert settings.metrics_port == 8080
    assert (settings.log_format, settings.log_level) == ("console", "INFO")
    assert settings.images.agent.startswith("slipway.dev/agent:")
    assert settings.images.servers["Triton"].startswith("slipway.dev/triton:")
    assert settings.images.servers["ONNXRuntime"].startswith("slipway.dev/onnxruntime:")
    assert settings.images.servers["TensorFlowServing"] == "tensorflow/serving:2.20.0"
    assert settings.images.servers["TorchServe"] == "pytorch/torchserve:0.12.0-cpu"
    assert "Custom" not in settings.images.servers
    assert settings.images.pull_policy == "IfNotPresent"


@pytest.mark.parametrize(
    ("resolver", "domain"),
    [
        ("", "cluster.local"),
        ("search home\nnameserver 192.0.2.1", "cluster.local"),
        ("nameserver 198.51.100.1\nsearch slipway-system.svc.example.org svc.example.org example.org", "example.org"),
    ],
)
def test_the_domain_of_the_cluster_is_that_of_the_operators_own_pod(resolver: str, domain: str) -> None:
    assert read_settings({}, resolver).images.cluster_domain == domain


def test_all_variables_are_read() -> None:
    settings = read_settings(
        {
            "SLIPWAY_NAMESPACES": " a, b ,,c",
            "SLIPWAY_AGENT_IMAGE": "agent:1",
            "SLIPWAY_TENSORFLOW_SERVING_IMAGE": "tensorflow-serving:1",
            "SLIPWAY_TORCHSERVE_IMAGE": "torchserve:1",
            "SLIPWAY_TRITON_IMAGE": "triton:1",
            "SLIPWAY_ONNX_RUNTIME_IMAGE": "onnxruntime:1",
            "SLIPWAY_ROUTER_IMAGE": "envoy:1",
            "SLIPWAY_CLUSTER_DOMAIN": "example.org",
            "SLIPWAY_IMAGE_PULL_POLICY": "Always",
            "SLIPWAY_LOG_FORMAT": "json",
            "SLIPWAY_LOG_LEVEL": "DEBUG",
            "SLIPWAY_METRICS_PORT": "9000",
        }
    )
    assert settings.namespaces == ("a", "b", "c")
    assert (settings.images.router, settings.images.cluster_domain) == ("envoy:1", "example.org")
    assert (settings.images.agent, settings.images.servers, settings.images.pull_policy) == (
        "agent:1",
        {
            "TensorFlowServing": "tensorflow-serving:1",
            "TorchServe": "torchserve:1",
            "Triton": "triton:1",
            "ONNXRuntime": "onnxruntime:1",
        },
        "Always",
    )
    assert (settings.log_format, settings.log_level, settings.metrics_port) == ("json", "DEBUG", 9000)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("SLIPWAY_LOG_FORMAT", "xml", "json, console"),
        ("SLIPWAY_LOG_LEVEL", "LOUD", "DEBUG, INFO, WARNING, ERROR"),
        ("SLIPWAY_IMAGE_PULL_POLICY", "Sometimes", "IfNotPresent, Always, Never"),
        ("SLIPWAY_METRICS_PORT", "http", "a port number"),
        ("SLIPWAY_METRICS_PORT", "0", "a port number"),
        ("SLIPWAY_METRICS_PORT", "65536", "a port number"),
        ("SLIPWAY_METRICS_PORT", "²", "a port number"),
        ("SLIPWAY_METRICS_PORT", "-1", "a port number"),
        ("SLIPWAY_NETWORK_POLICY", '{"from": []}', "networkPolicy.models"),
        ("SLIPWAY_NETWORK_POLICY", "on", "networkPolicy.models"),
    ],
)
def test_a_setting_that_cannot_be_is_told_with_what_to_write(name: str, value: str, words: str) -> None:
    with pytest.raises(SettingsError) as refused:
        read_settings({name: value})
    for word in (name, *([] if name == "SLIPWAY_NETWORK_POLICY" else [repr(value)]), words):
        assert word in str(refused.value)


# ---- log lines


def line(*, as_json: bool, message: str = "passed", level: int = logging.INFO, **values: object) -> str:
    record = logging.LogRecord("slipway", level, "x.py", 1, message, (), None)
    record.created = 1_772_366_400.125
    vars(record).update(values)
    return formatter("json" if as_json else "console").format(record)


def test_a_line_for_people() -> None:
    text = line(as_json=False, key="models/digits", writes=3, error="no such thing")
    assert text == "2026-03-01T12:00:00.125Z INFO    passed key=models/digits writes=3 error='no such thing'"


def test_a_line_for_collectors() -> None:
    assert json.loads(line(as_json=True, key="models/digits", writes=3)) == {
        "time": "2026-03-01T12:00:00.125Z",
        "level": "INFO",
        "logger": "slipway",
        "message": "passed",
        "key": "models/digits",
        "writes": 3,
    }


def test_what_json_does_not_know_is_written_as_text() -> None:
    assert json.loads(line(as_json=True, key=("a", "b"), what=object))["key"] == ["a", "b"]


def test_what_kopf_adds_for_itself_is_left_out() -> None:
    assert "k8s" not in line(as_json=True, k8s_skip=True, k8s_ref={"kind": "Pod"}, key="models/digits")
    assert line(as_json=False, k8s_skip=True) == "2026-03-01T12:00:00.125Z INFO    passed"


@given(st.text(), st.text())
def test_json_is_always_one_line(message: str, value: str) -> None:
    text = line(as_json=True, message=message.replace("%", ""), value=value)
    assert "\n" not in text
    assert json.loads(text)["value"] == value


def test_an_exception_is_kept_with_its_line() -> None:
    record = logging.LogRecord("slipway", logging.ERROR, "x.py", 1, "failed", (), None)
    try:
        raise ValueError("broken")
    except ValueError as error:
        record.exc_info = (ValueError, error, error.__traceback__)
    assert "ValueError: broken" in json.loads(formatter("json").format(record))["exception"]
    assert "ValueError: broken" in formatter("console").format(record)


@pytest.fixture
def _root_logger_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.mark.usefixtures("_root_logger_as_before")
def test_kopfs_chatter_starts_at_warning() -> None:
    configure_logs("json", "DEBUG")
    assert logging.getLogger("kopf.objects").getEffectiveLevel() == logging.WARNING
    assert logging.getLogger("slipway").getEffectiveLevel() == logging.DEBUG


# ---- liveness

A, B = ("ns", "a"), ("ns", "b")


@pytest.mark.parametrize(
    ("held", "seen", "before", "missing"),
    [
        ({}, {}, {}, {}),
        ({A: 1}, {A: 1}, {}, {}),
        ({A: 1}, {A: 2}, {}, {}),
        ({A: 2}, {A: 1}, {}, {A: 100.0}),
        ({A: 1}, {A: None}, {}, {A: 100.0}),
        ({A: 2, B: 1}, {A: 1, B: None}, {A: 40.0}, {A: 40.0, B: 100.0}),
        ({A: 2}, {A: 2}, {A: 40.0}, {}),
        ({}, {}, {A: 40.0}, {}),
    ],
)
def test_since_when_a_generation_is_missing(
    held: dict[tuple[str, str], int],
    seen: dict[tuple[str, str], int | None],
    before: dict[tuple[str, str], float],
    missing: dict[tuple[str, str], float],
) -> None:
    assert note_missing(held, seen, before, 100.0) == missing


class OneChange(Cluster):
    """An API server that holds generation 2 of one ModelDeployment, and is out of reach the first time."""

    def __init__(self) -> None:
        self.asked = 0

    async def list_generations(self, namespace: str | None) -> dict[tuple[str, str], int]:
        self.asked += 1
        if self.asked == 1:
            raise TransientError("read", 0, "the API server does not answer")
        return {(NAMESPACE, NAME): 2}


@pytest.mark.parametrize(("seen", "is_stalled"), [(2, False), (1, True), (None, True)])
def test_a_watch_that_delivers_nothing_is_noticed(
    seen: int | None, *, is_stalled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("slipway.controller.health.AUDIT_SECONDS", 0.005)
    monkeypatch.setattr("slipway.controller.health.MAX_LATENESS_SECONDS", 0.02)
    cache, health = Cache(), Health()
    if seen is not None:
        cache.put("ModelDeployment", body(generation=seen))

    async def scenario() -> str | None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(health.audit(OneChange(), cache, (NAMESPACE,)), 0.2)
        return health.problem()

    problem = asyncio.run(scenario())
    assert (problem is not None) is is_stalled
    if problem is not None:
        assert f"no watch has delivered {NAMESPACE}/{NAME}" in problem


def test_liveness_and_metrics_are_served(monkeypatch: pytest.MonkeyPatch) -> None:
    health = Health()
    server = health.serve(0)
    base = f"http://127.0.0.1:{server.server_address[1]}"

    def get(path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(base + path, timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    try:
        assert get("/healthz") == (200, "ok\n")
        assert "slipway_api_writes_total" in get("/metrics")[1]
        assert get("/")[0] == 404
        now = time.monotonic()
        monkeypatch.setattr("slipway.controller.health.time.monotonic", lambda: now + MAX_SILENCE_SECONDS + 5)
        status, text = get("/healthz")
        assert status == 503
        assert "event loop has not turned" in text
    finally:
        monkeypatch.undo()
        server.shutdown()
        server.server_close()
