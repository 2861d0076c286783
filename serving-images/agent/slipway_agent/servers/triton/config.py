"""Triton's config.pbtxt: generated when the model has none, completed when it has one.

Rule (semantics.md, "Where models live"): in a kept file the name, the version policy and what the spec sets are
overridden, the rest stays. Pure: text in, text out; no file is read here.
"""

from collections.abc import Collection
from dataclasses import dataclass

from slipway_agent.config import parse_version
from slipway_agent.model.errors import Reason, SpecError
from slipway_agent.servers import textproto
from slipway_agent.servers.triton.warmup import WarmupRequest, describe_requests

# Triton's own names for a model's file, per backend (docs/user_guide/model_repository.md, 2.51).
BACKEND_BY_FILE = {
    "model.onnx": "onnxruntime",
    "model.plan": "tensorrt",
    "model.pt": "pytorch",
    "model.savedmodel": "tensorflow",
    "model.graphdef": "tensorflow",
    "model.xml": "openvino",
    "model.py": "python",
}

# The `parameters` by which a backend takes a number of threads for each instance on CPUs.
THREADS_BY_BACKEND = {"onnxruntime": "intra_op_thread_count", "pytorch": "INTRA_OP_THREAD_COUNT"}


@dataclass(frozen=True, slots=True)
class TritonSpec:
    """What the user's spec says about Triton's model configuration. None: the field stays as it is.

    threads: those of all instances together, on CPUs.
    """

    http_port: int = 8000
    grpc_port: int = 8001
    max_batch_size: int | None = None
    max_queue_delay_microseconds: int | None = None
    instance_count: int | None = None
    gpu: bool = False
    threads: int | None = None


def detect_backend(names: Collection[str]) -> str | None:
    """The backend for a version folder with these entries; None when no entry is a model's file."""
    for name, backend in BACKEND_BY_FILE.items():
        if name in names:
            return backend
    return "onnxruntime" if any(name.endswith(".onnx") for name in names) else None


def read_versions(written: str) -> frozenset[int]:
    """The versions that the agent's config.pbtxt names; empty for another text."""
    try:
        policy = textproto.parse(written).first("version_policy")
    except textproto.TextProtoError:
        return frozenset()
    specific = policy.first("specific") if isinstance(policy, textproto.Message) else None
    words = specific.first("versions") if isinstance(specific, textproto.Message) else None
    if not isinstance(words, tuple):
        return frozenset()
    versions = (parse_version(word.word) for word in words if isinstance(word, textproto.Scalar))
    return frozenset(version for version in versions if version is not None)


def compose_config(
    kept: str | None,
    model: str,
    versions: Collection[int],
    backend: str | None,
    spec: TritonSpec,
    *,
    warmup: Collection[WarmupRequest] = (),
) -> str:
    """The config.pbtxt for exactly these versions. SpecError(ModelInvalid) when the kept one can't be completed."""
    try:
        config = textproto.parse(kept) if kept is not None else textproto.Message()
    except textproto.TextProtoError as cause:
        raise _invalid(f"it isn't protobuf text: {cause}. Correct the file at the model's source") from cause
    config = config.replacing("name", textproto.text(model))
    if backend is not None and not config.has("backend") and not config.has("platform"):
        config = config.replacing("backend", textproto.text(backend))
    specific = textproto.message(("versions", tuple(textproto.number(version) for version in sorted(versions))))
    config = config.replacing("version_policy", textproto.message(("specific", specific)))
    config = _with_batching(config, spec)
    config = _with_threads(_with_instances(config, spec), spec)
    if warmup:
        is_batched = config.first("max_batch_size") != textproto.number(0)
        config = config.replacing("model_warmup", describe_requests(warmup, is_batched))
    return textproto.print_message(config)


def _with_batching(config: textproto.Message, spec: TritonSpec) -> textproto.Message:
    if spec.max_batch_size is not None:
        config = config.replacing("max_batch_size", textproto.number(spec.max_batch_size))
    elif not config.has("max_batch_size"):
        config = config.replacing("max_batch_size", textproto.number(0))
    if spec.max_queue_delay_microseconds is None and (spec.max_batch_size or 0) <= 1:
        return config
    for other in ("sequence_batching", "ensemble_scheduling"):
        if config.has(other):
            raise _invalid(
                f"it uses {other}, which Triton can't combine with dynamic batching. Remove spec.batching, or {other}"
            )
    if config.first("max_batch_size") == textproto.number(0):
        raise _invalid("spec.batching asks for batches and max_batch_size is 0. Set spec.batching.maxBatchSize")
    kept = config.first("dynamic_batching")
    batching = kept if isinstance(kept, textproto.Message) else textproto.Message()
    if spec.max_queue_delay_microseconds is not None:
        delay = textproto.number(spec.max_queue_delay_microseconds)
        batching = batching.replacing("max_queue_delay_microseconds", delay)
    return config.replacing("dynamic_batching", batching)


def _with_instances(config: textproto.Message, spec: TritonSpec) -> textproto.Message:
    if spec.instance_count is not None:
        return config.replacing("instance_group", _group(spec.instance_count, spec.gpu))
    if config.has("instance_group") or config.has("ensemble_scheduling"):
        return config
    # Left to itself Triton makes two instances of an ONNX model on a CPU: twice the memory, and no faster.
    return config.replacing("instance_group", _group(1, spec.gpu))


def _with_threads(config: textproto.Message, spec: TritonSpec) -> textproto.Message:
    """Threads by the CPU limit, where the backend takes a number and the kept file says none."""
    key = THREADS_BY_BACKEND.get(_unquoted(config.first("backend")))
    kept_values = [field.value for field in config.named("parameters")]
    kept = [each for value in kept_values for each in (value if isinstance(value, tuple) else (value,))]
    is_kept = key in {_unquoted(each.first("key")) for each in kept if isinstance(each, textproto.Message)}
    is_kept_group = spec.instance_count is None and config.first("instance_group") != _group(1, spec.gpu)
    if spec.threads is None or spec.gpu or key is None or is_kept or is_kept_group:
        return config
    threads = max(1, spec.threads // (spec.instance_count or 1))
    value = textproto.message(("string_value", textproto.text(str(threads))))
    entry = textproto.Field("parameters", textproto.message(("key", textproto.text(key)), ("value", value)))
    return textproto.Message((*config.fields, entry))


def _unquoted(value: textproto.Value | None) -> str:
    return value.word.strip("\"'") if isinstance(value, textproto.Scalar) else ""


def _group(count: int, gpu: bool) -> tuple[textproto.Message, ...]:
    kind = textproto.Scalar("KIND_GPU" if gpu else "KIND_CPU")
    return (textproto.message(("count", textproto.number(count)), ("kind", kind)),)


def _invalid(what: str) -> SpecError:
    return SpecError(Reason.MODEL_INVALID, f"the model's config.pbtxt can't be used: {what}")
