"""Trains the example model: scikit-learn's handwritten digits, as ONNX, in two versions of different quality.

    python -m examples.digits.train OUT

writes OUT/digits/1/model.onnx (learned from 40 images), OUT/digits/2/model.onnx (learned from all of them) and
OUT/digits.json: held-out images with what each version answers to them, as scikit-learn computes it.

Invariant: everything is seeded, and what is written has no date or path in it, so that the same library versions
write the same bytes. Both versions have one signature, so that either can serve in the other's place:

    image          float32 [N, 64]   8 x 8 grey values from 0 to 16, row by row
    label          int64   [N]       the digit
    probabilities  float32 [N, 10]   of each digit

Knows nothing of Kubernetes or Slipway, and must not import them.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler

SEED = 7
SAMPLES = 16
OPSET = {"": 15, "ai.onnx.ml": 1}  # old enough for every ONNX Runtime a serving image is likely to carry


@dataclass(frozen=True, slots=True)
class Version:
    """One trained version: its number, its classifier (fitted), its accuracy on held-out images, from 0 to 1."""

    number: int
    classifier: Any
    accuracy: float


def train() -> tuple[list[Version], np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Both versions, and the held-out images [N, 64] with their digits [N]."""
    images, digits = load_digits(return_X_y=True)
    learn_images, held_images, learn_digits, held_digits = train_test_split(
        images.astype(np.float32), digits, test_size=0.25, random_state=SEED, stratify=digits
    )
    poorer = make_pipeline(MinMaxScaler(), LogisticRegression(max_iter=200, random_state=SEED))
    poorer.fit(learn_images[:40], learn_digits[:40])
    better = make_pipeline(MinMaxScaler(), MLPClassifier((64,), max_iter=150, alpha=0.1, tol=1e-3, random_state=SEED))
    better.fit(learn_images, learn_digits)
    versions = [
        Version(number, classifier, float(classifier.score(held_images, held_digits)))
        for number, classifier in ((1, poorer), (2, better))
    ]
    return versions, held_images, held_digits


def onnx_bytes(version: Version) -> bytes:
    """The version as an ONNX file. Without zipmap: with it the probabilities are dictionaries, not a tensor."""
    model = to_onnx(
        version.classifier,
        initial_types=[("image", FloatTensorType([None, 64]))],
        options={id(version.classifier): {"zipmap": False}},
        target_opset=OPSET,
        name="digits",
    )
    for output in model.graph.output:
        if output.name == "probabilities":
            output.type.tensor_type.shape.dim[1].dim_value = 10
    opsets = sorted(model.opset_import, key=lambda opset: opset.domain)  # comes out of a set, so in any order
    del model.opset_import[:]
    model.opset_import.extend(opsets)
    return bytes(model.SerializeToString(deterministic=True))


def samples(
    versions: list[Version], images: np.ndarray[Any, Any], digits: np.ndarray[Any, Any]
) -> list[dict[str, Any]]:
    """The first held-out images, each with the digit written on it and every version's answer."""
    images, digits = images[:SAMPLES], digits[:SAMPLES]
    answers = {str(v.number): (v.classifier.predict(images), v.classifier.predict_proba(images)) for v in versions}
    return [
        {
            "image": images[i].tolist(),
            "digit": int(digits[i]),
            "answers": {
                number: {"label": int(labels[i]), "probabilities": [round(float(p), 6) for p in probabilities[i]]}
                for number, (labels, probabilities) in answers.items()
            },
        }
        for i in range(len(images))
    ]


def write(out: Path) -> list[Version]:
    """Trains, and writes the two versions and the samples below `out`; returns the versions."""
    versions, images, digits = train()
    for version in versions:
        path = out / "digits" / str(version.number) / "model.onnx"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(onnx_bytes(version))
    (out / "digits.json").write_text(json.dumps({"samples": samples(versions, images, digits)}, indent=1) + "\n")
    return versions


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m examples.digits.train", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("out", type=Path, help="folder to write digits/ and digits.json to; made when missing")
    out: Path = parser.parse_args().out
    for version in write(out):
        path = out / "digits" / str(version.number) / "model.onnx"
        print(f"digits version {version.number}: accuracy {version.accuracy:.3f}, {path}, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
