"""The whole agent beside a Triton of straw: what a pod lives through, from the first boot to the last signal."""

import io
import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

import slipway_agent
from slipway_agent.config import key_name
from slipway_agent.fetching.pipeline import fetch_version
from slipway_agent.loop import agent as agent_module
from slipway_agent.loop import work
from slipway_agent.loop.agent import Agent
from slipway_agent.model.errors import Reason, SpecError
from slipway_agent.plan import discovery, failures, plan, probe
from slipway_agent.reporting.endpoints import Board, answer
from slipway_agent.reporting.log import Log
from slipway_agent.servers.triton.config import read_versions
from slipway_agent.servers.triton.driver import TritonServer
from slipway_agent.sources.mounted_folder import PathSource
from slipway_agent.volume.digest import digest_path
from tests.ports import free_port
from tests.unit.agent.servers.fake_triton import FakeTriton
from tests.unit.agent.signing import make_key

KEY = "only the agent knows it"
POD = "digits-a"


class Pod:
    """A pod's volumes, its agent on a thread and its server on another."""

    file = "model.onnx"

    def __init__(self, folder: Path) -> None:
        self.source, self.models, self.config = folder / "source", folder / "models", folder / "agent.json"
        self.source.mkdir()
        self.server = FakeTriton(self.models / "repository" / "digits", KEY)
        self.port = self.server.port
        self.ports: dict[str, int] = {"httpPort": self.port, "grpcPort": self.server.grpc_port}
        self.log = io.StringIO()
        self.board = Board()
        self._agent: Agent | None = None
        self._thread: threading.Thread | None = None

    def put(self, *versions: int, **contents: str) -> None:
        """put(1, v2="broken"): versions 1 and 2 at the source, where 2's model says `broken`."""
        for name, content in ({f"v{version}": "weights" for version in versions} | contents).items():
            folder = self.source / name.removeprefix("v")
            folder.mkdir(exist_ok=True)
            (folder / self.file).write_text(content)

    def want(self, served: int | None, *others: int, generation: str = "g", **changes: Any) -> None:
        source = {"uri": "pvc://models/digits", "path": str(self.source), "versions": {}}
        fields = {
            "schema": 1,
            "generation": generation,
            "runtime": "Triton",
            "model": "digits",
            "source": source,
            "served": served,
            "load": [] if served is None else [served, *others],
            "triton": self.ports,
        }
        self.write(json.dumps(fields | changes))

    def want_in_turn(self, served: int, *others: int, pods: Iterable[str] = (POD,), **changes: Any) -> None:
        """Version 1 in pods whose turn it isn't, `served` in the others, which leave the Service for 0.3 s first."""
        turn = {"pods": list(pods), "served": served, "load": [served, *others], "drainSeconds": 0.3, **changes}
        self.want(1, generation="turn", turn=turn)

    def record(self, **digests: str) -> None:
        """What the operator has seen of versions before."""
        recorded = {name.removeprefix("v"): digest for name, digest in digests.items()}
        (self.config.parent / "recorded.json").write_text(json.dumps(recorded))

    def write(self, text: str) -> None:
        new = self.config.with_suffix(".new")
        new.write_text(text)
        os.replace(new, self.config)

    def start_agent(self) -> None:
        self.board = Board(POD)
        log = Log({"SLIPWAY_LOG_FORMAT": "console"}, self.log)
        self._agent = Agent(self.config, self.models, self.board, log, {"SLIPWAY_SERVER_KEY": KEY})
        self._thread = threading.Thread(target=self._agent.run)
        self._thread.start()

    def stop_agent(self) -> None:
        if self._agent is not None and self._thread is not None:
            self._agent.stop("SIGTERM")
            self._thread.join(5)
            assert not self._thread.is_alive()
        self._agent = None

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(answer("/status", self.board).body)
        return found

    def states(self) -> dict[int, str]:
        return {each["version"]: each["state"] for each in self.status()["versions"]}

    def probe(self, path: str) -> int:
        return answer(path, self.board).status

    def until(self, condition: Callable[[], bool], seconds: float = 8.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"{self.status()}\n{self.log.getvalue()}"
            time.sleep(0.01)

    def until_states(self, **states: str) -> None:
        wanted = {int(name.removeprefix("v")): state for name, state in states.items()}
        self.until(lambda: self.states() == wanted)

    def boot(self) -> None:
        self.start_agent()
        self.boot_when_it_may()

    def serve(self, served: int, *others: int) -> None:
        """From nothing to all of these loaded."""
        self.put(served, *others)
        self.want(served, *others)
        self.boot()
        self.until(lambda: self.states() == dict.fromkeys((served, *others), "Available"))

    def boot_when_it_may(self) -> None:
        self.until(lambda: self.probe("/startz") == 200)
        self.server.start()
        self.until(lambda: self.probe("/readyz") == 200)

    def start(self) -> None:
        """The agent, and the server once it may, whether it gets ready or not."""
        self.start_agent()
        self.until(lambda: self.probe("/startz") == 200)
        self.server.start()


@pytest.fixture
def pod(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pod]:
    monkeypatch.setattr(plan, "SETTLED_SECONDS", 0.05)
    monkeypatch.setattr(plan, "CHANGING_SECONDS", 0.02)
    monkeypatch.setattr(failures, "MISSING_RETRY_SECONDS", 0.1)
    monkeypatch.setattr(discovery, "AGREEING_SECONDS", 0.1)
    monkeypatch.setattr(discovery, "ERROR_RETRY_SECONDS", 0.1)
    made = Pod(tmp_path)
    yield made
    made.stop_agent()
    made.server.kill()
    assert "Traceback" not in made.log.getvalue()
    assert "failed at its own work" not in made.log.getvalue(), made.log.getvalue()


def test_a_pod_boots_with_its_served_version_and_the_others_follow(pod: Pod) -> None:
    pod.put(1, 2)
    pod.want(2, 1, generation="first")
    pod.start_agent()
    pod.until(lambda: pod.probe("/startz") == 200)
    assert pod.probe("/readyz") == 503
    pod.server.start()
    assert pod.server.loads == [(2,)], "the served version alone is in the first boot configuration"
    pod.until_states(v1="Available", v2="Available")
    status = pod.status()
    assert (status["generation"], status["served"], status["ready"], status["error"]) == ("first", 2, True, None)
    pod.until(lambda: pod.status()["listed"] == [1, 2])
    assert pod.probe("/readyz") == pod.probe("/healthz") == 200


def test_the_server_isnt_started_before_the_files_are_there(pod: Pod) -> None:
    pod.want(3)
    pod.start_agent()
    pod.until(lambda: pod.status()["error"] is not None)
    assert pod.status()["error"]["reason"] == "VersionNotFound"
    assert pod.states() == {3: "Failed"}
    assert pod.probe("/startz") == 503
    assert "VersionNotFound: pvc://models/digits has no version 3" in answer("/startz", pod.board).body
    pod.put(3)
    pod.until(lambda: pod.probe("/startz") == 200)
    pod.until(lambda: pod.status()["error"] is None)


def test_versions_change_without_a_restart_and_ready_never_drops(pod: Pod) -> None:
    pod.put(v1="slow", v2="slow", v3="slow")
    pod.want(2, 1)
    pod.boot()
    pod.until_states(v1="Available", v2="Available")
    dropped = threading.Event()
    watched = threading.Event()

    def watch() -> None:
        while not watched.is_set():
            if pod.probe("/readyz") != 200 or not pod.server.loaded.keys() & {2, 3}:
                dropped.set()
            time.sleep(0.002)

    watcher = threading.Thread(target=watch)
    watcher.start()
    pod.want(3, 2, generation="second")
    pod.until_states(v2="Available", v3="Available")
    watched.set()
    watcher.join()
    assert not dropped.is_set()
    assert pod.status()["generation"] == "second"
    assert sorted(path.name for path in pod.server.folder.iterdir()) == ["2", "3", "config.pbtxt"]
    assert pod.server.loads[-1] == (2, 3)
    assert (1, 2, 3) in pod.server.loads, "the old one went only after the new one was ready"


def test_a_failing_extra_version_is_left_out_and_reported(pod: Pod) -> None:
    pod.put(2, 3, v1="broken")
    pod.want(3, 1, 2)
    pod.boot()
    pod.until_states(v1="Failed", v2="Available", v3="Available")
    status = pod.status()
    assert status["error"] is None
    assert status["ready"] is True
    assert status["versions"][0]["reason"] == "LoadFailed"
    assert status["versions"][0]["message"] == "Internal: not an ONNX model"
    assert pod.server.loaded.keys() == {2, 3}


def test_a_failing_served_version_is_reported_in_the_servers_own_words(pod: Pod) -> None:
    pod.put(v3="broken")
    pod.want(3)
    pod.start()
    pod.until_states(v3="Failed")
    assert pod.status()["error"] == {
        "reason": "LoadFailed",
        "permanent": True,
        "message": "Internal: not an ONNX model",
    }
    assert pod.probe("/readyz") == 503


def test_a_new_served_version_that_fails_leaves_the_old_one_serving(pod: Pod) -> None:
    pod.put(v3="broken")
    pod.serve(2)
    pod.want(3)
    pod.until_states(v2="Unloading", v3="Failed")
    assert pod.probe("/readyz") == 200
    assert pod.status()["ready"] is False
    assert pod.status()["error"]["reason"] == "LoadFailed"
    assert pod.server.loaded.keys() == {2}
    pod.server.kill()
    pod.server.start()
    assert pod.server.loaded.keys() == {2}, "the boot configuration is what last worked"


def test_corrected_bytes_at_the_source_recover_by_themselves(pod: Pod, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failures, "PERMANENT_RETRY_SECONDS", 0.2)
    pod.put(v3="broken")
    pod.want(3)
    pod.start()
    pod.until_states(v3="Failed")
    pod.put(v3="corrected")
    pod.until_states(v3="Available")
    assert pod.status()["error"] is None
    assert pod.server.loaded == {3: "corrected"}


def test_a_version_that_ends_the_server_is_taken_out_of_its_boot(pod: Pod) -> None:
    pod.put(3, v2="deadly")
    pod.want(3, 2)
    pod.start()
    pod.until(lambda: pod.states()[2] == "Failed")
    pod.until(lambda: pod.probe("/readyz") == 503)
    pod.server.start()
    pod.until_states(v2="Failed", v3="Available")
    assert "the server ended during the load" in pod.status()["versions"][0]["message"]


def test_a_version_that_became_ready_isnt_blamed_when_the_server_is_killed_before_its_load_ended(pod: Pod) -> None:
    pod.put(1, 2)
    pod.want(2, 1)
    pod.server.answers_loads = False
    pod.boot()
    pod.until_states(v1="Available", v2="Available")
    pod.server.kill()
    pod.until(lambda: "load failed" in pod.log.getvalue())
    pod.until_states(v1="Verified", v2="Loading")
    pod.server.answers_loads = True
    pod.server.start()
    pod.until_states(v1="Available", v2="Available")
    assert "blamed=[]" in pod.log.getvalue()
    assert "state=Failed" not in pod.log.getvalue()


@contextmanager
def kubelet(pod: Pod) -> Iterator[None]:
    """Whenever the server has ended it is started again."""
    ended = threading.Event()

    def restart() -> None:
        while not ended.wait(0.01):
            if not pod.server.is_up:
                with suppress(OSError):  # the one that ends still has the port
                    pod.server.start()

    thread = threading.Thread(target=restart)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def test_of_versions_that_are_new_together_only_the_one_that_ends_the_server_is_left_out(pod: Pod) -> None:
    pod.put(3, 5, v4="deadly")
    pod.serve(2)
    with kubelet(pod):
        pod.want(2, 3, 4, 5, generation="more")
        pod.until_states(v2="Available", v3="Available", v4="Failed", v5="Available")
    assert pod.server.loaded.keys() == {2, 3, 5}


def test_a_version_that_ends_the_server_twice_isnt_loaded_before_its_bytes_or_the_settings_change(
    pod: Pod, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failures, "PERMANENT_RETRY_SECONDS", 0.1)
    pod.put(v3="deadly")
    pod.serve(2)

    def loads_of_3() -> int:
        return pod.log.getvalue().count('load begins versions="[2, 3]"')

    def is_over() -> bool:
        versions = {each["version"]: each for each in pod.status()["versions"]}
        return "It ended the server twice" in versions[3]["message"] and pod.states()[2] == "Available"

    with kubelet(pod):
        pod.want(2, 3, generation="more")
        pod.until(lambda: pod.states().keys() == {2, 3})
        pod.until(is_over)
        time.sleep(0.5)  # five times the wait after which it would be asked for again
        pod.want(2, 3, labels={"newest": 3}, generation="label")
        pod.until(lambda: pod.status()["generation"] == "label")
        time.sleep(0.2)
        assert loads_of_3() == 2
        pod.want(2, 3, triton=pod.ports | {"instanceCount": 2}, generation="settings")
        pod.until(lambda: loads_of_3() == 3)
        pod.until(is_over)
        pod.put(v3="corrected")
        pod.until_states(v2="Available", v3="Available")


def test_what_a_server_died_of_before_it_served_is_no_part_of_its_next_start(pod: Pod) -> None:
    pod.put(2, v5="deadly")
    pod.want(5)
    pod.start_agent()
    pod.until(lambda: pod.probe("/startz") == 200)
    pod.want(2, 5, generation="back")
    pod.until(lambda: read_versions((pod.server.folder / "config.pbtxt").read_text()) == {2})
    pod.server.start()
    with kubelet(pod):
        pod.until_states(v2="Available", v5="Failed")


def test_a_setting_that_changes_while_a_load_is_under_way_is_obeyed(pod: Pod) -> None:
    pod.put(3)
    pod.serve(2)
    gate = threading.Event()
    pod.server.gates.append(gate)
    pod.want(2, 3, generation="more")
    pod.until(lambda: not pod.server.gates)
    pod.want(2, 3, triton=pod.ports | {"instanceCount": 7}, generation="other settings")
    pod.until(lambda: pod.status()["generation"] == "other settings")
    loads = len(pod.server.loads)
    gate.set()
    pod.until(lambda: "count: 7" in (pod.server.folder / "config.pbtxt").read_text() and len(pod.server.loads) > loads)
    pod.until_states(v2="Available", v3="Available")


def test_settings_that_come_with_an_extra_that_fails_are_obeyed(pod: Pod) -> None:
    pod.put(2, v3="broken")
    pins = {"3": digest_path(pod.source / "3")}  # so its source isn't looked at before it is tried again
    pod.want(2, 3, sha256=pins)
    pod.boot()
    pod.until_states(v2="Available", v3="Failed")
    pod.want(2, 3, sha256=pins, triton=pod.ports | {"instanceCount": 7}, generation="other settings")
    pod.until(lambda: pod.server.loads[-2:] == [(2, 3), (2,)])
    pod.until_states(v2="Available", v3="Failed")
    assert "count: 7" in (pod.server.folder / "config.pbtxt").read_text()


def test_a_killed_server_makes_the_pod_unready_until_it_is_back(pod: Pod) -> None:
    pod.serve(3, 2)
    pod.server.kill()
    pod.until_states(v2="Loading", v3="Loading")  # a look asks version by version, so one may be missed first
    assert pod.probe("/readyz") == 503
    pod.server.start()
    pod.until_states(v2="Available", v3="Available")
    assert pod.probe("/readyz") == 200
    assert pod.server.loads[-1] == (2, 3), "the server came back as it was, from its file"


def test_a_server_that_lost_a_version_is_asked_for_it(pod: Pod, monkeypatch: pytest.MonkeyPatch) -> None:
    pod.put(2, 3)
    pod.want(3, 2)
    pod.boot()
    pod.until(lambda: 'load ended versions="[2, 3]"' in pod.log.getvalue())
    monkeypatch.setattr(plan, "RELOAD_SECONDS", 0.05)
    del pod.server.loaded[2]
    pod.until(lambda: pod.server.loaded.keys() == {2, 3})


def test_a_restarted_agent_fetches_nothing_again(pod: Pod) -> None:
    pod.serve(3, 2)
    pod.stop_agent()
    for version in (2, 3):
        (pod.source / str(version) / "model.onnx").unlink()
    pod.start_agent()
    pod.until_states(v2="Available", v3="Available")
    assert pod.probe("/startz") == pod.probe("/readyz") == 200
    assert "slipway_agent_fetched_bytes_total 0" in answer("/metrics", pod.board).body


def test_an_agent_that_restarts_beside_a_server_that_is_down_leaves_it_what_it_had(pod: Pod) -> None:
    pod.serve(2, 1)
    pod.stop_agent()
    pod.server.kill()
    pod.start_agent()
    pod.until_states(v1="Loading", v2="Loading")
    turn = pod.board.turned_at
    pod.until(lambda: pod.board.turned_at > turn)
    pod.server.start()
    assert pod.server.loaded.keys() == {1, 2}


def test_a_wrong_pin_is_refused_and_the_corrected_one_recovers(pod: Pod) -> None:
    pod.put(3)
    pod.want(3, sha256={"3": "a" * 64})
    pod.start_agent()
    pod.until_states(v3="Failed")
    error = pod.status()["error"]
    assert error["reason"] == "DigestMismatch"
    assert pod.probe("/startz") == 503
    [found] = re.findall(r"has sha256 ([0-9a-f]{64})", error["message"])
    pod.want(3, sha256={"3": found})
    pod.until(lambda: pod.probe("/startz") == 200)
    assert pod.status()["versions"][0]["sha256"] == found


def test_a_pin_that_no_longer_fits_is_reported_and_the_pod_keeps_serving(pod: Pod) -> None:
    pod.serve(3)
    pod.want(3, generation="pinned", sha256={"3": "a" * 64})
    pod.until_states(v3="Failed")
    assert pod.status()["error"]["reason"] == "DigestMismatch"
    assert pod.probe("/readyz") == 200


def test_verification_that_is_switched_on_loads_nothing_again_and_takes_nothing_away(pod: Pod, tmp_path: Path) -> None:
    key = make_key(tmp_path, "ours")
    pod.put(2, 3)
    key.sign(pod.source / "3")
    pod.want(3, 2)
    pod.boot()
    pod.until_states(v2="Available", v3="Available")
    loads = list(pod.server.loads)
    source = {"uri": "pvc://models/digits", "path": str(pod.source), "verify": {"keys": [key.public]}}
    pod.want(3, 2, generation="verified", source=source)
    pod.until(lambda: pod.states() == {2: "Failed", 3: "Available"}, seconds=60)
    pod.until(lambda: pod.status()["versions"][1]["signedBy"] == key_name(key.public), seconds=60)
    assert pod.status()["versions"][0]["reason"] == "NotSigned"
    assert "verify" in pod.status()["agent"]["abilities"]
    assert pod.server.loads == loads
    assert pod.server.loaded.keys() == {2, 3}
    assert pod.probe("/readyz") == 200


def test_what_was_verified_stays_so_for_an_agent_that_restarts(pod: Pod, tmp_path: Path) -> None:
    key = make_key(tmp_path, "ours")
    pod.put(3)
    key.sign(pod.source / "3")
    source = {"uri": "pvc://models/digits", "path": str(pod.source), "verify": {"keys": [key.public]}}
    pod.want(3, source=source)
    pod.start_agent()
    pod.until(lambda: pod.probe("/startz") == 200, seconds=60)
    pod.server.start()
    pod.until_states(v3="Available")
    pod.stop_agent()
    (pod.source / "3" / "model.onnx").unlink()
    pod.start_agent()
    pod.until_states(v3="Available")
    assert pod.status()["versions"][0]["signedBy"] == key_name(key.public)


def test_a_bad_config_leaves_the_one_in_force(pod: Pod) -> None:
    pod.start_agent()
    pod.until(lambda: pod.status()["error"] is not None)
    assert "can't be read: No such file" in pod.status()["error"]["message"]
    assert pod.status()["generation"] is None
    pod.write("{")
    pod.until(lambda: "it is not JSON" in pod.status()["error"]["message"])
    pod.put(3)
    pod.want(3, generation="good")
    pod.until(lambda: pod.status()["error"] is None and pod.states() == {3: "Loading"})
    pod.write("[]")
    pod.until(lambda: pod.status()["error"] is not None)
    assert pod.status()["error"]["reason"] == "ConfigInvalid"
    assert pod.status()["generation"] == "good"
    pod.want(3, generation="good")
    pod.until(lambda: pod.status()["error"] is None)


def test_a_kept_config_that_cant_be_completed_is_said_so_and_its_correction_recovers(pod: Pod) -> None:
    pod.put(3)
    (pod.source / "config.pbtxt").write_text("sequence_batching {}")
    pod.want(3, triton=pod.ports | {"maxBatchSize": 8})
    pod.start_agent()
    pod.until_states(v3="Failed")
    assert pod.status()["error"]["reason"] == "ModelInvalid"
    assert "it uses sequence_batching" in pod.status()["error"]["message"]
    assert pod.probe("/startz") == 503
    pod.want(3)
    pod.until(lambda: pod.probe("/startz") == 200)
    assert "sequence_batching" in (pod.server.folder / "config.pbtxt").read_text()


# Waiting and listing


def test_without_a_name_the_source_is_listed_and_nothing_is_fetched_until_there_is_one(pod: Pod) -> None:
    pod.want(None)
    pod.start_agent()
    pod.until(lambda: pod.status()["listError"] is not None)
    assert pod.status()["listError"] == {
        "reason": "VersionNotFound",
        "message": "pvc://models/digits has no version that could be served. Copy a model into a folder named by its "
        "version, such as 1",
    }
    assert "named yet: VersionNotFound: pvc://models/digits has no version" in answer("/startz", pod.board).body
    (pod.source / "v3").mkdir()
    (pod.source / "4").mkdir()
    pod.until(lambda: "holds no model file yet" in pod.status()["listError"]["message"])
    assert "Folders that are no versions: v3" in pod.status()["listError"]["message"]
    pod.put(3, 4)
    pod.until(lambda: pod.status()["found"].keys() == {"3", "4"})
    status = pod.status()
    assert (status["listError"], status["error"], status["served"], status["versions"]) == (None, None, None, [])
    assert pod.probe("/startz") == pod.probe("/readyz") == 503
    assert answer("/startz", pod.board).body == "no version is named yet\n"
    assert list(pod.server.folder.iterdir()) == []
    pod.want(4)
    pod.until(lambda: pod.probe("/startz") == 200)
    pod.server.start()
    pod.until_states(v4="Available")
    assert pod.status()["found"].keys() == {"3", "4"}


def test_a_version_that_is_being_copied_is_found_only_when_it_stands_still(
    pod: Pod, monkeypatch: pytest.MonkeyPatch
) -> None:
    pod.put(1)
    pod.want(1, source={"uri": "pvc://models/digits", "path": str(pod.source), "pollSeconds": 0.05})
    pod.boot()
    pod.until(lambda: pod.status()["found"].keys() == {"1"})
    looks, is_copied = itertools.count(1), threading.Event()
    seen = [0]
    list_versions = PathSource.list_versions

    def look(source: PathSource) -> Mapping[int, str | None]:
        seen[0] = next(looks)
        if not is_copied.is_set():
            pod.put(v2="x" * seen[0])  # the copy has grown by each look
        return list_versions(source)

    monkeypatch.setattr(PathSource, "list_versions", look)
    pod.until(lambda: seen[0] >= 5)
    assert pod.status()["found"].keys() == {"1"}
    is_copied.set()
    pod.until(lambda: pod.status()["found"].keys() == {"1", "2"})
    stamp = pod.status()["found"]["2"]
    pod.put(v2="other bytes")
    pod.until(lambda: pod.status()["found"]["2"] != stamp)


def test_a_source_that_is_gone_takes_back_nothing_that_was_found(pod: Pod) -> None:
    pod.put(1)
    pod.want(1, source={"uri": "pvc://models/digits", "path": str(pod.source), "pollSeconds": 0.1})
    pod.boot()
    pod.until(lambda: pod.status()["found"].keys() == {"1"})
    pod.source.rename(pod.source.with_name("elsewhere"))
    pod.until(lambda: pod.status()["listError"] is not None)
    assert pod.status()["listError"]["reason"] == "SourceNotFound"
    assert (pod.status()["found"].keys(), pod.status()["error"]) == ({"1"}, None)
    assert pod.probe("/readyz") == 200


def test_who_waits_for_the_listing_hears_of_a_new_version(pod: Pod) -> None:
    pod.put(1)
    pod.want(1, source={"uri": "pvc://models/digits", "path": str(pod.source), "pollSeconds": 0.1})
    pod.boot()
    pod.until(lambda: pod.status()["found"].keys() == {"1"})
    token = json.loads(answer("/listing", pod.board).body)["token"]
    pod.put(2)
    began = time.monotonic()
    found = json.loads(answer(f"/listing?after={token}&wait=60", pod.board).body)
    assert found["found"].keys() == {"1", "2"}
    assert found["token"] != token
    assert time.monotonic() - began < 30.0


# Other bytes under a number that has served


def test_other_bytes_than_recorded_are_never_served(pod: Pod) -> None:
    pod.put(v3="new bytes")
    pod.record(v3="a" * 64)
    pod.want(3)
    pod.start_agent()
    pod.until_states(v3="Failed")
    error = pod.status()["error"]
    assert error["reason"] == "ContentChanged"
    assert f"was recorded with sha256 {'a' * 64}, and is found with" in error["message"]
    assert pod.probe("/startz") == 503
    [found] = re.findall(r"found with ([0-9a-f]{64})", error["message"])
    pod.record(v3=found)
    pod.until(lambda: pod.probe("/startz") == 200)
    assert pod.status()["versions"][0]["sha256"] == found


def test_a_pin_is_a_persons_word_and_wins_over_the_record(pod: Pod) -> None:
    pod.put(3)
    pod.record(v3="a" * 64)
    pod.want(3)
    pod.start_agent()
    pod.until_states(v3="Failed")
    [found] = re.findall(r"found with ([0-9a-f]{64})", pod.status()["error"]["message"])
    pod.want(3, sha256={"3": found}, generation="pinned")
    pod.until(lambda: pod.probe("/startz") == 200)


def test_a_changed_extra_leaves_what_serves_serving_and_a_record_reloads_nothing(pod: Pod) -> None:
    pod.put(2)
    pod.serve(3)
    loads = list(pod.server.loads)
    pod.record(v2="a" * 64, v3="b" * 64)
    time.sleep(0.3)
    assert (pod.states(), pod.server.loads) == ({3: "Available"}, loads)
    pod.want(3, 2)
    pod.until_states(v2="Failed", v3="Available")
    assert pod.status()["versions"][0]["reason"] == "ContentChanged"
    assert (pod.status()["error"], pod.probe("/readyz")) == (None, 200)


def test_bytes_corrected_in_place_under_a_recorded_number_are_said(pod: Pod, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failures, "PERMANENT_RETRY_SECONDS", 0.2)
    pod.put(v3="broken")
    pod.serve(2)
    pod.want(3, 2)
    pod.until_states(v2="Available", v3="Failed")
    pod.record(v3=pod.status()["versions"][1]["sha256"])
    pod.put(v3="corrected")
    pod.until(lambda: "Its source has other bytes by now" in pod.status()["error"]["message"])
    assert "Internal: not an ONNX model" in pod.status()["error"]["message"]
    assert pod.server.loaded.keys() == {2}


def test_a_record_that_comes_while_its_version_is_fetched_counts(pod: Pod, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on, real = threading.Event(), fetch_version

    def fetch_slowly(*arguments: Any) -> Any:
        go_on.wait(5)
        return real(*arguments)

    monkeypatch.setattr(work, "fetch_version", fetch_slowly)
    pod.put(3)
    pod.record(v3="a" * 64)
    pod.want(3)
    pod.start_agent()
    pod.until_states(v3="Fetching")
    pod.record(v3=digest_path(pod.source / "3"))
    time.sleep(0.1)
    go_on.set()
    pod.until(lambda: pod.probe("/startz") == 200)


# Memory


@pytest.mark.parametrize("what", ["fetch", "look"])
def test_a_secret_that_changes_while_its_store_is_asked_is_tried_at_once(
    pod: Pod, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    may_refuse, asked = threading.Event(), threading.Event()
    secret = pod.config.parent / "secret"
    secret.mkdir()
    (secret / "key").write_text("old")
    refusal = SpecError(Reason.ACCESS_DENIED, "the store refuses this key")

    def refuse_old(real: Callable[..., Any]) -> Callable[..., Any]:
        def ask(*arguments: Any) -> Any:
            if (secret / "key").read_text() == "new":
                return real(*arguments)
            asked.set()
            may_refuse.wait(5)
            raise refusal

        return ask

    if what == "fetch":
        monkeypatch.setattr(work, "fetch_version", refuse_old(fetch_version))
    else:
        monkeypatch.setattr(discovery, "ERROR_RETRY_SECONDS", 60.0)
        monkeypatch.setattr(PathSource, "list_versions", refuse_old(PathSource.list_versions))
    pod.put(3)
    source = {"uri": "pvc://models/digits", "path": str(pod.source), "versions": {}, "credentials": str(secret)}
    pod.want(3, source=source)
    pod.start_agent()
    assert asked.wait(5)
    turn = pod.board.turned_at
    (secret / "new").write_text("new")
    os.replace(secret / "new", secret / "key")
    pod.until(lambda: pod.board.turned_at > turn)
    turn = pod.board.turned_at
    pod.until(lambda: pod.board.turned_at > turn)  # it has seen it
    may_refuse.set()
    if what == "fetch":
        pod.until(lambda: pod.probe("/startz") == 200)
    else:
        pod.until(lambda: pod.status()["found"] != {} and pod.status()["listError"] is None)


def test_a_file_with_two_names_counts_once(pod: Pod) -> None:
    (pod.source / "3").mkdir()
    (pod.source / "3" / "digits-v3.onnx").write_text("x" * 1000)
    pod.want(3)
    pod.boot()
    assert (pod.server.folder / "3" / "model.onnx").samefile(pod.server.folder / "3" / "digits-v3.onnx")
    assert pod.status()["versions"][0]["bytes"] == 1000


def test_what_doesnt_fit_isnt_loaded_and_is_once_there_is_room(pod: Pod) -> None:
    pod.put(v1="x" * 1000, v2="x" * 1000)
    memory = {"limitBytes": 2500, "factor": 1.5}
    pod.want(1, memory=memory)
    pod.boot()
    pod.want(2, 1, memory=memory)
    pod.until_states(v1="Available", v2="Failed")
    assert pod.status()["error"]["reason"] == "NotEnoughMemory"
    assert "2.9 KiB of the 2.4 KiB" in pod.status()["error"]["message"]
    assert (pod.probe("/readyz"), pod.status()["serving"]) == (200, 1)
    assert all(2 not in load for load in pod.server.loads)
    pod.want(2, 1, memory={"limitBytes": 3000, "factor": 1.5})
    pod.until_states(v1="Available", v2="Available")


# Warm-up

WARMUP = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [1]}]}


