"""Two more versions of the digits, after those of examples/digits/train.py: one that is good, and one that is not.

    python -m examples.canary.versions OUT

adds to what the training wrote below OUT:
    digits/3/model.onnx   another network that learned from all images
    digits/4/model.onnx   version 3 exported wrongly: it fails for bold images, some in a hundred, as real mistakes do

Knows nothing of Kubernetes or Slipway, and must not import them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler

from examples.digits.train import SEED, Version, onnx_bytes

GOOD, BAD = 3, 4
BOLD = 5.74
"""Mean grey value, of 0 to 16, above which version 4 fails: one digit in seven or so."""


def train() -> Version:
    """Version 3: a wider network than version 2."""
    images, digits = load_digits(return_X_y=True)
    learn_images, held_images, learn_digits, held_digits = train_test_split(
        images.astype(np.float32), digits, test_size=0.25, random_state=SEED, stratify=digits
    )
    network = make_pipeline(MinMaxScaler(), MLPClassifier((128,), max_iter=150, alpha=0.1, tol=1e-3, random_state=SEED))
    network.fit(learn_images, learn_digits)
    return Version(GOOD, network, float(network.score(held_images, held_digits)))


def fails_when_bold(good: bytes) -> bytes:
    """The model with a table of ten numbers behind it that a bold image asks to be a table of eleven."""
    model = onnx.load_from_string(good)
    for node in model.graph.node:
        node.output[:] = ["right" if name == "probabilities" else name for name in node.output]
        node.input[:] = ["right" if name == "probabilities" else name for name in node.input]
    model.graph.node.extend(
        [
            helper.make_node("ReduceMean", ["image"], ["boldness"], keepdims=0),
            helper.make_node("Greater", ["boldness", "bold"], ["is_bold"]),
            helper.make_node("Cast", ["is_bold"], ["surplus"], to=TensorProto.INT64),
            helper.make_node("Add", ["ten", "surplus"], ["size"]),
            helper.make_node("Reshape", ["bias", "size"], ["biases"], name="bias_of_the_classes"),
            helper.make_node("Add", ["right", "biases"], ["probabilities"]),
        ]
    )
    model.graph.initializer.extend(
        [
            helper.make_tensor("bold", TensorProto.FLOAT, [], [BOLD]),
            helper.make_tensor("ten", TensorProto.INT64, [1], [10]),
            helper.make_tensor("bias", TensorProto.FLOAT, [10], [0.0] * 10),
        ]
    )
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def write(out: Path) -> None:
    """Adds both versions below `out`."""
    good = onnx_bytes(train())
    for number, content in ((GOOD, good), (BAD, fails_when_bold(good))):
        path = out / "digits" / str(number) / "model.onnx"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m examples.canary.versions", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("out", type=Path, help="folder that examples.digits.train wrote to")
    write(parser.parse_args().out)


if __name__ == "__main__":
    main()
