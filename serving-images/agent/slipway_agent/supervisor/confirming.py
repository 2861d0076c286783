"""Asks the server on the pod's loopback whether what is remembered still holds. Knows nothing of any server."""

import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

from slipway_agent.model.readiness import ReadinessQuestion, holds

HOST = "127.0.0.1"
ASK_SECONDS = 1.0  # a probe waits for two
KEPT_SECONDS = 0.5
BUSY_SECONDS = 15.0  # how long a good answer stands in for one that doesn't come
ANSWER_BYTES = 1 << 20


class Confirmer:
    """One question at a time, and an answer is kept for half a second: whoever asks the probes doesn't load the server.

    Busy is not gone: a server that was ready and is too busy to say so counts as ready for a while.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self._lock = threading.Lock()
        self._question: ReadinessQuestion | None = None
        self._is_good = False
        self._asked_at = self._good_at = float("-inf")

    def __call__(self, question: ReadinessQuestion) -> bool:
        with self._lock:
            began = time.monotonic()
            if question != self._question:
                self._question, self._good_at = question, float("-inf")
            elif began - self._asked_at < KEPT_SECONDS:
                return self._is_good
            try:
                self._is_good = ask(question, self._environment)
            except TimeoutError:
                self._is_good = began - self._good_at < BUSY_SECONDS
            except (OSError, http.client.HTTPException):
                self._is_good = False
            else:
                if self._is_good:
                    self._good_at = began
            self._asked_at = time.monotonic()
            return self._is_good


def ask(question: ReadinessQuestion, environment: Mapping[str, str]) -> bool:
    """Whether the server answers as expected, within ASK_SECONDS in all: TimeoutError. Another OSError or an
    HTTPException where it doesn't answer at all."""
    connection = http.client.HTTPConnection(HOST, question.port, timeout=ASK_SECONDS)
    headers = {"Connection": "close"}
    headers |= {name: environment[variable] for name, variable in question.keys.items() if variable in environment}
    if question.body is not None:
        headers["Content-Type"] = "application/json"
    try:
        began = time.monotonic()
        connection.connect()
        with _within(began + ASK_SECONDS - time.monotonic(), connection.sock):
            connection.request(question.method, question.path, question.body, headers)
            response = connection.getresponse()
            said = response.read(ANSWER_BYTES)
    finally:
        connection.close()
    if response.status != 200:
        return False
    try:
        return question.expected is None or holds(question.expected, json.loads(said))
    except ValueError:
        return False


@contextmanager
def _within(seconds: float, opened: socket.socket) -> Iterator[None]:
    """TimeoutError for what isn't done by then: a socket's own time-out begins anew with each byte that drips."""
    is_over = threading.Event()

    def end() -> None:
        is_over.set()
        with suppress(OSError):  # it is done, and closed
            opened.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    with suppress(RuntimeError):  # no thread can be started: by the socket's own time-out, then
        timer.start()
    try:
        yield
    except (OSError, http.client.HTTPException):
        if not is_over.is_set():
            raise
    finally:
        timer.cancel()
    if is_over.is_set():  # what was read until then looks like an answer's end
        raise TimeoutError("timed out")
