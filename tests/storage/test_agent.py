"""The whole agent with real stores: what the pods of a model live through when its store does."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import slipway_agent
from slipway_agent.plan import discovery, plan
from slipway_agent.volume.digest import digest_path
from tests.ports import free_port
from tests.storage.faults import Answer, Faults
from tests.storage.pushing import Pusher, entries
from tests.storage.servers import BUCKET, Registry, S3Server
from tests.unit.agent.loop.test_agent import Pod


class Pods:
    """Pods of one model, made as they are asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._pods: dict[str, Pod] = {}

    def __getitem__(self, name: str) -> Pod:
        if name not in self._pods:
            place = self.folder / name
            place.mkdir()
            self._pods[name] = Pod(place)
        return self._pods[name]

    def stop(self) -> None:
        for pod in self._pods.values():
            pod.stop_agent()
            pod.server.kill()
            assert "Traceback" not in pod.log.getvalue()
            assert "failed at its own work" not in pod.log.getvalue(), pod.log.getvalue()


@pytest.fixture
def pods(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pods]:
    monkeypatch.setattr(plan, "SETTLED_SECONDS", 0.05)
    monkeypatch.setattr(plan, "CHANGING_SECONDS", 0.02)
    monkeypatch.setattr(discovery, "AGREEING_SECONDS", 0.1)
    made = Pods(tmp_path)
    yield made
    made.stop()


def source(server: S3Server, prefix: str, keys: Path, **more: Any) -> dict[str, Any]:
    return {
        "uri": f"s3://{BUCKET}/{prefix}",
        "versions": {},
        "endpoint": server.url,
        "credentials": str(keys),
        "secretName": "store-credentials",
        "pollSeconds": 0.2,
    } | more


def test_a_model_comes_from_s3_and_new_versions_are_found(pods: Pods, s3: S3Server, prefix: str, keys: Path) -> None:
    s3.put(f"{prefix}/3/model.onnx")
    pod = pods["one"]
    pod.want(None, source=source(s3, prefix, keys))
    pod.start_agent()
    pod.until(lambda: list(pod.status()["found"]) == ["3"])
    pod.want(3, source=source(s3, prefix, keys))
    pod.boot_when_it_may()
    assert pod.status()["versions"][0]["sha256"] == digest_path(pod.models / "repository" / "digits" / "3")
    s3.put(f"{prefix}/4/weights.bin")
    s3.put(f"{prefix}/4/model.onnx", b"newer")
    pod.until(lambda: list(pod.status()["found"]) == ["3", "4"])
    pod.want(4, 3, source=source(s3, prefix, keys))
    pod.until(lambda: pod.states() == {3: "Available", 4: "Available"})


def test_a_secret_that_comes_late_is_asked_for_in_words_and_taken_up_at_once(
    pods: Pods, s3: S3Server, prefix: str, keys: Path
) -> None:
    s3.put(f"{prefix}/3/model.onnx")
    held = {path: path.read_text() for path in keys.iterdir()}
    for path in held:
        path.unlink()
    pod = pods["one"]
    pod.want(3, source=source(s3, prefix, keys))
    pod.start_agent()
    pod.until(lambda: pod.states() == {3: "Failed"})
    error = pod.status()["error"]
    assert (error["reason"], error["permanent"]) == ("AccessDenied", True)
    assert "Secret store-credentials isn't there" in error["message"]
    pod.until(lambda: pod.status()["listError"] is not None)  # listed by a thread of its own, which may end later
    assert pod.status()["listError"]["reason"] == "AccessDenied"
    for path, text in held.items():
        path.write_text(text)
    pod.boot_when_it_may()


