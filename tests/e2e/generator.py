"""The constant load's process, held for as long as a block lasts: what it has seen so far, and all of it in the end.

with load_on(clients_of(address, [prediction], rate=100)) as loaded:
    loaded.until("the canary answers", lambda: loaded.answers("2") > 50)
loaded.records["gRPC"].failures
"""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.e2e.reach import Address
from tests.e2e.traffic import GRPC, KEPT, NEW, Client, Record
from tests.e2e.wire import Prediction

ROOT = Path(__file__).resolve().parents[2]
SHARES = {KEPT: 0.4, NEW: 0.1, GRPC: 0.5}
"""Of the whole rate. A server without gRPC gets its share over kept connections."""


class LoadError(Exception):
    """The load did not run; the message says why."""


@dataclass(slots=True)
class Loaded:
    """The load of a block. `records`: by client, once the block is over. Until then it knows what it was told last."""

    records: dict[str, Record] = field(default_factory=dict)
    _told: list[dict[str, Any]] = field(default_factory=list)
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _is_over: bool = False

    def listen(self, lines: Iterator[str]) -> None:
        """Reads what the process tells until it ends."""
        for line in lines:
            with self._changed:
                self._told = json.loads(line)
                self._changed.notify_all()
        with self._changed:
            self._is_over = True
            self._changed.notify_all()

    def by(self) -> Counter[str]:
        """Who answered so far: name (or checksum) → answers, all clients together."""
        with self._changed:
            told = self._told
        return sum((Counter(one["by"]) for one in told), Counter[str]())

    def answers(self, name: str | None = None) -> int:
        """How many answers that name gave so far; without a name: all."""
        return self.by().total() if name is None else self.by()[name]

    def failures(self) -> int:
        """How many requests failed so far."""
        with self._changed:
            return sum(one["failures"] for one in self._told)

    def until(self, what: str, is_so: Callable[[], bool], seconds: float = 30) -> None:
        """Returns when it is so; asked whenever the process has told more."""
        deadline = time.monotonic() + seconds
        while not is_so():
            with self._changed:
                left = deadline - time.monotonic()
                assert left > 0, f"{what}: not within {seconds:.0f} s of load: {self._told}"
                assert not self._is_over, f"{what}: the load's process has ended: {self._told}"
                self._changed.wait(left)

    def more(self, count: int, name: str | None = None, seconds: float = 30) -> None:
        """Returns after so many more answers, of that name where one is given."""
        wanted = self.answers(name) + count
        self.until(f"{count} more answers of {name or 'anybody'}", lambda: self.answers(name) >= wanted, seconds)

    def alone(self, name: str, seconds: float = 30, count: int = 50) -> None:
        """Returns after so many answers in a row that all came from that name."""
        since = self.by()

        def is_alone() -> bool:
            nonlocal since
            now = self.by()
            if (now - since).keys() - {name}:
                since = now
            return now[name] - since[name] >= count

        self.until(f"nobody but {name} answers", is_alone, seconds)


def clients_of(
    address: Address, predictions: Sequence[Prediction], rate: float, shares: Mapping[str, float] = SHARES
) -> list[Client]:
    """The kinds of clients with a share, together `rate` requests a second; each sends the predictions in turn."""
    first, shares = predictions[0], dict(shares)
    if not address.grpc or not first.method:
        shares[KEPT] += shares.pop(GRPC)
    rest = [base64.b64encode(one.body).decode() for one in predictions]
    messages = [base64.b64encode(one.message).decode() for one in predictions]
    return [
        Client(kind, address.grpc, rate * share, messages, first.method, marks=first.grpc_marks)
        if kind == GRPC
        else Client(
            kind,
            address.http_url + first.path,
            rate * share,
            rest,
            content_type=first.content_type,
            marks=first.rest_marks,
        )
        for kind, share in shares.items()
        if share
    ]


@contextmanager
def load_on(clients: Sequence[Client]) -> Iterator[Loaded]:
    """Constant load during the block. Raises LoadError where the process can't run."""
    loaded = Loaded()
    with tempfile.TemporaryDirectory(prefix="slipway-load-") as folder:
        order, result = Path(folder, "order.json"), Path(folder, "result.json")
        order.write_text(json.dumps([asdict(client) for client in clients]))
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.e2e.traffic", str(order), str(result)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        listener = threading.Thread(target=loaded.listen, args=(process.stdout,), daemon=True)
        try:
            process.stdout.readline()  # it says that it is on
            listener.start()
            yield loaded
        finally:
            process.stdin.close()
            try:
                status = process.wait(timeout=90)
            except subprocess.TimeoutExpired:
                process.kill()
                status = process.wait()
            if listener.ident is not None:
                listener.join(timeout=10)
            process.stdout.close()
        if status != 0 or not result.exists():
            raise LoadError(f"the load's process ended with {status} and left no result; see its words above")
        stored = json.loads(result.read_text())
        loaded.records = {
            client.kind: Record(**one | {"failures": [(due, words) for due, words in one["failures"]]})
            for client, one in zip(clients, stored, strict=True)
        }


def quiet(seconds: float) -> None:
    """Lets the load run on."""
    time.sleep(seconds)
