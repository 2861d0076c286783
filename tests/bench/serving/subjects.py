"""What each runtime serves in the bench: two versions of one small model, and a request that tells them apart.

Invariant: made here, from nothing but installed packages; nothing is fetched or committed.
Must not import: anything of Slipway's product.
"""

from __future__ import annotations

import base64
import functools
import io
import json
import secrets
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from tests.e2e import models_torch, wire
from tests.e2e.install import image_references, load_images
from tests.e2e.kube import kubectl
from tests.e2e.models import Digits, train_digits
from tests.e2e.wire import Prediction

MODEL = "digits"
ARCHIVE = "multiplier.mar"
Files = dict[str, bytes]


@dataclass(frozen=True, slots=True)
class Subject:
    """One runtime and its model.

    image: what tests/e2e/images/build calls the server's image. files: version → path below the version's folder →
    content. prediction: the request, for the model called MODEL. padded: a version's files with so many bytes more in
    them, in a file of the model's own where it has such.
    command: what a hand-written Deployment runs, given the folder of the model with its versions in it.
    """

    runtime: str
    image: str
    files: Mapping[int, Files]
    prediction: Prediction
    padded: Callable[[int, int], Files]
    ready_path: str
    http_port: int
    command: tuple[str, ...]
    config: Files = field(default_factory=dict)


def write_versions(subject: Subject, folder: Path) -> None:
    """MODEL/<version>/… below `folder`."""
    for version, files in subject.files.items():
        for path, content in files.items():
            target = folder / MODEL / str(version) / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)


@functools.cache
def _digits() -> Digits:
    return train_digits(Path(tempfile.mkdtemp(prefix="slipway-digits-")))


def _telling_row(digits: Digits) -> list[float]:
    """An image that the two versions answer differently."""
    return next(sample.image for sample in digits.samples if sample.labels[1] != sample.labels[2])


