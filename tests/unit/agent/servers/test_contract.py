"""What every driver promises (servers/base.py), shown for each beside the fake of its server.

What one server alone does stands in its own file. A new driver joins with a fake and one entry in `contract`.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path

import pytest

from slipway_agent.model.errors import TransientError
from slipway_agent.model.readiness import Verdict, read_verdict, write_verdict
from slipway_agent.model.server_state import Gone, Loaded, Refused, ServerView
from slipway_agent.servers import custom, local_http, readiness
from slipway_agent.servers.tensorflow_serving import driver as tensorflow_serving
from slipway_agent.servers.torchserve import driver as torchserve
from slipway_agent.supervisor.confirming import ask
from tests.unit.agent.servers.contract import MAKERS, Beside, make_beside
from tests.unit.agent.servers.fake_http import some
from tests.unit.agent.servers.fake_tensorflow_serving import FakeTensorFlowServing, ServersTime

SEVERAL = [
    runtime for runtime in MAKERS if runtime != "Custom"
]  # a Custom container serves the version it started with
several = pytest.mark.parametrize("runtime", SEVERAL)


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LINGER_SECONDS", "POLL_SECONDS", "SETTLE_SECONDS"):
        monkeypatch.setattr(torchserve, name, 0.01)
    monkeypatch.setattr(tensorflow_serving, "POLL_SECONDS", 0.005)
    monkeypatch.setattr(custom, "POLL_SECONDS", 0.01)


@pytest.fixture(params=MAKERS)
def runtime(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def beside(runtime: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Beside]:
    made = make_beside(runtime, tmp_path)
    if isinstance(made.fake, FakeTensorFlowServing):
        monkeypatch.setattr(tensorflow_serving, "time", ServersTime(made.fake))
    yield made
    made.fake.kill()


def start(beside: Beside, *versions: int) -> None:
    """The server with these in its boot configuration; 3 is served."""
    beside.open().write_boot(some(*versions))
    beside.fake.start()


# files


def test_a_folder_without_files_is_no_model_and_the_driver_says_what_is(beside: Beside, tmp_path: Path) -> None:
    driver = beside.open()
    (tmp_path / "empty").mkdir()
    assert not driver.holds_model(tmp_path / "empty")
    assert not driver.holds_model(tmp_path / "nowhere")
    assert driver.accepted_files()


def test_a_server_that_was_never_configured_loads_nothing(beside: Beside) -> None:
    assert beside.open().read_boot() == some()


def test_a_start_loads_what_was_written_and_another_driver_reads_it(beside: Beside) -> None:
    beside.fake.put(v1="one", v3="three")
    start(beside, 3)
    assert beside.open().read_boot() == some(3)
    assert beside.open().observe(some(1, 3)) == ServerView(True, some(3))
    assert beside.open().load(some(3)) == Loaded()


@several
def test_a_start_loads_several(beside: Beside) -> None:
    beside.fake.put(v1="one", v2="two", v3="three")
    start(beside, 2, 3)
    assert beside.open().observe(some(1, 2, 3)) == ServerView(True, some(2, 3))


# loading


@several
def test_what_is_loaded_is_ready_and_what_a_start_would_load(beside: Beside) -> None:
    beside.fake.put(v2="two", v3="three")
    start(beside, 3)
    driver = beside.open()
    assert driver.load(some(2, 3)) == Loaded()
    assert driver.observe(some(1, 2, 3)) == ServerView(True, some(2, 3))
    assert driver.observe(some(3)) == ServerView(True, some(3)), "of what is asked about"
    assert driver.read_boot() == some(2, 3)
    beside.fake.kill()
    beside.fake.start()
    assert beside.open().observe(some(2, 3)) == ServerView(True, some(2, 3))


@several
def test_what_is_no_longer_asked_for_is_gone_when_the_load_ends(beside: Beside) -> None:
    beside.fake.put(v2="two", v3="three")
    start(beside, 2, 3)
    driver = beside.open()
    assert driver.load(some(3)) == Loaded()
    assert driver.observe(some(2, 3)) == ServerView(True, some(3))


def test_a_refusal_has_the_servers_words_and_leaves_the_boot_configuration_as_it_was(beside: Beside) -> None:
    beside.fake.put(v2="broken", v3="three")
    start(beside, 3)
    driver = beside.open()
    outcome = driver.load(some(2, 3))
    assert isinstance(outcome, Refused)
    assert outcome.words.keys() == {2}
    assert beside.refusal in outcome.words[2]
    assert beside.refusal in outcome.message
    assert driver.read_boot() == some(3)
    assert driver.observe(some(2, 3)) == ServerView(True, some(3))


@several
def test_a_version_that_failed_is_tried_anew_and_not_judged_by_its_last_failure(beside: Beside) -> None:
    beside.fake.put(v2="broken", v3="three")
    start(beside, 3)
    assert isinstance(beside.open().load(some(2, 3)), Refused)
    beside.fake.put(v2="two")
    assert beside.open().load(some(2, 3)) == Loaded()
    assert beside.open().observe(some(2, 3)) == ServerView(True, some(2, 3))


@several
def test_a_server_that_ends_during_a_load_is_gone_and_boots_as_before(beside: Beside) -> None:
    beside.fake.put(v2="deadly", v3="three")
    start(beside, 3)
    driver = beside.open()
    outcome = driver.load(some(2, 3))
    assert isinstance(outcome, Gone)
    assert outcome.was_asked
    assert "ended during the load" in outcome.message or "doesn't answer at" in outcome.message
    assert driver.read_boot() == some(3)
    assert driver.observe(some(3)) == ServerView()
    beside.fake.start()
    assert driver.observe(some(2, 3)) == ServerView(True, some(3))


# no server


def test_a_server_that_isnt_there_is_not_alive(beside: Beside) -> None:
    beside.fake.put(v3="three")
    driver = beside.open()
    assert driver.observe(some(3)) == ServerView()
    driver.write_boot(some(3))
    outcome = driver.load(some(3))
    assert isinstance(outcome, Gone)
    assert "doesn't answer at 127.0.0.1:" in outcome.message
    assert driver.observe(some(3)) == ServerView()


@several
def test_a_server_that_wasnt_there_was_not_asked(beside: Beside) -> None:
    beside.fake.put(v3="three")
    outcome = beside.open().load(some(3))
    assert isinstance(outcome, Gone)
    assert not outcome.was_asked


def test_the_end_of_a_server_is_noticed_at_once(beside: Beside) -> None:
    beside.fake.put(v3="three")
    start(beside, 3)
    driver = beside.open()
    assert driver.observe(some(3)) == ServerView(True, some(3))
    beside.fake.kill()
    assert driver.observe(some(3)) == ServerView()


def test_a_busy_server_keeps_its_last_answer_for_a_while(beside: Beside, monkeypatch: pytest.MonkeyPatch) -> None:
    beside.fake.put(v3="three")
    start(beside, 3)
    driver = beside.open()
    assert driver.observe(some(3)) == ServerView(True, some(3))
    beside.fake.kill()
    monkeypatch.setattr(local_http, "ASK_SECONDS", 0.05)
    monkeypatch.setattr(local_http.LocalHttp.ask, "__defaults__", (0.05, None))
    with socket.socket() as silent:  # takes connections, and never answers
        silent.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        silent.bind(("127.0.0.1", beside.fake.port))
        silent.listen()
        assert driver.observe(some(3)) == ServerView(True, some(3))
        for module in (readiness, tensorflow_serving):
            monkeypatch.setattr(module, "BUSY_SECONDS", 0.0)
        assert driver.observe(some(3)) == ServerView()


# what the supervisor asks while no worker is there


def confirms(beside: Beside, version: int = 3) -> bool:
    """Whether the server is as good as the driver's question wants it."""
    try:
        return ask(beside.open().readiness_question(version), {"SLIPWAY_SERVER_KEY": "key"})
    except (OSError, HTTPException):
        return False


