"""Real requests to a served model, the ways clients send them: REST by `requests`, gRPC by `tritonclient`.

Invariant: no retries; what a client would see is what the test sees.
Must not import: anything of Kubernetes or Slipway.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import requests
from tritonclient import grpc

Array = np.ndarray[Any, Any]

DATATYPES = {
    "bool": "BOOL",
    "uint8": "UINT8",
    "uint16": "UINT16",
    "uint32": "UINT32",
    "uint64": "UINT64",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "float16": "FP16",
    "float32": "FP32",
    "float64": "FP64",
    "object": "BYTES",
}
"""numpy's name of a type to the Open Inference Protocol's."""
NUMPY = {name: dtype for dtype, name in DATATYPES.items()}


class UnansweredError(AssertionError):
    """The server answered with an error: `status` is the HTTP status."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(f"HTTP {status}: {words}")
        self.status = status


@dataclass(frozen=True, slots=True)
class Rest:
    """The REST side of a model: `url` is the Service's, without a path."""

    url: str
    model: str
    session: requests.Session

    def path(self, version: int | None, verb: str = "") -> str:
        """URL of the model, or of one of its versions."""
        chosen = "" if version is None else f"/versions/{version}"
        return f"{self.url}/v2/models/{self.model}{chosen}{verb}"

    def infer_json(self, inputs: dict[str, Array], version: int | None = None) -> dict[str, Array]:
        """Tensors as JSON, as most people begin."""
        body = {
            "inputs": [
                {"name": name, "shape": list(a.shape), "datatype": DATATYPES[str(a.dtype)], "data": a.ravel().tolist()}
                for name, a in inputs.items()
            ]
        }
        answer = self.session.post(self.path(version, "/infer"), json=body, timeout=30)
        return {output["name"]: _from_json(output) for output in _answered(answer)["outputs"]}

    def infer_binary(self, inputs: dict[str, Array], version: int | None = None) -> dict[str, Array]:
        """Tensors in the protocol's binary extension: the only REST form that has float16."""
        blobs = [_to_bytes(array) for array in inputs.values()]
        head = json.dumps(
            {
                "inputs": [
                    {
                        "name": name,
                        "shape": list(array.shape),
                        "datatype": DATATYPES[str(array.dtype)],
                        "parameters": {"binary_data_size": len(blob)},
                    }
                    for (name, array), blob in zip(inputs.items(), blobs, strict=True)
                ],
                "parameters": {"binary_data_output": True},
            }
        ).encode()
        answer = self.session.post(
            self.path(version, "/infer"),
            data=head + b"".join(blobs),
            headers={
                "content-type": "application/octet-stream",
                "inference-header-content-length": str(len(head)),
            },
            timeout=30,
        )
        if answer.status_code != 200:
            _answered(answer)
        head_length = int(answer.headers["inference-header-content-length"])
        outputs, rest = json.loads(answer.content[:head_length])["outputs"], answer.content[head_length:]
        arrays = {}
        for output in outputs:
            size = output["parameters"]["binary_data_size"]
            arrays[output["name"]] = _from_bytes(rest[:size], output)
            rest = rest[size:]
        return arrays

    def is_ready(self, version: int | None = None) -> bool:
        """Whether the server says that the version (None: the model) can be asked."""
        return self.session.get(self.path(version, "/ready"), timeout=10).status_code == 200

    def metadata(self, version: int | None = None) -> dict[str, Any]:
        """Name, versions, inputs and outputs, in the server's words."""
        return _answered(self.session.get(self.path(version), timeout=10))


@contextmanager
def rest(url: str, model: str) -> Iterator[Rest]:
    """A REST client that ignores the machine's proxy settings."""
    with requests.Session() as session:
        session.trust_env = False
        yield Rest(url, model, session)


def _answered(answer: requests.Response) -> dict[str, Any]:
    if answer.status_code != 200:
        raise UnansweredError(answer.status_code, answer.text[:500])
    body: dict[str, Any] = answer.json()
    return body


def _from_json(output: dict[str, Any]) -> Array:
    return np.array(output["data"], dtype=NUMPY[output["datatype"]]).reshape(output["shape"])


def _to_bytes(array: Array) -> bytes:
    if array.dtype != object:
        return np.ascontiguousarray(array).tobytes()
    encoded = [str(item).encode() for item in array.ravel()]
    return b"".join(struct.pack("<I", len(item)) + item for item in encoded)


def _from_bytes(blob: bytes, output: dict[str, Any]) -> Array:
    shape, dtype = output["shape"], NUMPY[output["datatype"]]
    if dtype != "object":
        return np.frombuffer(blob, dtype).reshape(shape)
    items = []
    while blob:
        (size,) = struct.unpack_from("<I", blob)
        items.append(blob[4 : 4 + size].decode())
        blob = blob[4 + size :]
    return np.array(items, dtype=object).reshape(shape)


@dataclass(frozen=True, slots=True)
class Grpc:
    """The gRPC side of a model."""

    client: grpc.InferenceServerClient
    model: str

    def infer(self, inputs: dict[str, Array], version: int | None = None) -> dict[str, Array]:
        """One ModelInfer call. Raises tritonclient's InferenceServerException."""
        tensors = []
        for name, array in inputs.items():
            tensor = grpc.InferInput(name, list(array.shape), DATATYPES[str(array.dtype)])
            tensor.set_data_from_numpy(array)
            tensors.append(tensor)
        answer = self.client.infer(
            self.model, tensors, model_version="" if version is None else str(version), client_timeout=30
        )
        arrays = {}
        for output in answer.get_response().outputs:
            array = answer.as_numpy(output.name)
            if array.dtype == object:
                array = np.array([item.decode() for item in array.ravel()], dtype=object).reshape(array.shape)
            arrays[output.name] = array
        return arrays


@contextmanager
def grpc_client(address: str, model: str) -> Iterator[Grpc]:
    """A gRPC client; `address` is host:port."""
    client = grpc.InferenceServerClient(address)
    try:
        yield Grpc(client, model)
    finally:
        client.close()
