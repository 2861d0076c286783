"""The stand-in's life: how it starts and doesn't, takes up another configuration, loads, fails, unloads, batches, ends.

Each test is a fact that Slipway's driver or pods rely on, from tensorflow/serving's server.cc, server_core.cc,
file_system_storage_path_source.cc, availability_preserving_policy.cc, docs/serving_config.md and saved_model_warmup.md.
"""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import grpc
import numpy as np
import pytest
import requests

from tests.e2e.stand_in import tensorflow as stand_in
from tests.e2e.stand_in.tensorflow import StandIn, wait_until
from tests.e2e.tensorflow_api import error_of, make, spec_of

pytestmark = pytest.mark.skipif(stand_in.PYTHON is None, reason=stand_in.WHY_SKIPPED)
POLLING = ("--model_config_file_poll_wait_seconds=1", "--max_num_load_retries=0")
LABELS_AT_BOOT = "--allow_version_labels_for_unavailable_models=true"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stand_in.make_models(tmp_path_factory.mktemp("models"))


class Place:
    """A folder of versions, and a configuration that names some of them."""

    def __init__(self, folder: Path, made: Path) -> None:
        self.folder, self.made = folder, made
        self.base, self.config = folder / "multiplier", folder / "models.config"
        self.base.mkdir()
        self.servers: list[StandIn] = []

    def put(self, version: int, content: str | None = None) -> None:
        working = self.folder / f".{version}"
        shutil.copytree(self.made / "multiplier" / (content or str(version)), working)
        if (self.base / str(version)).exists():
            shutil.rmtree(self.base / str(version))
        os.rename(working, self.base / str(version))

    def want(self, versions: Sequence[int], **labels: int) -> None:
        specific = " ".join(f"versions: {version}" for version in versions)
        marks = " ".join(f"version_labels {{ key: '{label}' value: {v} }}" for label, v in labels.items())
        new = self.folder / "models.config.new"
        new.write_text(
            f"model_config_list {{ config {{ name: 'multiplier' base_path: '{self.base}' model_platform: 'tensorflow' "
            f"model_version_policy {{ specific {{ {specific} }} }} {marks} }} }}"
        )
        os.replace(new, self.config)

    def start(self, *flags: str, is_ready: bool = True) -> StandIn:
        server = stand_in.start(self.folder, f"--model_config_file={self.config}", *POLLING, *flags)
        self.servers.append(server)
        if is_ready:
            server.until_ready()
        return server


@pytest.fixture
def place(tmp_path: Path, made: Path) -> Iterator[Place]:
    place = Place(tmp_path, made)
    yield place
    for server in place.servers:
        server.kill()


def multiplied(server: StandIn, path: str = "") -> float:
    answer = server.post(f"/v1/models/multiplier{path}:predict", {"instances": [[1.0, 1.0]]})
    assert answer.status_code == 200, answer.text
    return float(answer.json()["predictions"][0][0])


# --- starting ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("garbage", "DATA_LOSS: Can't parse"),
        ("for-training", "NOT_FOUND: Could not find meta graph def matching supplied tags: { serve }"),
        ("without-variables", "variables"),
        ("failing-warm-up", 'FAILED_PRECONDITION: Serving signature key "absent" not found.'),
    ],
)
def test_a_model_that_cant_be_loaded_ends_the_start_in_plain_words(place: Place, content: str, words: str) -> None:
    place.put(4, content)
    place.want([4])
    server = place.start(is_ready=False)
    assert server.process.wait(timeout=60) == 255
    assert "Failed to start server. Error: UNKNOWN: 1 servable(s) did not become available: {" in server.words()
    assert "{name: multiplier version: 4} due to error: " in server.words()
    assert words in server.words()


def test_the_ports_open_with_one_version_that_serves_whatever_the_others_do(place: Place) -> None:
    place.put(1)
    place.put(4, "garbage")
    place.want([1, 4])
    server = place.start()
    wait_until("4 has failed", lambda: server.states("multiplier") == {4: "END", 1: "AVAILABLE"})
    (failed,) = server.get("/v1/models/multiplier/versions/4").json()["model_version_status"]
    assert failed["status"]["error_code"] == "DATA_LOSS"
    assert "Can't parse" in failed["status"]["error_message"]
    assert multiplied(server) == 1.0


