"""The queue: no wake-up is lost, and no key is passed twice at the same time."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

import pytest

from slipway.controller.workqueue import Queue


async def take_within(queue: Queue[str], seconds: float) -> str | None:
    try:
        return await asyncio.wait_for(queue.take(), seconds)
    except TimeoutError:
        return None


def test_keys_come_in_the_order_of_their_times() -> None:
    async def scenario() -> list[str]:
        queue = Queue[str]()
        await queue.wake("late", 0.03)
        await queue.wake("now")
        await queue.wake("soon", 0.01)
        return [await queue.take() for _ in range(3)]

    assert asyncio.run(scenario()) == ["now", "soon", "late"]


def test_a_key_woken_twice_is_passed_once() -> None:
    async def scenario() -> None:
        queue = Queue[str]()
        await queue.wake("a")
        await queue.wake("a")
        await queue.done(await queue.take())
        assert await take_within(queue, 0.02) is None

    asyncio.run(scenario())


def test_a_key_woken_while_it_is_passed_is_passed_again_afterwards() -> None:
    async def scenario() -> None:
        queue = Queue[str]()
        await queue.wake("a")
        await queue.take()
        await queue.wake("a")
        assert await take_within(queue, 0.02) is None
        await queue.done("a")
        assert await take_within(queue, 0.5) == "a"

    asyncio.run(scenario())


def test_an_earlier_time_wins_over_a_later_one_and_not_the_other_way() -> None:
    async def scenario() -> None:
        queue = Queue[str]()
        await queue.wake("a", 60)
        await queue.wake("a", 0)
        await queue.wake("a", 60)
        assert await take_within(queue, 0.5) == "a"
        await queue.done("a")
        assert await take_within(queue, 0.02) is None

    asyncio.run(scenario())


def test_a_later_time_is_kept_through_a_pass() -> None:
    async def scenario() -> None:
        queue = Queue[str]()
        await queue.wake("a")
        await queue.take()
        await queue.wake("a", 0.03)
        await queue.done("a")
        assert await take_within(queue, 0.01) is None
        assert await take_within(queue, 0.5) == "a"

    asyncio.run(scenario())


def test_one_that_waits_for_a_late_key_takes_a_new_one_at_once() -> None:
    async def scenario() -> None:
        queue = Queue[str]()
        await queue.wake("late", 60)
        waiting = asyncio.create_task(queue.take())
        await asyncio.sleep(0.01)
        await queue.wake("now")
        assert await asyncio.wait_for(waiting, 0.5) == "now"

    asyncio.run(scenario())


def test_its_length_is_what_is_due_or_being_passed() -> None:
    async def scenario() -> list[int]:
        queue = Queue[str]()
        lengths = [len(queue)]
        await queue.wake("a")
        await queue.wake("late", 60)
        lengths.append(len(queue))
        await queue.take()
        lengths.append(len(queue))
        await queue.wake("a")
        lengths.append(len(queue))
        await queue.done("a")
        lengths.append(len(queue))
        return lengths

    assert asyncio.run(scenario()) == [0, 1, 1, 1, 1]


def test_a_worker_that_is_ended_while_it_waits_takes_nothing_with_it() -> None:
    async def scenario() -> None:
        queue = Queue[str]()
        ended = [asyncio.create_task(queue.take()) for _ in range(3)]
        await asyncio.sleep(0)
        for task in ended:
            task.cancel()
        await asyncio.gather(*ended, return_exceptions=True)
        await queue.wake("a")
        assert await take_within(queue, 0.5) == "a"

    asyncio.run(scenario())


@pytest.mark.parametrize("seed", range(5))
def test_under_load_no_wake_up_is_lost_and_no_key_is_passed_twice_at_once(seed: int) -> None:
    """Every wake-up is followed by the start of a pass of its key."""
    chance = random.Random(seed)
    asked: Counter[str] = Counter()
    behind: Counter[str] = Counter()
    running: set[str] = set()

    async def worker(queue: Queue[str]) -> None:
        while True:
            key = await queue.take()
            assert key not in running
            running.add(key)
            behind.pop(key, None)
            await asyncio.sleep(chance.choice([0, 0, 0.001]))
            running.remove(key)
            await queue.done(key)

    async def scenario() -> None:
        queue = Queue[str]()
        workers = [asyncio.create_task(worker(queue)) for _ in range(4)]
        for _ in range(600):
            key = f"k{chance.randrange(8)}"
            asked[key] += 1
            behind[key] += 1
            await queue.wake(key, chance.choice([0.0, 0.0, 0.001, 0.004]))
            if chance.random() < 0.3:
                await asyncio.sleep(0)
        for _ in range(200):
            if not behind and not running:
                break
            await asyncio.sleep(0.005)
        for task in workers:
            assert not task.done()
            task.cancel()
        await asyncio.gather(*workers, return_exceptions=True)

    asyncio.run(scenario())
    assert sum(asked.values()) == 600
    assert behind == Counter()
