"""What the drivers' tests start from: a models volume, and HTTP servers that end with the test."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from slipway_agent.volume.models_volume import ModelVolume
from tests.unit.agent.servers.fake_http import Answer, FakeHttp


@pytest.fixture
def volume(tmp_path: Path) -> ModelVolume:
    """With folders of the versions 1 to 3."""
    made = ModelVolume(tmp_path / "models", "digits")
    for version in (1, 2, 3):
        (made.repository / str(version)).mkdir()
    return made


@pytest.fixture
def serve_http() -> Iterator[Callable[[Answer], FakeHttp]]:
    started: list[FakeHttp] = []

    def start(answer: Answer) -> FakeHttp:
        started.append(FakeHttp(answer))
        return started[-1]

    yield start
    for fake in started:
        fake.kill()
