"""The stand-in for TensorFlow Serving against the API as it is published: every request and answer, REST and gRPC.

Sources: docs/api_rest.md, docs/serving_config.md, apis/*.proto of tensorflow/serving, and for the texts of errors its
http_rest_api_util.cc, json_tensor.cc, server_core.cc, get_model_status_impl.cc, predict_util.cc, classifier.cc,
regressor.cc. What holds here holds for the real server as far as those say; where it was seen only in the stand-in, the
test says so.
"""

from __future__ import annotations

import base64
import json
import math
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from tests.e2e.stand_in import tensorflow as stand_in
from tests.e2e.stand_in.tensorflow import StandIn, wait_until
from tests.e2e.tensorflow_api import TensorFlowGrpc, array_of, error_of, example_of, make, spec_of, tensor_of

pytestmark = pytest.mark.skipif(stand_in.PYTHON is None, reason=stand_in.WHY_SKIPPED)
JSON = "application/json"


def b64(content: bytes) -> dict[str, str]:
    return {"b64": base64.b64encode(content).decode()}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stand_in.make_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def server(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandIn]:
    """toy 1 and multiplier 1, 2, 3, with labels, Prometheus on. Tests only ask it."""
    folder = tmp_path_factory.mktemp("served")
    (folder / "multiplier").mkdir()
    for version in (1, 2, 3):
        shutil.copytree(made / "multiplier" / str(version), folder / "multiplier" / str(version))
    config = folder / "models.config"
    config.write_text(
        f"""
        model_config_list {{
          config {{ name: 'toy' base_path: '{made}/toy' model_platform: 'tensorflow' }}
          config {{
            name: 'multiplier' base_path: '{folder}/multiplier' model_platform: "tensorflow"
            model_version_policy {{ specific {{ versions: 1 versions: 2 versions: 3 }} }}
            version_labels {{ key: 'stable' value: 2 }}
            version_labels {{ key: 'canary' value: 3 }}
          }}
        }}
        """
    )
    monitoring = folder / "monitoring.config"
    monitoring.write_text("prometheus_config { enable: true }")
    running = stand_in.start(
        folder,
        f"--model_config_file={config}",
        f"--monitoring_config_file={monitoring}",
        "--allow_version_labels_for_unavailable_models=true",
        "--enable_grpc_healthcheck_service=true",
    )
    running.until_ready()
    wait_until("all are loaded", lambda: running.states("multiplier") == dict.fromkeys((3, 2, 1), "AVAILABLE"))
    yield running
    running.kill()


@pytest.fixture
def client(server: StandIn) -> Iterator[TensorFlowGrpc]:
    with server.grpc() as made_client:
        yield made_client


def predicted(server: StandIn, body: dict[str, Any], signature: str | None = None) -> Any:
    sent = body if signature is None else {"signature_name": signature, **body}
    answer = server.post("/v1/models/toy:predict", sent)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == JSON
    (key, value) = next(iter(answer.json().items()))
    assert key == ("predictions" if "instances" in body else "outputs")
    return value


# --- REST: status and metadata ----------------------------------------------------------------------------------------


def test_status_lists_all_versions_in_the_published_form(server: StandIn) -> None:
    answer = server.get("/v1/models/toy")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == JSON
    assert answer.json() == {
        "model_version_status": [
            {"version": "1", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
        ]
    }
    versions = [each["version"] for each in server.get("/v1/models/multiplier").json()["model_version_status"]]
    assert versions == ["3", "2", "1"]


def test_status_of_one_version(server: StandIn) -> None:
    found = server.get("/v1/models/multiplier/versions/2").json()["model_version_status"]
    assert [(each["version"], each["state"]) for each in found] == [("2", "AVAILABLE")]


def test_status_by_a_label_ignores_the_label(server: StandIn) -> None:
    by_label = server.get("/v1/models/multiplier/labels/stable").json()
    assert by_label == server.get("/v1/models/multiplier").json()


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/v1/models/absent", 404, "Could not find any versions of model absent"),
        ("/v1/models/toy/versions/7", 404, "Could not find version 7 of model toy"),
        ("/v1/models", 400, "Missing model name in request."),
        ("/v1/models/toy/versions/x", 400, "Malformed request: GET /v1/models/toy/versions/x"),
        ("/v1/models/toy:predict", 400, "Malformed request: GET /v1/models/toy:predict"),
        (
            "/v1/models/toy/versions/99999999999999999999",
            400,
            "Failed to convert version: 99999999999999999999 to numeric.",
        ),
        ("/v1/models/absent/metadata", 404, "Servable not found for request: Latest(absent)"),
        ("/v1/models/toy/versions/7/metadata", 404, "Servable not found for request: Specific(toy, 7)"),
        ("/v1/models/toy/labels/x/metadata", 400, "Unrecognized servable version label: x"),
    ],
)
def test_what_is_not_there_is_an_error_in_the_servers_words(
    server: StandIn, path: str, status: int, words: str
) -> None:
    answer = server.get(path)
    assert (answer.status_code, answer.json()) == (status, {"error": words})
    assert answer.headers["content-type"] == JSON


