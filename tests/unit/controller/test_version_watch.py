"""Following a place: news wake the ModelDeployment once, and an agent that is gone costs nothing but time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from slipway.controller import agents, version_watch
from slipway.controller.agents import Agents, Listing
from slipway.controller.cache import Key
from slipway.controller.version_watch import VersionWatch
from slipway.controller.workqueue import Queue
from tests.unit.controller.pages import closing, serving

KEY: Key = ("models", "digits")


class Source:
    """An agent's /listing, for real over HTTP."""

    def __init__(self) -> None:
        self.found: dict[str, str | None] = {}
        self.asked = 0
        self.is_broken = False
        self.changed = asyncio.Event()
        self.asked_thrice = asyncio.Event()

    def put(self, **found: str | None) -> None:
        self.found = {version.removeprefix("v"): stamp for version, stamp in found.items()}
        self.changed.set()
        self.changed = asyncio.Event()

    async def answer(self, request: web.Request) -> web.Response:
        self.asked += 1
        if self.asked == 3:
            self.asked_thrice.set()
        if self.is_broken:
            return web.Response(text="<html>")
        while str(self.found) == request.query["after"]:
            await self.changed.wait()
        return web.json_response({"token": str(self.found), "found": self.found, "error": None})


@asynccontextmanager
async def watching(patch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Source, VersionWatch, Queue[Key]]]:
    patch.setattr(version_watch, "PAUSE_SECONDS", 0.02)
    patch.setattr(version_watch, "NEWS_PAUSE_SECONDS", 0.0)
    source, queue = Source(), Queue[Key]()
    async with serving("/listing", source.answer) as port, closing(Agents()) as client:
        patch.setattr(agents, "AGENT_PORT", port)
        watch = VersionWatch(client, queue)
        try:
            yield source, watch, queue
        finally:
            watch.close()


async def news(queue: Queue[Key]) -> Key:
    key = await asyncio.wait_for(queue.take(), 5)
    await queue.done(key)
    return key


def test_news_wake_the_key_and_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with watching(monkeypatch) as (source, watch, queue):
            source.put(v1="a")
            watch.follow(KEY, "127.0.0.1")
            assert watch.found(KEY) == {}
            assert await news(queue) == KEY
            assert watch.found(KEY) == {1: "a"}
            source.put(v1="a", v2=None)
            await news(queue)
            assert watch.found(KEY) == {1: "a", 2: None}

    asyncio.run(scenario())


def test_without_news_nothing_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with watching(monkeypatch) as (source, watch, queue):
            source.put(v1="a")
            watch.follow(KEY, "127.0.0.1")
            await news(queue)
            watch.follow(KEY, "127.0.0.1")
            await asyncio.sleep(0.1)
            assert source.asked == 2  # the one that was answered, and the one that rests
            assert len(queue) == 0

    asyncio.run(scenario())


def test_an_agent_that_answers_nonsense_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with watching(monkeypatch) as (source, watch, queue):
            source.is_broken = True
            watch.follow(KEY, "127.0.0.1")
            await asyncio.wait_for(source.asked_thrice.wait(), 5)
            assert watch.found(KEY) == {}
            source.is_broken = False
            source.put(v4="d")
            await news(queue)
            assert watch.found(KEY) == {4: "d"}

    asyncio.run(scenario())


def test_what_is_no_longer_followed_is_forgotten_and_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with watching(monkeypatch) as (source, watch, queue):
            source.put(v1="a")
            watch.follow(KEY, "127.0.0.1")
            await news(queue)
            watch.follow(KEY, None)
            source.put(v2="b")
            await asyncio.sleep(0.05)
            assert watch.found(KEY) == {}
            assert len(queue) == 0

    asyncio.run(scenario())


def test_another_agent_keeps_what_was_known(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with watching(monkeypatch) as (source, watch, queue):
            source.put(v1="a")
            watch.follow(KEY, "127.0.0.1")
            await news(queue)
            watch.follow(KEY, "127.0.0.2")
            assert watch.found(KEY) == {1: "a"}

    asyncio.run(scenario())


def test_an_agent_that_cannot_be_reached_is_no_listing() -> None:
    async def scenario() -> Listing | None:
        async with closing(Agents()) as client:
            return await client.await_listing("127.255.255.254", "")

    assert asyncio.run(scenario()) is None
