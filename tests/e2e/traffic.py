"""Requests at a constant rate from a process of its own: `python -m tests.e2e.traffic ORDER RESULT`.

Open loop: each request has a moment at which it is due, and its latency counts from that moment, whether or not the
ones before it were answered; a server that stalls for a second shows it in every request of that second. ORDER is a
file (a list of Client as JSON); the load ends when standard input does, waits for what is under way, and writes RESULT.
Meanwhile it tells what it has seen so far on standard output, a line of JSON a few times a second.
Nothing is sent a second time but for one case that is counted apart: a connection that was kept and that the server
had closed (see tests/e2e/load.py).
Must not import: anything of Kubernetes or Slipway.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import errno
import gc
import itertools
import json
import os
import sys
import threading
import time
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import grpc.aio

KEPT, NEW, GRPC = "REST, kept alive", "REST, new connections", "gRPC"

ANSWER_SECONDS = 30.0
MOST_UNDER_WAY = 500
"""Of one client; beyond it a request counts as failed: it would only measure this process."""
MOST_SECONDS = 900
"""A load that nobody ends, ends."""
TELL_SECONDS = 0.25


@dataclass(frozen=True, slots=True)
class Client:
    """One client: KEPT, NEW or GRPC. `target`: URL or host:port; `method` of gRPC.

    bodies: the requests, in base64, sent in turn. marks: name → text (Latin-1) that an answer of that name holds; an
    answer with none of them is known by its checksum. channels: gRPC connections, used in turn.
    """

    kind: str
    target: str
    rate: float
    bodies: Sequence[str]
    method: str = ""
    content_type: str = "application/json"
    marks: Mapping[str, str] = field(default_factory=dict)
    channels: int = 2


@dataclass(slots=True)
class Record:
    """What became of each request of a client, in the order of their due moments (time.monotonic()).

    answers: name or checksum of the answer, None for a failed request. failures: due moment and words.
    late: by how much a request was sent after it was due, which is this process' own doing.
    reconnected: due moments of requests that found their kept connection closed. by: name or checksum → answers.
    """

    due: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    answers: list[str | int | None] = field(default_factory=list)
    late: list[float] = field(default_factory=list)
    reconnected: list[float] = field(default_factory=list)
    failures: list[tuple[float, str]] = field(default_factory=list)
    by: dict[str, int] = field(default_factory=dict)

    def told(self) -> dict[str, Any]:
        """What is known so far, in few words."""
        return {
            "by": self.by,
            "failures": len(self.failures),
            "first": [words for _, words in self.failures[:5]],
            "reconnected": len(self.reconnected),
        }


class _ClosedError(Exception):
    """The server had closed the kept connection."""


class _RefusedError(Exception):
    """An answer that is no prediction."""


_Ask = Callable[[bytes], Awaitable[bytes]]


@asynccontextmanager
async def _http(client: Client) -> AsyncIterator[_Ask]:
    headers = {"content-type": client.content_type}
    connector = (
        aiohttp.TCPConnector(limit=MOST_UNDER_WAY, force_close=True)
        if client.kind == NEW
        else aiohttp.TCPConnector(limit=MOST_UNDER_WAY, keepalive_timeout=60)
    )
    timeout = aiohttp.ClientTimeout(total=ANSWER_SECONDS)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout, trust_env=False) as session:

        async def ask(body: bytes) -> bytes:
            try:
                async with session.post(client.target, data=body, headers=headers) as answer:
                    content = await answer.read()
            except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
                is_reset = isinstance(error, aiohttp.ServerDisconnectedError) or (
                    isinstance(error, aiohttp.ClientOSError) and error.errno in (errno.ECONNRESET, errno.EPIPE)
                )
                if client.kind == KEPT and is_reset:
                    raise _ClosedError from error
                raise
            if answer.status != 200:
                raise _RefusedError(f"HTTP {answer.status}: {content[:200].decode(errors='replace')}")
            return content

        yield ask


@asynccontextmanager
async def _grpc(client: Client) -> AsyncIterator[_Ask]:
    # without a pool of its own each channel would share the first one's connection
    options = [("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1)]
    async with AsyncExitStack() as open_channels:
        calls = [
            (
                await open_channels.enter_async_context(grpc.aio.insecure_channel(client.target, options=options))
            ).unary_unary(client.method)
            for _ in range(client.channels)
        ]
        turns = itertools.cycle(calls)

        async def ask(body: bytes) -> bytes:
            answer: bytes = await next(turns)(body, timeout=ANSWER_SECONDS)
            return answer

        yield ask


async def _one(ask: _Ask, body: bytes, marks: Sequence[tuple[str, bytes]], record: Record, place: int) -> None:
    due = record.due[place]
    record.late[place] = time.monotonic() - due
    try:
        try:
            content = await ask(body)
        except _ClosedError:
            record.reconnected.append(due)
            content = await ask(body)
    except (aiohttp.ClientError, grpc.RpcError, _RefusedError, _ClosedError, OSError, TimeoutError) as error:
        words = f"{error.code()}: {error.details()}" if isinstance(error, grpc.aio.AioRpcError) else str(error)
        record.failures.append((due, f"{type(error).__name__}: {words[:300]}"))
    else:
        answer = next((name for name, text in marks if text in content), None) or zlib.crc32(content)
        record.answers[place] = answer
        record.by[str(answer)] = record.by.get(str(answer), 0) + 1
    record.seconds[place] = time.monotonic() - due


async def go_on(client: Client, phase: float, ended: asyncio.Event, record: Record) -> Record:
    """One client until the end; `phase`: share of a period by which it starts later than the others."""
    under_way: set[asyncio.Task[None]] = set()
    bodies = [base64.b64decode(body) for body in client.bodies]
    marks = [(name, text.encode("latin-1")) for name, text in client.marks.items()]
    async with (_grpc if client.kind == GRPC else _http)(client) as ask:
        begin = time.monotonic() + phase / client.rate
        for number in range(int(client.rate * MOST_SECONDS)):
            due = begin + number / client.rate
            if (wait := due - time.monotonic()) > 0:
                await asyncio.sleep(wait)
            if ended.is_set():
                break
            record.due.append(due)
            record.seconds.append(0.0)
            record.answers.append(None)
            record.late.append(0.0)
            if len(under_way) >= MOST_UNDER_WAY:
                record.failures.append((due, f"not sent: {MOST_UNDER_WAY} requests are waiting for their answers"))
                continue
            task = asyncio.create_task(_one(ask, bodies[number % len(bodies)], marks, record, number))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
        if under_way:
            await asyncio.wait(under_way)
    return record


async def run(clients: Sequence[Client]) -> list[Record]:
    """All clients side by side until standard input ends."""
    ended, loop = asyncio.Event(), asyncio.get_running_loop()
    records = [Record() for _ in clients]

    def wait_for_end() -> None:
        sys.stdin.read()
        loop.call_soon_threadsafe(ended.set)

    async def tell() -> None:
        while not ended.is_set():
            print(json.dumps([record.told() for record in records]), flush=True)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(ended.wait(), TELL_SECONDS)

    threading.Thread(target=wait_for_end, daemon=True).start()
    told = asyncio.create_task(tell())
    await asyncio.gather(
        *(
            go_on(client, number / len(clients), ended, record)
            for number, (client, record) in enumerate(zip(clients, records, strict=True))
        )
    )
    await told
    return records


def main(arguments: Sequence[str]) -> int:
    order, result = map(Path, arguments)
    clients = [Client(**one) for one in json.loads(order.read_text())]
    with contextlib.suppress(OSError):
        os.nice(-10)  # it stands for machines elsewhere: what it waits for a core here is nobody's latency
    gc.freeze()
    gc.disable()  # fifteen minutes of records are some tens of megabytes
    records = asyncio.run(run(clients))
    result.write_text(json.dumps([asdict(record) for record in records]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
