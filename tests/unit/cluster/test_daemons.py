"""Daemons are known by pid and start time, and a changed description restarts them."""

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.e2e.cluster.commands import is_within
from tests.e2e.cluster.daemons import Daemon, DaemonSet
from tests.e2e.cluster.errors import ClusterError

SLEEPER = Daemon("sleeper", ("sleep", "60"), ())


@pytest.fixture
def daemons(tmp_path: Path) -> Iterator[DaemonSet]:
    made = DaemonSet(tmp_path / "records", tmp_path / "log")
    yield made
    for record in made.list_records():
        made.stop(record.name, 1)


def test_a_running_daemon_is_left_alone(daemons: DaemonSet) -> None:
    assert daemons.ensure(SLEEPER, ())
    before = daemons.read_record("sleeper")
    assert not daemons.ensure(SLEEPER, ())
    assert daemons.read_record("sleeper") == before


def test_a_changed_file_restarts_it(daemons: DaemonSet, tmp_path: Path) -> None:
    daemons.ensure(SLEEPER, ())
    before = daemons.read_record("sleeper")
    assert daemons.ensure(replace(SLEEPER, files={tmp_path / "sleeper.conf": "a = 1\n"}), ())
    after = daemons.read_record("sleeper")
    assert before is not None
    assert after is not None
    assert not before.is_alive
    assert after.is_alive
    assert (tmp_path / "sleeper.conf").read_text() == "a = 1\n"


def test_a_reused_pid_is_not_taken_for_the_daemon(daemons: DaemonSet) -> None:
    daemons.records.mkdir()
    stranger = {"pid": os.getpid(), "start_ticks": 1, "fingerprint": SLEEPER.fingerprint}
    (daemons.records / "sleeper.json").write_text(json.dumps(stranger))
    assert not daemons.is_current(SLEEPER)
    daemons.stop("sleeper", 1)  # would end this very process if it believed the pid
    assert daemons.read_record("sleeper") is None


def test_a_wait_ends_with_the_words_of_the_daemon_that_died(daemons: DaemonSet) -> None:
    daemons.ensure(Daemon("broken", ("sh", "-c", "echo no such flag >&2; exit 3"), ()), ())
    with pytest.raises(ClusterError, match="no such flag"):
        daemons.wait_until("waiting for it", lambda: False, 10, ("broken",))


def test_stop_ends_one_that_ignores_sigterm(daemons: DaemonSet) -> None:
    daemons.ensure(Daemon("stubborn", ("sh", "-c", "trap '' TERM; echo ready; while :; do sleep 1; done"), ()), ())
    record = daemons.read_record("stubborn")
    assert record is not None
    assert is_within(5, lambda: "ready" in daemons.tail("stubborn"))
    daemons.stop("stubborn", 0.2)
    assert not record.is_alive
