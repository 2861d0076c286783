"""The Triton driver: its reading of Triton's answers, and what it does when there is none."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from slipway_agent.model.server_state import Gone, Loaded, Refused
from slipway_agent.servers import readiness
from slipway_agent.servers.triton.config import TritonSpec
from slipway_agent.servers.triton.driver import TritonServer, explain_refusal
from slipway_agent.volume.models_volume import ModelVolume
from tests.unit.agent.servers.fake_http import some
from tests.unit.agent.servers.fake_triton import FakeTriton


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[FakeTriton]:
    made = FakeTriton(tmp_path / "repository" / "digits")
    yield made
    made.kill()


def driver_of(fake: FakeTriton, key: str | None = None, warmup: tuple[object, ...] = ()) -> TritonServer:
    volume = ModelVolume(fake.folder.parents[1], "digits")
    spec = TritonSpec(http_port=fake.port, grpc_port=fake.grpc_port)
    return TritonServer(volume, spec, served=3, key=key, warmup=warmup)


def request_of(value: int) -> object:
    return {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [value]}]}


def warmup_names(fake: FakeTriton) -> set[str]:
    return {path.name for path in (fake.folder / "warmup").iterdir()}


def test_a_version_that_triton_skips_in_silence_is_noticed(fake: FakeTriton, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "PROMISED_SECONDS", 0.05)
    fake.put(v3="three")
    driver = driver_of(fake)
    fake.start()
    outcome = driver.load(some(2, 3))
    assert isinstance(outcome, Refused)
    assert outcome.words.keys() == {2}


def test_a_wrong_key_is_reported_in_tritons_words(fake: FakeTriton) -> None:
    fake.put(v3="three")
    fake.key = "right"
    fake.start()
    assert driver_of(fake, "right").load(some(3)) == Loaded()
    outcome = driver_of(fake, "wrong").load(some(3))
    assert isinstance(outcome, Gone), "by gRPC it is UNAVAILABLE"
    assert "This protocol is restricted" in outcome.message


def test_warm_up_files_of_earlier_requests_go_and_the_models_own_stay(fake: FakeTriton) -> None:
    fake.put(v3="three")
    (fake.folder / "warmup").mkdir()
    (fake.folder / "warmup" / "mine").write_text("x")
    seen = []
    for value in (1, 2, 3):
        driver_of(fake, warmup=(request_of(value),)).write_boot(some(3))
        seen.append(warmup_names(fake) - {"mine"})
    assert [len(each) for each in seen] == [1, 2, 2], "a server that starts may be reading the last one's"
    assert seen[0].isdisjoint(seen[2])
    for _ in range(2):
        driver_of(fake).write_boot(some(3))
    assert warmup_names(fake) == {"mine"}


def test_a_failed_load_puts_back_a_configuration_whose_warm_up_files_are_there(fake: FakeTriton) -> None:
    fake.put(v2="broken", v3="three")
    driver_of(fake, warmup=(request_of(1),)).write_boot(some(3))
    [name] = warmup_names(fake)
    fake.start()
    assert isinstance(driver_of(fake, warmup=(request_of(2),)).load(some(2, 3)), Refused)
    assert name in (fake.folder / "config.pbtxt").read_text()
    assert name in warmup_names(fake)


def test_a_load_under_the_same_requests_touches_no_file_beside_the_versions(fake: FakeTriton) -> None:
    fake.put(v2="two", v3="three")
    for value in (1, 2):
        driver_of(fake, warmup=(request_of(value),)).write_boot(some(3))
    before = warmup_names(fake)
    fake.start()
    assert driver_of(fake, warmup=(request_of(2),)).load(some(2, 3)) == Loaded()
    assert warmup_names(fake) == before, "Triton would load every version again"


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (
            "load failed for model 'm': version 9 is at UNAVAILABLE state: Internal: TritonModelException: damaged"
            "\n\nAt:\n  /opt/model.py(317): auto_complete_config\n;\n",
            {9: "Internal: TritonModelException: damaged"},
        ),
        (
            "load failed for model 'm': version 1 is at UNAVAILABLE state: Invalid argument: a; b;\n"
            "version 12 is at UNAVAILABLE state: Internal: c;\n",
            {1: "Invalid argument: a; b", 12: "Internal: c"},
        ),
        ("failed to load 'm', failed to poll from model repository", {}),
    ],
)
def test_tritons_words_are_told_apart_by_version(said: str, words: dict[int, str]) -> None:
    assert explain_refusal(said).words == words


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a.onnx"], {"a.onnx", "model.onnx"}),
        (["model.onnx"], {"model.onnx"}),
        (["a.onnx", "b.onnx"], {"a.onnx", "b.onnx"}),
        (["model.py", "weights.onnx"], {"model.py", "weights.onnx"}),
    ],
)
def test_only_a_lone_onnx_file_gets_a_second_name(
    fake: FakeTriton, tmp_path: Path, names: list[str], expected: set[str]
) -> None:
    folder = tmp_path / "version"
    folder.mkdir()
    for name in names:
        (folder / name).write_text("x")
    driver_of(fake).name_files(folder)
    assert {path.name for path in folder.iterdir()} == expected
