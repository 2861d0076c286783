"""What TensorFlow Serving's container is told: what no golden file shows."""

from __future__ import annotations

from typing import Any

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


def test_threads_follow_the_cpu_limit() -> None:
    told = args(resources={"limits": {"cpu": "1500m"}})
    assert told["tensorflow_intra_op_parallelism"] == "2"
    assert told["tensorflow_inter_op_parallelism"] == "2"
    assert "tensorflow_intra_op_parallelism" not in args()


def test_a_pod_ends_after_its_requests_have_had_their_time() -> None:
    made = container()
    sleep_seconds = made["lifecycle"]["preStop"]["sleep"]["seconds"]
    rest_seconds = int(args()["rest_api_timeout_in_ms"]) / 1000
    assert sleep_seconds >= ENDPOINT_REMOVAL_SECONDS + rest_seconds
    # the server ignores SIGTERM, so that the rest of the grace period is waiting for nothing
    assert sleep_seconds < TENSORFLOW_SERVING.grace_seconds <= sleep_seconds + 5
    assert "grpc.max_connection_age_ms=2000" in args()["grpc_channel_arguments"]


def test_without_batching_no_file_is_named() -> None:
    """A batching file without --enable_batching ends the server at its start."""
    assert "batching_parameters_file" not in args()


def test_without_a_cpu_limit_the_agent_is_told_no_number_of_threads() -> None:
    made = deployment({"runtime": {"name": "TensorFlowServing"}, "batching": {"maxBatchSize": 16}})
    assert TENSORFLOW_SERVING.agent_settings(made.spec)[1]["batchThreads"] is None
