"""What transition tests leave behind is ended here."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.transition import operators


@pytest.fixture(autouse=True)
def _operators_end() -> Iterator[None]:
    yield
    operators.close_all()


@pytest.fixture(autouse=True, scope="session")
def _loop_ends() -> Iterator[None]:
    yield
    operators.LOOP.close()
