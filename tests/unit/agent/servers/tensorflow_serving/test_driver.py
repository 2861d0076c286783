"""TensorFlow Serving's driver: the files it writes, its reading of the status, labels, failures, silence."""

from __future__ import annotations

import gc
import json
import os
import struct
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path

import pytest

from slipway_agent.config import Fields
from slipway_agent.model.errors import Reason, SpecError
from slipway_agent.model.server_state import Loaded, Refused, ServerView
from slipway_agent.servers.tensorflow_serving import driver as tensorflow_serving
from slipway_agent.servers.tensorflow_serving.config import (
    ModelConfig,
    TensorFlowServingSpec,
    choose_labels,
    compose_batching,
    compose_models,
    compose_monitoring,
    read_models,
)
from slipway_agent.servers.tensorflow_serving.driver import (
    TensorFlowServer,
    VersionStatus,
    parse_settings,
    parse_status,
    require_signature,
)
from slipway_agent.servers.tensorflow_serving.saved_model import MetaGraph, UnreadableError, parse_saved_model
from slipway_agent.servers.tensorflow_serving.warmup import FILE, compose_log, frame
from slipway_agent.volume.models_volume import ModelVolume
from tests.unit.agent.servers.fake_http import FakeServer, some
from tests.unit.agent.servers.fake_tensorflow_serving import FakeTensorFlowServing, ServersTime


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeTensorFlowServing]:
    made = FakeTensorFlowServing(tmp_path / "repository" / "digits")
    monkeypatch.setattr(tensorflow_serving, "POLL_SECONDS", 0.005)
    monkeypatch.setattr(tensorflow_serving, "time", ServersTime(made))
    yield made
    made.kill()


def driver_of(
    fake: FakeTensorFlowServing, labels: Mapping[str, int] | None = None, named: Collection[int] = ()
) -> TensorFlowServer:
    volume = ModelVolume(fake.folder.parents[1], "digits")
    return TensorFlowServer(volume, TensorFlowServingSpec(http_port=fake.port), labels or {}, named)


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def put_anew(fake: FakeTensorFlowServing, content: str) -> None:
    """Other bytes come in the place of version 3, as publishing has it: by another folder."""
    (fake.folder / "3").rename(fake.folder.parents[1] / "replaced")
    fake.put(v3=content)


@pytest.mark.parametrize("note", [None, "", "[]", '{"3": [1]}', '{"3": null}', "\0"])
def test_bytes_that_came_while_no_agent_looked_are_loaded(
    fake: FakeTensorFlowServing, monkeypatch: pytest.MonkeyPatch, note: str | None
) -> None:
    read: list[str] = []

    def note_read(version: int) -> str:
        read.append(FakeServer.read(fake, version))
        return read[-1]

    monkeypatch.setattr(fake, "read", note_read)
    fake.put(v3="old")
    first = driver_of(fake)
    first.write_boot(some(3))
    fake.start()
    assert first.observe(some(3)) == ServerView(True, some(3))
    put_anew(fake, "new")
    if note is not None:  # as a crash, or another release, leaves it
        ModelVolume(fake.folder.parents[1], "digits").write_note("loaded.json", note)
    second = driver_of(fake)  # an agent that was started again, or another agent.json
    assert second.observe(some(3)) == ServerView(True, some(3))
    assert second.load(some(3)) == Loaded()
    assert read == (["old", "new"] if note is None else ["old"])


def test_a_server_that_was_seen_down_is_loaded_with_what_is_there(fake: FakeTensorFlowServing) -> None:
    fake.put(v3="old")
    driver = driver_of(fake)
    driver.write_boot(some(3))
    fake.start()
    driver.observe(some(3))
    fake.kill()
    driver.observe(some(3))
    put_anew(fake, "new")
    fake.start()
    again = driver_of(fake)
    assert again.observe(some(3)) == ServerView(True, some(3))
    taken = len(fake.taken)
    assert again.load(some(3)) == Loaded()
    assert all(3 in each.versions for each in fake.taken[taken:]), "it serves on"


# --- loading ----------------------------------------------------------------------------------------------------------


