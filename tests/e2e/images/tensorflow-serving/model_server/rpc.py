# ruff: noqa: N802  the methods have the names of the .proto files
"""The gRPC API: PredictionService, ModelService and, where it is asked for, the standard health service."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn

import grpc
from tensorflow_serving.apis import (
    get_model_status_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    prediction_service_pb2_grpc,
)

from model_server import answers
from model_server.core import Core
from model_server.journal import say
from model_server.metrics import Metrics
from model_server.status import NUMBERS, StatusError, explain, invalid

_CODES = {code.name: code for code in grpc.StatusCode}
_SERVING = b"\x08\x01"  # HealthCheckResponse{status: SERVING}
THREADS = 32


class _Prediction(prediction_service_pb2_grpc.PredictionServiceServicer):  # type: ignore[misc]
    def __init__(self, core: Core, metrics: Metrics) -> None:
        self._core, self._metrics = core, metrics

    def Predict(self, request: Any, context: grpc.ServicerContext) -> Any:
        return self._answer("predict", request.model_spec.name, answers.predict, request, context)

    def Classify(self, request: Any, context: grpc.ServicerContext) -> Any:
        return self._answer("classify", request.model_spec.name, answers.classify, request, context)

    def Regress(self, request: Any, context: grpc.ServicerContext) -> Any:
        return self._answer("regress", request.model_spec.name, answers.regress, request, context)

    def MultiInference(self, request: Any, context: grpc.ServicerContext) -> Any:
        model = request.tasks[0].model_spec.name if request.tasks else ""
        return self._answer("multi_inference", model, answers.multi_inference, request, context)

    def GetModelMetadata(self, request: Any, context: grpc.ServicerContext) -> Any:
        try:
            return answers.metadata(self._core, request)
        except Exception as cause:
            _abort(context, explain(cause))

    def _answer(
        self, api: str, model: str, work: Callable[[Core, Any], Any], request: Any, context: grpc.ServicerContext
    ) -> Any:
        began = time.monotonic()
        try:
            response = work(self._core, request)
        except Exception as cause:
            error = explain(cause)
            self._metrics.count(model, error.code)
            _abort(context, error)
        self._metrics.count(model, "OK")
        self._metrics.time(model, api, "GRPC", (time.monotonic() - began) * 1e6)
        return response


class _Models(model_service_pb2_grpc.ModelServiceServicer):  # type: ignore[misc]
    def __init__(self, core: Core) -> None:
        self._core = core

    def GetModelStatus(
        self, request: Any, context: grpc.ServicerContext
    ) -> get_model_status_pb2.GetModelStatusResponse:
        try:
            return answers.status(self._core, request)
        except Exception as cause:
            _abort(context, explain(cause))

    def HandleReloadConfigRequest(self, request: Any, context: grpc.ServicerContext) -> Any:
        try:
            if request.config.WhichOneof("config") != "model_config_list":
                raise invalid(
                    "ServerModelConfig type not supported by HandleReloadConfigRequest. Only ModelConfigList is "
                    "currently supported"
                )
            self._core.reload(request.config)
        except Exception as cause:
            error = explain(cause)
            say("E", "model_service_impl", f"ReloadConfig failed: {error.message}")
            _abort(context, error)
        response = model_management_pb2.ReloadConfigResponse()
        response.status.error_code = NUMBERS["OK"]
        return response


def _abort(context: grpc.ServicerContext, error: StatusError) -> NoReturn:
    context.abort(_CODES[error.code], error.message)
    raise error  # abort raises


def _health(request: bytes, context: grpc.ServicerContext) -> bytes:
    if request:  # a service by name: nothing here has one
        context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
    return _SERVING


def _watch(request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
    yield _SERVING
    while context.is_active():
        time.sleep(1)


def serve(port: int, core: Core, metrics: Metrics, options: list[tuple[str, Any]], has_health: bool) -> grpc.Server:
    """Started. RuntimeError when the port is taken."""
    sizes = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    server = grpc.server(ThreadPoolExecutor(THREADS), options=[*sizes, ("grpc.so_reuseport", 0), *options])
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(_Prediction(core, metrics), server)
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(_Models(core), server)
    if has_health:
        methods = {
            "Check": grpc.unary_unary_rpc_method_handler(_health),
            "Watch": grpc.unary_stream_rpc_method_handler(_watch),
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("grpc.health.v1.Health", methods),))
    server.add_insecure_port(f"0.0.0.0:{port}")
    server.start()
    return server
