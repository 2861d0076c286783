"""What the supervisor is made of: its memory, its question to the server, its port."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from slipway_agent.model.readiness import ReadinessQuestion, Verdict, holds, read_verdict, write_verdict
from slipway_agent.reporting.bounded_server import Limits
from slipway_agent.supervisor import confirming, front
from slipway_agent.supervisor.confirming import Confirmer
from slipway_agent.supervisor.front import Front, start_front
from slipway_agent.supervisor.judging import GOOD, Judgement
from slipway_agent.supervisor.memory import Memory
from slipway_agent.supervisor.orders import Orders, names_out
from slipway_agent.supervisor.process import WorkerProcess, container_limit_bytes
from tests.unit.agent.servers.fake_http import FakeHttp, Said

MODULES = ("confirming", "front", "judging", "memory", "orders", "process", "supervise")
SERVES = Verdict(True, may_start=True, is_serving=True, version=3, question=ReadinessQuestion(8000, "/up"))


@pytest.mark.parametrize(
    ("expected", "found", "is_held"),
    [
        ({"a": 1}, {"a": 1, "b": 2}, True),
        ({"a": 1}, {"b": 1}, False),
        ({"a": "1"}, {"a": 1}, True),
        ([{"v": "3"}], [{"v": "2"}, {"v": 3, "state": "READY"}], True),
        ([{"v": "3", "state": "READY"}], [{"v": "2", "state": "READY"}, {"v": "3"}], False),
        ([{"v": "3"}], {"v": "3"}, False),
        ({"w": [{"s": "READY"}]}, {"w": [{"s": "DEAD"}, {"s": "READY"}]}, True),
        ({"w": [{"s": "READY"}]}, {"w": []}, False),
        ({"a": "x"}, {"a": {"x": 1}}, False),
        ({}, [], False),
    ],
)
def test_an_answer_holds_what_is_expected(expected: object, found: object, is_held: bool) -> None:
    assert holds(expected, found) is is_held


# memory


def test_what_was_remembered_is_known_to_the_next_container(tmp_path: Path) -> None:
    Memory(tmp_path, "boot").write(SERVES)
    assert Memory(tmp_path, "boot").read() == SERVES
    assert list((tmp_path / ".agent").iterdir()) == [tmp_path / ".agent" / "readiness.json"]


def test_after_the_nodes_crash_nothing_is_remembered(tmp_path: Path) -> None:
    Memory(tmp_path, "boot").write(SERVES)
    assert Memory(tmp_path, "another").read() is None


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"boot": "boot", "verdict": {"is_judging": true, "new": 1}}', "\0" * 9]
)
def test_a_record_that_cant_be_read_is_none(tmp_path: Path, text: str) -> None:
    assert Memory(tmp_path, "boot").read() is None
    (tmp_path / ".agent").mkdir()
    (tmp_path / ".agent" / "readiness.json").write_text(text)
    assert Memory(tmp_path, "boot").read() is None


def test_a_record_that_cant_be_written_leaves_no_old_one(tmp_path: Path) -> None:
    memory = Memory(tmp_path, "boot")
    memory.write(SERVES)
    (tmp_path / ".agent" / "readiness.json.new").mkdir()  # whatever keeps it from being written
    memory.write(Verdict(True))
    assert memory.read() is None


@pytest.mark.parametrize("raw", [None, 1, [], {}, {"question": {}}, write_verdict(SERVES) | {"question": {"port": 1}}])
def test_a_verdict_of_another_form_is_none(raw: Any) -> None:
    assert read_verdict(raw) is None


# orders


@pytest.mark.parametrize(
    ("text", "is_out"),
    [
        ('{"out": ["digits-a"]}', True),
        ('{"out": ["digits-b"]}', False),
        ('{"out": null}', False),
        ('{"out": "digits-a"}', False),
        ("{}", False),
        ("", False),
    ],
)
def test_agent_json_names_a_pod_that_is_to_leave(text: str, is_out: bool) -> None:
    assert names_out(text, "digits-a") is is_out


def test_another_agent_json_is_another_order(tmp_path: Path) -> None:
    orders = Orders(tmp_path / "agent.json", "digits-a")
    assert not orders.is_out()
    for text, is_out in (('{"out": ["digits-a"]}', True), ('{"out": []}', False)):
        (tmp_path / "new").write_text(text)
        (tmp_path / "new").rename(tmp_path / "agent.json")
        assert orders.is_out() is orders.is_out() is is_out


# the question


def server_that(answer: Callable[[], Said]) -> FakeHttp:
    return FakeHttp(lambda method, path, body: answer())


def test_the_key_goes_with_the_question_by_its_variables_name() -> None:
    server = server_that(lambda: (200, [{"version": "3"}]))
    question = ReadinessQuestion(server.port, "/index", "POST", '{"a": 1}', {"x-key": "KEY"}, [{"version": "3"}])
    assert confirming.ask(question, {"KEY": "secret"})
    [(method, path, body, headers)] = server.asked
    assert (method, path, body, headers["x-key"]) == ("POST", "/index", {"a": 1}, "secret")
    server.kill()


@pytest.mark.parametrize("said", [(503, ""), (200, []), (200, "no json"), None])
def test_another_answer_confirms_nothing(said: Said) -> None:
    server = server_that(lambda: said)
    assert not Confirmer({})(ReadinessQuestion(server.port, "/", expected=[{"version": "3"}]))
    server.kill()
    assert not Confirmer({})(ReadinessQuestion(server.port, "/"))


def test_many_who_ask_load_the_server_with_one_question() -> None:
    server = server_that(lambda: (200, ""))
    confirm = Confirmer({})
    question = ReadinessQuestion(server.port, "/")
    assert all(confirm(question) for _ in range(20))
    assert len(server.asked) < 20
    server.kill()


def test_a_busy_server_was_ready_and_a_silent_one_that_never_was_isnt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confirming, "KEPT_SECONDS", 0.0)
    server = server_that(lambda: (200, ""))
    question, confirm = ReadinessQuestion(server.port, "/"), Confirmer({})
    assert confirm(question)
    server.kill()
    monkeypatch.setattr(confirming, "ASK_SECONDS", 0.05)
    with socket.socket() as silent:  # takes connections, and never answers
        silent.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        silent.bind(("127.0.0.1", server.port))
        silent.listen()
        assert confirm(question)
        assert not Confirmer({})(question)
        monkeypatch.setattr(confirming, "BUSY_SECONDS", 0.0)
        assert not confirm(question)


def test_an_answer_that_drips_for_ever_holds_up_no_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confirming, "ASK_SECONDS", 0.3)
    over = threading.Event()

    def drip(listener: socket.socket) -> None:
        opened, _ = listener.accept()
        with opened, suppress(OSError):  # until the asker goes
            opened.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            while not over.wait(0.02):
                opened.sendall(b"x")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        dripping = threading.Thread(target=drip, args=(listener,))
        dripping.start()
        asking = threading.Thread(target=lambda: answers.append(confirm(question)), daemon=True)
        question, confirm = ReadinessQuestion(listener.getsockname()[1], "/"), Confirmer({})
        answers: list[bool] = []
        asking.start()
        asking.join(20)
        is_held_up = asking.is_alive()
        over.set()
        dripping.join(20)
    assert not is_held_up
    assert answers == [False]


def test_where_no_thread_can_be_started_the_server_is_asked_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(timer: threading.Timer) -> None:
        raise RuntimeError("can't start new thread")

    server = server_that(lambda: (200, ""))
    monkeypatch.setattr(threading.Timer, "start", refuse)
    assert Confirmer({})(ReadinessQuestion(server.port, "/"))
    server.kill()


# the worker


def test_a_worker_that_cant_be_started_leaves_nothing_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with socket.socket(socket.AF_UNIX) as listener:
        before = os.listdir("/proc/self/fd")
        for _ in range(3):
            with pytest.raises(FileNotFoundError):
                WorkerProcess([], listener, None)
        assert len(os.listdir("/proc/self/fd")) == len(before)


# the port


class Behind:
    """A worker of straw behind a real port."""

    def __init__(self) -> None:
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind("")
        self.listener.listen()
        self.ready, self.away = GOOD, ""
        probes = {"/readyz": lambda: self.ready}
        made = Front(probes, self.listener.getsockname(), lambda: self.away, lambda: "slipway_agent_worker_up 0\n")
        self.server = start_front(0, made)
        self.port = int(self.server.server_address[1])

    def ask(self, target: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{target}", timeout=10) as answer:
                return int(answer.status), answer.read().decode()
        except urllib.error.HTTPError as refusal:
            with refusal:
                return int(refusal.code), refusal.read().decode()


@pytest.fixture
def behind() -> Iterator[Behind]:
    made = Behind()
    yield made
    made.server.shutdown()
    made.server.server_close()
    made.listener.close()


def test_a_failed_probe_says_why(behind: Behind) -> None:
    assert behind.ask("/readyz") == (200, "ok\n")
    behind.ready = Judgement(False, "it loads \udcff")  # a file's name that is no UTF-8
    assert behind.ask("/readyz") == (503, "it loads ?\n")
    behind.ready = Judgement(False, "it loads")
    assert behind.ask("/readyz") == (503, "it loads\n")
    assert behind.ask("/nothing")[0] == 404


def test_without_a_worker_who_asks_hears_why_and_metrics_say_it(behind: Behind) -> None:
    behind.away = "the worker isn't there"
    for target in ("/status", "/listing?after=x&wait=60"):
        assert behind.ask(target) == (503, "the worker isn't there\n")
    assert behind.ask("/metrics") == (200, "slipway_agent_worker_up 0\n")


def test_a_worker_that_hangs_costs_who_asks_some_seconds(behind: Behind, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(front, "PASS_SECONDS", 0.1)
    status, words = behind.ask("/status")
    assert (status, words) == (503, "the agent's worker doesn't answer (timed out); it is started again\n")


def test_probes_are_answered_however_many_connections_others_hold(behind: Behind) -> None:
    held = [socket.create_connection(("127.0.0.1", behind.port)) for _ in range(2 * Limits().connections)]
    assert behind.ask("/readyz") == (200, "ok\n")
    held[0].settimeout(10)
    assert held[0].recv(1) == b"", "the oldest is cut"
    for each in held:
        each.close()


# the worker's command line, and the container's memory


@pytest.mark.parametrize("flags", [["-I"], ["-P"], []])
def test_the_worker_imports_from_where_the_supervisor_does(flags: list[str]) -> None:
    words = (
        f"import sys; sys.path[:0] = {sys.path!r}; from slipway_agent.supervisor.process import interpreter_flags; "
        "print(*interpreter_flags())"
    )
    found = subprocess.run([sys.executable, *flags, "-c", words], capture_output=True, text=True, check=True)
    assert found.stdout.split() == flags


def test_the_first_process_loads_nothing_that_fetches_or_unpacks() -> None:
    words = f"import sys; sys.path[:0] = {sys.path!r}; import slipway_agent.__main__; print(*sys.modules)"
    found = subprocess.run([sys.executable, "-I", "-c", words], capture_output=True, text=True, check=True)
    ours = {name for name in found.stdout.split() if name.startswith("slipway_agent.")}
    assert ours <= {
        "slipway_agent.__main__",
        "slipway_agent.model",
        "slipway_agent.model.readiness",
        "slipway_agent.node",
        "slipway_agent.reporting",
        "slipway_agent.reporting.bounded_server",
        "slipway_agent.reporting.log",
        "slipway_agent.supervisor",
        *(f"slipway_agent.supervisor.{name}" for name in MODULES),
    }
    assert not {"requests", "obstore", "tarfile", "zipfile"} & set(found.stdout.split())


def test_the_containers_limit_is_read_from_either_version_of_cgroups(tmp_path: Path) -> None:
    assert container_limit_bytes(tmp_path) is None
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text(f"{256 << 20}\n")
    assert container_limit_bytes(tmp_path) == 256 << 20
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    assert container_limit_bytes(tmp_path) is None
    (tmp_path / "memory.max").write_text(f"{64 << 20}\n")
    assert container_limit_bytes(tmp_path) == 64 << 20
