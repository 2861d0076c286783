"""The command line: the flags of main.cc that tests and Slipway give; the rest by name, passed over."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields

# Known to the real server and of no meaning here.
IGNORED = {
    "flush_filesystem_caches", "saved_model_tags", "per_process_gpu_memory_fraction", "platform_config_file",
    "enable_profiler", "num_load_threads", "num_unload_threads", "num_request_iterations_for_warmup",
    "grpc_socket_path",
    "remove_unused_fields_from_bundle_metagraph", "prefer_tflite_model", "enforce_session_run_timeout",
    "enable_signature_method_name_check", "xla_cpu_compilation_enabled", "xla_gpu_compilation_enabled",
    "thread_pool_factory_config_file", "mixed_precision", "skip_initialize_tpu", "enable_cors_support",
    "enable_serialization_as_tensor_content", "grpc_max_threads", "total_model_memory_limit_bytes",
    "num_tflite_interpreters_per_pool", "num_tflite_pools", "force_allow_any_version_labels_for_unavailable_models",
}  # fmt: skip


@dataclass(slots=True)
class Flags:
    """Defaults as in main.cc."""

    port: int = 8500
    rest_api_port: int = 0
    rest_api_num_threads: int = 4 * (os.cpu_count() or 1)
    rest_api_timeout_in_ms: int = 30_000
    model_name: str = "default"
    model_base_path: str = ""
    model_config_file: str = ""
    model_config_file_poll_wait_seconds: int = 0
    file_system_poll_wait_seconds: int = 1
    max_num_load_retries: int = 5
    load_retry_interval_micros: int = 60_000_000
    fail_if_no_model_versions_found: bool = False
    allow_version_labels_for_unavailable_models: bool = False
    enable_batching: bool = False
    batching_parameters_file: str = ""
    monitoring_config_file: str = ""
    enable_model_warmup: bool = True
    enable_grpc_healthcheck_service: bool = False
    grpc_channel_arguments: str = ""
    tensorflow_session_parallelism: int = 0
    tensorflow_intra_op_parallelism: int = 0
    tensorflow_inter_op_parallelism: int = 0
    version: bool = False


def parse(words: Sequence[str]) -> Flags:
    """`--name=value`, `--name` for a boolean. What isn't known is said, as the real server does, and passed over."""
    flags = Flags()
    kinds = {each.name: each.type for each in fields(Flags)}
    for word in words:
        name, separator, value = word.removeprefix("--").partition("=")
        kind = kinds.get(name)
        if not word.startswith("--") or (kind is None and name not in IGNORED):
            print(f"unknown argument: {word}", file=sys.stderr)
        elif kind == "bool":
            setattr(flags, name, value.lower() in ("true", "1") if separator else True)
        elif kind == "int":
            try:
                setattr(flags, name, int(value))
            except ValueError:
                print(f"Couldn't interpret value {value} for flag {name}.", file=sys.stderr)
                sys.exit(255)
        elif kind == "str":
            setattr(flags, name, value)
    return flags


def channel_arguments(words: str) -> list[tuple[str, int | str]]:
    """`--grpc_channel_arguments`: key=value, separated by commas; numbers as numbers."""
    pairs = (word.partition("=") for word in words.split(",") if word)
    return [(key, int(value) if value.lstrip("-").isdigit() else value) for key, _, value in pairs]