def test_the_servers_readiness_is_one_question_that_travels_as_json(beside: Beside) -> None:
    question = beside.open().readiness_question(3)
    verdict = Verdict(True, is_serving=True, version=3, question=question)
    assert read_verdict(json.loads(json.dumps(write_verdict(verdict)))) == verdict
    assert "key" not in str(question.keys.values()), "the variable's name, not what it holds"


def test_the_question_is_answered_well_while_the_version_is_ready(beside: Beside) -> None:
    beside.fake.put(v3="three")
    assert not confirms(beside), "nothing listens"
    start(beside, 3)
    assert beside.open().observe(some(3)).ready == some(3)
    assert confirms(beside)
    beside.fake.kill()
    assert not confirms(beside)
    beside.fake.start()
    assert confirms(beside)


@several
def test_the_question_is_about_one_version(beside: Beside) -> None:
    beside.fake.put(v2="two", v3="three")
    start(beside, 2)
    assert [confirms(beside, version) for version in (2, 3)] == [True, False]
    assert beside.open().load(some(2, 3)) == Loaded()
    assert [confirms(beside, version) for version in (2, 3)] == [True, True]
    assert beside.open().load(some(3)) == Loaded()
    assert [confirms(beside, version) for version in (2, 3)] == [False, True]


# requests


def test_a_predict_request_is_answered_or_says_why_not(beside: Beside) -> None:
    beside.fake.put(v3="three")
    driver = beside.open()
    assert "the connection broke" in (driver.ask(3, {}).words or "")
    if beside.good is None:
        return  # TorchServe's inference API is another port, which its fake hasn't
    start(beside, 3)
    answer = driver.ask(3, beside.good)
    assert answer.words is None
    assert answer.seconds > 0
    if beside.bad is not None:
        assert driver.ask(3, beside.bad).words == beside.complaint


@pytest.mark.parametrize("runtime", ["Triton", "TensorFlowServing", "ONNXRuntime"])
def test_a_server_that_cant_be_asked_for_a_signature_is_asked_again(beside: Beside) -> None:
    with pytest.raises(TransientError):
        beside.open().signature(3)