@pytest.fixture
def _without_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TritonServer, "warms_itself", False)


@pytest.mark.usefixtures("_without_its_own")
def test_a_version_is_ready_only_when_it_is_warm_and_again_after_a_restart(pod: Pod) -> None:
    pod.put(1, 2)
    warmup = [WARMUP, WARMUP]
    pod.want(2, 1, warmup=warmup)
    pod.boot()
    pod.until_states(v1="Available", v2="Available")
    assert pod.server.requests == [2, 2, 1, 1]
    pod.stop_agent()
    pod.start_agent()
    pod.until(lambda: pod.probe("/readyz") == 200)
    pod.until_states(v1="Available", v2="Available")
    assert len(pod.server.requests) == 4, "a restarted agent doesn't make a warm server cold"
    pod.server.kill()
    pod.until_states(v1="Loading", v2="Loading")
    pod.server.start()
    pod.until_states(v1="Available", v2="Available")
    assert len(pod.server.requests) == 8


@pytest.mark.usefixtures("_without_its_own")
def test_a_version_that_fails_its_warm_up_is_unloaded_and_the_old_one_serves(pod: Pod) -> None:
    pod.put(1, v2="mute")
    pod.want(1, warmup=[WARMUP])
    pod.boot()
    pod.want(2, 1, warmup=[WARMUP])
    pod.until_states(v1="Available", v2="Failed")
    assert pod.status()["error"] == {
        "reason": "WarmupFailed",
        "permanent": True,
        "message": "warm-up request 1 of 1: unexpected shape",
    }
    assert pod.probe("/readyz") == 200
    pod.until(lambda: pod.server.loaded.keys() == {1})