def test_a_path_outside_the_api_is_not_found(server: StandIn) -> None:
    assert server.get("/").status_code == 404
    assert server.get("/v2/models/toy").status_code == 404


def test_metadata_describes_the_signatures(server: StandIn) -> None:
    found = server.get("/v1/models/multiplier/labels/canary/metadata").json()
    assert found["model_spec"] == {"name": "multiplier", "signature_name": "", "version": "3"}
    signatures = found["metadata"]["signature_def"]["signature_def"]
    served = signatures["serving_default"]
    assert served["method_name"] == "tensorflow/serving/predict"
    assert served["inputs"]["x"]["dtype"] == "DT_FLOAT"
    assert served["inputs"]["x"]["tensor_shape"] == {
        "dim": [{"size": "-1", "name": ""}, {"size": "2", "name": ""}],
        "unknown_rank": False,
    }
    assert list(served["outputs"]) == ["y"]
    assert server.get("/v1/models/multiplier/versions/1/metadata").json()["model_spec"]["version"] == "1"


# --- REST: predict ----------------------------------------------------------------------------------------------------


def test_row_format_of_one_input(server: StandIn) -> None:
    assert predicted(server, {"instances": [1.0, 2.0, 5.0]}) == [2.5, 3.0, 4.5]
    assert predicted(server, {"instances": [1, 2, 5]}) == [2.5, 3.0, 4.5]
    assert predicted(server, {"instances": [{"x": 1.0}, {"x": 2.0}]}) == [2.5, 3.0]
    assert predicted(server, {"instances": [[1.0, 2.0], [3.0, 4.0]]}, "matrix") == [3.0, 7.0]


def test_row_format_of_several_inputs_answers_objects(server: StandIn) -> None:
    rows = {"instances": [{"a": 1.5, "b": 2}, {"a": 2.0, "b": 3}]}
    assert predicted(server, rows, "two") == [{"product": 3.0, "sum": 3.5}, {"product": 6.0, "sum": 5.0}]


def test_column_format(server: StandIn) -> None:
    assert predicted(server, {"inputs": [1.0, 2.0]}) == [2.5, 3.0]
    assert predicted(server, {"inputs": {"x": [1.0, 2.0]}}) == [2.5, 3.0]
    columns = {"inputs": {"a": [1.5, 2.0], "b": [2, 3]}}
    assert predicted(server, columns, "two") == {"product": [3.0, 6.0], "sum": [3.5, 5.0]}
    assert predicted(server, {"inputs": 4.0}, "scalar") == 8.0


def test_whole_numbers_of_a_float_tensor_are_written_with_a_point(server: StandIn) -> None:
    text = server.post("/v1/models/toy:predict", {"instances": [2.0]}).text
    assert re.search(r"\[\s*3\.0\s*\]", text), text
    assert predicted(server, {"instances": [3]}, "int_only") == [3]
    # a whole tensor has no point
    assert ".0" not in server.post("/v1/models/toy:predict", {"signature_name": "int_only", "instances": [3]}).text


def test_a_float_is_not_widened_into_digits_that_it_never_had(server: StandIn) -> None:
    assert "0.2" in server.post("/v1/models/toy:predict", {"signature_name": "float_only", "instances": [0.2]}).text
    assert predicted(server, {"instances": [0.2]}, "float_only") == [0.2]


def test_what_is_no_number_goes_both_ways(server: StandIn) -> None:
    body = '{"signature_name": "float_only", "instances": [NaN, Infinity, -Infinity]}'
    answer = server.post("/v1/models/toy:predict", body)
    (nan, infinity, minus) = json.loads(answer.text)["predictions"]
    assert math.isnan(nan)
    assert (infinity, minus) == (math.inf, -math.inf)


