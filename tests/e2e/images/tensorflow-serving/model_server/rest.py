"""The REST API: paths, JSON and HTTP statuses as in http_rest_api_util.cc and http_server.cc. Connections are kept."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar
from urllib.parse import unquote

from google.protobuf import json_format
from google.protobuf.message import Message
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    input_pb2,
    model_pb2,
    regression_pb2,
)

from model_server import answers, json_tensors
from model_server.core import Core
from model_server.metrics import Metrics
from model_server.status import HTTP, explain, invalid

_PREDICTION = re.compile(
    r"(?i)/v1/models/([^/:]+)(?:(?:/versions/(\d+))|(?:/labels/([^/:]+)))?:(classify|regress|predict)"
)
_STATUS = re.compile(r"(?i)/v1/models(?:/([^/:]+))?(?:(?:/versions/(\d+))|(?:/labels/([^/:]+)))?(?:\/(metadata))?")


@dataclass(frozen=True, slots=True)
class _Target:
    spec: model_pb2.ModelSpec
    verb: str


@dataclass(slots=True)
class Rest:
    """`metrics_path` None: no metrics page."""

    core: Core
    metrics: Metrics
    metrics_path: str | None

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, str, str] | None:
        """Status, content type and body; None where there is nothing."""
        if path == self.metrics_path:
            return 200, "text/plain", self.metrics.page()
        if not path.lower().startswith("/v1/"):
            return None
        began = time.monotonic()
        model, verb = "", ""
        try:
            target = _find_target(method, path)
            model, verb = target.spec.name, target.verb
            written = self._answer(target, body)
        except Exception as cause:
            error = explain(cause)
            self.metrics.count(model, error.code)
            return HTTP[error.code], "application/json", json_tensors.write_error(error.message)
        self.metrics.count(model, "OK")
        self.metrics.time(model, verb if method == "POST" else "", "REST", (time.monotonic() - began) * 1e6)
        return 200, "application/json", written

    def _answer(self, target: _Target, body: bytes) -> str:
        match target.verb:
            case "predict":
                return self._predict(target.spec, body)
            case "classify" | "regress":
                return self._examples(target, body)
            case "metadata":
                return self._metadata(target.spec)
            case _:
                request = get_model_status_pb2.GetModelStatusRequest(model_spec=target.spec)
                return _to_json(answers.status(self.core, request))

    def _predict(self, spec: model_pb2.ModelSpec, body: bytes) -> str:
        document = json_tensors.parse_object(body.decode("utf-8", errors="replace"))
        name = json_tensors.signature_of(document) or answers.DEFAULT
        with self.core.bundle(*answers.chosen(spec)) as (_, bundle):
            if name not in bundle.signatures:
                raise invalid(f'Serving signature name: "{name}" not found in signature def')
            signature = bundle.signatures[name]
            inputs, as_rows = json_tensors.read_predict(document, signature.inputs)
            outputs = answers.run_signature(bundle, signature, inputs, [])
        return json_tensors.write_predict(outputs, as_rows)

    def _examples(self, target: _Target, body: bytes) -> str:
        document = json_tensors.parse_object(body.decode("utf-8", errors="replace"))
        target.spec.signature_name = json_tensors.signature_of(document)
        examples, context = json_tensors.read_examples(document)
        given = input_pb2.Input()
        if context is not None:
            given.example_list_with_context.context.CopyFrom(context)
            given.example_list_with_context.examples.extend(examples)
        else:
            given.example_list.examples.extend(examples)
        if target.verb == "classify":
            request = classification_pb2.ClassificationRequest(model_spec=target.spec, input=given)
            classified = answers.classify(self.core, request).result.classifications
            return json_tensors.write_results([[(one.label, one.score) for one in each.classes] for each in classified])
        regressed = answers.regress(self.core, regression_pb2.RegressionRequest(model_spec=target.spec, input=given))
        return json_tensors.write_results([each.value for each in regressed.result.regressions])

    def _metadata(self, spec: model_pb2.ModelSpec) -> str:
        request = get_model_metadata_pb2.GetModelMetadataRequest(model_spec=spec, metadata_field=["signature_def"])
        response = answers.metadata(self.core, request)
        signatures = get_model_metadata_pb2.SignatureDefMap()
        response.metadata["signature_def"].Unpack(signatures)
        shown_spec, shown = _to_json(response.model_spec), _to_json(signatures)
        return f'{{\n"model_spec":{shown_spec},\n"metadata": {{"signature_def": {shown}}}\n}}\n'


def _find_target(method: str, path: str) -> _Target:
    pattern = {"POST": _PREDICTION, "GET": _STATUS}.get(method)
    found = pattern.fullmatch(path) if pattern else None
    if found is None:
        raise invalid(f"Malformed request: {method} {path}")
    name, version, label, verb = found.groups()
    spec = model_pb2.ModelSpec(name=unquote(name or ""))
    if method == "GET" and not name:
        raise invalid("Missing model name in request.")
    if version is not None:
        if int(version) >= 2**63:
            raise invalid(f"Failed to convert version: {version} to numeric.")
        spec.version.value = int(version)
    if label is not None:
        spec.version_label = unquote(label)
    return _Target(spec, verb or "")


def _to_json(message: Message) -> str:
    shown: str = json_format.MessageToJson(
        message, indent=1, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    return shown


class RestServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is no event."""


def serve(port: int, rest: Rest) -> RestServer:
    """OSError when the port is taken."""

    class Handler(_Handler):
        api = rest

    return RestServer(("0.0.0.0", port), Handler)


class _Handler(BaseHTTPRequestHandler):
    api: ClassVar[Rest]
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # head and body leave together

    def do_GET(self) -> None:
        self._reply("GET", b"")

    def do_POST(self) -> None:
        self._reply("POST", self.rfile.read(int(self.headers.get("Content-Length", 0))))

    def _reply(self, method: str, body: bytes) -> None:
        found = self.api.answer(method, self.path.partition("?")[0], body)
        status, kind, text = found or (404, "text/html", "<html><body>Not Found</body></html>")
        content = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """The real server logs no requests."""