@pytest.mark.usefixtures("_without_its_own")
def test_a_warm_up_that_is_new_leaves_what_serves_in_service(pod: Pod) -> None:
    pod.serve(1)
    with watching(pod) as dropped:
        pod.want(1, warmup=[WARMUP], generation="warm")
        pod.until(lambda: pod.status()["generation"] == "warm")
        time.sleep(0.3)
    assert not dropped


# Golden requests and signatures


def golden_of(content: str) -> dict[str, Any]:
    answer = {"outputs": [{"name": "y", "data": [content]}]}
    return {"requests": [{"name": "one", "request": {"inputs": []}, "response": answer}]}


def test_a_version_is_ready_only_when_it_answers_as_expected(pod: Pod) -> None:
    pod.put(v3="three")
    pod.want(3, golden=golden_of("three"))
    pod.server.may_answer.clear()
    pod.start()
    pod.until(lambda: pod.server.requests == [3])
    pod.until(lambda: pod.status()["versions"][0]["message"] == "asking golden request 1 of 1")
    assert pod.states() == {3: "Loading"}
    assert pod.probe("/readyz") == 503
    assert pod.status()["golden"] == {"version": 3, "state": "Running", "message": "asking golden request 1 of 1"}
    pod.server.may_answer.set()
    pod.until(lambda: pod.probe("/readyz") == 200)
    pod.until_states(v3="Available")
    assert re.fullmatch(r"1 of 1 answered as expected, slowest \d+\.\d ms", pod.status()["golden"]["message"])
    pod.stop_agent()
    pod.start_agent()
    pod.until(lambda: pod.probe("/readyz") == 200)
    assert pod.status()["golden"]["state"] == "Passed"
    pod.server.kill()
    pod.until(lambda: pod.probe("/readyz") == 503)
    pod.server.start()
    pod.until(lambda: pod.probe("/readyz") == 200)
    assert pod.server.requests == [3], "the same bytes answer no other way"


