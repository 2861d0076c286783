"""Constant load on a served model, while something happens to it: how many requests were answered, and how not.

    with nothing_lost(inference_clients(http_url, grpc_address, "digits", image), ended_pods=1) as load:
        ...                      # a rollout, a pod's end

Three clients run side by side, as people have them: REST that keeps its connection, REST that opens one for each
request, and gRPC on one channel. Each is bounded in rate and ends with the block. None retries, but for one case that
is counted apart: a server that ends closes a kept connection even when it is in use all the time, and Triton can't tell
such a client beforehand; an HTTP client sends the request again on a new connection.
Clients of another protocol are given the same way: by name, something that opens the client and yields its ask. Under
the name KEPT a connection that the server closed is opened again once.
Must not import: anything of Kubernetes or Slipway.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import grpc
import numpy as np
import requests
from tritonclient.utils import InferenceServerException

from tests.e2e.ask import grpc_client, rest

PAUSE_SECONDS = 0.02
"""Between two requests of one client: at most 50 a second each, 150 together, which two cores carry with ease."""
LIMIT_SECONDS = 300
"""A load that nobody ends, ends."""

KEPT, NEW, GRPC = "REST, kept alive", "REST, new connections", "gRPC"

Array = np.ndarray[Any, Any]


@dataclass(slots=True)
class Tally:
    """One client's count. `labels` holds the answers seen, with how many times.

    reconnected: kept connections that the server closed between two answers.
    """

    answered: int = 0
    reconnected: int = 0
    failures: list[str] = field(default_factory=list)
    labels: dict[int, int] = field(default_factory=dict)
    slowest_seconds: float = 0.0


Ask = Callable[[], int]
"""One request; returns what tells one answer from another, such as the label."""
Client = Callable[[], AbstractContextManager[Ask]]
"""Opens a client of one kind, as a context manager that yields its Ask."""

LOST = (requests.RequestException, InferenceServerException, grpc.RpcError, AssertionError, OSError)


class Load:
    """Asks the same all the time, with each of the clients."""

    def __init__(self, clients: Mapping[str, Client]) -> None:
        self.tallies = {name: Tally() for name in clients}
        self._ended = threading.Event()
        self._threads = [
            threading.Thread(target=self._go_on, args=(name, client), name=name, daemon=True)
            for name, client in clients.items()
        ]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join(timeout=60)

    def after_answers(self, count: int, seconds: float = 30) -> None:
        """Returns when every client had so many more answers from now: the load is really on."""
        wanted = {name: tally.answered + count for name, tally in self.tallies.items()}
        deadline = time.monotonic() + seconds
        while any(tally.answered < wanted[name] for name, tally in self.tallies.items()):
            assert time.monotonic() < deadline, f"no answers for {seconds} s: {self.report()}"
            if self._ended.wait(PAUSE_SECONDS):
                return

    def nothing_was_lost(self, ended_pods: int) -> None:
        """Asserts that every client was answered, and every request; `ended_pods` may each close a kept connection."""
        for name, tally in self.tallies.items():
            assert tally.answered > 20, f"{name}: only {tally.answered} requests were answered. {self.report()}"
            assert not tally.failures, self.report()
            allowed = ended_pods if name == KEPT else 0
            assert tally.reconnected <= allowed, self.report()

    def report(self) -> str:
        """Counts, and the first failures of each client."""
        lines = []
        for name, tally in self.tallies.items():
            lines.append(
                f"{name}: {tally.answered} answered {tally.labels}, slowest {tally.slowest_seconds:.2f} s, "
                f"{tally.reconnected} times reconnected, {len(tally.failures)} lost"
            )
            lines += [f"    {failure}" for failure in tally.failures[:5]]
        return "\n".join(lines)

    def _go_on(self, name: str, client: Client) -> None:
        tally, start = self.tallies[name], time.monotonic()
        with client() as ask:
            while not self._ended.wait(PAUSE_SECONDS) and time.monotonic() - start < LIMIT_SECONDS:
                asked = time.monotonic()
                try:
                    label = self._ask_again(tally, ask) if name == KEPT else ask()
                except LOST as error:
                    tally.failures.append(f"{asked - start:.2f} s: {type(error).__name__}: {str(error)[:300]}")
                else:
                    tally.answered += 1
                    tally.labels[label] = tally.labels.get(label, 0) + 1
                tally.slowest_seconds = max(tally.slowest_seconds, time.monotonic() - asked)

    @staticmethod
    def _ask_again(tally: Tally, ask: Ask) -> int:
        try:
            return ask()
        except requests.ConnectionError as error:
            if "Connection aborted" not in str(error):
                raise
            tally.reconnected += 1
            return ask()


@contextmanager
def nothing_lost(clients: Mapping[str, Client], ended_pods: int) -> Iterator[Load]:
    """Constant load, on for the whole block; nothing of it may be lost."""
    with Load(clients) as load:
        load.after_answers(10)
        yield load
        load.after_answers(20)
    load.nothing_was_lost(ended_pods)


def inference_clients(http_url: str, grpc_address: str, model: str, image: Array) -> dict[str, Client]:
    """Clients of the Open Inference Protocol that ask for the label of one image of the digits."""
    inputs = {"image": image.reshape(1, 64)}

    @contextmanager
    def rest_kept() -> Iterator[Ask]:
        with rest(http_url, model) as client:
            yield lambda: int(client.infer_json(inputs)["label"][0])

    @contextmanager
    def rest_new() -> Iterator[Ask]:
        def ask() -> int:
            with rest(http_url, model) as client:
                client.session.headers["connection"] = "close"
                return int(client.infer_json(inputs)["label"][0])

        yield ask

    @contextmanager
    def grpc_channel() -> Iterator[Ask]:
        with grpc_client(grpc_address, model) as client:
            yield lambda: int(client.infer(inputs)["label"][0])

    return {KEPT: rest_kept, NEW: rest_new, GRPC: grpc_channel}