def test_text_and_bytes(server: StandIn) -> None:
    assert predicted(server, {"instances": ["foo", "bar"]}, "text") == ["FOO", "BAR"]
    assert predicted(server, {"instances": [b64(b"foo")]}, "text") == ["FOO"]
    # an output whose name ends in _bytes is binary
    assert predicted(server, {"instances": [b64(b"\x00\xff")]}, "binary") == [b64(b"\x00\xff")]
    assert predicted(server, {"inputs": {"text": [b64(b"\x00\xff")]}}, "binary") == [b64(b"\x00\xff")]


def test_every_type_of_the_mapping(server: StandIn) -> None:
    row = {
        "bool": True, "float": 1.5, "double": 2.5, "int8": -8, "int16": -16, "int32": -32, "int64": -(2**40),
        "uint8": 8, "uint32": 2**31 + 1, "uint64": 2**63 + 1, "string": "s",
    }  # fmt: skip
    assert predicted(server, {"instances": [row]}, "types") == [
        {f"{name}_out": value for name, value in sorted(row.items())}
    ]


@pytest.mark.parametrize("name", ["half", "uint16"])
def test_a_type_that_json_has_no_words_for_is_not_implemented(server: StandIn, name: str) -> None:
    answer = server.post("/v1/models/toy:predict", {"signature_name": f"{name}_only", "inputs": [1]})
    assert answer.status_code == 501
    assert answer.json()["error"] == f"Conversion of JSON Value: 1 to type: {name}"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("", "JSON Parse error: The document is empty"),
        ("instances = [1, 2]", "JSON Parse error: Invalid value. at offset: 0"),
        ("[1.0]", "Is not object"),
        ({}, "Missing 'inputs' or 'instances' key"),
        ({"instances": [1.0], "inputs": [1.0]}, "expecting only one of 'inputs' or 'instances' keys to exist"),
        ({"instances": 1.0}, "Excepting 'instances' to be an list/array"),
        ({"instances": []}, "No values in 'instances' array"),
        ({"instances": ["x"]}, 'JSON Value: "x" Type: String is not of expected type: float'),
        ({"instances": [[1.0], [2.0, 3.0]]}, "Expecting tensor size: 1 but got: 2"),
        ({"instances": [[1.0, [2.0]]]}, "Encountered list at unexpected level"),
        ({"instances": [{"z": 1.0}]}, "JSON object: does not have named input: z"),
        ({"instances": [{"x": 1.0}, 2.0]}, "Expecting object but got list at item 1 of input list"),
        ({"instances": [2.0, {"x": 1.0}]}, "Expecting value/list but got object at item 1 of input list"),
        ({"signature_name": 7, "instances": [1.0]}, "'signature_name' key must be a string value."),
        ({"signature_name": "no", "instances": [1.0]}, 'Serving signature name: "no" not found in signature def'),
        ({"signature_name": "two", "instances": [1.0]}, "instances is a plain list, but expecting list of objects"),
        ({"signature_name": "two", "instances": [{"a": 1.0}]}, "keys must be equal to: a,b"),
        ({"signature_name": "two", "inputs": [1.0]}, "inputs is a plain value/list, but expecting an object"),
        ({"signature_name": "two", "inputs": {"a": [1.0]}}, "Missing named input: b in 'inputs' object."),
        ({"signature_name": "int_only", "instances": [1.5]}, "is not of expected type: int32"),
        ({"signature_name": "float_only", "instances": [2**60 + 1]}, "to float without loss of precision."),
        ({"signature_name": "text", "instances": [{"b64": "!"}]}, "Unable to base64 decode"),
        ({"signature_name": "scalar", "inputs": [1.0], "x": 0}, None),
    ],
)
def test_a_wrong_predict_request_is_refused_in_the_servers_words(server: StandIn, body: Any, words: str | None) -> None:
    answer = server.post("/v1/models/toy:predict", body)
    if words is None:
        assert answer.status_code == 200  # what isn't known in the object is passed over
        return
    assert answer.status_code == 400
    assert words in answer.json()["error"]


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/v1/models/absent:predict", 404, "Servable not found for request: Latest(absent)"),
        ("/v1/models/toy/versions/7:predict", 404, "Servable not found for request: Specific(toy, 7)"),
        ("/v1/models/toy/labels/x:predict", 400, "Unrecognized servable version label: x"),
        ("/v1/models/toy:guess", 400, "Malformed request: POST /v1/models/toy:guess"),
        ("/v1/models/toy/versions/1/labels/a:predict", 400, "Malformed request: POST"),
    ],
)
def test_predict_of_what_is_not_there(server: StandIn, path: str, status: int, words: str) -> None:
    answer = server.post(path, {"instances": [1.0]})
    assert answer.status_code == status
    assert words in answer.json()["error"]