def test_a_version_that_answers_otherwise_is_failed_until_the_requests_are_corrected(pod: Pod) -> None:
    pod.put(v3="other")
    pod.want(3, golden=golden_of("three"))
    pod.start()
    pod.until_states(v3="Failed")
    error = pod.status()["error"]
    assert (error["reason"], error["permanent"]) == ("GoldenFailed", True)
    assert 'golden request "one" (1 of 1): outputs[y].data[0] is "other", expected "three"' in error["message"]
    assert pod.status()["golden"] == {"version": 3, "state": "Failed", "message": error["message"]}
    assert pod.probe("/readyz") == 503
    pod.want(3, golden=golden_of("other"), generation="corrected")
    pod.until(lambda: pod.probe("/readyz") == 200)
    assert pod.status()["error"] is None


def test_a_refusal_says_nothing_of_what_is_wanted_once_that_has_changed(pod: Pod) -> None:
    pod.put(v3="other")
    pod.serve(2)
    pod.want(3, golden=golden_of("three"), generation="up")
    pod.until_states(v2="Unloading", v3="Failed")
    pod.want(2, generation="back")
    pod.until_states(v2="Available")
    pod.server.may_answer.clear()
    asked = len(pod.server.requests)
    pod.want(3, golden=golden_of("other"), generation="corrected")
    pod.until(lambda: pod.status()["generation"] == "corrected")
    pod.until(lambda: len(pod.server.requests) > asked or pod.states()[3] == "Failed")
    assert (pod.states()[3], pod.status()["error"]) == ("Loading", None), "an operator would take it back at once"
    pod.server.may_answer.set()
    pod.until_states(v3="Available")


