"""Trains two versions of a classifier of points, one half-moon or the other, and packs each as a .mar for TorchServe.

    pip install torch torch-model-archiver
    python examples/torchserve/train.py FOLDER

writes FOLDER/moons/1/moons.mar and FOLDER/moons/2/moons.mar: copy `moons` into the claim of modeldeployment.yaml.
"""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import torch

HANDLER = Path(__file__).with_name("handler.py")
HIDDEN = {1: 2, 2: 32}  # a first version that is too small for the curve, and one that isn't


def moons(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Points [count, 2], and for each the half-moon that it belongs to [count]."""
    angle = torch.rand(count) * math.pi
    label = torch.arange(count) % 2
    upper = torch.stack([torch.cos(angle), torch.sin(angle)], 1)
    lower = torch.stack([1 - torch.cos(angle), 0.5 - torch.sin(angle)], 1)
    return torch.where(label[:, None] == 0, upper, lower) + 0.1 * torch.randn(count, 2), label


def train(hidden: int) -> tuple[torch.nn.Module, float]:
    """A model from points to logits, and its accuracy on points that it hasn't seen."""
    model = torch.nn.Sequential(torch.nn.Linear(2, hidden), torch.nn.Tanh(), torch.nn.Linear(hidden, 2))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    points, labels = moons(2000)
    for _ in range(400):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(points), labels).backward()
        optimizer.step()
    points, labels = moons(2000)
    return model.eval(), float((model(points).argmax(1) == labels).float().mean())


def write(folder: Path) -> dict[int, float]:
    """Packs both versions below `folder`; each one's accuracy."""
    torch.manual_seed(7)
    accuracy = {}
    for version, hidden in HIDDEN.items():
        place = folder / "moons" / str(version)
        place.mkdir(parents=True, exist_ok=True)
        model, accuracy[version] = train(hidden)
        weights = folder / f"moons-{version}.pt"
        torch.jit.script(model).save(str(weights))
        command = [
            "torch-model-archiver", "--model-name", "moons", "--version", str(version),
            "--serialized-file", str(weights), "--handler", str(HANDLER), "--export-path", str(place), "--force",
        ]  # fmt: skip
        subprocess.run(command, check=True)
    return accuracy


if __name__ == "__main__":
    for number, share in write(Path(sys.argv[1])).items():
        sys.stdout.write(f"version {number}: {share:.1%} of new points\n")
