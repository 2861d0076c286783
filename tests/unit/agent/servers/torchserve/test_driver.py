"""The TorchServe driver: files, what it asks of the management API and in which order, and what it does without one."""

import copy
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from slipway_agent.model.errors import Reason, SpecError
from slipway_agent.model.server_state import Loaded, Refused, ServerView
from slipway_agent.servers.torchserve import driver as torchserve
from slipway_agent.servers.torchserve.driver import TorchServer, read_description, read_latency_seconds, read_message
from slipway_agent.servers.torchserve.files import LOG_NAME, MANIFEST, MODEL_CONFIG, TorchServeSpec
from slipway_agent.volume.models_volume import ModelVolume
from tests.unit.agent.servers.fake_http import some
from tests.unit.agent.servers.fake_torchserve import TRACEBACK, FakeTorchServe


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LINGER_SECONDS", "POLL_SECONDS", "SETTLE_SECONDS"):
        monkeypatch.setattr(torchserve, name, 0.01)


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[FakeTorchServe]:
    made = FakeTorchServe(tmp_path / "repository" / "digits", tmp_path / "log" / LOG_NAME)
    yield made
    made.kill()


def driver_of(fake: FakeTorchServe, served: int = 3, warmup: tuple[object, ...] = ()) -> TorchServer:
    root = fake.folder.parents[1]
    spec = TorchServeSpec(
        http_port=1, management_port=fake.port, log_folder=str(fake.log.parent), startup_timeout_seconds=30
    )
    return TorchServer(ModelVolume(root, "digits"), spec, served, warmup)


def test_a_start_loads_the_written_versions_and_serves_the_served_one(fake: FakeTorchServe) -> None:
    fake.put(v1="one", v2="two", v3="three")
    driver = driver_of(fake, served=2)
    driver.write_boot(some(2, 3))
    fake.start()
    assert driver.observe(some(1, 2, 3)) == ServerView(True, some(2, 3))
    assert fake.default == 2


def test_the_default_moves_after_the_new_version_is_there_and_before_the_old_one_goes(fake: FakeTorchServe) -> None:
    fake.put(v2="two", v3="three")
    driver = driver_of(fake)
    driver.write_boot(some(2))
    fake.start()
    assert driver.load(some(3)) == Loaded()
    assert fake.calls == ["register 3", "default 3", "unregister 2"]


def test_the_served_version_is_ready_once_unversioned_requests_get_it(fake: FakeTorchServe) -> None:
    fake.put(v2="two", v3="three")
    fake.start()
    assert driver_of(fake, 2).load(some(2, 3)) == Loaded()
    driver = driver_of(fake, 3)
    assert driver.observe(some(2, 3)) == ServerView(True, some(2))
    assert driver.load(some(2, 3)) == Loaded()
    assert driver.observe(some(2, 3)) == ServerView(True, some(2, 3))


def test_what_is_loaded_is_not_touched(fake: FakeTorchServe) -> None:
    fake.put(v2="two", v3="three")
    driver = driver_of(fake)
    driver.write_boot(some(2, 3))
    fake.start()
    assert driver.load(some(2, 3)) == Loaded()
    assert fake.calls == []


def test_a_version_that_was_published_again_is_registered_again(fake: FakeTorchServe) -> None:
    fake.put(v2="two", v3="three")
    driver = driver_of(fake)
    driver.write_boot(some(2, 3))
    fake.start()
    manifest = fake.folder / "3" / MANIFEST
    manifest.write_text(manifest.read_text())
    assert driver.load(some(2, 3)) == Loaded()
    assert fake.calls == ["default 2", "unregister 3", "register 3", "default 3"]


def test_a_refusal_has_the_workers_words_and_leaves_everything_as_it_was(fake: FakeTorchServe) -> None:
    fake.put(v2="two", v3="broken")
    driver = driver_of(fake)
    driver.write_boot(some(2))
    fake.start()
    outcome = driver.load(some(2, 3))
    assert isinstance(outcome, Refused)
    assert outcome.words == {3: "ValueError: no vocabulary"}
    assert (set(fake.versions), fake.default) == ({2}, 2)
    assert driver.read_boot() == some(2)
    assert driver.observe(some(2, 3)) == ServerView(True, some(2))


def test_a_worker_that_is_killed_says_nothing_and_that_is_told(fake: FakeTorchServe) -> None:
    fake.put(v2="two", v3="killed")
    driver = driver_of(fake)
    driver.write_boot(some(2))
    fake.start()
    outcome = driver.load(some(2, 3))
    assert isinstance(outcome, Refused)
    assert "memory limit" in outcome.words[3]
    assert fake.calls == ["register 3", "unregister 3"]


def test_a_version_that_fails_at_a_start_is_told_and_taken_out(fake: FakeTorchServe) -> None:
    fake.put(v2="two", v3="broken")
    driver = driver_of(fake)
    driver.write_boot(some(2, 3))
    fake.start()
    assert fake.default == 3
    outcome = driver.load(some(2, 3))
    assert isinstance(outcome, Refused)
    assert outcome.words == {3: "ValueError: no vocabulary"}
    assert (set(fake.versions), fake.default) == ({2}, 2)