def test_a_load_that_began_before_a_change_is_no_refusal_of_what_is_wanted_since(pod: Pod) -> None:
    pod.put(v3="broken")
    pod.serve(2)
    first, second = threading.Event(), threading.Event()
    pod.server.gates.extend((first, second))
    pod.want(3, generation="wrong settings")
    pod.until(lambda: len(pod.server.gates) == 1)
    pod.want(3, triton=pod.ports | {"instanceCount": 2}, generation="right settings")
    pod.until(lambda: pod.status()["generation"] == "right settings")
    first.set()
    pod.until(lambda: not pod.server.gates)
    assert (pod.states()[3], pod.status()["error"]) == ("Loading", None)
    second.set()
    pod.until_states(v2="Unloading", v3="Failed")


@pytest.mark.parametrize(("expected_first", "state"), [("wrong", "Available"), ("three", "Failed")])
def test_what_was_expected_before_a_change_counts_for_nothing(pod: Pod, expected_first: str, state: str) -> None:
    pod.put(v3="three")
    pod.want(3, golden=golden_of(expected_first))
    pod.server.may_answer.clear()
    pod.start()
    pod.until(lambda: pod.server.requests == [3])
    expected_now = "three" if expected_first == "wrong" else "wrong"
    pod.want(3, golden=golden_of(expected_now), generation="changed")
    pod.until(lambda: pod.status()["generation"] == "changed")
    pod.server.may_answer.set()
    pod.until_states(v3=state)
    assert ("state=Failed" in pod.log.getvalue()) == (state == "Failed")
    assert ("pod is ready" in pod.log.getvalue()) == (state == "Available")
    assert pod.server.requests == [3, 3]


