"""The one MLModel class: an ONNX file in onnxruntime, with inputs, outputs and metadata from its graph.

Invariants:
- Whatever can't be served says so in words when the model is loaded, not when the first request arrives.
- It is ready when its session is open and its warm-up requests were answered.
- Computing is done on threads of the model's own, never on the event loop; an unloaded model finishes what it began.

What the agent writes per version (MLServer's ModelSettings): name, parameters.version, parameters.uri (the version's
folder), max_batch_size, max_batch_time, and in parameters.extra: threads, instances, warmup.
"""

from __future__ import annotations

import asyncio
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from mlserver import MLModel, ModelSettings
from mlserver.errors import InferenceError, MLServerError
from mlserver.types import (
    InferenceRequest,
    InferenceResponse,
    MetadataModelResponse,
    MetadataTensor,
    ResponseOutput,
    TensorData,
)
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors
from prometheus_client import Histogram

from slipway_onnxruntime import wire
from slipway_onnxruntime.batches import Batches
from slipway_onnxruntime.tensors import FROM_ONNX, Array, InvalidTensorError, from_json, to_json

FILE_NAME = "model.onnx"
PLATFORM = "onnxruntime_onnx"  # what Triton says of the same model
CGROUP_ROOT = Path("/sys/fs/cgroup")
_SOURCE = re.compile(r"/onnxruntime_src/.*?\)\s")  # where in its C++ onnxruntime gave up
BATCH_ROWS = Histogram(
    "model_infer_batch_rows",
    "Rows computed together, with batching.",
    ["model", "version"],
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024),
)


class ModelRefusedError(MLServerError):
    """The model can't be served; the message says what, where and what to do next."""


class OnnxModel(MLModel):
    """One version of a model."""

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__(settings)
        self._batches: Batches | None = None
        self._scalars: frozenset[str] = frozenset()

    async def load(self) -> bool:
        """True when it can be asked. Raises ModelRefusedError."""
        loop = asyncio.get_running_loop()
        session = await loop.run_in_executor(None, self._open)
        self._inspect(session)
        self._batches = self._queue(session)
        await self._warm_up()
        return True

    # No unload: requests that hold this object are answered, and session and threads go with the last of them.

    async def metadata(self) -> MetadataModelResponse:
        return MetadataModelResponse(
            name=self.name,
            versions=[self.version] if self.version else [],
            platform=PLATFORM,
            inputs=self.inputs,
            outputs=self.outputs,
        )

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        batches = self._batches
        if batches is None:
            raise InferenceError(f"version {self.version} of {self.name} isn't loaded")
        is_plain = not any(isinstance(wire.data_of(tensor), np.ndarray) for tensor in payload.inputs)
        feed = self._read(payload)
        wanted = self._wanted(payload)
        try:
            outputs = await batches.compute(feed, wanted)
        except Exception as error:  # onnxruntime's errors share no base class of its own
            words = " ".join(str(error).split())
            is_callers_fault = isinstance(error, ort_errors.InvalidArgument | InvalidTensorError)
            raise MLServerError(words, 400 if is_callers_fault else 500) from error
        return InferenceResponse.model_construct(
            model_name=self.name,
            model_version=self.version,
            outputs=[self._output(name, outputs[name], is_plain) for name in wanted],
        )

    # loading

    @property
    def _extra(self) -> Mapping[str, Any]:
        parameters = self.settings.parameters
        return (parameters.extra or {}) if parameters is not None else {}

    @property
    def _max_rows(self) -> int:
        return self.settings.max_batch_size if self.settings.max_batch_size > 1 else 0

    def _open(self) -> ort.InferenceSession:
        parameters = self.settings.parameters
        path = Path(parameters.uri if parameters is not None and parameters.uri else ".") / FILE_NAME
        instances = int(self._extra.get("instances") or 1)
        threads = int(self._extra.get("threads") or threads_of(cpu_limit()))
        return open_session(path, session_options(threads, instances))

    def _inspect(self, session: ort.InferenceSession) -> None:
        """Inputs and outputs as the graph has them. Raises ModelRefusedError for what the protocol can't carry."""
        self.inputs = describe(session.get_inputs(), "input")
        self.outputs = describe(session.get_outputs(), "output")
        # onnxruntime says the same of a scalar and of an input whose rank the model leaves open
        self._scalars = frozenset(argument.name for argument in session.get_inputs() if not argument.shape)
        if self._max_rows:
            for kind, tensors in (("input", self.inputs), ("output", self.outputs)):
                for tensor in tensors:
                    refuse_unbatchable(kind, tensor.name, tensor.shape, self._max_rows)

    def _queue(self, session: ort.InferenceSession) -> Batches:
        rows_seen = BATCH_ROWS.labels(model=self.name, version=self.version)

        def run(feed: Mapping[str, Array], wanted: Sequence[str]) -> dict[str, Array]:
            return dict(zip(wanted, session.run(list(wanted), dict(feed)), strict=True))

        return Batches(
            run,
            max_rows=self._max_rows,
            max_delay_seconds=self.settings.max_batch_time,
            instances=int(self._extra.get("instances") or 1),
            saw_batch=rows_seen.observe if self._max_rows else lambda rows: None,
        )

    async def _warm_up(self) -> None:
        for number, body in enumerate(self._extra.get("warmup") or (), start=1):
            try:
                await self.predict(wire.request_of(body))
            except (MLServerError, InvalidTensorError) as error:
                raise ModelRefusedError(f"warm-up request {number} failed: {error}") from error

    # requests

    def _read(self, payload: InferenceRequest) -> dict[str, Array]:
        """The request's tensors by name, each of the type and number that the model takes."""
        known = {tensor.name: tensor for tensor in self.inputs or ()}
        feed: dict[str, Array] = {}
        for given in payload.inputs:
            tensor = known.get(given.name)
            if tensor is None:
                names = ", ".join(sorted(known)) or "none"
                raise InferenceError(f"there is no input '{given.name}'; the model's own are: {names}")
            if given.datatype != tensor.datatype:
                raise InferenceError(
                    f"input '{given.name}' came as {given.datatype}, and the model takes {tensor.datatype}"
                )
            data = wire.data_of(given)
            try:
                array = (
                    data if isinstance(data, np.ndarray) else from_json(given.name, given.datatype, given.shape, data)
                )
            except InvalidTensorError as cause:
                raise InferenceError(str(cause)) from cause
            if given.name in self._scalars and array.shape == (1,):
                array = array.reshape(())
            feed[given.name] = array
        if missing := sorted(known.keys() - feed.keys()):
            raise InferenceError(f"the input '{missing[0]}' is missing; the model takes: {', '.join(sorted(known))}")
        if self._max_rows:
            self._check_rows(feed)
        return feed

    def _check_rows(self, feed: Mapping[str, Array]) -> None:
        rows = {name: array.shape[0] if array.ndim else None for name, array in feed.items()}
        if len(set(rows.values())) != 1 or None in rows.values():
            raise InferenceError(f"with batching all inputs have the same number of rows; these came: {rows}")
        count = next(iter(rows.values())) or 0
        if count > self._max_rows:
            raise InferenceError(f"{count} rows came in one request, and a batch has at most {self._max_rows}")

    def _wanted(self, payload: InferenceRequest) -> list[str]:
        names = [tensor.name for tensor in self.outputs or ()]
        if not payload.outputs:
            return names
        wanted = list(dict.fromkeys(output.name for output in payload.outputs))
        if unknown := [name for name in wanted if name not in names]:
            raise InferenceError(f"there is no output '{unknown[0]}'; the model's own are: {', '.join(names)}")
        return wanted

    def _output(self, name: str, array: Any, is_plain: bool) -> ResponseOutput:
        array = np.asarray(array)
        datatype = next(tensor.datatype for tensor in self.outputs or () if tensor.name == name)
        if not array.ndim:
            array = array.reshape(1)  # the protocol has no scalars
        return ResponseOutput.model_construct(
            name=name,
            shape=list(array.shape),
            datatype=datatype,
            data=TensorData.model_construct(root=to_json(array) if is_plain else array),
        )


