"""Whatever changes while something else is under way, an agent ends where one ends that has only seen the last of it.

The stories are random: other versions, labels, settings, requests and digests, the server killed, the agent restarted,
each at whatever moment. Their threads meet as they like, so a seed finds a defect often and not always; the case that
it found gets a test of its own. `STORIES=300` tells more of them.
"""

import json
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from slipway_agent.fetching.pipeline import fetch_version
from slipway_agent.loop import agent as agent_module
from slipway_agent.loop import work
from slipway_agent.plan import failures, plan
from slipway_agent.servers.tensorflow_serving import driver as tensorflow_serving
from slipway_agent.volume.digest import digest_path
from tests.unit.agent.loop.test_agent import Pod, golden_of
from tests.unit.agent.servers.fake_tensorflow_serving import FakeTensorFlowServing

STORIES = int(os.environ.get("STORIES", "12"))
CONTENTS = {1: "one", 2: "slow", 3: "three", 4: "broken", 5: "deadly"}
GOOD = (1, 2, 3)
INPUT = {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [0.0, 0.0]}
WARM_UP = {"Triton": [{"inputs": [INPUT]}], "TensorFlowServing": [{"instances": [1.0]}]}


class _TritonPod(Pod):
    runtime, file = "Triton", "model.onnx"

    def obeyed(self) -> object:
        """What the server holds, and the configuration it has it by."""
        config = self.server.folder / "config.pbtxt"
        return self.server.loaded, config.read_text() if config.exists() else ""


class _TensorFlowPod(Pod):
    runtime, file = "TensorFlowServing", "saved_model.pb"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.server: Any = FakeTensorFlowServing(self.models / "repository" / "digits")
        self.ports = {"httpPort": self.server.port}

    def obeyed(self) -> object:
        loaded = {version for version, (state, _) in self.server.states.items() if state == "AVAILABLE"}
        return loaded, self.server.labels


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, waits in (
        (plan, {"SETTLED_SECONDS": 0.05, "CHANGING_SECONDS": 0.02, "RELOAD_SECONDS": 0.1}),
        (failures, {"PERMANENT_RETRY_SECONDS": 0.3}),  # who is killed while it loads is blamed for so long
        (agent_module, {"CONFIG_LOOK_SECONDS": 0.02}),
        (tensorflow_serving, {"POLL_SECONDS": 0.005, "FORGET_SECONDS": 0.1, "TAKEN_UP_SECONDS": 0.3}),
    ):
        for name, seconds in waits.items():
            monkeypatch.setattr(module, name, seconds)


@pytest.fixture(params=[_TritonPod, _TensorFlowPod], ids=["Triton", "TensorFlowServing"])
def pods(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[str], Any]]:
    made: list[Pod] = []

    def make(name: str) -> Pod:
        (tmp_path / name).mkdir()
        pod: Pod = request.param(tmp_path / name)
        for version, content in CONTENTS.items():
            (pod.source / str(version)).mkdir()
            (pod.source / str(version) / request.param.file).write_text(content)
        made.append(pod)
        return pod

    yield make
    for pod in made:
        pod.stop_agent()
        pod.server.kill()
        assert "failed at its own work" not in pod.log.getvalue(), pod.log.getvalue()


def draw_wishes(drawn: random.Random, is_last: bool) -> dict[str, Any]:
    """What one agent.json asks for. The last one's served version can be had, and what its labels name: where a label
    stands that can't move depends on the way, and so does what serves in the place of a version that can't."""
    served = drawn.choice(GOOD if is_last else list(CONTENTS))
    others = drawn.sample(list(CONTENTS), drawn.randrange(3))
    wishes: dict[str, Any] = {"versions": (served, *others), "labels": {}, "settings": {}}
    for label in drawn.sample(["stable", "newest", "other"], drawn.randrange(3)):
        wishes["labels"][label] = drawn.choice([each for each in (served, *others) if each in GOOD or not is_last])
    if drawn.random() < 0.5:
        wishes["settings"] = {"instanceCount": drawn.randrange(1, 4)}
    if drawn.random() < 0.3:
        wishes["pinned"] = drawn.choice([True] if is_last else [True, False])
    if drawn.random() < 0.3:
        wishes["golden"] = drawn.choice([CONTENTS[served]] if is_last else [CONTENTS[served], "wrong"])
    if drawn.random() < 0.2:
        wishes["warmup"] = WARM_UP
    return wishes


