"""Sends held-out images to the served digits and prints what it answers beside what is written on them.

    python -m examples.digits.ask URL SAMPLES [--version N]

URL is the Service's HTTP address, as in http://127.0.0.1:8000; SAMPLES is the digits.json that train.py wrote.
This is what a client does: plain REST of the Open Inference Protocol, nothing of Slipway or Kubernetes.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import requests

PER_ROW = 8
BLOCKS = {(False, False): " ", (True, False): "▀", (False, True): "▄", (True, True): "█"}


class AskError(Exception):
    """The model did not answer; the message says what it said instead."""


def predict(url: str, images: list[list[float]], version: int | None = None) -> tuple[list[int], list[float]]:
    """The digits it sees on `images` (64 values each), and how sure it is of each, from 0 to 1. Raises AskError."""
    path = "/v2/models/digits" + ("" if version is None else f"/versions/{version}") + "/infer"
    body = {"inputs": [{"name": "image", "shape": [len(images), 64], "datatype": "FP32", "data": images}]}
    with requests.Session() as session:
        session.trust_env = False  # a cluster's own address is reached without the machine's proxy
        try:
            answer = session.post(url.rstrip("/") + path, json=body, timeout=30)
        except requests.RequestException as error:
            raise AskError(f"{url} does not answer: {error}") from error
    if answer.status_code != 200:
        raise AskError(f"{url}{path} answered {answer.status_code}: {answer.text[:300]}")
    outputs = {output["name"]: output["data"] for output in answer.json()["outputs"]}
    sure = outputs["probabilities"]
    return outputs["label"], [max(sure[10 * i : 10 * i + 10]) for i in range(len(images))]


def table(samples: list[dict[str, Any]], labels: list[int], sure: list[float]) -> str:
    """Eight images a row, each with the digit written on it and the prediction below it; 80 columns wide."""
    lines = []
    for start in range(0, len(samples), PER_ROW):
        row = range(start, min(start + PER_ROW, len(samples)))
        lines += [" " * 8 + " ".join(_picture(samples[i]["image"])[line] for i in row) for line in range(4)]
        lines.append("written " + " ".join(f"{samples[i]['digit']:^8}" for i in row))
        lines.append("answer  " + " ".join(f"{_answer(samples[i]['digit'], labels[i], sure[i]):^8}" for i in row))
    right = sum(label == sample["digit"] for sample, label in zip(samples, labels, strict=True))
    note = "" if right == len(samples) else " (! is a wrong one)"
    return "\n".join([*lines, f"{right} of {len(samples)} right{note}"])


def _answer(digit: int, label: int, probability: float) -> str:
    return f"{label} {probability:.0%}" + ("" if label == digit else " !")


def _picture(image: list[float]) -> list[str]:
    """The 8 x 8 image in four lines of text: each character is two pixels, one above the other."""
    ink = [value > 6 for value in image]
    return ["".join(BLOCKS[ink[16 * line + x], ink[16 * line + 8 + x]] for x in range(8)) for line in range(4)]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m examples.digits.ask", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("url")
    parser.add_argument("samples", type=Path)
    parser.add_argument("--version", type=int, help="a version by its number; default: the one that is served")
    chosen = parser.parse_args()
    samples = json.loads(chosen.samples.read_text())["samples"]
    try:
        labels, sure = predict(chosen.url, [sample["image"] for sample in samples], chosen.version)
    except AskError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]  # a terminal without block characters
    print(table(samples, labels, sure))
    return 0


if __name__ == "__main__":
    sys.exit(main())
