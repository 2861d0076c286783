"""Serves ONNX models in Triton, on its python-based-backend feature, with the onnxruntime wheel.

It stands in for NVIDIA's C++ onnxruntime backend where the official image can't be had, and takes the same files and
the same config.pbtxt: `backend: "onnxruntime"`, `<version>/model.onnx`. Triton starts one process for each instance.

Invariants:
- With max_batch_size > 0 the first dimension of every tensor is the batch; with 0 all dimensions are the model's own.
- One bad request never fails another one that happened to share its batch.
- Whatever can't be served says so in words when the model is loaded, not when the first request arrives.

It must import nothing but the standard library, numpy, onnxruntime and Triton's own module.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import triton_python_backend_utils as pb_utils
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

# ONNX tensor type → Triton datatype. What is missing (bfloat16, float8, int4, complex) numpy has no type for.
TRITON_TYPES = {
    "tensor(bool)": "TYPE_BOOL",
    "tensor(float16)": "TYPE_FP16",
    "tensor(float)": "TYPE_FP32",
    "tensor(double)": "TYPE_FP64",
    "tensor(int8)": "TYPE_INT8",
    "tensor(int16)": "TYPE_INT16",
    "tensor(int32)": "TYPE_INT32",
    "tensor(int64)": "TYPE_INT64",
    "tensor(uint8)": "TYPE_UINT8",
    "tensor(uint16)": "TYPE_UINT16",
    "tensor(uint32)": "TYPE_UINT32",
    "tensor(uint64)": "TYPE_UINT64",
    "tensor(string)": "TYPE_STRING",
}

CGROUP_ROOT = Path("/sys/fs/cgroup")


class ModelRefusedError(Exception):
    """The model can't be served; the message says what, where and what to do next."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """One input or output as config.pbtxt states it. `dims` leaves the batch dimension out where there is one."""

    name: str
    datatype: str
    dims: tuple[int, ...]


# --- reading the model ------------------------------------------------------------------------------------------------


def model_file(version_folder: Path, config: Mapping[str, Any]) -> Path:
    """The ONNX file of one version: the config's name for it, which may be a folder that holds a model.onnx."""
    path = version_folder / (config.get("default_model_filename") or "model.onnx")
    return path / "model.onnx" if path.is_dir() else path


def open_session(path: Path, options: ort.SessionOptions, providers: Sequence[Any]) -> ort.InferenceSession:
    """An ONNX Runtime session, or ModelRefusedError in plain words."""
    where = f"{path.parent.name}/{path.name}"
    try:
        byte_count = path.stat().st_size
    except OSError as error:
        raise ModelRefusedError(
            f"{where}: can't be read ({error.strerror}); the version's folder must hold the ONNX file"
        ) from error
    try:
        return ort.InferenceSession(str(path), options, providers=list(providers))
    except Exception as error:  # onnxruntime's errors share no base class of its own
        if isinstance(error, ort_errors.InvalidProtobuf | ort_errors.NoModel) or "No graph was found" in str(error):
            raise ModelRefusedError(
                f"{where}: not an ONNX model, or damaged ({byte_count} bytes); copy or export it again, and pin its "
                f"sha256 so that a damaged copy is refused before it is loaded"
            ) from error
        raise ModelRefusedError(f"{where}: {in_plain_words(str(error))}") from error


def in_plain_words(message: str) -> str:
    """What to do about an onnxruntime load error, followed by its own words."""
    own_words = message.split("\n", 1)[0].strip()
    lowered = message.lower()
    if "opset" in lowered and ("under development" in lowered or "till opset" in lowered or "guarantees" in lowered):
        advice = (
            f"its opset is newer than onnxruntime {ort.__version__} knows; export it with a lower opset_version, "
            f"or name a newer image in runtime.image"
        )
    elif "ir version" in lowered or "ir_version" in lowered:
        advice = (
            f"its IR version is newer than onnxruntime {ort.__version__} knows; save it with a lower ir_version, "
            f"or name a newer image in runtime.image"
        )
    elif "is not a registered function/op" in lowered or "no op registered" in lowered or "fatal error" in lowered:
        advice = f"it uses an operator that onnxruntime {ort.__version__} lacks; custom operators are not loaded"
    elif "not_implemented" in lowered or "not implemented" in lowered:
        advice = f"it uses an operator or a datatype for which onnxruntime {ort.__version__} has no CPU kernel"
    elif "external" in lowered or "filesystem" in lowered or "no such file" in lowered:
        advice = "its weights are in another file, which is missing; put every file of the export beside model.onnx"
    else:
        advice = f"onnxruntime {ort.__version__} can't load it"
    return f"{advice}; its words: {own_words}"