def _padded_onnx(content: bytes, size: int) -> bytes:
    """The model with a constant of `size` random bytes beside its own, to be read, parsed and dropped."""
    model = onnx.load_from_string(content)
    weights = np.random.default_rng(len(content)).random(size // 4, dtype=np.float32)
    model.graph.initializer.append(numpy_helper.from_array(weights, "padding"))
    padded: bytes = model.SerializeToString()
    return padded


def _onnx(runtime: str, image: str, command: tuple[str, ...], http_port: int, config: Files) -> Subject:
    digits = _digits()
    return Subject(
        runtime,
        image,
        files={version: {"model.onnx": content} for version, content in digits.files.items()},
        prediction=wire.inference_protocol(MODEL, "image", _telling_row(digits)),
        padded=lambda version, size: {"model.onnx": _padded_onnx(digits.files[version], size)},
        ready_path=f"/v2/models/{MODEL}/ready",
        http_port=http_port,
        command=command,
        config=config,
    )


def triton() -> Subject:
    """The digits in Triton."""
    command = ("tritonserver", "--model-repository=/models", "--backend-config=default-max-batch-size=0")
    config = {"config.pbtxt": f'name: "{MODEL}"\nbackend: "onnxruntime"\nmax_batch_size: 0\n'.encode()}
    return _onnx("Triton", "triton", command, 8000, config)


def onnx_runtime() -> Subject:
    """The digits in MLServer."""
    command = ("python", "-m", "slipway_onnxruntime", "--model-repository=/models")
    settings = [{"name": MODEL, "parameters": {"version": "1", "uri": "1"}}]
    return _onnx("ONNXRuntime", "onnxruntime", command, 8000, {"model-settings.json": json.dumps(settings).encode()})


def torch_serve() -> Subject:
    """A `.mar` with a handler of its own in TorchServe: as light a model as the digits are."""
    with tempfile.TemporaryDirectory(prefix="slipway-mar-") as folder:
        files = {
            version: {ARCHIVE: models_torch.multiplier(Path(folder, str(version)), float(version)).read_bytes()}
            for version in (1, 2)
        }

    def padded(version: int, size: int) -> Files:
        stream = io.BytesIO(files[version][ARCHIVE])
        with zipfile.ZipFile(stream, "a", zipfile.ZIP_STORED) as archive:
            archive.writestr("padding.bin", np.random.default_rng(version).bytes(size))
        return {ARCHIVE: stream.getvalue()}

    config = (
        "inference_address=http://0.0.0.0:8080\ndefault_workers_per_model=1\ndisable_token_authorization=true\n"
        f"model_store=/models/{MODEL}/1\nload_models={MODEL}={ARCHIVE}\n"
    )
    return Subject(
        "TorchServe",
        "torchserve",
        files=files,
        prediction=wire.torchserve(MODEL, "data", b'{"x": [1, 2]}'),
        padded=padded,
        ready_path="/ping",
        http_port=8080,
        command=(
            "torchserve",
            "--foreground",
            "--start",
            "--no-config-snapshots",
            f"--ts-config=/models/{MODEL}/config.properties",
            f"--model-store=/models/{MODEL}/1",
        ),
        config={"config.properties": config.encode()},
    )


def tensorflow_serving() -> Subject:
    """A SavedModel that multiplies, in the stand-in for TensorFlow Serving, made by its own TensorFlow."""
    image = "test-tensorflow-serving"
    made = _saved_models(image)

    def padded(version: int, size: int) -> Files:
        return made[version] | {"assets.extra/padding.bin": np.random.default_rng(version).bytes(size)}

    return Subject(
        "TensorFlowServing",
        image,
        files=made,
        prediction=wire.tensorflow_serving(MODEL, "x", [1.0, 2.0]),
        padded=padded,
        ready_path=f"/v1/models/{MODEL}",
        http_port=8501,
        command=(
            "tensorflow_model_server",
            "--port=8500",
            "--rest_api_port=8501",
            f"--model_name={MODEL}",
            f"--model_base_path=/models/{MODEL}",
        ),
    )


_MAKE = """
import base64, io, subprocess, sys, tarfile
subprocess.run([sys.executable, "/opt/tensorflow/stand_in/make_models.py", "/tmp/made"], check=True, stdout=2)
packed = io.BytesIO()
with tarfile.open(fileobj=packed, mode="w") as archive:
    for version in "12":
        archive.add(f"/tmp/made/multiplier/{version}", version)
print(base64.b64encode(packed.getvalue()).decode())
"""


def _saved_models(image: str) -> dict[int, Files]:
    """Versions 1 and 2 of the multiplier, made in a pod of that image: there is no TensorFlow on this side."""
    load_images((image,))
    pod = f"bench-make-{secrets.token_hex(2)}"
    done = kubectl(
        "run", pod, "--namespace=default", f"--image={image_references()[image]}", "--image-pull-policy=IfNotPresent",
        "--restart=Never", "--rm", "--attach", "--quiet", "--pod-running-timeout=2m", "--command", "--",
        "/opt/tensorflow/bin/python", "-c", _MAKE,
        seconds=180,
    )  # fmt: skip
    packed = done.out.strip().rpartition("\n")[2]
    if done.status != 0 or not packed:
        raise AssertionError(f"the SavedModels could not be made: {done.err or done.out}")
    made: dict[int, Files] = {}
    with tarfile.open(fileobj=io.BytesIO(base64.b64decode(packed))) as archive:
        for member in archive:
            if (file := archive.extractfile(member)) is not None:
                version, _, path = member.name.partition("/")
                made.setdefault(int(version), {})[path] = file.read()
    return made


SUBJECTS: dict[str, Callable[[], Subject]] = {
    "Triton": triton,
    "TensorFlowServing": tensorflow_serving,
    "TorchServe": torch_serve,
    "ONNXRuntime": onnx_runtime,
}
"""By the runtime's name; called when its turn has come, inside the cluster's network."""