def test_a_worker_that_comes_back_is_waited_for_whatever_its_log_said_before(
    fake: FakeTorchServe, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.put(v3="stuck")
    driver = driver_of(fake)
    driver.write_boot(some(3))
    fake.start()
    fake.say(3, TRACEBACK)  # of an earlier start
    describe, looks = fake.describe, []

    def come_back(version: int) -> dict[str, object]:
        said = copy.deepcopy(describe(version))
        looks.append(said)
        if len(looks) == 3:
            fake.versions[3].workers[0]["status"] = "READY"
        return said

    monkeypatch.setattr(fake, "describe", come_back)
    assert driver.load(some(3)) == Loaded()
    assert fake.calls == []


def test_the_served_version_keeps_unversioned_requests_while_another_fails_its_warm_up(fake: FakeTorchServe) -> None:
    fake.put(v2="two", v3="three")
    driver = driver_of(fake, warmup=({"x": 1},))  # nothing answers on the inference port
    driver.write_boot(some(2))
    fake.start()
    assert driver.load(some(2, 3)) == Loaded()
    assert fake.default == 2


def test_a_server_without_models_is_alive(fake: FakeTorchServe) -> None:
    fake.start()
    assert driver_of(fake).observe(some(3)) == ServerView(True)


# files


def staged(fake: FakeTorchServe, version: int = 3) -> Path:
    folder = ModelVolume(fake.folder.parents[1], "digits").staging(version) / "content"
    folder.mkdir()
    return folder


def write_archive(place: Path, **names: str) -> None:
    with zipfile.ZipFile(place, "w") as file:
        file.writestr(MANIFEST, json.dumps({"runtime": "python", "model": {"modelName": "x", "modelVersion": "1.0"}}))
        for name, content in names.items():
            file.writestr(name, content)


def test_a_mar_in_a_folder_is_unpacked_and_given_the_models_name_and_number(fake: FakeTorchServe) -> None:
    folder = staged(fake)
    write_archive(folder / "any.mar", handler="code")
    driver = driver_of(fake)
    assert driver.holds_model(folder)
    driver.name_files(folder)
    manifest = json.loads((folder / MANIFEST).read_text())
    assert manifest["runtime"] == "python"
    assert manifest["model"] == {"modelName": "digits", "modelVersion": "3", "configFile": MODEL_CONFIG}
    assert sorted(entry.name for entry in folder.iterdir()) == ["MAR-INF", "handler", MODEL_CONFIG]


def test_half_a_mar_is_no_model(fake: FakeTorchServe) -> None:
    folder = staged(fake)
    write_archive(folder / "whole.zip")
    content = (folder / "whole.zip").read_bytes()
    (folder / "any.mar").write_bytes(content[: len(content) // 2])
    assert not driver_of(fake).holds_model(folder)


def test_a_mar_without_a_manifest_is_refused_with_what_to_do(fake: FakeTorchServe) -> None:
    folder = staged(fake)
    with zipfile.ZipFile(folder / "any.mar", "w") as file:
        file.writestr("handler.py", "")
    with pytest.raises(SpecError) as refused:
        driver_of(fake).name_files(folder)
    assert refused.value.reason is Reason.NO_MODEL_FILE
    assert "torch-model-archiver" in refused.value.message


def test_a_mar_that_leads_out_of_its_folder_is_refused(fake: FakeTorchServe) -> None:
    folder = staged(fake)
    write_archive(folder / "any.mar", **{"../../escaped.py": "code"})
    with pytest.raises(SpecError) as refused:
        driver_of(fake).name_files(folder)
    assert refused.value.reason is Reason.UNSAFE_PATH


def test_a_mar_that_stands_in_the_way_of_what_lies_beside_it_is_refused(fake: FakeTorchServe) -> None:
    folder = staged(fake)
    write_archive(folder / "any.mar", handler="code")
    (folder / "handler").mkdir()
    with pytest.raises(SpecError, match=r"handler is in any\.mar and beside it"):
        driver_of(fake).name_files(folder)


def test_a_mar_may_hold_a_name_that_is_ours(fake: FakeTorchServe) -> None:
    folder = staged(fake)
    write_archive(folder / "any.mar", **{".unpacked/x": "code", "content.unpacked": "code"})
    driver_of(fake).name_files(folder)
    assert (folder / ".unpacked/x").read_text() == (folder / "content.unpacked").read_text() == "code"


# answers


def test_answers_that_are_none_of_ours_are_read_as_nothing() -> None:
    assert read_description(b"no JSON") == {}
    assert read_description(b'{"code": 404}') == {}
    assert read_description(b'[{"modelVersion": "1.0", "workers": []}]') == {}
    assert read_message(500, b'{"message": "words"}') == "words"


METRICS = """\
# TYPE ts_inference_requests_total counter
ts_inference_requests_total{model_name="digits",model_version="default",hostname="h",} 4.0
ts_inference_requests_total{model_name="digits",model_version="1",hostname="h",} 1.0
ts_inference_requests_total{model_name="other",model_version="1",hostname="h",} 1.0
ts_inference_latency_microseconds{model_name="digits",model_version="default",hostname="h",} 8000000.0
ts_inference_latency_microseconds{model_name="digits",model_version="1",hostname="h",} 1.0E6
ts_inference_latency_microseconds{model_name="other",model_version="1",hostname="h",} 9.0E9
"""


def test_the_mean_time_of_an_answer_is_that_of_the_slowest_version() -> None:
    assert read_latency_seconds(METRICS, "digits") == 2.0
    assert read_latency_seconds(METRICS, "none") == 0.0
    assert read_latency_seconds("", "digits") == 0.0