def test_what_a_refused_load_left_behind_is_waited_for_before_a_label_is_put_on_it(
    fake: FakeTensorFlowServing, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.put(v1="one", v2="two", v4="broken")
    driver = driver_of(fake, {"newest": 1})
    driver.write_boot(some(2))
    fake.start()
    write, restore = TensorFlowServer._write_models, TensorFlowServer._restore

    def restore_unseen(self: TensorFlowServer, before: str | None) -> None:
        fake.polls = False
        fake.look()  # one that had begun is over
        assert fake.states[1][0] == "AVAILABLE"
        restore(self, before)

    def write_late(self: TensorFlowServer, *arguments: object) -> None:
        """The server looks at the file that was put back in the last moment."""
        fake.look()
        fake.polls = True
        write(self, *arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as refused:
        refused.setattr(TensorFlowServer, "_restore", restore_unseen)
        assert isinstance(driver.load(some(1, 2, 4)), Refused)
    monkeypatch.setattr(TensorFlowServer, "_write_models", write_late)
    assert driver.load(some(1, 2)) == Loaded()
    until(lambda: fake.labels == {"newest": 1})


def test_a_server_that_doesnt_take_up_its_file_is_said_to(
    fake: FakeTensorFlowServing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensorflow_serving, "SILENT_SECONDS", 0.1)
    fake.put(v2="two", v3="three")
    driver = driver_of(fake)
    driver.write_boot(some(3))
    fake.start()
    fake.polls = False
    outcome = driver.load(some(2, 3))
    assert isinstance(outcome, Refused)
    assert outcome.words.keys() == {2}
    assert "--model_config_file_poll_wait_seconds" in outcome.message


def test_other_bytes_under_the_same_number_are_loaded_anew(fake: FakeTensorFlowServing, tmp_path: Path) -> None:
    fake.put(v2="two", v3="three")
    driver = driver_of(fake)
    driver.write_boot(some(2, 3))
    fake.start()
    assert driver.observe(some(2, 3)).ready == some(2, 3)
    (fake.folder / "2").rename(tmp_path / "replaced")
    fake.put(v2="other")
    before = len(fake.taken)
    assert driver.load(some(2, 3)) == Loaded()
    assert [taken.versions for taken in fake.taken[before:]] == [some(3), some(2, 3)]
    before = len(fake.taken)
    assert driver.load(some(2, 3)) == Loaded()
    assert len(fake.taken) == before, "a load of what is loaded changes nothing"


def test_bytes_that_come_during_a_load_are_loaded_by_the_next(fake: FakeTensorFlowServing, tmp_path: Path) -> None:
    fake.put(v2="two", v3="held")
    driver = driver_of(fake)
    driver.write_boot(some(2))
    fake.start()
    driver.observe(some(2))
    loading = threading.Thread(target=driver.load, args=(some(2, 3),))
    loading.start()
    until(lambda: fake.states.get(3, ("", ""))[0] == "LOADING")
    (fake.folder / "2").rename(tmp_path / "replaced")
    fake.put(v2="other")
    fake.may_load.set()
    loading.join()
    before = len(fake.taken)
    assert driver.load(some(2, 3)) == Loaded()
    assert [taken.versions for taken in fake.taken[before:]] == [some(3), some(2, 3)]


# --- labels -----------------------------------------------------------------------------------------------------------


def test_a_label_moves_when_its_version_is_there_and_the_old_one_waits_for_it(fake: FakeTensorFlowServing) -> None:
    fake.put(v2="two", v3="slow")
    driver = driver_of(fake, {"stable": 2}, [2])
    driver.write_boot(some(2))
    fake.start()
    assert fake.labels == {"stable": 2}
    assert driver_of(fake, {"stable": 3, "absent": 9}, [3]).load(some(3)) == Loaded()
    assert fake.labels == {"stable": 3}
    # at no time was there a file with the label on nothing, and the old version stayed until it had moved
    assert [(set(taken.versions), dict(taken.labels)) for taken in fake.taken[-2:]] == [
        ({2, 3}, {"stable": 2}),
        ({3}, {"stable": 3}),
    ]


def test_labels_alone_are_moved_by_a_load_of_what_is_loaded(fake: FakeTensorFlowServing) -> None:
    fake.put(v2="two", v3="three")
    driver = driver_of(fake, {"stable": 2}, [2, 3])
    driver.write_boot(some(2, 3))
    fake.start()
    assert driver_of(fake, {"stable": 3, "previous": 2}, [2, 3]).load(some(2, 3)) == Loaded()
    assert fake.labels == {"stable": 3, "previous": 2}


def test_a_load_that_fails_leaves_the_labels_where_they_were(fake: FakeTensorFlowServing) -> None:
    fake.put(v2="two", v3="broken")
    driver = driver_of(fake, {"stable": 2}, [2])
    driver.write_boot(some(2))
    fake.start()
    assert isinstance(driver_of(fake, {"stable": 3}, [2, 3]).load(some(2, 3)), Refused)
    assert read_models((fake.folder / "models.config").read_text()) == ModelConfig(some(2), {"stable": 2})
    until(lambda: fake.labels == {"stable": 2})


@pytest.mark.parametrize(
    ("wanted", "written", "available", "named", "chosen"),
    [
        ({}, {"stable": 2}, {2}, {2}, {}),
        ({"stable": 2}, {}, {2}, {2}, {"stable": 2}),
        ({"stable": 3}, {"stable": 2}, {2}, {2, 3}, {"stable": 2}),
        ({"stable": 3}, {"stable": 2}, {2, 3}, {2, 3}, {"stable": 3}),
        # never to be loaded: out, and not left on what it isn't meant for
        ({"stable": 3}, {"stable": 2}, {2}, {2}, {}),
        ({"stable": 3}, {"stable": 1}, {2}, {2, 3}, {}),
    ],
)
def test_where_a_label_may_stand(
    wanted: dict[str, int], written: dict[str, int], available: set[int], named: set[int], chosen: dict[str, int]
) -> None:
    assert choose_labels(wanted, written, available, named) == chosen


# --- observing --------------------------------------------------------------------------------------------------------


def test_a_settled_server_is_asked_seldom_and_its_end_is_noticed_at_once(
    fake: FakeTensorFlowServing, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.put(v3="three")
    driver = driver_of(fake)
    driver.write_boot(some(3))
    fake.start()
    for _ in range(20):
        assert driver.observe(some(3)) == ServerView(True, some(3))
    assert fake.asked == 1
    monkeypatch.setattr(tensorflow_serving, "STEADY_SECONDS", 0.0)
    driver.observe(some(3))
    assert fake.asked == 2


def test_a_server_that_isnt_as_the_file_says_is_asked_each_time(fake: FakeTensorFlowServing) -> None:
    fake.put(v2="broken", v3="three")
    driver = driver_of(fake)
    driver.write_boot(some(2, 3))
    fake.start()
    for _ in range(3):
        assert driver.observe(some(2, 3)) == ServerView(True, some(3))
    assert fake.asked == 3


def test_a_version_that_isnt_loaded_answers_no_request(fake: FakeTensorFlowServing) -> None:
    fake.put(v3="three")
    driver = driver_of(fake)
    driver.write_boot(some(3))
    fake.start()
    assert driver.ask(2, {"instances": [1.0]}).words == "HTTP 404: Servable not found for request: Specific(digits, 2)"


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (b"", {}),
        (b"[]", {}),
        (b'{"error": "Could not find any versions of model digits"}', {}),
        (b'{"model_version_status": [{"version": "x", "state": "END"}, 7]}', {}),
        (
            b'{"model_version_status": [{"version": "2", "state": "LOADING", "status": {"error_code": "OK"}}]}',
            {2: VersionStatus("LOADING")},
        ),
        (
            b'{"model_version_status": [{"version": "2", "state": "END", "status": {"error_code": "NOT_FOUND", '
            b'"error_message": "no"}}]}',
            {2: VersionStatus("END", "NOT_FOUND: no")},
        ),
    ],
)
def test_the_status_is_read_whatever_it_says(body: bytes, found: dict[int, VersionStatus]) -> None:
    assert parse_status(body) == found


# --- files ------------------------------------------------------------------------------------------------------------


def test_the_model_file_names_versions_one_by_one() -> None:
    assert compose_models("digits", "/models/repository/digits", {3, 2}, {"stable": 3}).splitlines() == [
        "model_config_list {",
        "  config {",
        '    name: "digits"',
        '    base_path: "/models/repository/digits"',
        '    model_platform: "tensorflow"',
        "    model_version_policy {",
        "      specific {",
        "        versions: 2",
        "        versions: 3",
        "      }",
        "    }",
        "    version_labels {",
        '      key: "stable"',
        "      value: 3",
        "    }",
        "  }",
        "}",
    ]


@pytest.mark.parametrize("labels", [{}, {"stable": 3}, {"stable": 3, 'odd "one" \\ here': 2}])
def test_a_model_file_is_read_as_it_was_written(labels: dict[str, int]) -> None:
    assert read_models(compose_models("digits", "/m", {2, 3}, labels)) == ModelConfig(some(2, 3), labels)


@pytest.mark.parametrize("text", ["", "{", "model_config_list { config: 7 }", "other { }"])
def test_what_is_no_model_file_of_ours_names_nothing(text: str) -> None:
    assert read_models(text) == ModelConfig()


def test_monitoring_and_batching_are_written_at_boot(fake: FakeTensorFlowServing) -> None:
    fake.put(v3="three")
    volume = ModelVolume(fake.folder.parents[1], "digits")
    spec = TensorFlowServingSpec(max_batch_size=16, max_delay_microseconds=500, batch_threads=2)
    TensorFlowServer(volume, spec, {}, ()).write_boot(some(3))
    assert (fake.folder / "monitoring.config").read_text() == compose_monitoring()
    batching = (fake.folder / "batching.config").read_text()
    assert " ".join(batching.split()) == (
        "max_batch_size { value: 16 } batch_timeout_micros { value: 500 } num_batch_threads { value: 2 } "
        "max_enqueued_batches { value: 200 }"
    )
    assert compose_batching(TensorFlowServingSpec()) == ""


def test_settings_are_read_and_checked() -> None:
    fields = Fields("tensorflowServing", {"httpPort": 1, "maxBatchSize": 4, "maxDelayMicroseconds": 0})
    assert parse_settings(fields) == TensorFlowServingSpec(1, 4, 0, None)
    assert parse_settings(Fields("tensorflowServing", {})) == TensorFlowServingSpec()
    with pytest.raises(SpecError, match="maxBatchSize"):
        parse_settings(Fields("tensorflowServing", {"maxBatchSize": 0}))


# --- SavedModels ------------------------------------------------------------------------------------------------------


def field(number: int, content: bytes) -> bytes:
    """A length-delimited field, as protobuf writes it."""
    length, words = len(content), b""
    while length > 0x7F:
        words += bytes([length & 0x7F | 0x80])
        length >>= 7
    return bytes([number << 3 | 2]) + words + bytes([length]) + content


def saved_model(tags: Collection[str], signatures: Collection[str], **inputs: int) -> bytes:
    """Each signature has the same inputs: name to the number of their type."""
    info = b"".join(field(4, tag.encode()) for tag in tags)
    graph = field(2, b"\x00" * 300)  # a graph is stepped over, whatever it holds
    taken = b"".join(
        field(1, field(1, name.encode()) + field(2, field(1, b"x:0") + bytes([2 << 3, dtype])))
        for name, dtype in inputs.items()
    )
    named = b"".join(field(5, field(1, name.encode()) + field(2, taken)) for name in signatures)
    return b"\x08\x01" + field(2, field(1, info) + graph + named)


def test_tags_and_signatures_are_read_without_tensorflow() -> None:
    content = saved_model(["serve", "gpu"], ["serving_default", "__saved_model_init_op"], x=1, words=7)
    expected = MetaGraph(frozenset({"serve", "gpu"}), {"serving_default": {"x": 1, "words": 7}})
    assert parse_saved_model(content) == (expected,)


@pytest.mark.parametrize("content", [b"", b"this is no model\n" * 20, saved_model(["serve"], ["a"])[:-3], b"\x0b" * 9])
def test_what_is_no_saved_model_is_said_to_be_none(content: bytes) -> None:
    with pytest.raises(UnreadableError):
        parse_saved_model(content)


@pytest.mark.parametrize(
    ("content", "is_refused"),
    [
        (saved_model(["serve"], ["serving_default"]), False),
        (saved_model(["serve"], ["another"]), False),
        (saved_model(["serve"], ["__saved_model_init_op"]), True),
        (saved_model(["serve"], []), True),
        # what the server refuses itself is left to its own words
        (saved_model(["train"], []), False),
        (b"no model", False),
    ],
)
def test_a_model_that_could_never_be_asked_is_refused(tmp_path: Path, content: bytes, is_refused: bool) -> None:
    (tmp_path / "saved_model.pb").write_bytes(content)
    if not is_refused:
        require_signature(tmp_path)
        return
    with pytest.raises(SpecError) as refusal:
        require_signature(tmp_path)
    assert refusal.value.reason is Reason.NO_MODEL_FILE
    assert "signatures=" in refusal.value.message


def test_a_saved_model_is_known_by_its_file(fake: FakeTensorFlowServing, tmp_path: Path) -> None:
    driver = driver_of(fake)
    folder = tmp_path / "found"
    folder.mkdir()
    assert not driver.holds_model(folder)
    (folder / "saved_model.pbtxt").write_text("")
    assert driver.holds_model(folder)
    assert "saved_model.pb" in driver.accepted_files()
    driver.name_files(folder)
    assert json.dumps([path.name for path in folder.iterdir()]) == '["saved_model.pbtxt"]'


# --- warm-up ----------------------------------------------------------------------------------------------------------


def test_warm_up_requests_join_those_that_the_model_brought(fake: FakeTensorFlowServing, tmp_path: Path) -> None:
    folder = tmp_path / "found"
    (folder / "assets.extra").mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(saved_model(["serve"], ["serving_default"], x=1))
    (folder / FILE).write_bytes(b"its own")
    elsewhere = tmp_path / "elsewhere"
    os.link(folder / FILE, elsewhere)
    volume = ModelVolume(tmp_path / "volume", "digits")
    TensorFlowServer(volume, TensorFlowServingSpec(), {}, (), [{"instances": [1.0]}]).name_files(folder)
    written = (folder / FILE).read_bytes()
    assert written.startswith(b"its own")
    assert b"serving_default" in written
    assert struct.pack("<f", 1.0) in written
    assert elsewhere.read_bytes() == b"its own", "the file may be another's, by a link"


def test_a_record_has_tensorflows_checksums() -> None:
    # written by tf.io.TFRecordWriter
    assert frame(b"").hex() == "000000000000000029039807d8ea82a2"


def test_a_request_becomes_the_message_that_a_client_would_send() -> None:
    (graph,) = parse_saved_model(saved_model(["serve"], ["serving_default"], x=1))
    shape = field(2, b"\x08\x02") * 2  # [2, 2]
    x = b"\x08\x01" + field(2, shape) + field(4, struct.pack("<4f", 1.0, 2.0, 3.0, 4.0))
    request = field(1, field(1, b"digits") + field(3, b"serving_default")) + field(2, field(1, b"x") + field(2, x))
    expected = field(6, field(1, request))
    for body in (
        {"instances": [[1.0, 2.0], [3, 4]]},
        {"instances": [{"x": [1.0, 2.0]}, {"x": [3.0, 4.0]}]},
        {"inputs": [[1.0, 2.0], [3.0, 4.0]]},
        {"inputs": {"x": [[1.0, 2.0], [3.0, 4.0]]}, "signature_name": "serving_default"},
    ):
        assert compose_log("digits", graph, body, 1) == expected


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (7, "it is no object"),
        ({}, "either 'instances' or 'inputs'"),
        ({"instances": [1.0], "inputs": [1.0]}, "either 'instances' or 'inputs'"),
        ({"instances": []}, "no list with a row"),
        ({"signature_name": "no", "instances": [1.0]}, "no signature 'no', but serving_default"),
        ({"instances": [1.0]}, "its inputs have no names, and the signature takes words, x"),
        ({"instances": [{"x": 1.0}]}, "it has the inputs x, and serving_default takes words, x"),
        ({"instances": [{"x": 1.0, "words": "a"}, {"x": 1.0}]}, "don't name the same inputs"),
        ({"inputs": {"x": [[1.0], 2.0], "words": ["a"]}}, "input x is nested unevenly"),
        ({"inputs": {"x": ["one"], "words": ["a"]}}, "input x takes float, and is given something else"),
        ({"inputs": {"x": [True], "words": ["a"]}}, "input x takes float, and is given something else"),
        ({"inputs": {"x": [1.0], "words": [1]}}, "input words takes texts, and is given something else"),
        ({"inputs": {"x": [1.0], "words": [{"b64": "?"}]}}, "input words isn't in base64"),
    ],
)
def test_a_warm_up_request_that_cant_be_asked_is_refused_by_number(body: object, words: str) -> None:
    (graph,) = parse_saved_model(saved_model(["serve"], ["serving_default"], x=1, words=7))
    with pytest.raises(SpecError) as refusal:
        compose_log("digits", graph, body, 3)
    assert refusal.value.reason is Reason.WARMUP_FAILED
    assert refusal.value.message.startswith("request 3 of spec.warmup can't be asked: ")
    assert words in refusal.value.message


def test_a_driver_that_is_garbage_ends_its_connection_whatever_is_collected_first(fake: FakeTensorFlowServing) -> None:
    fake.put(v1="one")
    driver = driver_of(fake)
    driver.write_boot(some(1))
    fake.start()
    driver.observe(some(1))
    connection = driver._kept.connection
    assert connection is not None
    assert connection.fileno() >= 0
    in_a_circle = [driver]
    in_a_circle.append(in_a_circle)  # type: ignore[arg-type]  # garbage that only the collector finds
    del driver, in_a_circle
    gc.collect()
    assert connection.fileno() == -1
