"""A pytest plugin: a few lines of the agent and of its tests take a tenth of a second longer, chosen by a seed.

Threads that meet in one order on a quiet machine meet in another one on a busy machine. Which lines are slow is drawn
once a run, so that a failure comes again with its seed: `make slowed SEED=7`. Each test is slowed by so much and no
more, and code that only waits isn't slowed at all.
"""

import os
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from types import FrameType
from typing import Any

import pytest

SEED = os.environ.get("SEED", "0")
SLOW_ONE_IN = 40
SLOW_SECONDS = 0.12
MOST_SECONDS = 2.5  # of each test
WAITING = frozenset({"until", "until_states", "states", "status", "probe", "watch", "watching"})

_sleep = time.sleep  # a test may replace the module's
_spent_seconds = 0.0
_is_slow: dict[tuple[str, int], bool] = {}


def _enter(frame: FrameType, event: str, argument: Any) -> Any:
    code = frame.f_code
    is_ours = "slipway_agent" in code.co_filename or "/tests/" in code.co_filename
    return _step if is_ours and code.co_filename != __file__ and code.co_name not in WAITING else None


def _step(frame: FrameType, event: str, argument: Any) -> Any:
    global _spent_seconds
    place = (os.path.relpath(frame.f_code.co_filename), frame.f_lineno)
    if place not in _is_slow:
        _is_slow[place] = zlib.crc32(f"{place}{SEED}".encode()) % SLOW_ONE_IN == 0
    if event == "line" and _is_slow[place] and _spent_seconds < MOST_SECONDS:
        _spent_seconds += SLOW_SECONDS
        _sleep(SLOW_SECONDS)
    return _step


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_protocol() -> Iterator[None]:
    global _spent_seconds
    _spent_seconds = 0.0
    threading.settrace(_enter)
    sys.settrace(_enter)
    yield
    sys.settrace(None)
    threading.settrace(None)
