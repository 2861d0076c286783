"""The commands run as from a terminal, against a cluster in memory and a clock that stands still."""

from __future__ import annotations

import pytest

from slipway.cli import clock, cluster
from slipway.cli.client import Target
from tests.unit.cli.clusters import NOW, Cli, FakeWorld, Time


@pytest.fixture
def time_of_test(monkeypatch: pytest.MonkeyPatch) -> Time:
    time = Time()
    monkeypatch.setattr(clock, "now", lambda: NOW)
    monkeypatch.setattr(clock, "seconds", time.seconds)
    monkeypatch.setattr(clock, "sleep", time.sleep)
    return time


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, time_of_test: Time) -> Cli:
    found = Cli(FakeWorld(), [])

    def connect(target: Target) -> FakeWorld:
        found.targets.append(target)
        found.world.namespace = target.namespace or found.world.namespace
        return found.world

    monkeypatch.setattr(cluster, "connect", connect)
    monkeypatch.setattr("sys.argv", ["/usr/local/bin/kubectl-slipway"])
    return found
