"""What all tests share.

Properties are searched as long as it takes: on a busy machine a slow example is no finding. `--update-golden` writes
what is rendered now over the committed files; look at the difference before committing.
"""

from __future__ import annotations

import gc

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("slipway", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("slipway")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write the golden files anew")


def pytest_collection_finish() -> None:
    """Lets the garbage collector pass over what was imported, and run rarely: that is a quarter of the tests' CPU time.

    A resource that is left open still fails the run: pytest collects once more at its end.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
