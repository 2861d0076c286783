"""A model in an image that the node mounts: nothing is pulled by the agent, and another version is another pod."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from tests.e2e.cluster.images import pack, pack_image
from tests.e2e.install import import_archives
from tests.e2e.models import Digits
from tests.e2e.stage import Stage

pytestmark = pytest.mark.usefixtures("operator")

REPOSITORY = "slipway.dev/test-digits"


def image_of(content: bytes, place: str, folder: Path) -> tuple[str, Path]:
    """A tag named by the model's digest, and the archive of an image with nothing but the model, at `place`."""
    tag = hashlib.sha256(content).hexdigest()[:12]
    archive = folder / f"{tag}.tar"
    archive.write_bytes(pack_image(f"{REPOSITORY}:{tag}", pack({place: (content, 0o644)}), {}))
    return tag, archive


def test_the_node_mounts_the_model_and_another_version_is_another_pod(
    stage: Stage, digits: Digits, tmp_path: Path
) -> None:
    places = {1: "model.onnx", 2: "models/model.onnx"}  # the second one's as in KServe's modelcars
    images = {number: image_of(digits.files[number], place, tmp_path) for number, place in places.items()}
    import_archives([archive for _, archive in images.values()])
    tags = {str(number): tag for number, (tag, _) in images.items()}
    served = stage.given(
        "digits", f"oci://{REPOSITORY}", 1, model={"versions": tags}, storage={"imageVolume": True}
    ).then_ready()
    served.then_answers(digits, 1)
    first = {pod["metadata"]["name"] for pod in served.pods()}
    served.when_spec(model={"version": 2}).then_ready()
    served.then_answers(digits, 2)
    assert not first & {pod["metadata"]["name"] for pod in served.pods()}