def test_versions_and_labels_choose_and_the_highest_is_the_default(server: StandIn) -> None:
    def multiplied(path: str) -> float:
        answer = server.post(f"/v1/models/multiplier{path}:predict", {"instances": [[1.0, 1.0]]})
        return float(answer.json()["predictions"][0][0])

    assert multiplied("") == 3.0
    assert [multiplied(f"/versions/{version}") for version in (1, 2, 3)] == [1.0, 2.0, 3.0]
    assert (multiplied("/labels/stable"), multiplied("/labels/canary")) == (2.0, 3.0)


def test_the_path_is_read_without_regard_to_case(server: StandIn) -> None:
    assert server.get("/V1/MODELS/toy").status_code == 200


def test_a_failure_of_the_graph_is_the_clients_and_has_tensorflows_words(server: StandIn) -> None:
    answer = server.post("/v1/models/toy:predict", {"signature_name": "matrix", "inputs": [1.0]})
    assert answer.status_code == 400
    assert "Invalid reduction dimension" in answer.json()["error"]


# --- REST: classify and regress ---------------------------------------------------------------------------------------


def test_classify_pairs_labels_and_scores(server: StandIn) -> None:
    body = {"signature_name": "classify", "examples": [{"x": 0.25}, {"x": 1.0}]}
    answer = server.post("/v1/models/toy:classify", body)
    assert answer.status_code == 200
    assert answer.json() == {"results": [[["yes", 0.25], ["no", 0.75]], [["yes", 1.0], ["no", 0.0]]]}


def test_classify_with_labels_or_scores_alone(server: StandIn) -> None:
    labels = server.post("/v1/models/toy:classify", {"signature_name": "classify_labels", "examples": [{"x": 1.0}]})
    assert labels.json() == {"results": [[["yes", 0.0], ["no", 0.0]]]}
    scores = server.post("/v1/models/toy:classify", {"signature_name": "classify_scores", "examples": [{"x": 1.0}]})
    assert scores.json() == {"results": [[["", 1.0], ["", 0.0]]]}


def test_regress_with_and_without_a_context(server: StandIn) -> None:
    body: dict[str, Any] = {"signature_name": "regress", "examples": [{"x": 1.0}, {"x": [2.0]}]}
    answer = server.post("/v1/models/toy/versions/1:regress", body)
    assert answer.json() == {"results": [2.5, 3.0]}
    shared = server.post("/v1/models/toy:regress", {**body, "context": {"bias": 10.0}})
    assert shared.json() == {"results": [12.5, 13.0]}


@pytest.mark.parametrize(
    ("verb", "body", "words"),
    [
        ("classify", {"signature_name": "classify"}, "key 'examples' is expected and was not found"),
        ("classify", {"signature_name": "classify", "examples": {}}, "Expecting 'examples' value to be an list/array"),
        ("classify", {"signature_name": "classify", "examples": []}, "'examples' value is an empty array"),
        (
            "classify",
            {"signature_name": "classify", "examples": [1]},
            "Example must be JSON object but got JSON Number",
        ),
        (
            "classify",
            {"signature_name": "classify", "examples": [{"x": None}]},
            "Feature: x has element with unexpected JSON type: Null",
        ),
        (
            "classify",
            {"signature_name": "classify", "examples": [{"x": [1.0, "a"]}]},
            "Unexpected element type in feature: x expecting type: float",
        ),
        ("classify", {"signature_name": "no", "examples": [{"x": 1.0}]}, "No signature was found with the name: no"),
        (
            "classify",
            {"examples": [{"x": 1.0}]},
            "Expected classification signature method_name to be tensorflow/serving/classify. "
            "Was: tensorflow/serving/predict",
        ),
        (
            "regress",
            {"signature_name": "classify", "examples": [{"x": 1.0}]},
            "Expected regression signature method_name to be tensorflow/serving/regress. "
            "Was: tensorflow/serving/classify",
        ),
        # whole numbers make an int64 feature, and the graph parses floats
        ("regress", {"signature_name": "regress", "examples": [{"x": 1}]}, "Data types don't match"),
    ],
)
def test_a_wrong_classify_or_regress_request(server: StandIn, verb: str, body: Any, words: str) -> None:
    answer = server.post(f"/v1/models/toy:{verb}", body)
    assert answer.status_code == 400
    assert words in answer.json()["error"]


