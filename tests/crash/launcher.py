"""Lives of the operator that end at a chosen write: the product's own main, in a process forked for it.

The hook sits in aiohttp, where every request of the process passes, whoever sends it (the API client, kopf, an event
poster); the product has no hook for tests. Each life is a new process: it is forked from a server that has imported
the product and done nothing else, so that dozens of starts cost their fork and not 1.5 s of imports each.
Invariant: what a life did is told by its journal and its exit code alone.
"""

import asyncio
import faulthandler
import importlib
import json
import multiprocessing
import multiprocessing.context
import os
import signal
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import aiohttp

WRITES = frozenset({"POST", "PUT", "PATCH", "DELETE"})
# POSTs that ask and change nothing. So does a dry run.
QUESTIONS = ("/apis/authorization.k8s.io/", "/apis/authentication.k8s.io/")


class Moment(StrEnum):
    """When, around the n-th write, the process ends."""

    AFTER_ANSWER = "after_the_answer"  # the write is done and the operator has been told
    BEFORE_ANSWER = "before_the_answer"  # it is sent; whether it was done, nobody will ever tell the operator


@dataclass(frozen=True, slots=True)
class Life:
    """How one life is to be lived. `death` is the number of the write to die at; None lives until it is ended.

    late: the plural whose watch by kopf begins only once the file at `released` exists; empty: none.
    """

    kubeconfig: str
    namespaces: str
    metrics_port: int
    journal: str
    log: str
    module: str
    death: int | None = None
    moment: Moment = Moment.AFTER_ANSWER
    late: str = ""
    released: str = ""


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """A write that was answered."""

    method: str
    path: str
    status: int


def write_journal(file: str, entry: JournalEntry) -> None:
    with open(file, "a") as journal:
        journal.write(json.dumps(asdict(entry)) + "\n")


def hold_back(life: Life) -> None:
    """From here on kopf doesn't ask for what is late before it may."""
    request = aiohttp.ClientSession._request

    async def wait_and_request(self: aiohttp.ClientSession, method: str, url: Any, **more: Any) -> Any:
        if "kopf" in self.headers.get("User-Agent", "") and str(url).partition("?")[0].endswith(f"/{life.late}"):
            while not Path(life.released).exists():  # noqa: ASYNC110, ASYNC240 — another process says so, by a file
                await asyncio.sleep(0.05)
        return await request(self, method, url, **more)

    aiohttp.ClientSession._request = wait_and_request  # type: ignore[assignment]


def install_hook(life: Life) -> None:
    """From here on every mutating request is written to the journal, and the one chosen is the last."""
    start = aiohttp.ClientResponse.start
    sent = answered = 0

    async def start_or_die(self: aiohttp.ClientResponse, connection: Any) -> aiohttp.ClientResponse:
        nonlocal sent, answered
        if self.method not in WRITES or self.url.path.startswith(QUESTIONS) or "dryRun" in self.url.query:
            return await start(self, connection)
        sent += 1
        if sent == life.death and life.moment is Moment.BEFORE_ANSWER:
            if (body := self._writer) is not None:
                await asyncio.wait([body])
            print("ends at", self.method, self.url.raw_path, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        response = await start(self, connection)
        answered += 1
        write_journal(life.journal, JournalEntry(self.method, self.url.raw_path, response.status))
        if answered == life.death and life.moment is Moment.AFTER_ANSWER:
            print("ends at", self.method, self.url.raw_path, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        return response

    aiohttp.ClientResponse.start = start_or_die  # type: ignore[method-assign]


def live(life: Life) -> None:
    """The forked process: its own output, environment and hook, then the product's `main`."""
    out = os.open(life.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(out, 1)
    os.dup2(out, 2)
    os.environ |= {
        "KUBECONFIG": life.kubeconfig,
        "SLIPWAY_NAMESPACES": life.namespaces,
        "SLIPWAY_METRICS_PORT": str(life.metrics_port),
        "SLIPWAY_LOG_FORMAT": "json",
        "SLIPWAY_TRITON_IMAGE": "slipway.dev/triton:crash",
        "SLIPWAY_AGENT_IMAGE": "slipway.dev/agent:crash",
    }
    faulthandler.register(signal.SIGUSR1, file=out)
    install_hook(life)
    if life.late:
        hold_back(life)
    importlib.import_module(f"{life.module}.__main__").main()


def fork_server(module: str) -> multiprocessing.context.ForkServerContext:
    """The server that lives are forked from; it imports the product once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([f"{module}.__main__", "tests.crash.launcher", "tests.crash.frozen"])
    return context


class OperatorLife:
    """A life from the outside."""

    def __init__(self, context: multiprocessing.context.ForkServerContext, life: Life) -> None:
        self.life = life
        self._read: list[JournalEntry] = []
        self._offset = 0
        Path(life.journal).touch()
        self._process = context.Process(target=live, args=(life,), daemon=True)
        self._process.start()

    @property
    def has_died(self) -> bool:
        """Whether it ended by its own hand, as planned; ending any other way is an error of the product."""
        code = self._process.exitcode
        if code is None:
            return False
        if code != -signal.SIGKILL:
            raise AssertionError(
                f"the operator ended with {code} by itself; the end of {self.life.log}:\n{self.tail()}"
            )
        return True

    def journal(self) -> list[JournalEntry]:
        """The writes answered so far."""
        with open(self.life.journal, "rb") as journal:
            journal.seek(self._offset)
            news = journal.read()
        whole = news[: news.rfind(b"\n") + 1]
        self._offset += len(whole)
        self._read += [JournalEntry(**json.loads(line)) for line in whole.splitlines()]
        return list(self._read)

    def tail(self) -> str:
        return "\n".join(Path(self.life.log).read_text(errors="replace").splitlines()[-12:])

    def go_on(self) -> None:
        """What was late may come."""
        Path(self.life.released).touch()

    async def is_up(self) -> bool:
        """Whether its /healthz answers 200."""
        url = f"http://127.0.0.1:{self.life.metrics_port}/healthz"
        try:
            async with aiohttp.ClientSession() as session, session.get(url) as response:
                return response.status == 200
        except aiohttp.ClientError:
            return False

    async def wait_until_up(self) -> None:
        for _ in range(400):
            if self.has_died or await self.is_up():
                return
            await asyncio.sleep(0.05)
        raise AssertionError(f"the operator is not up after 20 s; the end of {self.life.log}:\n{self.tail()}")

    async def wait_until_dead(self, timeout_seconds: float) -> bool:
        """Returns whether it died in time."""
        deadline = asyncio.get_running_loop().time() + timeout_seconds
        while not self.has_died:
            if asyncio.get_running_loop().time() > deadline:
                return False
            await asyncio.sleep(0.02)
        return True

    async def end(self) -> None:
        """SIGTERM, as a kubelet sends it; SIGKILL after 15 s fails the test."""
        if self._process.exitcode is None:
            self._process.terminate()
            await asyncio.to_thread(self._process.join, 15)
        if self._process.exitcode is None:
            assert self._process.pid is not None
            os.kill(self._process.pid, signal.SIGUSR1)  # its stack, for the message below
            await asyncio.sleep(0.2)
            self._process.kill()
            self._process.join()
            raise AssertionError(f"the operator did not end within 15 s of SIGTERM; {self.life.log}:\n{self.tail()}")
