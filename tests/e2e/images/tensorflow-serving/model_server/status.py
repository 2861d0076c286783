"""Errors as TensorFlow Serving has them: one of gRPC's codes, and words. How they look over REST and gRPC."""

from __future__ import annotations

import grpc
import tensorflow as tf

HTTP = {
    "OK": 200, "CANCELLED": 499, "UNKNOWN": 500, "INVALID_ARGUMENT": 400, "DEADLINE_EXCEEDED": 504, "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409, "PERMISSION_DENIED": 403, "RESOURCE_EXHAUSTED": 429, "FAILED_PRECONDITION": 400,
    "ABORTED": 409, "OUT_OF_RANGE": 400, "UNIMPLEMENTED": 501, "INTERNAL": 500, "UNAVAILABLE": 503, "DATA_LOSS": 500,
    "UNAUTHENTICATED": 401,
}  # fmt: skip
NUMBERS = {code.name: code.value[0] for code in grpc.StatusCode}
NAMES = {number: name for name, number in NUMBERS.items()}


class StatusError(Exception):
    """A request, a load or a configuration failed. `code` is a name in HTTP."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


def invalid(message: str) -> StatusError:
    return StatusError("INVALID_ARGUMENT", message)


def not_found(message: str) -> StatusError:
    return StatusError("NOT_FOUND", message)


def precondition(message: str) -> StatusError:
    return StatusError("FAILED_PRECONDITION", message)


def explain(error: BaseException) -> StatusError:
    """Any exception as the status that the server would have made of it."""
    match error:
        case StatusError():
            return error
        case tf.errors.OpError():
            return StatusError(NAMES.get(error.error_code, "UNKNOWN"), _native(error.message or ""))
        case ValueError() | TypeError():
            return invalid(str(error))
        case _:
            return StatusError("INTERNAL", f"{type(error).__name__}: {error}")


def _native(message: str) -> str:
    """Without what Python's TensorFlow appends: where in the program an operation was made."""
    return message.split("\n\nOriginal stack trace", 1)[0].split("\n\nOriginally defined", 1)[0].strip()
