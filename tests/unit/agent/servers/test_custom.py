"""The driver of a container of somebody's own: a link to the served version, and a ready path."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from slipway_agent.model.errors import TransientError
from slipway_agent.model.server_state import Gone, Loaded, Refused, ServerView
from slipway_agent.model.signature import Signature, Tensor
from slipway_agent.servers import custom
from slipway_agent.servers.custom import CustomServer, CustomSettings
from slipway_agent.volume.models_volume import ModelVolume
from tests.unit.agent.servers.fake_http import Answer, FakeHttp, some

Serve = Callable[[Answer], tuple[FakeHttp, CustomServer]]


@pytest.fixture
def serve(volume: ModelVolume, serve_http: Callable[[Answer], FakeHttp]) -> Serve:
    def start(answer: Answer) -> tuple[FakeHttp, CustomServer]:
        fake = serve_http(answer)
        return fake, CustomServer(volume, CustomSettings(fake.port, "/{model}/{version}/up", "/{model}:predict"))

    return start


@pytest.mark.parametrize(
    ("entries", "is_model"),
    [
        (["weights.bin"], True),
        (["tokenizer/", "weights.bin"], True),
        (["saved/"], True),
        ([], False),
        (["1/", "2/"], False),
        (["1/", "README.md"], False),
        (["..data/"], False),
    ],
)
def test_any_files_are_a_model_but_a_folder_of_versions_is_none(
    tmp_path: Path, volume: ModelVolume, entries: list[str], is_model: bool
) -> None:
    place = tmp_path / "place"
    place.mkdir()
    for entry in entries:
        (place / entry).mkdir() if entry.endswith("/") else (place / entry).write_bytes(b"x")
    server = CustomServer(volume, CustomSettings(1, "/", "/"))
    assert server.holds_model(place) is is_model


def test_the_link_leads_to_the_served_version(tmp_path: Path, volume: ModelVolume) -> None:
    server = CustomServer(volume, CustomSettings(1, "/", "/"))
    assert server.read_boot() == some()
    for version in (1, 2):
        (volume.repository / str(version) / "weights").write_text(f"of {version}")
        server.write_boot(some(version))
        link = tmp_path / "models" / "current"
        assert os.readlink(link) == f"repository/digits/{version}"
        assert (link / "weights").read_text() == f"of {version}"
        assert server.read_boot() == some(version)


def test_the_ready_path_says_whether_the_linked_version_is_ready(serve: Serve) -> None:
    answers = {"/digits/2/up": (200, "")}
    fake, server = serve(lambda method, path, body: answers.get(path, (503, "not yet")))
    server.write_boot(some(2))
    assert server.observe(some(2)) == ServerView(True, some(2))
    assert server.observe(some(1)) == ServerView(True, some())
    answers.clear()
    assert server.observe(some(2)) == ServerView(True, some())
    fake.kill()
    assert server.observe(some(2)) == ServerView()


def test_before_there_is_a_link_no_container_runs(serve: Serve) -> None:
    _, server = serve(lambda *_: (200, ""))
    assert server.observe(some(2)) == ServerView()


def test_a_load_waits_until_the_container_is_ready(serve: Serve) -> None:
    statuses = [503, 404, 200]
    fake, server = serve(lambda *_: (statuses.pop(0), "wait"))
    server.write_boot(some(2))
    assert server.load(some(2)) == Loaded()
    assert len(fake.asked) == 3


def test_another_version_needs_another_pod(serve: Serve) -> None:
    _, server = serve(lambda *_: (200, ""))
    server.write_boot(some(2))
    outcome = server.load(some(3))
    assert isinstance(outcome, Refused)
    assert "another version needs another pod" in outcome.words[3]
    assert server.read_boot() == some(2)


@pytest.mark.parametrize(("status", "constant"), [(404, "WRONG_SECONDS"), (503, "PATIENCE_SECONDS")])
def test_a_container_that_never_gets_ready_is_quoted(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, status: int, constant: str
) -> None:
    monkeypatch.setattr(custom, constant, 0.0)
    _, server = serve(lambda *_: (status, "no GPU found"))
    server.write_boot(some(2))
    outcome = server.load(some(2))
    assert isinstance(outcome, Refused)
    for word in ("GET /digits/2/up", str(status), "no GPU found", "spec.runtime.paths.ready"):
        assert word in outcome.words[2]


def test_a_container_that_ends_while_it_is_waited_for_is_gone(serve: Serve) -> None:
    _, server = serve(lambda *_: None)
    server.write_boot(some(2))
    assert isinstance(server.load(some(2)), Gone)


def test_a_request_goes_to_the_predict_path(serve: Serve) -> None:
    fake, server = serve(lambda method, path, body: (200, "") if body == {"a": 1} else (422, {"detail": "no a"}))
    assert server.ask(2, {"a": 1}).words is None
    assert "no a" in (server.ask(2, {}).words or "")
    assert fake.asked[0][:2] == ("POST", "/digits:predict")


METADATA = {
    "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}],
    "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 2]}],
}
SIGNATURE = Signature((Tensor("x", "FP32", (-1, 2)),), (Tensor("y", "FP32", (-1, 2)),))


@pytest.mark.parametrize("known", ["/v2/models/digits/versions/3", "/v2/models/digits"])
def test_a_container_that_speaks_the_protocol_tells_its_signature(
    serve: Serve, volume: ModelVolume, known: str
) -> None:
    fake, _ = serve(lambda method, path, body: (200, METADATA) if path == known else (404, {"detail": "Not Found"}))
    server = CustomServer(volume, CustomSettings(fake.port, "/ready", "/v2/models/{model}/infer"))
    assert server.signature(3) == SIGNATURE


def test_other_containers_arent_asked_for_one(serve: Serve) -> None:
    fake, server = serve(lambda *_: (200, METADATA))
    assert server.signature(3) is None
    assert fake.asked == []


def test_a_container_that_tells_none_or_doesnt_answer(serve: Serve, volume: ModelVolume) -> None:
    fake, _ = serve(lambda *_: (200, {"what": "ever"}))
    settings = CustomSettings(fake.port, "/ready", "/v2/models/{model}/infer")
    assert CustomServer(volume, settings).signature(3) is None
    fake.kill()
    with pytest.raises(TransientError):
        CustomServer(volume, settings).signature(3)
