"""When a pod waits for its key in vain, by a kubelet's own words."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from slipway.model.server_key import KEY_FIELD
from slipway.observe.lost_keys import LATE_SECONDS, lost_key
from slipway.observe.pods import read_pod
from tests.simulation import pods
from tests.simulation.pods import Json, container, keyless
from tests.unit.specs import NAME

AT = "2026-03-01T02:13:00Z"
START = datetime(2026, 3, 1, 2, 13, tzinfo=UTC)
LATE = START + timedelta(seconds=LATE_SECONDS)
SECRET = f"{NAME}-aaa-key-0a1b2"


def pod(status: Json, **meta: str) -> Json:
    return pods.pod("p", pods.labels_of(NAME, "aaa"), status, **meta)


def waiting(message: str, reason: str = "CreateContainerConfigError") -> Json:
    return keyless(SECRET, AT) | {
        "initContainerStatuses": [container("agent", waiting={"reason": reason, "message": message})]
    }


def test_right_after_its_start_a_pod_may_be_early() -> None:
    body = pod(keyless(SECRET, AT))
    assert lost_key(body, LATE - timedelta(seconds=1)) is None
    assert read_pod(body, {}, LATE - timedelta(seconds=1)).turns_at == LATE
    assert lost_key(body, LATE) == SECRET
    assert read_pod(body, {}, LATE).turns_at is None


def test_a_server_that_starts_anew_waits_for_it_too() -> None:
    again = container(
        "server", waiting={"reason": "CreateContainerConfigError", "message": f'secret "{SECRET}" not found'}
    )
    status = pods.running("server", ip="198.18.0.1", agents=["agent"], at=AT) | {"containerStatuses": [again]}
    assert lost_key(pod(status), LATE) == SECRET


@pytest.mark.parametrize(
    ("status", "lost"),
    [
        (waiting(f'secret "{SECRET}" not found'), SECRET),
        (waiting(f'secret "{SECRET}-2" not found'), f"{SECRET}-2"),
        (waiting(f"couldn't find key {KEY_FIELD} in Secret models/{SECRET}"), SECRET),
        (waiting(f"couldn't find key password in Secret models/{SECRET}"), None),
        (waiting('secret "their-key" not found'), None),
        (waiting(f'secret "{NAME}-aaa-key" not found'), None),
        (waiting(f'secret "{NAME}-bbb-key-0a1b2" not found'), None),
        (waiting(f'configmap "{SECRET}" not found'), None),
        (waiting(f'secret "{SECRET}" not found', "CreateContainerError"), None),
        (pods.running("server", ip="198.18.0.1", agents=["agent"], at=AT), None),
    ],
)
def test_a_pod_waits_in_vain_for_a_secret_of_its_own_workload_alone(status: Json, lost: str | None) -> None:
    assert lost_key(pod(status), LATE) == lost
    trouble = read_pod(pod(status), {}, LATE).trouble
    assert (trouble is not None and trouble.reason == "KeyLost") == (lost is not None)
    assert lost is None or (trouble is not None and lost in trouble.message)


def test_a_pod_that_ends_needs_no_key() -> None:
    assert lost_key(pod(keyless(SECRET, AT), deletionTimestamp=AT), LATE) is None


def test_without_the_time_nothing_is_said() -> None:
    assert lost_key(pod(keyless(SECRET, AT)), None) is None
