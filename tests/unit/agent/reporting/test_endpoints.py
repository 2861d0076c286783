"""The agent's HTTP: /listing may be waited on, and nothing else is held up by that."""

import json
import socket
import threading
import time
import urllib.request
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from slipway_agent.model.errors import Reason
from slipway_agent.plan.discovery import ListError, Listing
from slipway_agent.reporting import endpoints
from slipway_agent.reporting.endpoints import Board, answer, start_endpoints
from slipway_agent.reporting.report import Report, State, VersionReport

OLD, NEW = Listing(found={1: "a"}), Listing(found={1: "a", 2: None}, error=ListError(Reason.ACCESS_DENIED, "no"))


@pytest.fixture
def board() -> Board:
    made = Board()
    made.show(Report(listing=OLD))
    return made


@pytest.fixture
def port(board: Board) -> Iterator[int]:
    listener = socket.create_server(("127.0.0.1", 0))
    server = start_endpoints(listener, board)
    yield int(listener.getsockname()[1])
    server.shutdown()
    server.server_close()


def ask(port: int, target: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{target}", timeout=10) as response:
        found: dict[str, Any] = json.load(response)
    return found


class Asking(threading.Thread):
    """One who waits for news."""

    def __init__(self, port: int, after: str, wait_seconds: float = 20) -> None:
        super().__init__(daemon=True)
        self.target, self.port = f"/listing?after={after}&wait={wait_seconds}", port
        self.answer: dict[str, Any] | None = None
        self.start()

    def run(self) -> None:
        self.answer = ask(self.port, self.target)

    def end(self, seconds: float = 15.0) -> dict[str, Any]:
        self.join(seconds)
        assert self.answer is not None, "no answer yet"
        return self.answer


def test_what_is_found_is_answered_at_once_to_who_knows_something_else(port: int) -> None:
    expected = {"token": OLD.token, "found": {"1": "a"}, "error": None}
    assert ask(port, "/listing") == ask(port, "/listing?after=other&wait=20") == expected


def test_who_knows_it_waits_for_news(port: int, board: Board) -> None:
    asking = Asking(port, OLD.token)
    time.sleep(0.2)
    assert asking.answer is None
    board.show(Report(listing=OLD, served=3))
    time.sleep(0.1)
    assert asking.answer is None, "other news are none of the listing"
    board.show(Report(listing=NEW))
    assert asking.end() == {
        "token": NEW.token,
        "found": {"1": "a", "2": None},
        "error": {"reason": "AccessDenied", "message": "no"},
    }


def test_the_wait_ends_with_what_there_is(port: int) -> None:
    began = time.monotonic()
    assert ask(port, f"/listing?after={OLD.token}&wait=0.3")["token"] == OLD.token
    assert time.monotonic() - began >= 0.3


def test_waiting_holds_up_no_probe(port: int, board: Board) -> None:
    waiting = [Asking(port, OLD.token) for _ in range(20)]
    time.sleep(0.2)
    began = time.monotonic()
    for _ in range(20):
        ask(port, "/status")
    assert time.monotonic() - began < 10.0, "as long as one of them waits"
    board.show(Report(listing=NEW))
    assert {asking.end()["token"] for asking in waiting} <= {OLD.token, NEW.token}


def test_one_more_than_may_wait_sends_the_oldest_home(port: int, board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoints, "WAITERS_LIMIT", 2)
    waiting = []
    for _ in range(3):
        waiting.append(Asking(port, OLD.token))
        time.sleep(0.1)
    assert waiting[0].end()["token"] == OLD.token
    assert [asking.answer for asking in waiting[1:]] == [None, None]
    board.show(Report(listing=NEW))
    assert [asking.end()["token"] for asking in waiting[1:]] == [NEW.token, NEW.token]


@pytest.mark.parametrize("query", ["wait=x", "wait=-1", "wait=61", "wait=nan"])
def test_a_wait_that_makes_no_sense_is_refused(board: Board, query: str) -> None:
    found = answer(f"/listing?after={OLD.token}&{query}", board)
    assert found.status == 400
    assert found.body.startswith("wait must be")


@pytest.mark.parametrize(
    ("found", "served", "in_hand", "shown"),
    [
        (range(1, 4), 2, (), range(1, 4)),
        (range(1, 1001), None, (), range(745, 1001)),
        (range(1, 1001), 1000, (7,), [7, *range(745, 1001)]),
        (range(1, 1001), 500, (), [*range(245, 501), *range(745, 1001)]),
        (range(1, 1001), 2000, (2000,), range(745, 1001)),
        ((), 3, (3,), ()),
    ],
    ids=["few", "none named", "an old one loaded", "named by hand", "not found", "nothing found"],
)
def test_of_what_is_found_the_newest_are_told_and_what_the_agent_has_to_do_with(
    board: Board, found: Iterable[int], served: int | None, in_hand: tuple[int, ...], shown: Iterable[int]
) -> None:
    versions = tuple(VersionReport(version, State.AVAILABLE, "", "", None, None, 0, "") for version in in_hand)
    listing = Listing(found=dict.fromkeys(found, "f" * 64))
    board.show(Report(served=served, versions=versions, listing=listing))
    status = json.loads(answer("/status", board).body)
    assert status["listed"] == list(shown)
    assert status["found"] == json.loads(answer("/listing", board).body)["found"]
    assert status["found"] == {str(version): "f" * 16 for version in shown}


def test_no_history_makes_a_status_that_the_operator_wont_read(board: Board) -> None:
    found = dict.fromkeys(range(2147383648, 2147483648), "f" * 64)
    board.show(Report(served=2147433648, listing=Listing(found=found)))
    assert max(len(answer(path, board).body) for path in ("/status", "/listing")) < 64 * 1024


def test_status_says_whose_agent_it_is(port: int, board: Board) -> None:
    board.pod = "digits-0d9e7c4f11-x2lq7"
    assert ask(port, "/status")["pod"] == "digits-0d9e7c4f11-x2lq7"