def describe_tensors(arguments: Iterable[Any], max_batch_size: int, kind: str) -> list[Tensor]:
    """The session's inputs or outputs as Triton sees them. Raises ModelRefusedError for what Triton can't carry."""
    tensors = []
    for argument in arguments:
        datatype = TRITON_TYPES.get(argument.type)
        if datatype is None:
            advice = (
                "convert the classifier with options={'zipmap': False}"
                if "map(" in argument.type
                else "cast it in the model"
            )
            raise ModelRefusedError(
                f"{kind} '{argument.name}' is a {argument.type}, which Triton has no tensor type for; {advice}"
            )
        dims = tuple(size if isinstance(size, int) and size >= 0 else -1 for size in argument.shape or ())
        if max_batch_size > 0:
            if not dims:
                raise ModelRefusedError(
                    f"{kind} '{argument.name}' is a scalar or of unknown rank, so requests can't be joined along a "
                    f"batch dimension; leave out batching (max_batch_size 0)"
                )
            if dims[0] != -1 and not dims[0] == max_batch_size == 1:
                raise ModelRefusedError(
                    f"{kind} '{argument.name}' has the fixed first dimension {dims[0]}, but max_batch_size "
                    f"{max_batch_size} wants a batch there; export the model with a dynamic first dimension, "
                    f"or leave out batching (max_batch_size 0)"
                )
            dims = dims[1:]
        tensors.append(Tensor(argument.name, datatype, dims))
    return tensors


def complete(
    entries: list[dict[str, Any]], tensors: Iterable[Tensor], kind: str, *, max_batch_size: int, may_add: bool
) -> None:
    """Fill config.pbtxt's `entries` with what the model says; what a person wrote stays, and is checked.

    With `may_add` false the person chose which outputs to offer, and no other one is added.
    """
    known = {tensor.name: tensor for tensor in tensors}
    for entry in entries:
        tensor = known.get(entry["name"])
        if tensor is None:
            names = ", ".join(sorted(known)) or "none"
            raise ModelRefusedError(f"config.pbtxt names the {kind} '{entry['name']}'; the model's own are: {names}")
        if entry.get("data_type", "TYPE_INVALID") == "TYPE_INVALID":
            entry["data_type"] = tensor.datatype
        elif entry["data_type"] != tensor.datatype:
            raise ModelRefusedError(
                f"config.pbtxt says {entry['data_type']} for the {kind} '{tensor.name}', the model says "
                f"{tensor.datatype}; correct data_type or leave it out"
            )
        if not entry.get("dims"):
            entry.update(dims_of(tensor, max_batch_size))
    if may_add:
        present = {entry["name"] for entry in entries}
        entries.extend(
            {"name": tensor.name, "data_type": tensor.datatype, **dims_of(tensor, max_batch_size)}
            for tensor in known.values()
            if tensor.name not in present
        )


def dims_of(tensor: Tensor, max_batch_size: int) -> dict[str, Any]:
    """`dims` for config.pbtxt. Triton has no empty dims: one number per row is [1] with a reshape that Triton does
    itself; without a batch it refuses the reshape, and requests carry a scalar as [1] (see `to_runtime`)."""
    if tensor.dims:
        return {"dims": list(tensor.dims)}
    return {"dims": [1], "reshape": {"shape": []}} if max_batch_size > 0 else {"dims": [1]}


# --- processor time ---------------------------------------------------------------------------------------------------