# --- gRPC -------------------------------------------------------------------------------------------------------------


def test_grpc_predict_answers_and_says_which_version_did(client: TensorFlowGrpc) -> None:
    x = np.array([[1.0, 2.0]], np.float32)
    answer = client.call("Predict", model_spec=spec_of("multiplier"), inputs={"x": tensor_of(x)})
    assert array_of(answer.outputs["y"]).tolist() == [[3.0, 6.0]]
    assert answer.model_spec.name == "multiplier"
    assert answer.model_spec.version.value == 3
    assert answer.model_spec.signature_name == "serving_default"
    assert answer.outputs["y"].float_val, "the published default writes values, not tensor_content"


def test_grpc_reads_tensor_content_too(client: TensorFlowGrpc) -> None:
    x = np.array([[1.0, 2.0]], np.float32)
    tensor = tensor_of(x)
    tensor.ClearField("float_val")
    tensor.tensor_content = x.tobytes()
    answer = client.call("Predict", model_spec=spec_of("multiplier", 2), inputs={"x": tensor})
    assert array_of(answer.outputs["y"]).tolist() == [[2.0, 4.0]]


def test_grpc_chooses_by_version_and_label(client: TensorFlowGrpc) -> None:
    x = np.ones((1, 2), np.float32)
    assert client.predict(spec_of("multiplier", 1), x=x)["y"][0][0] == 1.0
    assert client.predict(spec_of("multiplier", label="stable"), x=x)["y"][0][0] == 2.0


def test_grpc_output_filter(client: TensorFlowGrpc) -> None:
    inputs = {"a": tensor_of(np.ones(1, np.float32)), "b": tensor_of(np.ones(1, np.int32))}
    spec = spec_of("toy", signature="two")
    only = client.call("Predict", model_spec=spec, inputs=inputs, output_filter=["sum"])
    assert list(only.outputs) == ["sum"]
    with pytest.raises(grpc.RpcError) as failure:
        client.call("Predict", model_spec=spec, inputs=inputs, output_filter=["no"])
    code, words = error_of(failure.value)
    assert code == "INVALID_ARGUMENT"
    assert "output tensor alias not found in signature: no Outputs expected to be in the set {product,sum}." in words


@pytest.mark.parametrize(
    ("spec", "inputs", "code", "words"),
    [
        ({}, {}, "INVALID_ARGUMENT", "ModelSpec has no name specified."),
        ({"model": "absent"}, {}, "NOT_FOUND", "Servable not found for request: Latest(absent)"),
        ({"model": "toy", "version": 7}, {}, "NOT_FOUND", "Servable not found for request: Specific(toy, 7)"),
        ({"model": "toy", "label": "x"}, {}, "INVALID_ARGUMENT", "Unrecognized servable version label: x"),
        (
            {"model": "toy", "signature": "no"},
            {},
            "FAILED_PRECONDITION",
            'Serving signature key "no" not found.',
        ),
        (
            {"model": "toy"},
            {},
            "INVALID_ARGUMENT",
            "input size does not match signature: 0!=1 len({}) != len({x}). Sent extra: {}. Missing but required: {x}.",
        ),
        (
            {"model": "toy"},
            {"z": np.ones(1, np.float32)},
            "INVALID_ARGUMENT",
            "z",
        ),
    ],
)
def test_a_wrong_grpc_predict(
    client: TensorFlowGrpc, spec: dict[str, Any], inputs: dict[str, Any], code: str, words: str
) -> None:
    with pytest.raises(grpc.RpcError) as failure:
        client.predict(spec_of(spec.pop("model", ""), **spec), **inputs)
    found, said = error_of(failure.value)
    assert found == code
    assert words in said


def test_grpc_classify_and_regress(client: TensorFlowGrpc) -> None:
    examples = make("Input", example_list=make("ExampleList", examples=[example_of({"x": [0.25]})]))
    classified = client.call("Classify", model_spec=spec_of("toy", signature="classify"), input=examples)
    pairs = [(each.label, each.score) for each in classified.result.classifications[0].classes]
    assert pairs == [("yes", 0.25), ("no", 0.75)]
    assert classified.model_spec.version.value == 1
    regressed = client.call("Regress", model_spec=spec_of("toy", signature="regress"), input=examples)
    assert [each.value for each in regressed.result.regressions] == [2.125]
    with pytest.raises(grpc.RpcError) as failure:
        client.call("Regress", model_spec=spec_of("toy", signature="regress"), input=make("Input"))
    assert error_of(failure.value) == ("INVALID_ARGUMENT", "Input is empty.")


