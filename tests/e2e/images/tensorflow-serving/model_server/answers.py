"""The five kinds of request, on messages: what REST and gRPC share."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import tensorflow as tf
from tensorflow.core.example import example_pb2
from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    input_pb2,
    model_pb2,
    predict_pb2,
    regression_pb2,
)

from model_server.bundle import Array, Bundle
from model_server.core import Core
from model_server.status import NUMBERS, StatusError, invalid, precondition

DEFAULT = "serving_default"
PREDICT, CLASSIFY, REGRESS = (f"tensorflow/serving/{verb}" for verb in ("predict", "classify", "regress"))


def chosen(spec: model_pb2.ModelSpec) -> tuple[str, int | None, str | None]:
    """Name, version and label of a ModelSpec, as `Core.bundle` takes them."""
    choice = spec.WhichOneof("version_choice")
    version = spec.version.value if choice == "version" else None
    return spec.name, version, spec.version_label if choice == "version_label" else None


def answered_by(name: str, version: int, signature: str = "") -> model_pb2.ModelSpec:
    spec = model_pb2.ModelSpec(name=name, signature_name=signature)
    spec.version.value = version
    return spec


# --- predict ----------------------------------------------------------------------------------------------------------


def predict(core: Core, request: predict_pb2.PredictRequest) -> predict_pb2.PredictResponse:
    with core.bundle(*chosen(request.model_spec)) as (version, bundle):
        return predict_with(bundle, version, request)


def predict_with(bundle: Bundle, version: int, request: predict_pb2.PredictRequest) -> predict_pb2.PredictResponse:
    name = request.model_spec.signature_name or DEFAULT
    signature = find_signature(bundle, name)
    inputs = {alias: tf.make_ndarray(tensor) for alias, tensor in request.inputs.items()}
    outputs = run_signature(bundle, signature, inputs, list(request.output_filter))
    response = predict_pb2.PredictResponse(model_spec=answered_by(request.model_spec.name, version, name))
    for alias, array in outputs.items():
        response.outputs[alias].CopyFrom(_as_values(array))
    return response


def find_signature(bundle: Bundle, name: str) -> meta_graph_pb2.SignatureDef:
    if name not in bundle.signatures:
        raise precondition(f'Serving signature key "{name}" not found.')
    return bundle.signatures[name]


def run_signature(
    bundle: Bundle, signature: meta_graph_pb2.SignatureDef, inputs: dict[str, Array], output_filter: list[str]
) -> dict[str, Array]:
    if signature.method_name not in (PREDICT, CLASSIFY, REGRESS):
        raise StatusError(
            "INTERNAL",
            f"Expected prediction signature method_name to be one of {{{PREDICT}, {CLASSIFY}, {REGRESS}}}. Was: "
            f"{signature.method_name}",
        )
    sent, known = set(inputs), set(signature.inputs)
    if len(sent) != len(known):
        raise invalid(
            f"input size does not match signature: {len(sent)}!={len(known)} len({_set(sent)}) != len({_set(known)}). "
            f"Sent extra: {_set(sent - known)}. Missing but required: {_set(known - sent)}."
        )
    for alias in sorted(sent - known):
        raise invalid(
            f"input tensor alias not found in signature: {alias}. Inputs expected to be in the set {_set(known)}."
        )
    for alias in output_filter:
        if alias not in signature.outputs:
            raise invalid(
                f"output tensor alias not found in signature: {alias} Outputs expected to be in the set "
                f"{_set(set(signature.outputs))}."
            )
        if output_filter.count(alias) > 1:
            raise invalid(f"duplicate output tensor alias: {alias}")
    aliases = output_filter or sorted(signature.outputs)
    feeds = {signature.inputs[alias].name: array for alias, array in inputs.items()}
    arrays = bundle.run(feeds, [signature.outputs[alias].name for alias in aliases])
    return dict(zip(aliases, arrays, strict=True))


def _set(names: Iterable[str]) -> str:
    return "{" + ",".join(sorted(names)) + "}"


def _as_values(array: Array) -> tf.compat.v1.TensorProto:
    """Each value in its own field, as the server's default is; tf.make_tensor_proto would pack them into bytes."""
    proto = tf.make_tensor_proto(array)
    if not proto.tensor_content:
        # TensorFlow's Python writes a run of equal values once; the server writes all
        fields = ("float_val", "double_val", "int_val", "int64_val", "string_val", "bool_val", "half_val")
        for name in fields:
            values = getattr(proto, name)
            if len(values) == 1 and array.size > 1:
                values.extend([values[0]] * (array.size - 1))
        return proto
    fields_of = {
        types_pb2.DT_FLOAT: "float_val", types_pb2.DT_DOUBLE: "double_val", types_pb2.DT_INT64: "int64_val",
        types_pb2.DT_BOOL: "bool_val", types_pb2.DT_UINT32: "uint32_val", types_pb2.DT_UINT64: "uint64_val",
    }  # fmt: skip
    proto.ClearField("tensor_content")
    values = np.asarray(array).ravel()
    if proto.dtype == types_pb2.DT_HALF:
        proto.half_val.extend(values.view(np.uint16).tolist())
    else:
        getattr(proto, fields_of.get(proto.dtype, "int_val")).extend(values.tolist())
    return proto


