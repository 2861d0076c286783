"""The examples in the docstrings of the pure modules are true."""

from __future__ import annotations

import doctest
from datetime import UTC, datetime
from importlib import import_module

import pytest


@pytest.mark.parametrize("name", ["compare", "counters", "difference", "history", "resolve", "view"])
def test_examples_are_true(name: str) -> None:
    names = {"UTC": UTC, "datetime": datetime}
    ran = doctest.testmod(import_module(f"slipway.cli.{name}"), extraglobs=names)
    assert ran.attempted
    assert not ran.failed