def test_grpc_multi_inference(client: TensorFlowGrpc) -> None:
    examples = make("Input", example_list=make("ExampleList", examples=[example_of({"x": [0.25]})]))
    tasks = [
        make("InferenceTask", model_spec=spec_of("toy", signature=name), method_name=f"tensorflow/serving/{verb}")
        for name, verb in (("classify", "classify"), ("regress", "regress"))
    ]
    answer = client.call("MultiInference", tasks=tasks, input=examples)
    assert answer.results[0].classification_result.classifications[0].classes[0].label == "yes"
    assert answer.results[1].regression_result.regressions[0].value == 2.125


def test_grpc_status(client: TensorFlowGrpc) -> None:
    assert client.states("multiplier") == {3: "AVAILABLE", 2: "AVAILABLE", 1: "AVAILABLE"}
    one = client.call("GetModelStatus", model_spec=spec_of("multiplier", 2)).model_version_status
    assert [each.version for each in one] == [2]
    for spec, code, words in (
        (spec_of("absent"), "NOT_FOUND", "Could not find any versions of model absent"),
        (spec_of("toy", 7), "NOT_FOUND", "Could not find version 7 of model toy"),
    ):
        with pytest.raises(grpc.RpcError) as failure:
            client.call("GetModelStatus", model_spec=spec)
        assert error_of(failure.value) == (code, words)
    with pytest.raises(grpc.RpcError) as failure:
        client.call("GetModelStatus")
    assert error_of(failure.value) == ("INVALID_ARGUMENT", "Missing ModelSpec")


def test_grpc_metadata(client: TensorFlowGrpc) -> None:
    answer = client.call("GetModelMetadata", model_spec=spec_of("toy"), metadata_field=["signature_def"])
    assert answer.model_spec.version.value == 1
    packed = answer.metadata["signature_def"]
    assert packed.type_url.endswith("/tensorflow.serving.SignatureDefMap")
    signatures = make("SignatureDefMap")
    signatures.ParseFromString(packed.value)
    assert signatures.signature_def["regress"].method_name == "tensorflow/serving/regress"
    assert signatures.signature_def["two"].inputs["b"].dtype == 3
    with pytest.raises(grpc.RpcError) as failure:
        client.call("GetModelMetadata", model_spec=spec_of("toy"))
    code, words = error_of(failure.value)
    assert (code, words) == (
        "INVALID_ARGUMENT",
        "GetModelMetadataRequest must specify at least one metadata_field",
    )


def test_grpc_health_speaks_for_the_server(client: TensorFlowGrpc) -> None:
    assert client.call("Check").status == 1
    with pytest.raises(grpc.RpcError) as failure:
        client.call("Check", service="multiplier")
    assert error_of(failure.value)[0] == "NOT_FOUND"


# --- metrics ----------------------------------------------------------------------------------------------------------


def test_metrics_count_requests_and_time_successes(server: StandIn) -> None:
    def counted(name: str, labels: str) -> float:
        page = server.get("/monitoring/prometheus/metrics")
        assert page.headers["content-type"].startswith("text/plain")
        found = re.search(rf"^{re.escape(name)}{{{re.escape(labels)}}} (\S+)$", page.text, re.M)
        return float(found[1]) if found else 0.0

    requests_ok = (":tensorflow:serving:request_count", 'model_name="toy",status="OK"')
    requests_bad = (":tensorflow:serving:request_count", 'model_name="toy",status="INVALID_ARGUMENT"')
    latency = (
        ":tensorflow:serving:request_latency_count",
        'model_name="toy",API="predict",entrypoint="REST"',
    )
    before = [counted(*each) for each in (requests_ok, requests_bad, latency)]
    server.post("/v1/models/toy:predict", {"instances": [1.0]})
    server.post("/v1/models/toy:predict", {"instances": ["x"]})
    server.get("/v1/models/toy")
    after = [counted(*each) for each in (requests_ok, requests_bad, latency)]
    # the status request counts as a request, and the refused one has no latency
    assert [b - a for a, b in zip(before, after, strict=True)] == [2, 1, 1]
    page = server.get("/monitoring/prometheus/metrics").text
    assert "# TYPE :tensorflow:serving:request_count counter" in page
    assert "# TYPE :tensorflow:serving:request_latency histogram" in page
    assert 'request_latency_bucket{model_name="toy",API="predict",entrypoint="REST",le="+Inf"}' in page
