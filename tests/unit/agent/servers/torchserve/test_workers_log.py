"""The workers' log lies where a model's own code may write: what isn't an ordinary file says nothing, and at once."""

import os
import resource
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from slipway_agent.servers.torchserve.files import find_words
from slipway_agent.servers.torchserve.workers_log import LIMIT_BYTES, measure_log, read_log

SECONDS = 20.0


def answers(question: Callable[[], object]) -> object:
    """The answer; it fails where there is none in good time: an open that waits can't be waited for."""
    found: list[object] = []
    asking = threading.Thread(target=lambda: found.append(question()), daemon=True)
    asking.start()
    asking.join(SECONDS)
    assert found, "it waits"
    return found[0]


def test_it_is_read_from_a_place_on_and_from_the_start_where_it_was_begun_anew(tmp_path: Path) -> None:
    log = tmp_path / "workers.log"
    assert (measure_log(log), read_log(log, 0)) == (0, "")
    log.write_text("one\ntwo\n")
    assert (measure_log(log), read_log(log, 4), read_log(log, 8)) == (8, "two\n", "")
    log.write_text("new\n")
    assert read_log(log, 8) == "new\n"


def link_to_a_secret(log: Path) -> None:
    secret = log.parent.parent / "secret"
    secret.write_text("SECRET=1\n")
    log.symlink_to(secret)


def link_to_the_environment(log: Path) -> None:
    log.symlink_to("/proc/self/environ")


def folder(log: Path) -> None:
    log.mkdir()


def listening(log: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(log))


@pytest.mark.parametrize("trick", [link_to_a_secret, link_to_the_environment, os.mkfifo, folder, listening])
def test_what_is_no_ordinary_file_is_neither_followed_nor_waited_on(
    tmp_path: Path, trick: Callable[[Path], None]
) -> None:
    (tmp_path / "log").mkdir()
    log = tmp_path / "log" / "workers.log"
    trick(log)
    assert answers(lambda: (measure_log(log), read_log(log, 0))) == (0, "")


def test_no_more_is_read_than_the_server_would_write(tmp_path: Path) -> None:
    log = tmp_path / "workers.log"
    with log.open("wb") as file:
        file.write(b"words\n")
        file.truncate(1 << 40)
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    text = read_log(log, 0)
    assert text.startswith("words\n")
    assert len(text) == LIMIT_BYTES
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib < 64 * 1024
    assert len(read_log(log, 1 << 39)) == LIMIT_BYTES


def test_an_error_without_an_end_is_cut_and_not_joined_for_ever() -> None:
    opening = "W-9000-m_1-stdout Backend worker process died.\nW-9000-m_1-stdout Traceback (most recent call last):\n"
    log = opening + "W-9000-m_1-stdout ValueError: x\n" + "W-9000-m_1-stdout y\n" * (LIMIT_BYTES // 20)
    words = find_words(log, "m", 1)
    assert words is not None
    assert words.startswith("ValueError: x y y")
    assert len(words) < 3000