# --- classify and regress ---------------------------------------------------------------------------------------------


def classify(
    core: Core, request: classification_pb2.ClassificationRequest
) -> classification_pb2.ClassificationResponse:
    with core.bundle(*chosen(request.model_spec)) as (version, bundle):
        name = request.model_spec.signature_name or DEFAULT
        result = classify_with(bundle, name, request.input)
        spec = answered_by(request.model_spec.name, version, name)
        return classification_pb2.ClassificationResponse(model_spec=spec, result=result)


def classify_with(bundle: Bundle, name: str, given: input_pb2.Input) -> classification_pb2.ClassificationResult:
    signature = _signature_for(bundle, name, CLASSIFY, "classification")
    if len(signature.inputs) != 1:
        raise invalid("Expected one input Tensor.")
    if "inputs" not in signature.inputs:
        raise precondition(f"No classification inputs found in SignatureDef: {signature}")
    found = {alias: signature.outputs[alias].name for alias in ("classes", "scores") if alias in signature.outputs}
    if not found:
        raise precondition(
            'Expected classification signature outputs to contain at least one of "classes" or "scores". Signature '
            f"was: {signature}"
        )
    examples = _examples(given)
    arrays = bundle.run({signature.inputs["inputs"].name: examples}, list(found.values()))
    outputs = dict(zip(found, arrays, strict=True))
    for alias, array in outputs.items():
        if array.ndim != 2:
            raise invalid(f"Expected Tensor shape: [batch_size num_classes] but got {list(array.shape)}")
        if array.shape[0] != len(examples):
            raise invalid(f"Expected {alias} output batch size of {len(examples)}. Got: {array.shape[0]}")
    result = classification_pb2.ClassificationResult()
    for row in range(len(examples)):
        classifications = result.classifications.add()
        for column in range(next(iter(outputs.values())).shape[1]):
            one = classifications.classes.add()
            if "classes" in outputs:
                one.label = outputs["classes"][row, column]
            if "scores" in outputs:
                one.score = outputs["scores"][row, column]
    return result


def regress(core: Core, request: regression_pb2.RegressionRequest) -> regression_pb2.RegressionResponse:
    with core.bundle(*chosen(request.model_spec)) as (version, bundle):
        name = request.model_spec.signature_name or DEFAULT
        result = regress_with(bundle, name, request.input)
        spec = answered_by(request.model_spec.name, version, name)
        return regression_pb2.RegressionResponse(model_spec=spec, result=result)


def regress_with(bundle: Bundle, name: str, given: input_pb2.Input) -> regression_pb2.RegressionResult:
    signature = _signature_for(bundle, name, REGRESS, "regression")
    if len(signature.inputs) != 1:
        raise invalid("Expected one input Tensor.")
    if len(signature.outputs) != 1:
        raise invalid("Expected one output Tensor.")
    if "inputs" not in signature.inputs:
        raise precondition(f"No regression inputs found in SignatureDef: {signature}")
    if "outputs" not in signature.outputs:
        raise precondition(f"No regression outputs found in SignatureDef: {signature}")
    examples = _examples(given)
    (array,) = bundle.run({signature.inputs["inputs"].name: examples}, [signature.outputs["outputs"].name])
    if not (array.ndim == 1 or (array.ndim == 2 and array.shape[1] == 1)):
        raise invalid(
            f"Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got {list(array.shape)}"
        )
    if array.shape[0] != len(examples):
        raise invalid(f"Input batch size did not match output batch size: {len(examples)} vs. {array.shape[0]}")
    result = regression_pb2.RegressionResult()
    for value in array.ravel():
        result.regressions.add().value = value
    return result


