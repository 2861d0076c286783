"""The agent beside a container of somebody's own: the FastAPI service of examples/custom, as a process on loopback."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.e2e.agent.pair import MODEL, Beside, infer_body

SERVICE = Path(__file__).resolve().parents[3] / "examples" / "custom"
READY, PREDICT = "/v2/models/{model}/ready", "/v2/models/{model}/infer"


class CustomPair(Beside):
    runtime, section = "Custom", "custom"

    def server_command(self) -> list[str]:
        command = [sys.executable, "-m", "uvicorn", "--app-dir", str(SERVICE), "--port", str(self.server_port)]
        return [*command, "--timeout-keep-alive", "620", "service:app"]

    def server_environment(self) -> dict[str, str]:
        return super().server_environment() | {
            "PYTHONDONTWRITEBYTECODE": "1",
            "SLIPWAY_MODEL_NAME": MODEL,
            "SLIPWAY_MODEL_PATH": str(self.models / "current"),
        }

    def settings(self) -> dict[str, Any]:
        return super().settings() | {"readyPath": READY, "predictPath": PREDICT}


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[CustomPair]:
    made = CustomPair(tmp_path)
    yield made
    made.stop()
    assert "Traceback" not in (tmp_path / "agent.log").read_text()


def test_the_container_finds_the_served_version_and_is_ready_by_its_own_word(pair: CustomPair) -> None:
    pair.put(1)
    pair.put(2)
    pair.want(2)
    pair.start_agent()
    pair.until(lambda: pair.probe("/startz") == 200)
    assert os.readlink(pair.models / "current") == f"repository/{MODEL}/2"
    assert [path.name for path in (pair.models / "current").iterdir()] == ["multiplier-2.onnx"]
    assert pair.probe("/readyz") == 503
    pair.start_server()
    pair.until(lambda: pair.probe("/readyz") == 200)
    pair.until(lambda: pair.states() == {2: "Available"})
    assert pair.multiply() == 2.0


def test_a_container_that_ends_makes_the_pod_unready_and_comes_back(pair: CustomPair) -> None:
    pair.put(1)
    pair.want(1)
    pair.boot()
    pair.kill("server")
    pair.until(lambda: pair.probe("/readyz") == 503, seconds=3)
    pair.start_server()
    pair.until(lambda: pair.probe("/readyz") == 200)
    pair.kill("agent")
    pair.start_agent()
    pair.until(lambda: pair.probe("/readyz") == 200)
    pair.until(lambda: pair.states() == {1: "Available"})


def test_a_model_that_the_service_cant_read_never_makes_the_pod_ready(pair: CustomPair) -> None:
    pair.put(1, b"no model")
    pair.want(1)
    pair.start_agent()
    pair.until(lambda: pair.probe("/startz") == 200)
    pair.start_server()
    pair.until(lambda: requests_answer(pair, "/v2/health/live") == 200)
    assert requests_answer(pair, f"/v2/models/{MODEL}/ready") == 503
    assert pair.probe("/readyz") == 503
    assert pair.states() == {1: "Loading"}


def test_a_wrong_ready_path_is_said_with_what_the_container_answers(pair: CustomPair) -> None:
    pair.put(1)
    pair.want(1, readyPath="/healthy")
    pair.start_agent()
    pair.until(lambda: pair.probe("/startz") == 200)
    pair.start_server()
    pair.until(lambda: pair.states() == {1: "Failed"}, seconds=45)
    assert "answers GET /healthy with 404" in pair.message(1)
    assert "spec.runtime.paths.ready" in pair.message(1)
    pair.want(1)
    pair.until(lambda: pair.probe("/readyz") == 200)


def test_warm_up_requests_are_sent_before_the_pod_is_ready(pair: CustomPair) -> None:
    pair.put(1)
    pair.want(1, warmup=(infer_body([[1.0, 1.0]]), infer_body([[1.0, 1.0, 1.0]])))
    pair.start_agent()
    pair.until(lambda: pair.probe("/startz") == 200)
    pair.start_server()
    pair.until(lambda: pair.states() == {1: "Failed"})
    (version,) = pair.status()["versions"]
    assert version["reason"] == "WarmupFailed"
    assert "warm-up request 2 of 2" in version["message"]
    assert "Got: 3 Expected: 2" in version["message"]
    assert pair.probe("/readyz") == 503
    pair.want(1, warmup=(infer_body([[1.0, 1.0]]),))
    pair.until(lambda: pair.probe("/readyz") == 200)


def requests_answer(pair: CustomPair, path: str) -> int:
    try:
        return requests.get(pair.url + path, timeout=2).status_code
    except requests.RequestException:
        return 0