def test_the_ports_are_closed_while_the_only_version_loads(place: Place) -> None:
    place.put(4, "slow-to-load")
    place.want([4])
    server = place.start(is_ready=False)
    wait_until("it loads", lambda: "Starting to read warmup data" in server.words(), seconds=60)
    assert not server.listens()
    server.until_ready()
    assert server.states("multiplier") == {4: "AVAILABLE"}
    assert "Number of warmup records read: 1" in server.words()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--model_config_file=/absent"], "/absent"),
        (["--enable_batching=false", "--batching_parameters_file=x"], "without setting server_options.enable_batching"),
    ],
)
def test_flags_that_cant_be_meant_end_the_start(place: Place, flags: list[str], words: str) -> None:
    place.put(1)
    place.want([1])
    server = place.start(*flags, is_ready=False)
    assert server.process.wait(timeout=60) == 255
    assert "Failed to start server. Error: " in server.words()
    assert words in server.words()


def test_a_config_that_isnt_one_ends_the_start(place: Place) -> None:
    place.config.write_text("model_config_list { config { nonsense: 1 } }")
    server = place.start(is_ready=False)
    assert server.process.wait(timeout=60) == 255
    assert f"INVALID_ARGUMENT: Invalid protobuf file: '{place.config}'" in server.words()


def test_a_label_at_the_start_needs_its_flag(place: Place) -> None:
    place.put(1)
    place.want([1], stable=1)
    server = place.start(is_ready=False)
    assert server.process.wait(timeout=60) == 255
    assert "which is not currently available for inference" in server.words()
    server = place.start(LABELS_AT_BOOT)
    assert multiplied(server, "/labels/stable") == 1.0


# --- another configuration --------------------------------------------------------------------------------------------


def test_status_says_200_while_a_version_loads_and_the_old_one_goes_only_then(place: Place) -> None:
    place.put(1)
    place.put(4, "slow-to-load")
    place.want([1])
    server = place.start()
    place.want([4])
    wait_until("4 loads", lambda: server.states("multiplier").get(4) == "LOADING")
    assert server.get("/v1/models/multiplier/versions/4").status_code == 200
    assert server.states("multiplier")[1] == "AVAILABLE"
    assert multiplied(server) == 1.0
    assert server.post("/v1/models/multiplier/versions/4:predict", {"instances": [[1.0, 1.0]]}).status_code == 404
    wait_until("4 serves", lambda: server.states("multiplier") == {4: "AVAILABLE", 1: "END"}, seconds=60)
    assert multiplied(server) == 4.0


def test_no_request_is_lost_while_versions_come_and_go(place: Place) -> None:
    for version in (1, 2, 3):
        place.put(version)
    place.want([1])
    server = place.start()
    seen: set[float] = set()
    failures: list[str] = []
    ended = threading.Event()

    def keep_asking() -> None:
        with requests.Session() as session:
            while not ended.is_set():
                answer = session.post(
                    f"{server.url}/v1/models/multiplier:predict", json={"instances": [[1.0, 1.0]]}, timeout=10
                )
                if answer.status_code != 200:
                    failures.append(answer.text)
                else:
                    seen.add(answer.json()["predictions"][0][0])

    asking = threading.Thread(target=keep_asking)
    asking.start()
    for versions in ([1, 2], [2], [3], [1]):
        place.want(versions)
        wait_until(
            f"{versions}",
            lambda: {v for v, state in server.states("multiplier").items() if state == "AVAILABLE"} == set(versions),  # noqa: B023
        )
    ended.set()
    asking.join()
    assert failures == []
    assert seen == {1.0, 2.0, 3.0}


def test_a_failed_version_leaves_the_others_and_is_tried_again_only_after_it_was_left_out(place: Place) -> None:
    place.put(1)
    place.put(4, "garbage")
    place.want([1])
    server = place.start()
    place.want([1, 4])
    wait_until("4 has failed", lambda: server.states("multiplier") == {4: "END", 1: "AVAILABLE"})
    place.put(4)
    time.sleep(3.5)
    assert server.states("multiplier")[4] == "END", "named all the time, it isn't tried again"
    place.want([1])
    time.sleep(3.5)
    place.want([1, 4])
    wait_until("4 serves", lambda: server.states("multiplier")[4] == "AVAILABLE")
    assert multiplied(server) == 4.0


def test_a_label_moves_only_to_what_is_available_and_else_nothing_of_the_file_counts(place: Place) -> None:
    for version in (1, 2):
        place.put(version)
    place.want([1], stable=1)
    server = place.start(LABELS_AT_BOOT)
    place.want([1, 2], stable=2)
    wait_until("it is refused", lambda: "PollFilesystemAndReloadConfig failed to ReloadConfig" in server.words())
    time.sleep(2.5)
    assert server.states("multiplier") == {1: "AVAILABLE"}
    assert multiplied(server, "/labels/stable") == 1.0
    place.want([1, 2], stable=1)
    wait_until("2 serves", lambda: server.states("multiplier").get(2) == "AVAILABLE")
    place.want([1, 2], stable=2)
    wait_until("the label has moved", lambda: multiplied(server, "/labels/stable") == 2.0)