def ask_for(pod: Any, wishes: dict[str, Any], generation: str) -> None:
    fields: dict[str, Any] = {
        "labels": wishes["labels"],
        "warmup": wishes.get("warmup", {}).get(pod.runtime, []),
        "runtime": pod.runtime,
    }
    if pod.runtime == "Triton":
        fields["triton"] = pod.ports | wishes["settings"]
    else:
        fields["tensorflowServing"] = pod.ports
    if "pinned" in wishes:
        served = wishes["versions"][0]
        fields["sha256"] = {str(served): digest_path(pod.source / str(served)) if wishes["pinned"] else "a" * 64}
    if "golden" in wishes and pod.runtime == "Triton":
        fields["golden"] = golden_of(wishes["golden"])
    pod.want(*wishes["versions"], generation=generation, **fields)


def said(pod: Any) -> dict[str, Any]:
    """The status, without its times."""
    status = pod.status()
    return {
        "generation": status["generation"],
        "serving": status["serving"],
        "ready": status["ready"],
        "states": {each["version"]: (each["state"], each["reason"]) for each in status["versions"]},
        "labels": status["labels"],
        "golden": status["golden"] and status["golden"]["state"],
    }


def is_changing(pod: Any) -> bool:
    return any(state in ("Pending", "Fetching", "Verified", "Loading") for state, _ in said(pod)["states"].values())


def end_agent(pod: Any) -> None:
    """As a process ends: what its threads had in hand reaches nothing any more."""

    def is_gone(*arguments: Any) -> None:
        threading.Event().wait()

    agent = pod._agent
    pod.stop_agent()
    for name in ("publish", "remove", "write_ledger", "write_in_repository") if agent._model is not None else ():
        setattr(agent._model.volume, name, is_gone)


def keep_alive(pod: Any, ended: threading.Event) -> None:
    """The kubelet: a server that ended is started, once its files are there."""
    while not ended.wait(0.03):
        if not pod.server.is_up and pod.probe("/startz") == 200:
            with suppress(OSError):  # the one that ends still has the port
                pod.server.start()


@pytest.mark.parametrize("seed", range(STORIES))
def test_whatever_changes_meanwhile_the_last_wish_is_what_is_in_force(
    pods: Callable[[str], Any], seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = random.Random(seed)
    slow = random.Random(seed)

    def fetch_slowly(*arguments: Any) -> Any:
        time.sleep(slow.choice((0.0, 0.0, 0.05, 0.15)))
        return fetch_version(*arguments)

    monkeypatch.setattr(work, "fetch_version", fetch_slowly)
    pod, other = pods("through all"), pods("at the end")
    ended = threading.Event()
    kubelets = [threading.Thread(target=keep_alive, args=(each, ended)) for each in (pod, other)]
    try:
        ask_for(pod, draw_wishes(drawn, is_last=False), "0")
        pod.start_agent()
        kubelets[0].start()
        count = drawn.randrange(2, 7)
        for number in range(1, count + 1):
            time.sleep(drawn.choice((0.0, 0.03, 0.1, 0.3)))
            what = drawn.choice(("wish", "wish", "wish", "wish", "kill", "restart"))
            if what == "kill":
                pod.server.kill()
            elif what == "restart":
                end_agent(pod)
                pod.start_agent()
            else:
                ask_for(pod, draw_wishes(drawn, is_last=False), str(number))
        wishes = draw_wishes(drawn, is_last=True)
        time.sleep(drawn.choice((0.0, 0.03, 0.1, 0.3)))
        for each in (pod, other):
            ask_for(each, wishes, "last")
        other.start_agent()
        kubelets[1].start()
        deadline = time.monotonic() + 12
        while True:
            at_rest = all(said(each)["generation"] == "last" and said(each)["ready"] for each in (pod, other))
            if at_rest and (said(pod), pod.obeyed()) == (said(other), other.obeyed()) and not is_changing(pod):
                break
            if time.monotonic() > deadline:
                words = [json.dumps(wishes), *(f"{said(each)} {each.obeyed()}" for each in (pod, other))]
                raise AssertionError("\n".join([*words, pod.log.getvalue(), "--- at the end", other.log.getvalue()]))
            time.sleep(0.02)
    finally:
        ended.set()
        for kubelet in kubelets:
            if kubelet.is_alive():
                kubelet.join()
