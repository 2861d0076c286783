"""An HTTP server on loopback that answers one path as a test says: in the place of agents, servers and routers."""

from __future__ import annotations

import gzip
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Protocol, TypeVar

from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def serving(path: str, handler: Handler) -> AsyncIterator[int]:
    """Serves as long as the block; yields the port."""
    application = web.Application()
    application.router.add_get(path, handler)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


class Client(Protocol):
    async def close(self) -> None: ...


C = TypeVar("C", bound=Client)


@asynccontextmanager
async def closing(client: C) -> AsyncIterator[C]:
    """Closed with the block."""
    try:
        yield client
    finally:
        await client.close()


def says(page: str | bytes, status: int = 200) -> Handler:
    async def answer(_: web.Request) -> web.StreamResponse:
        return web.Response(body=page, status=status)

    return answer


def packed(page: str) -> Handler:
    """A page in gzip that nobody asked for."""

    async def answer(_: web.Request) -> web.StreamResponse:
        return web.Response(body=gzip.compress(page.encode()), headers={"Content-Encoding": "gzip"})

    return answer


async def leads_on(request: web.Request) -> web.StreamResponse:
    """A redirect to the same page, which then would be answered."""
    raise web.HTTPFound(f"{request.path}?again")


def goes_on(size: int) -> Handler:
    """A page of so many bytes, in pieces."""

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(1 + size // 1000):
            await response.write(b"#" * 1000)
        return response

    return answer