def test_a_file_that_isnt_one_changes_nothing(place: Place) -> None:
    place.put(1)
    place.want([1])
    server = place.start()
    place.config.write_text("half a fi {")
    wait_until("it is said", lambda: "Failed to read ModelServerConfig file" in server.words())
    assert multiplied(server) == 1.0


def test_reload_by_grpc_replaces_everything_until_the_file_is_read_again(place: Place) -> None:
    for version in (1, 2):
        place.put(version)
    place.want([1])
    server = place.start("--model_config_file_poll_wait_seconds=0")
    with server.grpc() as client:
        config = make("ModelConfig", name="other", base_path=str(place.base), model_platform="tensorflow")
        config.model_version_policy.specific.versions.append(2)
        listed = make("ModelConfigList", config=[config])
        answer = client.call("HandleReloadConfigRequest", config=make("ModelServerConfig", model_config_list=listed))
        assert answer.status.error_code == 0
        # the call waits for a new model, and not for the old one to go
        assert client.states("other") == {2: "AVAILABLE"}
        wait_until("the other is gone", lambda: client.states("multiplier") == {1: "END"})
        with pytest.raises(grpc.RpcError) as failure:
            client.predict(spec_of("multiplier"), x=np.ones((1, 2), np.float32))
        assert error_of(failure.value) == ("NOT_FOUND", "Servable not found for request: Latest(multiplier)")
        with pytest.raises(grpc.RpcError) as failure:
            client.call("HandleReloadConfigRequest", config=make("ModelServerConfig"))
        assert error_of(failure.value)[0] == "INVALID_ARGUMENT"
        config.version_labels["stable"] = 7
        with pytest.raises(grpc.RpcError) as failure:
            client.call(
                "HandleReloadConfigRequest",
                config=make("ModelServerConfig", model_config_list=make("ModelConfigList", config=[config])),
            )
        assert error_of(failure.value) == (
            "FAILED_PRECONDITION",
            "Request to assign label to version 7 of model other, which is not currently available for inference",
        )


# --- batching, warm-up, the end ---------------------------------------------------------------------------------------


def test_requests_run_together_and_a_larger_one_is_refused(place: Place) -> None:
    place.put(2)
    place.want([2])
    batching = place.folder / "batching.config"
    batching.write_text(
        "max_batch_size { value: 4 } batch_timeout_micros { value: 200000 } num_batch_threads { value: 1 } "
        "max_enqueued_batches { value: 10 }"
    )
    server = place.start("--enable_batching=true", f"--batching_parameters_file={batching}")
    multiplied(server)  # the first request compiles
    began = time.monotonic()
    multiplied(server)
    assert time.monotonic() - began >= 0.2, "alone, a request waits for others"
    answers: list[float] = []
    began = time.monotonic()
    threads = [threading.Thread(target=lambda: answers.append(multiplied(server))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [2.0] * 4
    refused = server.post("/v1/models/multiplier:predict", {"instances": [[1.0, 1.0]] * 5})
    assert refused.status_code == 400
    assert "Task size 5 is larger than maximum input batch size 4" in refused.json()["error"]


def test_sigterm_ends_it_at_once_where_it_isnt_pid_1(place: Place) -> None:
    # as PID 1 of a container the kernel drops the signal: no handler, no end; the e2e tests of the cluster see that
    place.put(1)
    place.want([1])
    server = place.start()
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(timeout=5) == -signal.SIGTERM


def test_grpc_connections_are_moved_on_and_calls_in_progress_are_not_cut(place: Place) -> None:
    place.put(2)
    place.want([2])
    server = place.start("--grpc_channel_arguments=grpc.max_connection_age_ms=300")
    with server.grpc() as client:
        states: list[grpc.ChannelConnectivity] = []
        client.channel.subscribe(states.append)
        slow = client.predict(
            spec_of("multiplier", signature="slow"), seconds=60, turns=np.array([100_000.0], np.float32)
        )
        assert slow["factor"].tolist() == [2.0]
        for _ in range(20):
            assert client.predict(spec_of("multiplier"), x=np.ones((1, 2), np.float32))["y"][0][0] == 2.0
            time.sleep(0.05)
        assert states.count(grpc.ChannelConnectivity.READY) > 1, "the channel connected again"
