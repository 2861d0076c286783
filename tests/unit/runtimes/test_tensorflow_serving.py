"""What TensorFlow Serving's container is told, and what it is not asked for."""

from __future__ import annotations

from typing import Any

import pytest

from slipway.runtimes import RUNTIMES
from slipway.runtimes.server import ENDPOINT_REMOVAL_SECONDS
from tests.unit.specs import deployment

TENSORFLOW_SERVING = RUNTIMES["TensorFlowServing"]


def container(**spec: Any) -> dict[str, Any]:
    made = deployment({"runtime": {"name": "TensorFlowServing"}, **spec})
    return TENSORFLOW_SERVING.container(made.spec, "digits")


def args(**spec: Any) -> dict[str, str]:
    """The command line, flag by flag; where one stands twice, the server obeys the last."""
    pairs = (argument.removeprefix("--").partition("=") for argument in container(**spec)["args"])
    return {name: value for name, _, value in pairs}


def refusals(**spec: Any) -> tuple[str, ...]:
    return TENSORFLOW_SERVING.refusals(deployment({"runtime": {"name": "TensorFlowServing"}, **spec}).spec)


def test_the_binary_itself_is_started_and_not_the_images_shell() -> None:
    assert container()["command"] == ["tensorflow_model_server"]


def test_it_polls_the_agents_file_and_the_folders() -> None:
    told = args()
    assert told["model_config_file"] == "/models/repository/digits/models.config"
    assert told["model_config_file_poll_wait_seconds"] == "1"
    # a changed file is acted on by the next poll of the folders: 0 would mean never
    assert told["file_system_poll_wait_seconds"] == "1"
    assert told["max_num_load_retries"] == "0"
    assert told["allow_version_labels_for_unavailable_models"] == "true"


def test_threads_follow_the_cpu_limit() -> None:
    told = args(resources={"limits": {"cpu": "1500m"}})
    assert told["tensorflow_intra_op_parallelism"] == "2"
    assert told["tensorflow_inter_op_parallelism"] == "2"
    assert "tensorflow_intra_op_parallelism" not in args()


def test_batching_names_the_agents_file_and_tells_the_agent() -> None:
    spec: dict[str, Any] = {"batching": {"maxBatchSize": 16, "maxDelayMicroseconds": 500}}
    assert args(**spec)["enable_batching"] == "true"
    assert args(**spec)["batching_parameters_file"] == "/models/repository/digits/batching.config"
    made = deployment({"runtime": {"name": "TensorFlowServing"}, **spec}).spec
    assert TENSORFLOW_SERVING.agent_settings(made) == (
        "tensorflowServing",
        {"httpPort": 8501, "maxBatchSize": 16, "maxDelayMicroseconds": 500, "batchThreads": None},
    )
    # a batching file without --enable_batching ends the server at its start
    assert "batching_parameters_file" not in args()


def test_a_gpu_share_is_passed_on() -> None:
    spec: dict[str, Any] = {
        "runtime": {
            "name": "TensorFlowServing",
            "gpuMemoryFraction": 0.25,
            "image": "tensorflow/serving:2.20.0-gpu",
        },
        "resources": {"limits": {"nvidia.com/gpu": 1}},
    }
    assert args(**spec)["per_process_gpu_memory_fraction"] == "0.25"
    assert refusals(**spec) == ()


def test_the_users_arguments_come_last() -> None:
    told = args(runtime={"name": "TensorFlowServing", "args": ["--rest_api_timeout_in_ms=60000"]})
    assert told["rest_api_timeout_in_ms"] == "60000"


def test_a_pod_ends_after_its_requests_have_had_their_time() -> None:
    made = container()
    sleep_seconds = made["lifecycle"]["preStop"]["sleep"]["seconds"]
    rest_seconds = int(args()["rest_api_timeout_in_ms"]) / 1000
    assert sleep_seconds >= ENDPOINT_REMOVAL_SECONDS + rest_seconds
    # the server ignores SIGTERM, so that the rest of the grace period is waiting for nothing
    assert sleep_seconds < TENSORFLOW_SERVING.grace_seconds <= sleep_seconds + 5
    assert "grpc.max_connection_age_ms=2000" in args()["grpc_channel_arguments"]


def test_probes_ask_no_rest_path_that_counts_as_a_request() -> None:
    made = container()
    for probe in (made["startupProbe"], made["livenessProbe"]):
        assert probe["grpc"] == {"port": 8500}
    assert args()["enable_grpc_healthcheck_service"] == "true"


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({}, None),
        ({"runtime": {"name": "TensorFlowServing", "instances": 2}}, "runtime.instances"),
        ({"runtime": {"name": "TensorFlowServing", "gpuMemoryFraction": 0.5}}, "runtime.gpuMemoryFraction"),
        ({"resources": {"limits": {"nvidia.com/gpu": 1}}}, "2.20.0-gpu"),
        ({"model": {"labels": {"stable": 1}}}, "model.labels: stable"),
        ({"model": {"labels": {"a/b": 1}}}, "model.labels: 'a/b'"),
        ({"model": {"labels": {"previous": 1}}}, None),
    ],
)
def test_what_it_cant_do_is_refused_and_never_ignored(spec: dict[str, Any], said: str | None) -> None:
    found = refusals(**spec)
    assert (said is None) == (found == ())
    assert said is None or said in found[0]


def test_predictions_are_addressed_by_model_and_version() -> None:
    assert TENSORFLOW_SERVING.predict_path(deployment().spec, "digits", None) == "/v1/models/digits:predict"
    assert TENSORFLOW_SERVING.predict_path(deployment().spec, "digits", 3) == "/v1/models/digits/versions/3:predict"
