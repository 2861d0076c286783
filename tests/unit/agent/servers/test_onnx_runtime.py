"""The driver of ONNX Runtime: its settings file, and what it makes of the server's answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from slipway_agent.config import parse_config
from slipway_agent.model.errors import Reason, TransientError
from slipway_agent.model.server_state import Gone, Loaded, Refused, ServerView
from slipway_agent.servers import readiness
from slipway_agent.servers.base import DriverInputs
from slipway_agent.servers.by_runtime import KINDS
from slipway_agent.servers.onnx_runtime import (
    OnnxRuntimeServer,
    OnnxSettings,
    compose_settings,
    explain_refusal,
    find_onnx,
    read_versions,
)
from slipway_agent.volume.models_volume import ModelVolume
from tests.unit.agent.servers.fake_http import Answer, FakeHttp, some

Serve = Callable[[Answer], tuple[FakeHttp, OnnxRuntimeServer]]


@pytest.fixture
def serve(volume: ModelVolume, serve_http: Callable[[Answer], FakeHttp]) -> Serve:
    def start(answer: Answer) -> tuple[FakeHttp, OnnxRuntimeServer]:
        fake = serve_http(answer)
        return fake, OnnxRuntimeServer(volume, OnnxSettings(http_port=fake.port), (), "key")

    return start


def ready(*versions: int) -> list[dict[str, str]]:
    return [{"name": "digits", "version": str(version), "state": "READY"} for version in versions]


def test_settings_of_the_spec_stand_with_every_version() -> None:
    settings = OnnxSettings(max_batch_size=8, max_batch_delay_microseconds=2000, instances=2, threads=4)
    written = json.loads(compose_settings("digits", some(10, 9), settings, ({"inputs": []},)))
    assert [entry["parameters"]["version"] for entry in written] == ["9", "10"]
    for entry in written:
        assert (entry["name"], entry["max_batch_size"], entry["max_batch_time"]) == ("digits", 8, 0.002)
        assert entry["parameters"]["extra"] == {"threads": 4, "instances": 2, "warmup": [{"inputs": []}]}


def test_what_the_spec_leaves_open_is_left_to_the_server() -> None:
    (entry,) = json.loads(compose_settings("digits", some(3), OnnxSettings()))
    assert entry == {
        "name": "digits",
        "max_batch_size": 0,
        "max_batch_time": 0.0,
        "parameters": {"version": "3", "uri": "3", "extra": {}},
    }


@pytest.mark.parametrize(
    ("written", "versions"),
    [
        (compose_settings("digits", some(1, 12), OnnxSettings()), some(1, 12)),
        ("", some()),
        ("{}", some()),
        ("[{}]", some()),
        ('[{"parameters": {"version": "01"}}]', some()),
        ("no JSON", some()),
    ],
)
def test_the_boot_configuration_is_read_back(written: str, versions: frozenset[int]) -> None:
    assert read_versions(written) == versions


def test_agent_json_reaches_the_driver(tmp_path: Path) -> None:
    raw = {
        "schema": 1,
        "generation": "g",
        "runtime": "ONNXRuntime",
        "model": "digits",
        "source": {"uri": "pvc://models/digits", "path": "/source/digits"},
        "served": 2,
        "load": [2],
        "onnxRuntime": {"httpPort": 8000, "maxBatchSize": 4, "maxBatchDelayMicroseconds": 50, "threads": 2},
        "warmup": [{"inputs": []}],
    }
    config = parse_config(json.dumps(raw), KINDS)
    assert config.settings == OnnxSettings(8000, 4, 50, None, 2)
    volume = ModelVolume(tmp_path, "digits")
    server = KINDS["ONNXRuntime"].open(DriverInputs(volume, config), config.settings)
    server.write_boot(some(2))
    (entry,) = json.loads(volume.read_in_repository("model-settings.json") or "")
    assert entry["parameters"]["extra"] == {"threads": 2, "warmup": [{"inputs": []}]}
    assert server.read_boot() == some(2)


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["model.onnx"], "model.onnx"),
        (["digits-v3.onnx", "notes.txt"], "digits-v3.onnx"),
        (["model.onnx", "other.onnx"], "model.onnx"),
        (["a.onnx", "b.onnx"], None),
        (["weights.pt"], None),
        ([], None),
    ],
)
def test_a_folder_with_one_onnx_file_is_a_model(
    tmp_path: Path, volume: ModelVolume, names: list[str], found: str | None
) -> None:
    for name in names:
        (tmp_path / name).write_bytes(b"onnx")
    server = OnnxRuntimeServer(volume, OnnxSettings(), (), None)
    place = find_onnx(tmp_path)
    assert (place.name if place else None) == found
    assert server.holds_model(tmp_path) is (found is not None)
    server.name_files(tmp_path)
    assert (tmp_path / "model.onnx").exists() is (found is not None)
    assert find_onnx(tmp_path / "nowhere") is None


def test_what_is_ready_is_the_indexs_word_about_this_model(serve: Serve) -> None:
    others = [
        {"name": "other", "version": "3", "state": "READY"},
        {"name": "digits", "version": "1", "state": "LOADING"},
    ]
    fake, server = serve(lambda *_: (200, [*ready(2, 3), *others]))
    assert server.observe(some(1, 2)) == ServerView(True, some(2))
    method, path, _, headers = fake.asked[0]
    assert (method, path) == ("POST", "/v2/repository/index")
    assert headers["slipway-agent"] == "key"
    assert headers["Connection"] == "close"


@pytest.mark.parametrize("answer", [(403, {"error": "no"}), (200, "no JSON"), (200, {})])
def test_a_server_that_answers_oddly_is_alive_with_nothing_ready(serve: Serve, answer: tuple[int, Any]) -> None:
    _, server = serve(lambda *_: answer)
    assert server.observe(some(1)) == ServerView(True, some())


def test_a_server_that_ends_when_its_load_is_done_is_gone_and_no_version_refused(serve: Serve) -> None:
    _, server = serve(lambda method, path, body: (200, "") if path.endswith("/load") else None)
    assert server.load(some(1, 2)) == Gone("the server ended right after the load")


def test_a_version_that_is_ready_a_moment_after_its_load_is_loaded(serve: Serve) -> None:
    looks = iter([(1,), (1,), (1, 2)])
    _, server = serve(lambda method, path, body: (200, "" if path.endswith("/load") else ready(*next(looks))))
    assert server.load(some(1, 2)) == Loaded()


def test_a_promise_that_is_not_kept_is_a_refusal(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "PROMISED_SECONDS", 0.05)
    _, server = serve(lambda method, path, body: (200, "" if path.endswith("/load") else ready(1)))
    outcome = server.load(some(1, 2))
    assert isinstance(outcome, Refused)
    assert set(outcome.words) == {2}


@pytest.mark.parametrize(
    ("body", "words", "reason"),
    [
        (b'{"error": "e", "versions": {"3": "broken"}}', {3: "broken"}, Reason.LOAD_FAILED),
        (b'{"error": "e", "versions": {"3": "warm-up request 1 failed: x"}}', {3: "warm-up request 1 failed: x"},
         Reason.WARMUP_FAILED),
        (b'{"error": "e"}', {}, Reason.LOAD_FAILED),
        (b"not JSON", {}, Reason.LOAD_FAILED),
        (b'{"error": "e", "versions": {"x": "y"}}', {}, Reason.LOAD_FAILED),
    ],
)  # fmt: skip
def test_a_refusal_says_which_version_and_why(body: bytes, words: dict[int, str], reason: Reason) -> None:
    refused = explain_refusal(400, body)
    assert (refused.words, refused.reason) == (words, reason)
    assert refused.message in ("e", "not JSON")


def test_a_request_is_tried_by_version(serve: Serve) -> None:
    fake, server = serve(
        lambda method, path, body: (200, {}) if body == {"inputs": []} else (400, {"error": "why not"})
    )
    assert server.ask(3, {"inputs": []}).words is None
    assert server.ask(3, {}).words == "why not"
    assert fake.asked[0][:3] == ("POST", "/v2/models/digits/versions/3/infer", {"inputs": []})


def test_a_signature_that_isnt_told_now_is_asked_for_again(serve: Serve) -> None:
    _, server = serve(lambda method, path, body: (404, {"error": "version 3 isn't loaded"}))
    with pytest.raises(TransientError) as refused:
        server.signature(3)
    assert refused.value.message == "version 3 isn't loaded"
