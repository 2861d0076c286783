"""A pod's life between versions, beside the real tritonserver: waiting, finding, switching in place and back.

What is the agent's own and the same on every server. Needs SLIPWAY_TRITON_ROOT, as test_beside_triton.py does.
"""

import json
import os
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.e2e.agent.test_beside_triton import ROOT, Pair

pytestmark = pytest.mark.skipif(ROOT is None, reason="SLIPWAY_TRITON_ROOT doesn't name a Triton installation")
POLL_SECONDS = 2.0


class Pod(Pair):
    def wish(self, served: int | None, *others: int, **changes: Any) -> None:
        """`want`, for what the other tests of this folder have no need to say."""
        self.want(served or 1, *others)
        place = self.folder / "agent.json"
        fields = json.loads(place.read_text())
        source = fields["source"] | {"pollSeconds": POLL_SECONDS}
        load = [] if served is None else [served, *others]
        fields |= {"source": source, "served": served, "load": load, "generation": f"{served} {load} {changes}"}
        new = place.with_suffix(".new")
        new.write_text(json.dumps(fields | changes))
        os.replace(new, place)

    def listing(self, after: str = "", wait_seconds: float = 0) -> dict[str, Any]:
        """GET /listing; with `after`, as soon as there is something else."""
        asked: dict[str, str | float] = {"after": after, "wait": wait_seconds}
        answer = requests.get(f"http://127.0.0.1:{self.agent_port}/listing", params=asked, timeout=wait_seconds + 5)
        found: dict[str, Any] = answer.json()
        return found

    def await_found(self, version: int, token: str) -> None:
        """As the operator does: one request held open after the other."""
        deadline = time.monotonic() + 20
        while str(version) not in (heard := self.listing(token, 10))["found"]:
            assert time.monotonic() < deadline, heard
            token = heard["token"]


@pytest.fixture
def pod(tmp_path: Path) -> Iterator[Pod]:
    made = Pod(tmp_path)
    yield made
    made.stop()
    assert "Traceback" not in (tmp_path / "agent.log").read_text()


def changes_in(answers: list[float]) -> list[float]:
    """1, 1, 2, 2, 1 is 1, 2, 1."""
    return [after for before, after in pairwise([0.0, *answers]) if after != before]


def test_a_switch_and_back_lose_no_request(pod: Pod) -> None:
    pod.put(1)
    pod.put(2)
    pod.wish(1)
    pod.boot()
    [first] = pod.status()["versions"]
    with pod.asked_all_the_time() as constant:
        pod.wish(2, 1)
        pod.until(lambda: pod.states() == {1: "Available", 2: "Available"})
        constant.after_answers()
        status = pod.status()
        assert (status["serving"], status["ready"], status["error"]) == (2, True, None)
        assert status["versions"][0]["since"] == first["since"] < status["versions"][1]["since"]
        assert (pod.multiply(), pod.multiply(1), pod.multiply(2)) == (2.0, 1.0, 2.0)
        pod.wish(1)
        pod.until(lambda: pod.states() == {1: "Available"})
        assert pod.status()["serving"] == 1
        constant.after_answers()
    assert constant.failures == []
    for answers in constant.answers.values():
        assert changes_in(answers) == [1.0, 2.0, 1.0]


def test_a_switch_to_a_corrupt_version_loses_no_request(pod: Pod) -> None:
    pod.put(1)
    pod.put(2, b"no model")
    pod.wish(1)
    pod.boot()
    with pod.asked_all_the_time() as constant:
        pod.wish(2, 1)
        pod.until(lambda: pod.states() == {1: "Available", 2: "Failed"})
        assert "TritonModelException" in pod.status()["error"]["message"]
        assert (pod.status()["serving"], pod.probe("/readyz")) == (1, 200)
        constant.after_answers()
        pod.wish(1)
        pod.until(lambda: pod.states() == {1: "Available"})
    constant.nothing_failed(1.0)


def test_a_version_that_doesnt_fit_beside_the_other_isnt_loaded(pod: Pod) -> None:
    pod.put(1)
    pod.put(2)
    pod.wish(1)
    pod.boot()
    [first] = pod.status()["versions"]
    with pod.asked_all_the_time() as constant:
        pod.wish(2, 1, memory={"limitBytes": int(first["bytes"] * 1.5), "factor": 1.0})
        pod.until(lambda: pod.states() == {1: "Available", 2: "Failed"})
        assert pod.status()["error"]["reason"] == "NotEnoughMemory"
        constant.after_answers()
    constant.nothing_failed(1.0)


def test_a_waiting_pod_finds_what_is_stored_and_serves_what_is_named(pod: Pod) -> None:
    pod.wish(None)
    pod.start_agent()
    pod.until(lambda: pod.probe("/healthz") == 200 and pod.status()["listError"] is not None)
    assert "has no version that could be served" in pod.status()["listError"]["message"]
    assert pod.probe("/startz") == 503
    token = pod.listing()["token"]
    pod.put(1)
    pod.await_found(1, token)
    pod.wish(1)
    pod.until(lambda: pod.probe("/startz") == 200)
    pod.start_server()
    pod.until(lambda: pod.probe("/readyz") == 200)
    assert pod.multiply() == 1.0


def test_a_stored_version_is_found_and_answers_with_no_connection_dropped(pod: Pod) -> None:
    """How soon: make bench-serving ONLY=b."""
    pod.put(1)
    pod.wish(1)
    pod.boot()
    pod.until(lambda: "1" in pod.listing()["found"])
    token = pod.listing()["token"]
    with pod.asked_all_the_time() as constant:
        pod.put(2)
        (pod.source / "2" / "ballast.bin").write_bytes(os.urandom(10 << 20))
        pod.await_found(2, token)
        pod.wish(2, 1)
        pod.until(lambda: pod.multiply() == 2.0)
    constant.nothing_failed(1.0, 2.0)