# --- the ONNX file ----------------------------------------------------------------------------------------------------


def open_session(path: Path, options: ort.SessionOptions) -> ort.InferenceSession:
    """An ONNX Runtime session, or ModelRefusedError in plain words."""
    where = f"{path.parent.name}/{path.name}"
    try:
        byte_count = path.stat().st_size
    except OSError as error:
        raise ModelRefusedError(
            f"{where}: can't be read ({error.strerror}); the version's folder must hold the ONNX file"
        ) from error
    try:
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors share no base class of its own
        if isinstance(error, ort_errors.InvalidProtobuf | ort_errors.NoModel) or "No graph was found" in str(error):
            raise ModelRefusedError(
                f"{where}: not an ONNX model, or damaged ({byte_count} bytes); copy or export it again, and pin its "
                f"sha256 so that a damaged copy is refused before it is loaded"
            ) from error
        raise ModelRefusedError(f"{where}: {in_plain_words(str(error))}") from error


def in_plain_words(message: str) -> str:
    """What to do about an onnxruntime load error, followed by its own words."""
    own_words = _SOURCE.sub("", message.split("\n", 1)[0]).strip()
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


def describe(arguments: Sequence[Any], kind: str) -> list[MetadataTensor]:
    """The session's inputs or outputs in the protocol's terms; a dimension that is open is -1."""
    tensors = []
    for argument in arguments:
        datatype = FROM_ONNX.get(argument.type)
        if datatype is None:
            advice = (
                "convert the classifier with options={'zipmap': False}"
                if "map(" in argument.type
                else "cast it in the model"
            )
            raise ModelRefusedError(
                f"{kind} '{argument.name}' is a {argument.type}, which the protocol has no tensor type for; {advice}"
            )
        shape = [size if isinstance(size, int) and size >= 0 else -1 for size in argument.shape or ()]
        tensors.append(MetadataTensor(name=argument.name, datatype=datatype, shape=shape or [1]))
    return tensors


def refuse_unbatchable(kind: str, name: str, shape: Sequence[int], max_rows: int) -> None:
    if shape[0] != -1:
        raise ModelRefusedError(
            f"{kind} '{name}' has the fixed first dimension {shape[0]}, or is a scalar, but spec.batching.maxBatchSize "
            f"{max_rows} wants a batch there; export the model with a dynamic first dimension, or leave out batching"
        )


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


def threads_of(processors: float) -> int:
    """Whole threads for that much processor time: 1.5 is 2, 0.2 is 1."""
    return max(1, math.ceil(processors))


def session_options(threads: int, instances: int) -> ort.SessionOptions:
    """`instances` requests are computed side by side in one session; the threads they share make `threads` in all.

    4 threads and 1 instance: 4; 4 and 2: 3 (two callers, each a thread itself, and two more); 2 and 4: 1 each.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = max(1, threads - instances + 1)
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors; its warnings name graph nodes that a user can't change
    # Spinning threads burn the container's CPU quota between requests and are then throttled in the middle of one.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options