def cpu_limit(cgroup_root: Path = CGROUP_ROOT) -> float:
    """Processors this container may use: the smaller of its CPU limit and its affinity."""
    available = float(len(os.sched_getaffinity(0)))
    try:
        quota, period = (cgroup_root / "cpu.max").read_text().split()  # cgroup v2
    except (OSError, ValueError):
        try:
            quota = (cgroup_root / "cpu/cpu.cfs_quota_us").read_text().strip()  # cgroup v1
            period = (cgroup_root / "cpu/cpu.cfs_period_us").read_text().strip()
        except OSError:
            return available
    if quota in ("max", "-1"):
        return available
    return min(available, int(quota) / int(period))


def threads_for(config: Mapping[str, Any], processors: float) -> int:
    """Threads of one instance: the limit shared by all instances, at least one.

    2.0 processors and one instance → 2; 2.0 and two instances → 1; 0.5 and one → 1.
    """
    instance_count = sum(max(1, int(group.get("count", 1))) for group in config.get("instance_group", ())) or 1
    return max(1, math.ceil(processors) // instance_count)


def parameter(config: Mapping[str, Any], key: str) -> str | None:
    """A `parameters` entry of config.pbtxt, or None."""
    entry = config.get("parameters", {}).get(key)
    return None if entry is None else str(entry["string_value"])


def whole_number(config: Mapping[str, Any], key: str, default: int) -> int:
    value = parameter(config, key)
    if value is None:
        return default
    try:
        number = int(value)
    except ValueError:
        number = -1
    if number < 0:
        raise ModelRefusedError(f"config.pbtxt's parameter {key} is '{value}'; write a whole number, 0 or more")
    # 0 is onnxruntime's own choice, which counts the node's processors and not the container's: ours is better.
    return number or default


def session_options(config: Mapping[str, Any], processors: float) -> ort.SessionOptions:
    """Options from config.pbtxt, by the names that NVIDIA's backend uses; `session.*` goes to onnxruntime as it is."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = whole_number(config, "intra_op_thread_count", threads_for(config, processors))
    options.inter_op_num_threads = whole_number(config, "inter_op_thread_count", 1)
    if whole_number(config, "execution_mode", 0) == 1:
        options.execution_mode = ort.ExecutionMode.ORT_PARALLEL
    level = config.get("optimization", {}).get("graph", {}).get("level", 0)
    options.graph_optimization_level = (
        ort.GraphOptimizationLevel.ORT_ENABLE_BASIC if level < 0 else ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    )
    options.log_severity_level = 3  # errors; its warnings name graph nodes that a user can't change
    # Spinning threads burn the container's CPU quota between requests and are then throttled in the middle of one.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    for key in config.get("parameters", {}):
        if key.startswith("session."):
            options.add_session_config_entry(key, parameter(config, key))
    return options


def providers_for(instance_kind: str, device_id: str) -> list[Any]:
    """Execution providers for a CPU or GPU instance."""
    if instance_kind != "GPU":
        return ["CPUExecutionProvider"]
    if "CUDAExecutionProvider" not in ort.get_available_providers():
        raise ModelRefusedError(
            "a GPU instance was asked for, but this image holds the CPU build of onnxruntime; name the official "
            "Triton image in runtime.image, or leave out the GPU"
        )
    return [("CUDAExecutionProvider", {"device_id": int(device_id)}), "CPUExecutionProvider"]


# --- requests ---------------------------------------------------------------------------------------------------------


def to_runtime(array: np.ndarray, name: str, *, is_scalar: bool) -> np.ndarray:
    """Triton's bytes become the text that onnxruntime wants, and [1] a scalar; everything else passes untouched."""
    # onnxruntime says the same of a scalar and of an input whose rank the model leaves open.
    if is_scalar and array.shape == (1,):
        array = array.reshape(())
    if array.dtype != np.object_ and array.dtype.kind != "S":
        return array
    text = np.empty(array.size, dtype=object)
    for index, item in enumerate(array.reshape(-1)):
        try:
            text[index] = item.decode() if isinstance(item, bytes) else str(item)
        except UnicodeDecodeError as error:
            raise ValueError(
                f"input '{name}': element {index} is not UTF-8 text; ONNX strings are, so encode it (base64, say)"
            ) from error
    return text.reshape(array.shape)


def from_runtime(array: np.ndarray) -> np.ndarray:
    """Text becomes bytes again, a scalar [1]; every array is contiguous."""
    if not array.ndim:
        array = array.reshape(1)
    if array.dtype.kind in "OUS":
        encoded = np.empty(array.size, dtype=object)
        encoded[:] = [item.encode() if isinstance(item, str) else bytes(item) for item in array.reshape(-1)]
        return encoded.reshape(array.shape)
    return np.ascontiguousarray(array).reshape(array.shape)


def batches(feeds: Sequence[Mapping[str, np.ndarray]], *, is_batched: bool) -> list[list[int]]:
    """Indices of requests that can run as one: same inputs, same shape beyond the batch dimension."""
    if not is_batched:
        return [[index] for index in range(len(feeds))]
    groups: dict[tuple[tuple[str, tuple[int, ...]], ...], list[int]] = {}
    for index, feed in enumerate(feeds):
        shape = tuple(sorted((name, array.shape[1:]) for name, array in feed.items()))
        groups.setdefault(shape, []).append(index)
    return list(groups.values())


class ReturnedErrors:
    """Counts the errors in responses, which Triton 2.51 counts as successes (triton#7713): slipway_returned_errors.

    fault: whose it is, server or caller. Its instances are processes; Triton adds them up.
    """

    def __init__(self, model: str, version: str) -> None:
        self._labels = {"model": model, "version": version}
        self._counters: dict[str, Any] = {}

    def count(self, fault: str) -> None:
        if fault not in self._counters:
            self._family = pb_utils.MetricFamily(
                name="slipway_returned_errors",
                description="Requests that the backend answered with an error, by whose fault it is",
                kind=pb_utils.MetricFamily.COUNTER,
            )
            self._counters[fault] = self._family.Metric(labels=self._labels | {"fault": fault})
        self._counters[fault].increment(1)


class TritonPythonModel:
    """What Triton calls; the names are its own."""

    @staticmethod
    def auto_complete_config(model_config: Any) -> Any:
        config = model_config.as_dict()
        # Triton gives this call no path; the process it makes has the model's file as its first argument.
        version_folder = Path(Path("/proc/self/cmdline").read_bytes().split(b"\0")[1].decode()).parent
        try:
            complete_config(config, version_folder)
        except ModelRefusedError as refusal:
            raise pb_utils.TritonModelException(str(refusal)) from None
        return model_config

    def initialize(self, args: Mapping[str, str]) -> None:
        config = json.loads(args["model_config"])
        path = model_file(Path(args["model_repository"]) / args["model_version"], config)
        try:
            options = session_options(config, cpu_limit())
            providers = providers_for(args["model_instance_kind"], args["model_instance_device_id"])
            self._session = open_session(path, options, providers)
            self._is_batched = config["max_batch_size"] > 0
            # Read once: a request may ask for some outputs only, and is then told the names that exist.
            self._outputs = [entry["name"] for entry in config["output"]]
            self._scalars = {argument.name for argument in self._session.get_inputs() if not argument.shape}
            check_config(config, self._session)
        except ModelRefusedError as refusal:
            raise pb_utils.TritonModelException(str(refusal)) from None
        self._errors = ReturnedErrors(args["model_name"], args["model_version"])
        pb_utils.Logger.log_info(
            f"{args['model_instance_name']} version {args['model_version']}: onnxruntime {ort.__version__}, "
            f"{self._session.get_providers()[0]}, {options.intra_op_num_threads} threads, "
            f"max_batch_size {config['max_batch_size']}"
        )

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        responses: list[Any] = [None] * len(requests)
        feeds: list[dict[str, np.ndarray]] = []
        for index, request in enumerate(requests):
            try:
                feeds.append(
                    {
                        tensor.name(): to_runtime(
                            tensor.as_numpy(), tensor.name(), is_scalar=tensor.name() in self._scalars
                        )
                        for tensor in request.inputs()
                    }
                )
            except ValueError as error:
                feeds.append({})
                responses[index] = self._refused(str(error))
        runnable = [index for index, response in enumerate(responses) if response is None]
        for group in batches([feeds[index] for index in runnable], is_batched=self._is_batched):
            members = [runnable[position] for position in group]
            for index, response in zip(members, self._run(members, feeds, requests), strict=True):
                responses[index] = response
        return responses

    def _run(
        self, members: Sequence[int], feeds: Sequence[dict[str, np.ndarray]], requests: Sequence[Any]
    ) -> list[Any]:
        """Responses of `members`, run as one batch; one by one where the batch fails, so that only the bad one does."""
        wanted = {index: list(requests[index].requested_output_names()) for index in members}
        names = [name for name in self._outputs if any(name in asked for asked in wanted.values())]
        first = feeds[members[0]]
        feed = (
            first
            if len(members) == 1
            else {name: np.concatenate([feeds[index][name] for index in members]) for name in first}
        )
        try:
            results = dict(zip(names, self._session.run(names, feed), strict=True))
            sizes = [next(iter(feeds[index].values())).shape[0] for index in members] if len(members) > 1 else []
            if sizes:
                for name, result in results.items():
                    if not result.ndim or result.shape[0] != sum(sizes):
                        raise ValueError(
                            f"output '{name}' has the shape {list(result.shape)} for a batch of {sum(sizes)}: "
                            f"the model mixes its batch; leave out batching (max_batch_size 0)"
                        )
        except Exception as error:  # onnxruntime's errors share no base class of its own
            if len(members) > 1:
                return [response for index in members for response in self._run([index], feeds, requests)]
            return [self._refused(str(error).split("\n", 1)[0], is_callers_fault=is_callers_fault(error))]
        responses = []
        start = 0
        for position, index in enumerate(members):
            end = start + sizes[position] if sizes else None
            responses.append(
                pb_utils.InferenceResponse(
                    [
                        pb_utils.Tensor(name, from_runtime(result[start:end] if sizes else result))
                        for name, result in results.items()
                        if name in wanted[index]
                    ]
                )
            )
            start = end or 0
        return responses

    def _refused(self, message: str, *, is_callers_fault: bool = True) -> Any:
        """A response that carries an error to one caller, counted."""
        self._errors.count("caller" if is_callers_fault else "server")
        code = pb_utils.TritonError.INVALID_ARG if is_callers_fault else pb_utils.TritonError.INTERNAL
        return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, code))

    def finalize(self) -> None:
        del self._session


