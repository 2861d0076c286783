"""TorchServe's own API, the ways its clients use it: `/predictions` by `requests`, InferenceAPIsService by grpcio.

Invariant: no retries; what a client would see is what the test sees.
Must not import: anything of Kubernetes or Slipway.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import requests
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

PACKAGE = "org.pytorch.serve.grpc.inference"


class RefusedError(AssertionError):
    """The server answered with an error: `status` is the HTTP status."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(f"HTTP {status}: {words}")
        self.status = status


@dataclass(frozen=True, slots=True)
class TorchRest:
    """`url` is the Service's, without a path. post: as requests' own."""

    url: str
    model: str
    post: Callable[..., requests.Response]

    def predict(self, body: dict[str, Any] | bytes, version: int | None = None) -> Any:
        """JSON, or bytes such as a picture; the answer's JSON."""
        path = f"{self.url}/predictions/{self.model}" + (f"/{version}" if version is not None else "")
        if isinstance(body, bytes):
            headers = {"Content-Type": "application/octet-stream"}
            answer = self.post(path, data=body, headers=headers, timeout=30)
        else:
            answer = self.post(path, json=body, timeout=30)
        if answer.status_code != 200:
            raise RefusedError(answer.status_code, answer.text)
        return answer.json()


@dataclass(frozen=True, slots=True)
class TorchGrpc:
    """One channel to a server."""

    channel: grpc.Channel
    model: str

    def predict(self, body: dict[str, Any], version: int | None = None) -> Any:
        """JSON in the field `body`; the answer's JSON. Raises grpc.RpcError."""
        request = _REQUEST(model_name=self.model, model_version="" if version is None else str(version))
        request.input["body"] = json.dumps(body).encode()
        call = self.channel.unary_unary(
            f"/{PACKAGE}.InferenceAPIsService/Predictions",
            request_serializer=_REQUEST.SerializeToString,
            response_deserializer=_RESPONSE.FromString,
        )
        return json.loads(call(request, timeout=30).prediction)


@contextmanager
def torch_rest(url: str, model: str, *, keep: bool = True) -> Iterator[TorchRest]:
    """`keep` False: a new connection for each request. TorchServe keeps one open that a client asks it to close."""
    with requests.Session() as session:
        yield TorchRest(url, model, session.post if keep else requests.post)


@contextmanager
def torch_grpc(address: str, model: str) -> Iterator[TorchGrpc]:
    with grpc.insecure_channel(address) as channel:
        yield TorchGrpc(channel, model)


def _messages() -> tuple[Any, Any]:
    """PredictionsRequest and PredictionResponse, as TorchServe's inference.proto has them."""
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="slipway/tests/inference.proto", package=PACKAGE, syntax="proto3")
    asked = file.message_type.add(name="PredictionsRequest")
    asked.field.add(name="model_name", number=1, type=field.TYPE_STRING, label=field.LABEL_OPTIONAL)
    asked.field.add(name="model_version", number=2, type=field.TYPE_STRING, label=field.LABEL_OPTIONAL)
    entry = asked.nested_type.add(name="InputEntry", options=descriptor_pb2.MessageOptions(map_entry=True))
    entry.field.add(name="key", number=1, type=field.TYPE_STRING, label=field.LABEL_OPTIONAL)
    entry.field.add(name="value", number=2, type=field.TYPE_BYTES, label=field.LABEL_OPTIONAL)
    asked.field.add(
        name="input",
        number=3,
        type=field.TYPE_MESSAGE,
        label=field.LABEL_REPEATED,
        type_name=f".{PACKAGE}.PredictionsRequest.InputEntry",
    )
    answered = file.message_type.add(name="PredictionResponse")
    answered.field.add(name="prediction", number=1, type=field.TYPE_BYTES, label=field.LABEL_OPTIONAL)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    names = ("PredictionsRequest", "PredictionResponse")
    asked_type, answered_type = (pool.FindMessageTypeByName(f"{PACKAGE}.{name}") for name in names)
    return message_factory.GetMessageClass(asked_type), message_factory.GetMessageClass(answered_type)


_REQUEST, _RESPONSE = _messages()
