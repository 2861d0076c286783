"""What came of a fetch: the files, or the refusal in words."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from slipway_agent.model.errors import Reason, SpecError
from slipway_agent.sources.base import Fetched


def content(fetched: Fetched) -> dict[str, bytes]:
    """Path below the folder → bytes."""
    return {
        str(path.relative_to(fetched.path)): path.read_bytes() for path in fetched.path.rglob("*") if path.is_file()
    }


def refusal(act: Callable[[], object], reason: Reason) -> str:
    """The one line in which what `act` does is refused for this reason."""
    with pytest.raises(SpecError) as refused:
        act()
    assert refused.value.reason is reason
    assert "\n" not in refused.value.message
    return refused.value.message
