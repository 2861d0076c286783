"""The commands run as from a terminal, against a cluster in memory and a clock that stands still."""

from __future__ import annotations

import pytest

from slipway.cli import clock, cluster
from slipway.cli.client import ClusterFlags
from tests.unit.cli.clusters import NOW, Cli, FakeCluster, Time


@pytest.fixture
def time_of_test(monkeypatch: pytest.MonkeyPatch) -> Time:
    time = Time()
    monkeypatch.setattr(clock, "now", lambda: NOW)
    monkeypatch.setattr(clock, "seconds", time.seconds)
    monkeypatch.setattr(clock, "sleep", time.sleep)
    return time


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, time_of_test: Time) -> Cli:
    found = Cli(FakeCluster(), [])

    def connect(flags: ClusterFlags) -> FakeCluster:
        found.connections.append(flags)
        found.cluster.namespace = flags.namespace or found.cluster.namespace
        return found.cluster

    monkeypatch.setattr(cluster, "connect", connect)
    monkeypatch.setattr("sys.argv", ["/usr/local/bin/kubectl-slipway"])
    return found
