"""`predict`: where a request goes, and how two answers are compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipway.cli.client import Request, Response
from slipway.cli.compare import Compared, compare
from tests.unit.cli import clusters
from tests.unit.cli.clusters import CANARY, STABLE, Cli, model

BODY = b'{"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [1]}]}'


def tensors(version: str, *values: float) -> bytes:
    outputs = [{"name": "label", "data": [7]}, {"name": "probabilities", "data": list(values)}]
    return json.dumps({"model_name": "digits", "model_version": version, "outputs": outputs}).encode()


def respond(kind: str, name: str, port: str, request: Request) -> Response:
    return Response(200, tensors("3", 0.25, 0.75) if CANARY in name else tensors("2", 0.5, 0.75), 3.25)


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "request.json"
    path.write_bytes(BODY)
    return str(path)


def test_a_request_to_stable_goes_to_its_servers_predict_path(cli: Cli, file: str) -> None:
    cli.cluster.models, cli.cluster.respond = [clusters.in_canary()], respond
    shown = cli("predict", "digits", "-f", file, "--to", "stable")
    assert shown.exit_code == 0, shown.output
    (sent,) = cli.cluster.sent
    assert sent[:3] == ("pods", f"digits-{STABLE}-a", "8000")
    assert sent[3].path == "/v2/models/digits/infer"
    assert sent[3].body == BODY
    assert sent[3].headers == {"Content-Type": "application/json"}
    assert json.loads(shown.stdout)["model_version"] == "2"
    assert f"stable {STABLE} (version 2, pod digits-{STABLE}-a) answered 200 in 3.2 ms" in shown.stderr


@pytest.mark.parametrize(
    ("runtime", "port", "path"),
    [
        ({"name": "TensorFlowServing"}, "8501", "/v1/models/digits:predict"),
        ({"name": "TorchServe"}, "8080", "/predictions/digits"),
        (
            {"name": "Custom", "image": "x", "httpPort": 9000, "paths": {"predict": "/ask/{model}"}},
            "9000",
            "/ask/digits",
        ),
    ],
)
def test_each_runtime_has_its_own_predict_path(
    cli: Cli, file: str, runtime: dict[str, Any], port: str, path: str
) -> None:
    cli.cluster.models, cli.cluster.respond = [clusters.in_canary()], respond
    cli.cluster.revisions = [clusters.kept(STABLE, 1, 2, runtime=runtime), clusters.kept(CANARY, 2, 3, runtime=runtime)]
    assert cli("predict", "digits", "-f", file, "--to", "canary").exit_code == 0
    (sent,) = cli.cluster.sent
    assert (sent[1], sent[2], sent[3].path) == (f"digits-{CANARY}-b", port, path)


def test_without_to_the_request_goes_to_the_service(cli: Cli, file: str) -> None:
    cli.cluster.models, cli.cluster.respond = [model()], respond
    assert cli("predict", "digits", "-f", file).exit_code == 0
    assert cli.cluster.sent[0][:3] == ("services", "digits", "http")


def test_in_place_each_path_names_a_version(cli: Cli, file: str) -> None:
    body = clusters.in_canary()
    body["status"]["canary"]["workload"] = STABLE
    cli.cluster.models, cli.cluster.respond = [body], respond
    assert cli("predict", "digits", "-f", file, "--to", "both").exit_code == 0
    assert [sent[3].path for sent in cli.cluster.sent] == [
        "/v2/models/digits/versions/2/infer",
        "/v2/models/digits/versions/3/infer",
    ]


def test_both_are_compared_output_by_output(cli: Cli, file: str) -> None:
    cli.cluster.models, cli.cluster.respond = [clusters.in_canary()], respond
    lines = cli("predict", "digits", "-f", file, "--to", "both").stdout.splitlines()
    assert [line.split() for line in lines if line][3:] == [
        ["OUTPUT", "VALUES", "DIFFER", "MOST", "RELATIVE"],
        ["label", "1", "same"],
        ["probabilities", "2", "1", "0.25", "50.00", "%"],
    ]
    document = json.loads(cli("predict", "digits", "-f", file, "--to", "both", "-o", "json").stdout)
    assert [each["body"]["model_version"] for each in document["answers"]] == ["2", "3"]
    assert document["compared"][1]["mostAbsolute"] == 0.25


def test_an_error_of_the_model_fails_and_is_shown(cli: Cli, file: str) -> None:
    cli.cluster.models = [clusters.in_canary()]
    cli.cluster.respond = lambda *sent: Response(400, b'{"error": "unexpected shape for input x"}', 1.0)
    shown = cli("predict", "digits", "-f", file, "--to", "canary")
    assert shown.exit_code == 1
    assert "unexpected shape" in shown.stdout
    assert "canary answered 400" in shown.stderr


def test_a_body_that_is_no_json_is_sent_as_bytes(cli: Cli, tmp_path: Path) -> None:
    cli.cluster.models, cli.cluster.respond = [model()], respond
    (tmp_path / "image.jpg").write_bytes(b"\xff\xd8\xff")
    cli("predict", "digits", "-f", str(tmp_path / "image.jpg"), "-H", "X-Trace: 1")
    assert cli.cluster.sent[0][3].headers == {"X-Trace": "1", "Content-Type": "application/octet-stream"}
    cli("predict", "digits", "-f", str(tmp_path / "image.jpg"), "-H", "content-type: image/jpeg")
    assert cli.cluster.sent[1][3].headers == {"content-type": "image/jpeg"}


def test_the_body_may_come_from_stdin(cli: Cli) -> None:
    cli.cluster.models, cli.cluster.respond = [model()], respond
    assert cli("predict", "digits", "-f", "-", stdin=BODY).exit_code == 0
    assert cli.cluster.sent[0][3].body == BODY


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("-f", "/none.json"), 3, "there is no file /none.json"),
        (("-f", "FILE", "--to", "canary"), 3, "digits has no canary revision now: no revision is taking over"),
        (("-f", "FILE", "--to", "both"), 3, "digits has no canary revision now"),
        (("-f", "FILE", "-H", "no colon"), 2, "is not a header"),
        (("-f", "FILE", "-H", "Authorization: x"), 2, "can't be sent through the API server"),
        (("-f", "FILE", "--timeout", "soon"), 2, "'soon' is not a time span"),
        (("-f", "FILE", "--to", "shadow"), 2, "see kubectl slipway predict --help"),
        ((), 2, "missing option '--file'"),
    ],
)
def test_mistakes_send_nothing(cli: Cli, file: str, words: tuple[str, ...], code: int, says: str) -> None:
    cli.cluster.models, cli.cluster.respond = [model()], respond
    shown = cli("predict", "digits", *(file if word == "FILE" else word for word in words))
    assert shown.exit_code == code
    assert says in shown.stderr
    assert len(shown.stderr.splitlines()) == 1
    assert cli.cluster.sent == []


def test_without_a_ready_pod_nothing_is_sent(cli: Cli, file: str) -> None:
    cli.cluster.models = [clusters.in_canary()]
    cli.cluster.pods = []
    shown = cli("predict", "digits", "-f", file, "--to", "canary")
    assert shown.exit_code == 1
    assert f"no pod of the canary revision {CANARY} is ready" in shown.stderr


# --- comparing ---


def test_fields_of_the_protocol_are_no_outputs() -> None:
    one = b'{"predictions": [1], "model_name": "a", "id": "1"}'
    other = b'{"predictions": [1], "model_name": "b", "id": "2"}'
    assert compare(one, other) == [Compared("predictions", 1, 0)]


def test_other_shapes_are_not_compared_value_by_value() -> None:
    (found,) = compare(b'{"predictions": [[1, 2]]}', b'{"predictions": [1, 2, 3]}')
    assert found.note == "shapes differ: 2 and 3 values"
    assert not found.is_same


def test_an_output_that_only_one_has_is_named() -> None:
    assert [each.note for each in compare(b'{"a": 1}', b'{"b": 1}')] == [
        "only the first has it",
        "only the second has it",
    ]


def test_words_and_numbers_are_told_apart() -> None:
    (found,) = compare(b'["cat", 1, true]', b'["dog", 1.5, 1]')
    assert (found.values, found.differing, found.most_absolute) == (3, 3, 0.5)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda below: st.lists(below) | st.dictionaries(st.text(), below),
    max_leaves=20,
)


@given(answer=JSON)
def test_an_answer_is_the_same_as_itself(answer: Any) -> None:
    body = json.dumps(answer).encode()
    assert all(each.is_same for each in compare(body, body))


@given(one=st.binary() | JSON.map(lambda value: json.dumps(value).encode()), other=st.binary())
def test_any_two_answers_can_be_compared(one: bytes, other: bytes) -> None:
    for each in compare(one, other):
        assert each.differing <= max(each.values, 1)
