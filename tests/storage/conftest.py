"""Stores that run for the whole stage, and a fresh prefix in them for each test."""

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from slipway_agent.config import Source
from tests.storage.faults import Faults, proxy
from tests.storage.servers import ACCESS_KEY, BUCKET, SECRET_KEY, Registry, S3Server, run_registry, run_s3

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with run_s3(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with run_registry(tmp_path_factory.mktemp("registry")) as server:
        yield server


@pytest.fixture
def prefix() -> str:
    """A place in the bucket, or the name of a repository, that no other test uses."""
    return f"digits-{next(_numbers)}"


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """The mounted Secret, with the store's keys."""
    folder = tmp_path / "secret"
    folder.mkdir()
    (folder / "AWS_ACCESS_KEY_ID").write_text(f"{ACCESS_KEY}\n")
    (folder / "AWS_SECRET_ACCESS_KEY").write_text(SECRET_KEY)
    return folder


@pytest.fixture
def staging(tmp_path: Path) -> Path:
    folder = tmp_path / "staging"
    folder.mkdir()
    return folder


@pytest.fixture
def place(s3: S3Server, prefix: str, keys: Path) -> Source:
    """What agent.json says of the store and the prefix."""
    return Source(
        f"s3://{BUCKET}/{prefix}", None, endpoint=s3.url, credentials=str(keys), secret_name="store-credentials"
    )


@pytest.fixture
def faulty(s3: S3Server) -> Iterator[Faults]:
    with proxy(s3.url) as faults:
        yield faults


@pytest.fixture
def faulty_place(place: Source, faulty: Faults) -> Source:
    return replace(place, endpoint=faulty.url)