def _signature_for(bundle: Bundle, name: str, method: str, kind: str) -> meta_graph_pb2.SignatureDef:
    if name not in bundle.signatures:
        raise invalid(f"No signature was found with the name: {name}")
    signature = bundle.signatures[name]
    if signature.method_name != method:
        raise invalid(f"Expected {kind} signature method_name to be {method}. Was: {signature.method_name}")
    return signature


def _examples(given: input_pb2.Input) -> Array:
    """Serialized examples, each with the context put before it."""
    if given.WhichOneof("kind") == "example_list_with_context":
        context = given.example_list_with_context.context
        merged = []
        for example in given.example_list_with_context.examples:
            whole = example_pb2.Example()
            whole.CopyFrom(context)
            whole.MergeFrom(example)
            merged.append(whole.SerializeToString())
    else:
        merged = [example.SerializeToString() for example in given.example_list.examples]
    if not merged:
        raise invalid("Input is empty.")
    return np.array(merged, dtype=object)


def multi_inference(core: Core, request: inference_pb2.MultiInferenceRequest) -> inference_pb2.MultiInferenceResponse:
    if not request.tasks:
        raise invalid("Inference request must have at least one InferenceTask")
    response = inference_pb2.MultiInferenceResponse()
    with core.bundle(*chosen(request.tasks[0].model_spec)) as (version, bundle):
        for task in request.tasks:
            if task.model_spec.name != request.tasks[0].model_spec.name:
                raise invalid("All ModelSpecs in a MultiInferenceRequest must access the same model name.")
            name = task.model_spec.signature_name or DEFAULT
            result = response.results.add(model_spec=answered_by(task.model_spec.name, version, name))
            if task.method_name == CLASSIFY:
                result.classification_result.CopyFrom(classify_with(bundle, name, request.input))
            elif task.method_name == REGRESS:
                result.regression_result.CopyFrom(regress_with(bundle, name, request.input))
            else:
                raise StatusError("UNIMPLEMENTED", f"Unsupported signature method_name: {task.method_name}")
    return response


# --- status and metadata ----------------------------------------------------------------------------------------------


def status(
    core: Core, request: get_model_status_pb2.GetModelStatusRequest
) -> get_model_status_pb2.GetModelStatusResponse:
    if not request.HasField("model_spec"):
        raise invalid("Missing ModelSpec")
    spec = request.model_spec
    response = get_model_status_pb2.GetModelStatusResponse()
    for version, state in core.states(spec.name, spec.version.value if spec.HasField("version") else None).items():
        each = response.model_version_status.add(version=version, state=state.name)
        each.status.error_code = NUMBERS[state.error.code] if state.error else 0
        each.status.error_message = state.error.message if state.error else ""
    return response


def metadata(
    core: Core, request: get_model_metadata_pb2.GetModelMetadataRequest
) -> get_model_metadata_pb2.GetModelMetadataResponse:
    if not request.HasField("model_spec"):
        raise invalid("Missing ModelSpec")
    if not request.metadata_field:
        raise invalid("GetModelMetadataRequest must specify at least one metadata_field")
    for field in request.metadata_field:
        if field != "signature_def":
            raise invalid(f"Metadata field {field} is not supported")
    with core.bundle(*chosen(request.model_spec)) as (version, bundle):
        signatures = get_model_metadata_pb2.SignatureDefMap()
        for name, signature in bundle.signatures.items():
            signatures.signature_def[name].CopyFrom(signature)
        response = get_model_metadata_pb2.GetModelMetadataResponse(
            model_spec=answered_by(request.model_spec.name, version)
        )
        response.metadata["signature_def"].Pack(signatures)
        return response
