"""`tensorflow_model_server`: start as the real one does, and never end by itself.

The ports open once each model has a version that serves; a model of which all versions fail ends the start with status
255. There is no handler for SIGTERM, on purpose: the real one has none.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tensorflow as tf
from tensorflow.core.protobuf import config_pb2
from tensorflow_serving.config import model_server_config_pb2

from model_server import rest, rpc
from model_server.batching import BatchLimits
from model_server.bundle import Bundle
from model_server.core import MANAGE_SECONDS, Core, Limits
from model_server.flags import Flags, channel_arguments, parse
from model_server.journal import say
from model_server.metrics import PATH, Metrics
from model_server.protos import named, read_text
from model_server.status import StatusError, invalid
from model_server.warmup import warm_up


def main() -> int:
    flags = parse(sys.argv[1:])
    if flags.version:
        print(f"TensorFlow ModelServer: stand-in of Slipway's tests\nTensorFlow Library: {tf.__version__}")
        return 0
    print("This is Slipway's stand-in for TensorFlow Serving, for tests only.", file=sys.stderr, flush=True)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    tf.get_logger().setLevel("ERROR")
    try:
        _serve(flags)
    except StatusError as failure:
        print(f"Failed to start server. Error: {failure}", flush=True)
        return 255
    return 0


def _serve(flags: Flags) -> None:
    if not flags.model_base_path and not flags.model_config_file:
        raise invalid("Both server_options.model_base_path and server_options.model_config_file are empty!")
    config = _read_config(flags)
    core = Core(_opener(flags), _limits(flags))
    if flags.file_system_poll_wait_seconds > 0:
        _every("poll-folders", flags.file_system_poll_wait_seconds, core.poll_folders)
    _every("manage", MANAGE_SECONDS, core.manage)
    core.reload(config)
    if flags.model_config_file and flags.model_config_file_poll_wait_seconds > 0:
        _every("poll-config", flags.model_config_file_poll_wait_seconds, lambda: _poll_config(core, flags))
    metrics = Metrics()
    options = channel_arguments(flags.grpc_channel_arguments)
    grpc_server = rpc.serve(flags.port, core, metrics, options, flags.enable_grpc_healthcheck_service)
    say("I", "server", f"Running gRPC ModelServer at 0.0.0.0:{flags.port} ...")
    if flags.rest_api_port:
        api = rest.Rest(core, metrics, _metrics_path(flags))
        server = rest.serve(flags.rest_api_port, api)
        say("I", "server", f"Exporting HTTP/REST API at:localhost:{flags.rest_api_port} ...")
        server.serve_forever(poll_interval=60)
    grpc_server.wait_for_termination()


def _read_config(flags: Flags) -> model_server_config_pb2.ModelServerConfig:
    config = model_server_config_pb2.ModelServerConfig()
    if flags.model_config_file:
        return read_text(flags.model_config_file, config)
    config.model_config_list.config.add(
        name=flags.model_name, base_path=flags.model_base_path, model_platform="tensorflow"
    )
    return config


def _poll_config(core: Core, flags: Flags) -> None:
    try:
        config = read_text(flags.model_config_file, model_server_config_pb2.ModelServerConfig())
    except StatusError as failure:
        say("E", "server", f"Failed to read ModelServerConfig file: {failure.message}")
        return
    try:
        core.reload(config)
    except StatusError as failure:
        say("E", "server", f"PollFilesystemAndReloadConfig failed to ReloadConfig: {failure.message}")


def _opener(flags: Flags) -> _Opener:
    if flags.batching_parameters_file and not flags.enable_batching:
        raise invalid(
            "server_options.batching_parameters_file is set without setting server_options.enable_batching to true."
        )
    limits = None
    if flags.enable_batching:
        told = named("BatchingParameters")
        if flags.batching_parameters_file:
            read_text(flags.batching_parameters_file, told)
        default = BatchLimits(num_batch_threads=os.cpu_count() or 1)
        limits = BatchLimits(
            told.max_batch_size.value or default.max_batch_size,
            told.batch_timeout_micros.value / 1e6,
            told.max_enqueued_batches.value or default.max_enqueued_batches,
            told.num_batch_threads.value or default.num_batch_threads,
        )
    parallelism = flags.tensorflow_session_parallelism
    if parallelism and flags.tensorflow_intra_op_parallelism and flags.tensorflow_inter_op_parallelism:
        raise invalid(
            "Either configure server_options.tensorflow_session_parallelism or "
            "(server_options.tensorflow_intra_op_parallelism, server_options.tensorflow_inter_op_parallelism) "
            "separately. You cannot configure all."
        )
    session = config_pb2.ConfigProto(
        intra_op_parallelism_threads=flags.tensorflow_intra_op_parallelism or parallelism,
        inter_op_parallelism_threads=flags.tensorflow_inter_op_parallelism or parallelism,
    )
    return _Opener(session, limits, flags.enable_model_warmup)


class _Opener:
    """Loads a version, and warms it up."""

    def __init__(self, session: config_pb2.ConfigProto, limits: BatchLimits | None, warms_up: bool) -> None:
        self._session, self._limits, self._warms_up = session, limits, warms_up

    def __call__(self, path: Path, model: str, version: int) -> Bundle:
        bundle = Bundle(path, self._session, self._limits)
        if self._warms_up:
            try:
                warm_up(path, bundle, version)
            except Exception:
                bundle.close()
                raise
        return bundle


def _limits(flags: Flags) -> Limits:
    return Limits(
        flags.max_num_load_retries,
        flags.load_retry_interval_micros / 1e6,
        flags.allow_version_labels_for_unavailable_models,
        flags.fail_if_no_model_versions_found,
    )


def _metrics_path(flags: Flags) -> str | None:
    if not flags.monitoring_config_file:
        return None
    told = read_text(flags.monitoring_config_file, named("MonitoringConfig"))
    return (told.prometheus_config.path or PATH) if told.prometheus_config.enable else None


def _every(name: str, seconds: float, work: Callable[[], None]) -> None:
    def run() -> None:
        while True:
            try:
                work()
            except Exception as defect:
                say("E", "stand_in", f"{name}: {type(defect).__name__}: {defect}")
            time.sleep(seconds)

    threading.Thread(target=run, name=name, daemon=True).start()


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    os._exit(status)