def test_a_cut_and_busy_store_is_outlasted(pods: Pods, faulty: Faults, s3: S3Server, prefix: str, keys: Path) -> None:
    s3.put(f"{prefix}/3/model.onnx", b"weights" * 500_000)
    faulty.answers = [Answer.error(503, "SlowDown")]
    faulty.cuts_after_bytes = [1_000_000]
    pod = pods["one"]
    pod.want(3, source=source(s3, prefix, keys, endpoint=faulty.url))
    pod.boot()
    assert pod.states() == {3: "Available"}


def test_replicas_share_a_cache_and_a_rollback_needs_no_store(
    pods: Pods, faulty: Faults, s3: S3Server, prefix: str, keys: Path, tmp_path: Path
) -> None:
    s3.put(f"{prefix}/3/model.onnx", b"three" * 100_000)
    shared = source(s3, prefix, keys, endpoint=faulty.url, cache=str(tmp_path / "cache"))
    for name in ("one", "two", "three"):
        pods[name].want(3, source=shared)
    for name in ("one", "two", "three"):
        pods[name].start_agent()
    for name in ("one", "two", "three"):
        pods[name].boot_when_it_may()
    assert faulty.bodies(f"{prefix}/3/model.onnx") == 1, "one of them downloaded it"
    digest = pods["one"].status()["versions"][0]["sha256"]
    later = pods["later"]
    later.record(v3=digest)
    later.want(3, source=shared | {"endpoint": "http://127.0.0.1:1"})
    later.boot()
    assert later.status()["versions"][0]["sha256"] == digest


def test_other_bytes_under_a_recorded_number_are_never_served(
    pods: Pods, s3: S3Server, prefix: str, keys: Path
) -> None:
    s3.put(f"{prefix}/3/model.onnx", b"other")
    pod = pods["one"]
    pod.record(v3="a" * 64)
    pod.want(3, source=source(s3, prefix, keys))
    pod.start_agent()
    pod.until(lambda: pod.states() == {3: "Failed"})
    assert pod.status()["error"]["reason"] == "ContentChanged"


def test_a_model_comes_from_a_registry(pods: Pods, registry: Registry, prefix: str) -> None:
    push = Pusher(registry)
    push.image(prefix, "stable", push.layer(prefix, entries(model__onnx=b"image")))
    push.image(prefix, "next", push.file(prefix, "model.onnx", b"artifact"))
    pod = pods["one"]
    place = {"uri": f"oci://{registry.host}/{prefix}", "versions": {"3": "stable", "4": "next"}, "pollSeconds": 0.2}
    pod.want(3, 4, source=place)
    pod.boot()
    pod.until(lambda: pod.states() == {3: "Available", 4: "Available"})
    assert all(stamp.startswith("sha256:") for stamp in pod.status()["found"].values())


def test_a_killed_agents_download_goes_on_where_it_was(
    pods: Pods, faulty: Faults, s3: S3Server, prefix: str, keys: Path
) -> None:
    s3.put(f"{prefix}/3/model.onnx", b"weights" * 3_000_000)  # three parts
    pod = pods["one"]
    pod.want(3, source=source(s3, prefix, keys, endpoint=faulty.url))
    faulty.bytes_per_second = 12e6
    command = [sys.executable, "-m", "slipway_agent", "--config", str(pod.config), "--models", str(pod.models)]
    environment = {"PYTHONPATH": str(Path(slipway_agent.__file__).parents[1])}
    agent = subprocess.Popen(
        [*command, "--port", str(free_port())], env=environment, stderr=subprocess.DEVNULL, start_new_session=True
    )
    partial = pod.models / ".staging" / "3" / "download" / "model.onnx"
    deadline = time.monotonic() + 10
    while not (partial.is_file() and partial.stat().st_size > 2_000_000):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    agent.kill()
    agent.wait()
    begun_bytes = partial.stat().st_size
    faulty.bytes_per_second = None
    faulty.requests.clear()
    pod.boot()
    ranges = [headers["range"] for path, headers in faulty.requests if "model.onnx" in path]
    assert min(int(each.removeprefix("bytes=").partition("-")[0]) for each in ranges) == begun_bytes