def test_golden_requests_that_come_or_go_load_nothing_and_leave_the_pod_ready(pod: Pod) -> None:
    pod.put(v3="three")
    pod.want(3, golden=golden_of("three"))
    pod.boot()
    pod.until(lambda: "load ended" in pod.log.getvalue() or pod.server.loads[-1:] == [(3,)])
    pod.until(lambda: pod.status()["signatures"] != {})
    loads, described = list(pod.server.loads), list(pod.server.described)
    with watching(pod) as wrong:
        for generation, golden in (("a", None), ("b", golden_of("wrong")), ("c", None)):
            pod.want(3, golden=golden, generation=generation)
            pod.until(lambda wanted=generation: pod.status()["generation"] == wanted)  # type: ignore[misc]
            time.sleep(0.2)
    assert wrong == []
    assert (pod.server.loads, pod.server.described) == (loads, described)
    assert pod.states() == {3: "Available"}


def test_a_version_in_place_that_answers_otherwise_leaves_the_old_one_serving(pod: Pod) -> None:
    pod.put(v2="two", v3="other")
    pod.want(2)
    pod.boot()
    with watching(pod) as wrong:
        pod.want(3, golden=golden_of("three"), generation="up")
        pod.until_states(v2="Unloading", v3="Failed")
        pod.until(lambda: set(pod.server.loaded) == {2})
        assert pod.status()["serving"] == 2
        pod.want(2, generation="back")
        pod.until_states(v2="Available")
    assert wrong == []


def test_a_golden_file_comes_with_the_model(pod: Pod) -> None:
    pod.put(v3="three")
    pod.want(3, golden={"file": "golden.json"})
    pod.start()
    pod.until_states(v3="Failed")
    assert pod.status()["error"]["reason"] == "GoldenUnreadable"
    (pod.source / "3" / "golden.json").write_text(json.dumps(golden_of("three")["requests"]))
    pod.want(3, golden={"file": "golden.json"}, generation="again")
    pod.until_states(v3="Available")


SIGNATURE = {
    "inputs": [
        {"name": "x", "datatype": "FP32", "shape": [-1, 2]},
        {"name": "seed", "datatype": "FP32", "shape": [-1, 2], "optional": True},
    ],
    "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 2]}],
}


def test_each_loaded_versions_signature_is_told_once_it_is_known(pod: Pod) -> None:
    pod.put(1, 2)
    pod.want(2, 1)
    pod.boot()
    pod.until(lambda: pod.status()["signatures"] == {"1": SIGNATURE, "2": SIGNATURE})
    time.sleep(0.2)
    assert sorted(pod.server.described) == [1, 2], "asked once each"
    assert pod.server.described[0] == 2
    pod.want(2)
    pod.until_states(v2="Available")
    assert pod.status()["signatures"] == {"2": SIGNATURE}


def test_a_server_that_cant_say_now_is_asked_again_and_at_last_counts_as_not_telling(
    pod: Pod, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent_module, "DESCRIBE_SECONDS", 0.02)
    pod.server.silent_times = 2
    pod.serve(3)
    pod.until(lambda: pod.status()["signatures"] == {"3": SIGNATURE})
    assert pod.server.described == [3, 3, 3]
    pod.server.silent_times = 100
    pod.want(3, triton=pod.ports | {"instanceCount": 2}, generation="other settings")
    pod.until(lambda: pod.status()["signatures"] == {"3": None})
    assert len(pod.server.described) == 3 + agent_module.DESCRIBE_ATTEMPTS
    assert pod.probe("/readyz") == 200
    assert "signature can't be read" in pod.log.getvalue()


# One pod from version to version


@contextmanager
def watching(pod: Pod, probe: int = 200) -> Iterator[list[str]]:
    """What was wrong at any moment meanwhile: a pod whose readiness was answered otherwise than by `probe`, or a server
    that has nothing to answer with."""
    wrong: list[str] = []
    ended = threading.Event()

    def watch() -> None:
        while not ended.is_set():
            if pod.probe("/readyz") != probe:
                wrong.append(f"readiness isn't {probe}: {pod.status()}")
            if not pod.server.loaded:
                wrong.append("nothing loaded")
            time.sleep(0.002)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield wrong
    finally:
        ended.set()
        watcher.join()


def test_a_switch_in_place_keeps_the_pod_ready_and_goes_back(pod: Pod) -> None:
    pod.put(v1="slow", v2="slow")
    pod.want(1)
    pod.boot()
    assert pod.status()["serving"] == 1
    since = pod.status()["versions"][0]["since"]
    with watching(pod) as wrong:
        pod.want(2, 1, generation="up")
        pod.until_states(v1="Available", v2="Available")
        assert (pod.status()["serving"], pod.status()["ready"]) == (2, True)
        assert pod.status()["versions"][0]["since"] == since < pod.status()["versions"][1]["since"]
        pod.want(1, generation="down")
        pod.until(lambda: pod.status()["generation"] == "down")
        assert pod.states() in ({1: "Available", 2: "Unloading"}, {1: "Available"})
        pod.until_states(v1="Available")
        assert (pod.status()["serving"], set(pod.server.loaded)) == (1, {1})
        assert sorted(path.name for path in pod.server.folder.iterdir()) == ["1", "config.pbtxt"]
    assert wrong == []
    pod.server.kill()
    pod.server.start()
    assert pod.server.loaded.keys() == {1}


