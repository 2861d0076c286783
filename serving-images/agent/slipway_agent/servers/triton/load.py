"""Triton's RepositoryModelLoad over gRPC: the one call that must not go over HTTP.

Triton answers a load on the HTTP thread that read the request, and every client whose kept connection belongs to that
thread waits until the load is done: measured on 2.51 with 16 such clients, 9 to 13 of them stood still for the whole
1.4 s of a small load; over gRPC the slowest answer was 40 ms. grpcio is imported with the first load.
"""

import socket
from dataclasses import dataclass

from slipway_agent.servers.local_http import HOST, explain_lost

LISTENING_SECONDS = 2.0

_METHOD = "/inference.GRPCInferenceService/RepositoryModelLoad"
_KEY_PREFIX = "triton-grpc-protocol-"  # what Triton puts before the name of a restricted protocol's key


@dataclass(frozen=True, slots=True)
class Answer:
    """`words` is None where the load was done. `is_lost`: nothing answered, or the server ended in the middle.

    `was_asked`: False where nothing listened.
    """

    words: str | None = None
    is_lost: bool = False
    was_asked: bool = True


def load_model(port: int, model: str, key: tuple[str, str] | None) -> Answer:
    """Asks for the load and waits for it as long as the server lives. `key`: name and value."""
    try:
        socket.create_connection((HOST, port), timeout=LISTENING_SECONDS).close()
    except OSError as cause:  # gRPC's errors don't tell a server that never listened from one that ended
        return Answer(explain_lost(cause), is_lost=True, was_asked=False)
    import grpc

    name = model.encode()
    message = b"\x12" + bytes([len(name)]) + name  # field 2, model_name; a model's name has at most 63 characters
    metadata = [(f"{_KEY_PREFIX}{key[0]}", key[1])] if key else []
    with grpc.insecure_channel(f"{HOST}:{port}", options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            channel.unary_unary(_METHOD)(message, metadata=metadata)
        except grpc.RpcError as error:
            is_lost = error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
            return Answer(error.details() or error.code().name, is_lost)
    return Answer()
