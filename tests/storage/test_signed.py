"""Signed models from real stores: what one put there as it was signed is published, and nothing else."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from slipway_agent.config import Config, Source, key_name
from slipway_agent.fetching.pipeline import Job, fetch_version, open_source
from slipway_agent.model.errors import Reason
from slipway_agent.model.ledger import Published
from slipway_agent.servers.triton.config import TritonSpec
from slipway_agent.servers.triton.driver import TritonServer
from slipway_agent.sources.base import Progress
from slipway_agent.volume.models_volume import ModelVolume
from tests.storage.outcome import refusal
from tests.storage.pushing import Entries, Pusher
from tests.storage.servers import Registry, S3Server
from tests.unit.agent.signing import SigningKey, make_key

Files = dict[str, bytes]
Put = Callable[[Files], Source]


@pytest.fixture
def key(tmp_path: Path) -> SigningKey:
    return make_key(tmp_path, "ours")


@pytest.fixture
def files(tmp_path: Path, key: SigningKey) -> Files:
    """A signed version: what a person uploads."""
    folder = tmp_path / "signed"
    (folder / "labels").mkdir(parents=True)
    (folder / "model.onnx").write_bytes(b"weights" * 1000)
    (folder / "labels" / "en.txt").write_text("zero")
    key.sign(folder)
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def as_s3_objects(s3: S3Server, place: Source, prefix: str) -> Put:
    def put(files: Files) -> Source:
        for name, content in files.items():
            s3.put(f"{prefix}/3/{name}", content)
        return place

    return put


@pytest.fixture
def as_artifact(registry: Registry, prefix: str) -> Put:
    def put(files: Files) -> Source:
        push = Pusher(registry)
        layers = [push.file(prefix, name, content) for name, content in files.items()]
        push.image(prefix, "v3", *layers, artifactType="application/vnd.slipway.model")
        return Source(f"oci://{registry.host}/{prefix}", None, {3: "v3"})

    return put


@pytest.fixture
def as_image(registry: Registry, prefix: str) -> Put:
    def put(files: Files) -> Source:
        push, entries = Pusher(registry), Entries()
        for name, content in files.items():
            entries.add_file(f"models/{name}", content)
        push.image(prefix, "v3", push.layer(prefix, entries))
        return Source(f"oci://{registry.host}/{prefix}", None, {3: "v3"})

    return put


def fetch(source: Source, key: SigningKey, models: Path) -> Published:
    volume = ModelVolume(models, "digits")
    server = TritonServer(volume, TritonSpec(), 3, None)
    trusting = replace(source, public_keys=(key.public,))
    config = Config("g", "Triton", "digits", trusting, 3, (3,))
    job = Job(3, trusting.location(3), None, public_keys=trusting.public_keys)
    return fetch_version(job, open_source(config, server), volume, server, Progress())


@pytest.mark.parametrize("way", ["as_s3_objects", "as_artifact", "as_image"])
def test_a_signed_version_is_published_from_every_kind_of_store_and_a_changed_one_from_none(
    way: str, request: pytest.FixtureRequest, files: Files, key: SigningKey, tmp_path: Path
) -> None:
    put: Put = request.getfixturevalue(way)
    published = fetch(put(files), key, tmp_path / "models")
    assert published.signed_by == key_name(key.public)
    changed = put({**files, "labels/en.txt": b"one!"})
    said = refusal(lambda: fetch(changed, key, tmp_path / "other"), Reason.VERIFICATION_FAILED)
    assert "labels/en.txt was changed" in said
    assert list((tmp_path / "other" / "repository" / "digits").iterdir()) == []