def test_in_its_turn_a_pod_leaves_the_service_before_it_loads_and_comes_back_with_the_new_version(pod: Pod) -> None:
    pod.put(2)
    pod.serve(1)
    pod.want_in_turn(2, 1)
    pod.until(lambda: pod.probe("/readyz") == 503)
    left_at = time.monotonic()
    assert (pod.status()["serving"], pod.status()["traffic"]) == (1, False)
    while pod.probe("/readyz") == 503:
        loaded = dict(pod.server.loaded)
        assert 2 not in loaded or time.monotonic() - left_at >= 0.2, "it drains before it loads"
        time.sleep(0.005)
    assert (pod.status()["serving"], pod.status()["traffic"]) == (2, True)
    assert pod.server.loaded.keys() == {1, 2}


def test_a_pod_whose_turn_it_isnt_fetches_and_loads_nothing_and_stays(pod: Pod) -> None:
    pod.put(2)
    pod.serve(1)
    with watching(pod) as wrong:
        pod.want_in_turn(2, 1, pods=["digits-b"])
        pod.until(lambda: pod.status()["generation"] == "turn")
        time.sleep(0.5)
    assert wrong == []
    assert pod.states() == {1: "Available"}
    assert pod.server.loads[-1] == (1,)


def test_a_pod_stays_in_the_service_while_the_new_version_is_fetched(pod: Pod) -> None:
    pod.serve(1)
    with watching(pod) as wrong:
        pod.want_in_turn(2, 1)
        pod.until(lambda: pod.status()["error"] is not None)
        time.sleep(0.4)
    assert wrong == []
    pod.put(2)
    pod.until(lambda: pod.status()["serving"] == 2 and pod.probe("/readyz") == 200)


@pytest.mark.parametrize("content", ["broken", "mute"])
def test_a_version_that_fails_in_its_turn_costs_the_pod_its_place_for_a_moment_only(pod: Pod, content: str) -> None:
    pod.put(v2=content)
    pod.serve(1)
    pod.want_in_turn(2, 1, golden=golden_of("two"))
    pod.until(lambda: pod.probe("/readyz") == 503)
    pod.until(lambda: pod.states()[2] == "Failed" and pod.probe("/readyz") == 200)
    assert pod.status()["serving"] == 1


def test_a_version_that_ends_the_server_in_its_turn_is_said_and_the_old_one_comes_back(pod: Pod) -> None:
    pod.put(v2="deadly")
    pod.serve(1)
    pod.want_in_turn(2, 1)
    pod.until(lambda: pod.states().get(2) == "Failed")
    assert pod.status()["error"]["reason"] == "LoadFailed"
    pod.server.start()
    pod.until(lambda: pod.probe("/readyz") == 200)
    assert pod.status()["serving"] == 1
    pod.want(1, generation="back")
    pod.until_states(v1="Available")


def test_a_held_version_is_told_but_gets_no_request_before_it_is_let_go(pod: Pod) -> None:
    pod.put(2)
    pod.serve(1)
    pod.want_in_turn(2, 1, held=True)
    pod.until(lambda: "2" in pod.status()["signatures"])
    assert (pod.probe("/readyz"), pod.states()[2]) == (503, "Available")
    pod.want_in_turn(2, 1, held=False, labels={})
    pod.until(lambda: pod.probe("/readyz") == 200)


def test_a_held_version_that_is_taken_back_is_gone_before_the_pod_is_in_the_service_again(pod: Pod) -> None:
    pod.put(2)
    pod.serve(1)
    pod.want_in_turn(2, 1, held=True)
    pod.until(lambda: pod.states().get(2) == "Available")
    pod.server.delay_seconds = 0.3
    pod.want(1, generation="back")
    pod.until(lambda: pod.status()["generation"] == "back")
    while pod.probe("/readyz") == 503:
        time.sleep(0.005)
    assert pod.status()["serving"] == 1


def test_pods_of_its_own_are_held_from_the_start(pod: Pod) -> None:
    pod.put(1)
    pod.want(1, held=True)
    pod.start()
    with watching(pod, probe=503) as wrong:
        pod.until(lambda: "1" in pod.status()["signatures"])
        time.sleep(0.2)
    assert wrong == []
    pod.want(1, generation="judged")
    pod.until(lambda: pod.probe("/readyz") == 200)


def test_the_higher_version_is_unloading_until_the_server_let_go_of_it(pod: Pod) -> None:
    pod.serve(2, 1)
    seen: list[tuple[object, dict[int, str]]] = []
    real, pod.server.delay_seconds = pod.server.delay_seconds, 0.3
    pod.want(1, generation="down")
    pod.until(lambda: pod.status()["generation"] == "down")
    while 2 in (states := pod.states()):
        seen.append((pod.status()["serving"], states))
        time.sleep(0.01)
    pod.server.delay_seconds = real
    assert seen[0] == (2, {1: "Available", 2: "Unloading"})
    assert {states[2] for _, states in seen} == {"Unloading"}
    assert pod.status()["serving"] == 1


def test_a_switch_in_place_that_fails_leaves_the_old_one_serving_with_the_servers_words(pod: Pod) -> None:
    pod.put(v2="broken")
    pod.serve(1)
    with watching(pod) as wrong:
        pod.want(2, 1, generation="up")
        pod.until_states(v1="Available", v2="Failed")
        assert pod.status()["serving"] == 1
        assert pod.status()["error"]["message"] == "Internal: not an ONNX model"
        pod.want(1, generation="back")
        pod.until_states(v1="Available")
    assert wrong == []


def test_a_label_on_a_version_that_isnt_loaded_is_said(pod: Pod) -> None:
    pod.put(3)
    pod.want(3, labels={"stable": 3, "canary": 4})
    pod.boot()
    assert pod.status()["labels"] == [
        {
            "label": "canary",
            "version": 4,
            "reason": "LabelNotLoaded",
            "message": "the label canary names version 4, which isn't loaded: neither the served version nor the "
            "version policy names it. It is left out; the other labels stand",
        }
    ]


