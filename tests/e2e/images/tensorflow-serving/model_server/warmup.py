"""assets.extra/tf_serving_warmup_requests: requests that a version answers before it is AVAILABLE."""

from __future__ import annotations

from pathlib import Path

import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow_serving.apis import prediction_log_pb2

from model_server import answers
from model_server.bundle import Bundle
from model_server.journal import say
from model_server.status import StatusError, invalid

FILE = Path("assets.extra") / "tf_serving_warmup_requests"
MOST = 1000


def warm_up(path: Path, bundle: Bundle, version: int) -> None:
    """Raises StatusError when a request fails, or the file isn't one."""
    file = path / FILE
    if not file.is_file():
        say("I", "saved_model_warmup_util", f"No warmup data file found at {file}")
        return
    say("I", "saved_model_warmup_util", f"Starting to read warmup data for model at {file}")
    count = 0
    try:
        for count, record in enumerate(tf.compat.v1.io.tf_record_iterator(str(file)), 1):
            if count > MOST:
                raise invalid(f"Number of warmup records exceeds the maximum ({MOST}) at {file}")
            log = prediction_log_pb2.PredictionLog()
            log.ParseFromString(record)
            _run(log, bundle, version)
    except DecodeError as cause:
        raise invalid(f"Failed to parse warmup record: {cause} from {file}") from cause
    except tf.errors.DataLossError as cause:
        raise StatusError(
            "DATA_LOSS", f"{cause.message}. Please verify your warmup data is in TFRecord format."
        ) from cause
    say("I", "saved_model_warmup_util", f"Finished reading warmup data. Number of warmup records read: {count}.")


def _run(log: prediction_log_pb2.PredictionLog, bundle: Bundle, version: int) -> None:
    match log.WhichOneof("log_type"):
        case "predict_log":
            answers.predict_with(bundle, version, log.predict_log.request)
        case "classify_log":
            request = log.classify_log.request
            answers.classify_with(bundle, request.model_spec.signature_name or answers.DEFAULT, request.input)
        case "regress_log":
            request = log.regress_log.request
            answers.regress_with(bundle, request.model_spec.signature_name or answers.DEFAULT, request.input)
        case other:
            raise StatusError("UNIMPLEMENTED", f"Unsupported log_type for warmup: {other}")