def complete_config(config: dict[str, Any], version_folder: Path) -> None:
    """Complete `config` in place: inputs, outputs, and dynamic batching where it is wanted and nothing else is set."""
    max_batch_size = config["max_batch_size"]
    has_everything = (
        config["input"]
        and config["output"]
        and all(
            entry.get("dims") and entry.get("data_type") != "TYPE_INVALID"
            for entry in config["input"] + config["output"]
        )
    )
    if not has_everything:
        options = ort.SessionOptions()
        # Only names, types and shapes are read here: optimizing the graph is left to `initialize`.
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        session = open_session(model_file(version_folder, config), options, ["CPUExecutionProvider"])
        check_config(config, session)
    if max_batch_size > 1 and "sequence_batching" not in config and "ensemble_scheduling" not in config:
        config.setdefault("dynamic_batching", {})


def check_config(config: dict[str, Any], session: ort.InferenceSession) -> None:
    """Compare config.pbtxt's inputs and outputs with the model's and fill in what it leaves out.

    Outputs that a person listed are the only ones offered; so a model can be served in spite of one Triton can't carry.
    """
    max_batch_size = config["max_batch_size"]
    chosen = {entry["name"] for entry in config["output"]}
    outputs = [output for output in session.get_outputs() if not chosen or output.name in chosen]
    for entries, arguments, kind, may_add in (
        (config["input"], session.get_inputs(), "input", True),
        (config["output"], outputs, "output", not chosen),
    ):
        tensors = describe_tensors(arguments, max_batch_size, kind)
        complete(entries, tensors, kind, max_batch_size=max_batch_size, may_add=may_add)


def is_callers_fault(error: Exception) -> bool:
    return isinstance(error, ValueError | ort_errors.InvalidArgument)