def test_since_is_when_the_state_began(pod: Pod) -> None:
    pod.serve(3)
    since = pod.status()["versions"][0]["since"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", since)
    time.sleep(0.1)
    assert pod.status()["versions"][0]["since"] == since


def test_the_log_has_one_line_a_change(pod: Pod) -> None:
    pod.serve(3)
    time.sleep(0.3)
    lines = [line for line in pod.log.getvalue().splitlines() if "version state" in line]
    assert [line.split("version=3 state=")[1] for line in lines if "before" in line or "Fetching" in line][-1:] == [
        "Available before=Loading"
    ]
    assert pod.log.getvalue().count("pod is ready") == 1


def test_metrics_are_in_prometheus_text(pod: Pod) -> None:
    pod.serve(3)
    body = answer("/metrics", pod.board).body
    assert 'slipway_agent_versions{state="Available"} 1\n' in body
    assert "slipway_agent_ready 1\n" in body
    assert f"slipway_agent_fetched_bytes_total {len('weights')}\n" in body
    assert 'slipway_agent_fetches_total{result="published"} 1\n' in body
    sample = re.compile(r"(#.*|[a-z_]+(\{[a-z]+=\"[A-Za-z]+\"\})? [0-9.e-]+)")
    assert all(sample.fullmatch(line) for line in body.splitlines())


def test_a_stalled_loop_is_unhealthy() -> None:
    board = Board()
    assert answer("/healthz", board).status == 200
    board.turned_at -= 60
    assert answer("/healthz", board).status == 503
    assert answer("/nothing", board).status == 404


# As a process, as the kubelet sees it.


@pytest.fixture
def process(pod: Pod, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    pod.put(3)
    pod.want(3)
    port = free_port()
    package = str(Path(slipway_agent.__file__).parents[1])
    command = [sys.executable, "-m", "slipway_agent", "--config", str(pod.config), "--models", str(pod.models)]
    environment = {**os.environ, "PYTHONPATH": package, "SLIPWAY_LOG_FORMAT": "json"}
    with subprocess.Popen(
        [*command, "--port", str(port)], env=environment, stderr=subprocess.PIPE, text=True
    ) as running:
        yield running, port
        running.kill()


def ask(port: int, path: str) -> int:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=2) as response:
            return int(response.status)
    except urllib.error.HTTPError as refusal:
        with refusal:
            return int(refusal.code)
    except OSError:
        return 0


def test_sigterm_ends_it_and_without_a_traceback(pod: Pod, process: tuple[subprocess.Popen[str], int]) -> None:
    running, port = process
    pod.until(lambda: ask(port, "/startz") == 200)
    assert ask(port, "/readyz") == 503
    running.send_signal(signal.SIGTERM)
    assert running.wait(10) == 0
    assert running.stderr is not None
    lines = [json.loads(line) for line in running.stderr.read().splitlines()]
    assert [lines[0]["message"], lines[-1]["message"]] == ["agent starts", "stopping"]
    assert all(line.keys() >= {"time", "level", "message"} for line in lines)


def test_a_taken_port_is_said_in_one_line(pod: Pod) -> None:
    with socket.socket(socket.AF_INET6) as taken:
        taken.bind(("::", 0))
        taken.listen()
        package = str(Path(slipway_agent.__file__).parents[1])
        ended = subprocess.run(
            [sys.executable, "-m", "slipway_agent", "--models", str(pod.models), "--port", str(taken.getsockname()[1])],
            env={**os.environ, "PYTHONPATH": package},
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    assert ended.returncode == 1
    [line] = ended.stderr.splitlines()
    assert "Address already in use" in json.loads(line)["detail"]


# The server's own request


ASKED: dict[str, Any] = {
    "warmup": [{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1.0, 2.0]}]}]
}


@pytest.fixture
def probed(pod: Pod, monkeypatch: pytest.MonkeyPatch) -> Pod:
    """A pod that asks its server all the time."""
    monkeypatch.setattr(probe, "PROBE_SECONDS", 0.02)
    return pod


def is_failing(pod: Pod) -> bool:
    return bool((pod.status()["probe"] or {}).get("failing"))


def test_a_dead_backend_is_told_and_costs_the_pod_its_place_only_where_the_operator_says_so(probed: Pod) -> None:
    pod = probed
    pod.put(3)
    pod.want(3, **ASKED)
    pod.boot()
    pod.until(lambda: pod.status()["probe"] is not None and pod.status()["probe"]["asked"] > 1)
    assert pod.status()["probe"]["failed"] == 0
    assert not is_failing(pod)
    pod.server.is_backend_dead = True
    pod.until(lambda: is_failing(pod))
    told = pod.status()["probe"]
    assert (told["version"], told["message"]) == (3, "Failed to process the request: stub process is not healthy")
    assert pod.probe("/readyz") == 200, "an agent can't know of others"
    pod.want(3, **ASKED, out=["digits-b"], generation="another pod")
    pod.until(lambda: pod.status()["generation"] == "another pod")
    assert pod.probe("/readyz") == 200
    loads = len(pod.server.loads)
    pod.want(3, **ASKED, out=["digits-b", POD], generation="out")
    pod.until(lambda: pod.probe("/readyz") == 503)
    assert "its own request with errors: Failed to process" in answer("/readyz", pod.board).body
    assert pod.status()["traffic"] is False
    assert len(pod.server.loads) == loads
    pod.stop_agent()
    pod.start_agent()
    pod.until(lambda: pod.status()["generation"] == "out")
    assert pod.probe("/readyz") == 503, "it doesn't come back because its agent is another one"
    pod.server.is_backend_dead = False
    pod.until(lambda: pod.probe("/readyz") == 200)
    assert not is_failing(pod)


def test_a_server_that_doesnt_answer_in_time_is_no_broken_one(probed: Pod, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "PATIENCE_SECONDS", 0.05)
    probed.put(3)
    probed.want(3, **ASKED)
    probed.boot()
    probed.server.may_answer.clear()
    probed.until(lambda: probed.status()["probe"]["asked"] > 5)
    probed.server.may_answer.set()
    assert not is_failing(probed)
    assert probed.status()["probe"]["failed"] == 0


def test_a_golden_request_that_was_passed_is_asked_on_and_a_wrong_answer_is_no_reason(probed: Pod) -> None:
    probed.put(v3="three")
    probed.want(3, golden=golden_of("three"))
    probed.boot()
    probed.until(lambda: probed.status()["probe"]["asked"] > 0)
    probed.want(3, probe={"request": {"inputs": []}}, generation="stable")
    probed.until(lambda: probed.status()["generation"] == "stable")
    asked = probed.status()["probe"]["asked"]
    probed.server.loaded[3] = "another answer"
    probed.until(lambda: probed.status()["probe"]["asked"] > asked + 3)
    assert not is_failing(probed)
    assert probed.probe("/readyz") == 200


def test_without_a_request_of_its_own_nothing_is_asked(probed: Pod) -> None:
    probed.serve(3)
    time.sleep(0.2)
    assert probed.server.requests == []
    assert probed.status()["probe"] is None


def test_a_load_doesnt_wait_for_a_request_and_none_is_asked_beside_it(probed: Pod) -> None:
    probed.put(2, 3)
    probed.want(2, **ASKED)
    probed.boot()
    probed.until(lambda: probed.status()["probe"]["asked"] > 0)
    probed.server.may_answer.clear()
    asked = len(probed.server.requests)
    probed.until(lambda: len(probed.server.requests) > asked)
    gate = threading.Event()
    probed.server.gates.append(gate)
    probed.want(3, 2, **ASKED, generation="up")
    probed.until(lambda: not probed.server.gates)
    probed.server.may_answer.set()
    time.sleep(0.1)
    asked = len(probed.server.requests)
    time.sleep(0.3)
    assert len(probed.server.requests) == asked
    gate.set()
    probed.until(lambda: probed.status()["probe"] is not None and probed.status()["probe"]["version"] == 3)


def test_an_agent_that_starts_knows_that_its_pod_has_left_the_service(pod: Pod) -> None:
    def has_left() -> bool:
        return bool(json.loads((pod.models / ".agent" / "published.json").read_text())["left"])

    pod.put(1, 2)
    pod.serve(1)
    assert not has_left()
    pod.want_in_turn(2, 1, held=True)
    pod.until(lambda: pod.status()["ready"] and not pod.status()["traffic"])
    pod.until(has_left)
    pod.stop_agent()
    pod.start_agent()
    pod.until(lambda: bool(pod.status()["ready"]))
    assert not pod.status()["traffic"]
    pod.want_in_turn(2, 1, held=False, labels={})
    pod.until(lambda: bool(pod.status()["traffic"]))
    pod.until(lambda: not has_left())
