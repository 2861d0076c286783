"""Tiny SavedModels for the tests, made where TensorFlow is: `python make_models.py FOLDER`.

    FOLDER/multiplier/{1..4}   y = x · version, x and y float32 [rows, 2]; so that an answer tells who gave it
    FOLDER/multiplier/…        what goes wrong, by name instead of number: see BROKEN
    FOLDER/toy/1               every kind of signature and type that the API has, see `make_toy`

Deterministic in what they compute, not in their bytes. Nothing of them is committed.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

v1 = tf.compat.v1
WARM_UP = Path("assets.extra") / "tf_serving_warmup_requests"


class Multiplier(tf.Module):  # type: ignore[misc]  # TensorFlow has no types
    """y = x · factor, with the factor in a variable, so that there is something to restore."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = tf.Variable(factor)

    @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.float32, "x")])  # type: ignore[untyped-decorator]
    def multiply(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"y": x * self.factor}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "turns")])  # type: ignore[untyped-decorator]
    def slowly(self, turns: tf.Tensor) -> dict[str, tf.Tensor]:
        """Counts to the largest of `turns`, which takes some microseconds a turn, and returns the factor."""
        _, passed = tf.while_loop(
            lambda turn, _: turn < tf.reduce_max(turns),
            lambda turn, passed: (turn + 1.0, passed + tf.sin(turn)),
            [0.0, 0.0],
        )
        return {"factor": tf.zeros_like(turns) + self.factor + 0.0 * passed}


def make_multiplier(folder: Path, factor: float) -> None:
    model = Multiplier(factor)
    signatures = {"serving_default": model.multiply, "slow": model.slowly}
    tf.saved_model.save(model, str(folder), signatures=signatures)


def add_warm_up(folder: Path, model: str, signature: str, inputs: dict[str, list[float]]) -> None:
    """One request that the server runs by itself before it calls the version AVAILABLE."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name = model
    request.model_spec.signature_name = signature
    for name, values in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(values, tf.float32))
    log = prediction_log_pb2.PredictionLog(predict_log=prediction_log_pb2.PredictLog(request=request))
    (folder / WARM_UP).parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(folder / WARM_UP)) as records:
        records.write(log.SerializeToString())


def make_without_signature(folder: Path) -> None:
    """Loads, and can't be asked: what `tf.saved_model.save(module)` makes of a module without a tf.function."""
    tf.saved_model.save(tf.Module(), str(folder))


def make_garbage(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(b"this is no model\n" * 20)


def make_without_variables(folder: Path) -> None:
    """The upload ended before the variables came."""
    make_multiplier(folder, 1.0)
    shutil.rmtree(folder / "variables")


def make_for_training(folder: Path) -> None:
    """Its graph isn't tagged for serving."""
    graph = tf.Graph()
    with graph.as_default(), v1.Session(graph=graph) as session:
        x = v1.placeholder(tf.float32, [None], "x")
        builder = v1.saved_model.Builder(str(folder))
        signature = v1.saved_model.predict_signature_def({"x": x}, {"y": x * 2.0})
        builder.add_meta_graph_and_variables(session, ["train"], {"serving_default": signature})
        builder.save()


def make_slow_to_load(folder: Path) -> None:
    """Version 4 with a warm-up of a second or more."""
    make_multiplier(folder, 4.0)
    add_warm_up(folder, "multiplier", "slow", {"turns": [150_000.0]})


def make_warm_up_that_fails(folder: Path) -> None:
    make_multiplier(folder, 4.0)
    add_warm_up(folder, "multiplier", "absent", {"turns": [1.0]})


BROKEN = {
    "without-signature": make_without_signature,
    "garbage": make_garbage,
    "without-variables": make_without_variables,
    "for-training": make_for_training,
    "slow-to-load": make_slow_to_load,
    "failing-warm-up": make_warm_up_that_fails,
}


def make_toy(folder: Path) -> None:
    """Signatures: serving_default (x/2 + 2), two, text, binary, types, matrix, scalar, classify*, regress."""
    graph = tf.Graph()
    with graph.as_default(), v1.Session(graph=graph) as session:
        predict = v1.saved_model.predict_signature_def
        x = v1.placeholder(tf.float32, [None], "x")
        a, b = v1.placeholder(tf.float32, [None], "a"), v1.placeholder(tf.int32, [None], "b")
        text = v1.placeholder(tf.string, [None], "text")
        number = v1.placeholder(tf.float32, [], "number")
        matrix = v1.placeholder(tf.float32, [None, 2], "matrix")
        kinds = {
            name: v1.placeholder(kind, [None], name)
            for name, kind in {
                "bool": tf.bool, "float": tf.float32, "double": tf.float64, "half": tf.float16, "int8": tf.int8,
                "int16": tf.int16, "int32": tf.int32, "int64": tf.int64, "uint8": tf.uint8, "uint16": tf.uint16,
                "uint32": tf.uint32, "uint64": tf.uint64, "string": tf.string,
            }.items()
        }  # fmt: skip
        # what JSON has no words for stands alone
        half, uint16 = kinds.pop("half"), kinds.pop("uint16")
        examples = v1.placeholder(tf.string, [None], "examples")
        features = {name: tf.io.FixedLenFeature([], tf.float32, 0.0) for name in ("x", "bias")}
        parsed = v1.parse_example(examples, features)
        row = parsed["x"] / 2.0 + 2.0 + parsed["bias"]
        scores = tf.stack([parsed["x"], 1.0 - parsed["x"]], axis=1)
        classes = tf.tile([["yes", "no"]], [tf.shape(scores)[0], 1])
        classify = v1.saved_model.classification_signature_def
        signatures = {
            "serving_default": predict({"x": x}, {"y": x / 2.0 + 2.0}),
            "two": predict(
                {"a": a, "b": b}, {"sum": a + tf.cast(b, tf.float32), "product": a * tf.cast(b, tf.float32)}
            ),
            "text": predict({"text": text}, {"loud": tf.strings.upper(text)}),
            "binary": predict({"text": text}, {"same_bytes": tf.identity(text)}),
            "types": predict(kinds, {f"{name}_out": tf.identity(kind) for name, kind in kinds.items()}),
            "float_only": predict({"float": kinds["float"]}, {"out": tf.identity(kinds["float"], "float_only")}),
            "int_only": predict({"int32": kinds["int32"]}, {"out": tf.identity(kinds["int32"], "int_only")}),
            "half_only": predict({"half": half}, {"out": tf.identity(half, "half_only")}),
            "uint16_only": predict({"uint16": uint16}, {"out": tf.identity(uint16, "uint16_only")}),
            "matrix": predict({"matrix": matrix}, {"total": tf.reduce_sum(matrix, axis=1)}),
            "scalar": predict({"number": number}, {"double": number * 2.0}),
            "classify": classify(examples, classes, scores),
            "classify_labels": classify(examples, classes, None),
            "classify_scores": classify(examples, None, scores),
            "regress": v1.saved_model.regression_signature_def(examples, row),
        }
        builder = v1.saved_model.Builder(str(folder))
        builder.add_meta_graph_and_variables(session, [tf.saved_model.SERVING], signatures)
        builder.save()


def make_all(folder: Path) -> None:
    for version in range(1, 5):
        make_multiplier(folder / "multiplier" / str(version), float(version))
    for name, make in BROKEN.items():
        make(folder / "multiplier" / name)
    make_toy(folder / "toy" / "1")


if __name__ == "__main__":
    make_all(Path(sys.argv[1]))
