"""TorchServe's container and settings, as functions of the spec."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from typing import Any

import pytest

from slipway.api.v1alpha1 import ModelDeploymentSpec
from slipway.runtimes.torchserve import DRAIN, LAUNCH, TORCHSERVE
from tests.unit.specs import deployment

GPU = {"limits": {"nvidia.com/gpu": 2}}


def spec_of(**more: Any) -> ModelDeploymentSpec:
    return deployment({"runtime": {"name": "TorchServe"} | more.pop("runtime", {}), **more}).spec


def settings(**more: Any) -> dict[str, Any]:
    section, found = TORCHSERVE.agent_settings(spec_of(**more))
    assert section == "torchServe"
    return found


def environment(**more: Any) -> dict[str, str]:
    container = TORCHSERVE.container(spec_of(**more), "digits")
    return {one["name"]: one["value"] for one in container["env"]}


def test_the_command_becomes_java_with_the_agents_configuration() -> None:
    assert TORCHSERVE.container(spec_of(), "digits")["command"] == ["python", "-c", LAUNCH]
    assert environment()["TS_CONFIG_FILE"] == "/models/repository/digits/config.properties"
    compile(LAUNCH, "launch", "exec")


@pytest.mark.parametrize(
    ("batching", "wanted"),
    [
        ({"maxBatchSize": 8}, (8, 1)),
        ({"maxBatchSize": 8, "maxDelayMicroseconds": 1}, (8, 1)),
        ({"maxBatchSize": 8, "maxDelayMicroseconds": 2000}, (8, 2)),
        ({"maxBatchSize": 8, "maxDelayMicroseconds": 2001}, (8, 3)),
    ],
)
def test_batches_wait_for_whole_milliseconds_rounded_up(batching: dict[str, int], wanted: tuple[int, int]) -> None:
    found = settings(batching=batching)
    assert (found["maxBatchSize"], found["maxBatchDelayMilliseconds"]) == wanted


def test_without_batching_nothing_is_said_of_it() -> None:
    assert not {"maxBatchSize", "maxBatchDelayMilliseconds", "workers"} & settings().keys()


def test_workers_are_instances_on_each_gpu() -> None:
    assert settings()["defaultWorkers"] == 1
    assert settings(resources=GPU)["defaultWorkers"] == 2
    assert "workers" not in settings(resources=GPU)
    assert settings(runtime={"instances": 3})["workers"] == 3
    assert settings(runtime={"instances": 3}, resources=GPU)["workers"] == 6
    assert settings(resources=GPU)["gpuCount"] == 2


@pytest.mark.parametrize(
    ("cpu", "instances", "threads"), [("4", 1, "4"), ("4", 2, "2"), ("1500m", 1, "2"), ("1", 4, "1"), (None, 1, None)]
)
def test_the_workers_share_the_threads_of_the_cpu_limit(cpu: str | None, instances: int, threads: str | None) -> None:
    limits = {} if cpu is None else {"resources": {"limits": {"cpu": cpu}}}
    assert environment(runtime={"instances": instances}, **limits).get("OMP_NUM_THREADS") == threads


def test_all_that_it_cannot_do_is_refused_at_once() -> None:
    asked = spec_of(runtime={"gpuMemoryFraction": 0.5}, resources=GPU, model={"labels": {"best": 1}})
    assert [sentence.partition(":")[0] for sentence in TORCHSERVE.refusals(asked)] == [
        "spec.runtime.gpuMemoryFraction",
        "spec.model.labels",
        "spec.resources.limits",
    ]


def test_draining_waits_for_connected_clients_and_no_longer_than_its_limit() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])

        def drain(limit: str) -> float:
            began = time.monotonic()
            subprocess.run([sys.executable, "-c", DRAIN, "0.1", "0.5", limit, port], check=True)
            return time.monotonic() - began

        assert drain("30") < 15
        client = socket.create_connection(server.getsockname())
        accepted, _ = server.accept()
        assert drain("0.5") > 0.5
        threading.Timer(0.6, accepted.close).start()
        assert 0.6 < drain("30") < 15
        client.close()


def test_draining_goes_on_while_connections_come_and_go() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
        ended = threading.Event()

        def come_and_go() -> None:
            for _ in range(8):
                with socket.create_connection(address):
                    time.sleep(0.2)
                time.sleep(0.2)
            ended.set()

        threading.Thread(target=come_and_go).start()
        subprocess.run([sys.executable, "-c", DRAIN, "0.1", "3", "60", str(address[1])], check=True)
        assert ended.is_set()
