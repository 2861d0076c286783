"""Two versions of a small model as SavedModels: what a house costs, by rooms and square metres.

    python examples/tensorflow/train.py OUT

writes OUT/houses/1 (rooms alone) and OUT/houses/2 (rooms and area). Both have one signature, so that either can serve
in the other's place:

    features   float32 [N, 2]   rooms, square metres
    price      float32 [N, 1]   in thousands

Needs TensorFlow, and nothing else.
"""

from __future__ import annotations

import sys
from pathlib import Path

import tensorflow as tf

SEED = 7


class Houses(tf.Module):  # type: ignore[misc]  # TensorFlow has no types
    """A linear model on the columns of `mask`."""

    def __init__(self, mask: list[float]) -> None:
        super().__init__()
        self.mask = tf.constant([mask])
        self.weights = tf.Variable(tf.zeros([2, 1]))
        self.bias = tf.Variable(tf.zeros([1]))

    @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.float32, "features")])  # type: ignore[untyped-decorator]
    def predict(self, features: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"price": tf.matmul(features * self.mask, self.weights) + self.bias}

    def fit(self, features: tf.Tensor, prices: tf.Tensor) -> None:
        """Least squares, in closed form."""
        rows = tf.concat([features * self.mask, tf.ones_like(prices)], axis=1)
        found = tf.linalg.lstsq(rows, prices, l2_regularizer=1e-3)
        self.weights.assign(found[:2])
        self.bias.assign(found[2])


def main(out: Path) -> None:
    tf.random.set_seed(SEED)
    rooms = tf.round(tf.random.uniform([500, 1], 1.0, 7.0))
    area = rooms * 28.0 + tf.random.normal([500, 1], 0.0, 12.0)
    prices = 40.0 + 15.0 * rooms + 2.4 * area + tf.random.normal([500, 1], 0.0, 10.0)
    features = tf.concat([rooms, area], axis=1)
    for version, mask in ((1, [1.0, 0.0]), (2, [1.0, 1.0])):
        model = Houses(mask)
        model.fit(features, prices)
        error = tf.reduce_mean(tf.abs(model.predict(features)["price"] - prices))
        folder = out / "houses" / str(version)
        tf.saved_model.save(model, str(folder), signatures={"serving_default": model.predict})
        print(f"{folder}: wrong by {error:.1f} thousand on average")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
