"""Requests that arrive together are computed together, and one that fails fails alone."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from slipway_onnxruntime.batches import Batches, MixedBatchError

Array = np.ndarray[Any, Any]


class Doubler:
    """A model: y is twice x, z its rows' sums, 13 is refused. Notes the rows of every run, and how many ran at once."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.runs: list[int] = []
        self.most_at_once = 0
        self._seconds, self._at_once, self._lock = seconds, 0, threading.Lock()

    def __call__(self, feed: Mapping[str, Array], wanted: Sequence[str]) -> dict[str, Array]:
        x = feed["x"]
        with self._lock:
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        time.sleep(self._seconds)
        with self._lock:
            self._at_once -= 1
            self.runs.append(x.shape[0])
        if (x == 13).any():
            raise ValueError("13 is refused")
        outputs = {"y": x * 2, "z": x.sum(axis=-1)}
        return {name: outputs[name] for name in wanted}


def rows(*values: float, width: int = 1) -> dict[str, Array]:
    return {"x": np.array([[value] * width for value in values], np.float32)}


def ask(batches: Batches, *feeds: dict[str, Array], wanted: Sequence[str] = ("y",)) -> list[Any]:
    async def all_at_once() -> list[Any]:
        return await asyncio.gather(*(batches.compute(feed, wanted) for feed in feeds), return_exceptions=True)

    return asyncio.run(all_at_once())


def test_without_batching_every_request_is_computed_by_itself() -> None:
    model = Doubler()
    answers = ask(Batches(model), rows(1), rows(2), rows(3))
    assert [answer["y"].tolist() for answer in answers] == [[[2]], [[4]], [[6]]]
    assert model.runs == [1, 1, 1]


def test_requests_within_the_delay_are_one_batch_and_each_gets_its_rows() -> None:
    model = Doubler()
    seen: list[int] = []
    batches = Batches(model, max_rows=8, max_delay_seconds=0.05, saw_batch=seen.append)
    answers = ask(batches, rows(1), rows(2, 3), rows(4))
    assert [answer["y"].ravel().tolist() for answer in answers] == [[2], [4, 6], [8]]
    assert model.runs == seen == [4]


def test_a_full_batch_waits_for_nobody() -> None:
    model = Doubler()
    began = time.monotonic()
    ask(Batches(model, max_rows=2, max_delay_seconds=60.0), rows(1), rows(2), rows(3), rows(4))
    assert time.monotonic() - began < 30
    assert model.runs == [2, 2]


def test_a_batch_never_has_more_rows_than_allowed() -> None:
    model = Doubler()
    ask(Batches(model, max_rows=4, max_delay_seconds=0.02), *(rows(1, 2, 3) for _ in range(5)))
    assert model.runs == [3] * 5


def test_without_a_delay_what_waits_for_a_busy_model_is_joined() -> None:
    model = Doubler(seconds=0.05)
    ask(Batches(model, max_rows=8), *(rows(number) for number in range(7)))
    assert model.runs == [1, 6]


def test_a_request_that_fails_fails_alone() -> None:
    model = Doubler()
    one, bad, three = ask(Batches(model, max_rows=8, max_delay_seconds=0.02), rows(1), rows(13), rows(3))
    assert (one["y"].tolist(), three["y"].tolist()) == ([[2]], [[6]])
    assert str(bad) == "13 is refused"
    assert model.runs == [3, 1, 1, 1]


def test_other_shapes_are_other_batches() -> None:
    model = Doubler()
    answers = ask(Batches(model, max_rows=8, max_delay_seconds=0.02), rows(1), rows(2, width=3), rows(4))
    assert [answer["y"].shape for answer in answers] == [(1, 1), (1, 3), (1, 1)]
    assert sorted(model.runs) == [1, 2]


def test_each_request_gets_the_outputs_that_it_wants() -> None:
    batches = Batches(Doubler(), max_rows=8, max_delay_seconds=0.02)

    async def both() -> tuple[dict[str, Array], dict[str, Array]]:
        return await asyncio.gather(batches.compute(rows(1), ["y"]), batches.compute(rows(2), ["z"]))

    first, second = asyncio.run(both())
    assert (list(first), list(second)) == (["y"], ["z"])
    assert second["z"].tolist() == [2]


def test_instances_compute_side_by_side() -> None:
    model = Doubler(seconds=0.05)
    ask(Batches(model, instances=2), *(rows(number) for number in range(6)))
    assert model.most_at_once == 2
    alone = Doubler(seconds=0.02)
    ask(Batches(alone), *(rows(number) for number in range(4)))
    assert alone.most_at_once == 1


def test_a_model_that_mixes_its_batch_is_told_of() -> None:
    def mean(feed: Mapping[str, Array], wanted: Sequence[str]) -> dict[str, Array]:
        return {"y": feed["x"].mean(keepdims=True)}

    answers = ask(Batches(mean, max_rows=8, max_delay_seconds=0.02), rows(1), rows(2))
    assert all(isinstance(answer, MixedBatchError) for answer in answers)
    with pytest.raises(MixedBatchError, match=r"leave out spec\.batching"):
        raise answers[0]


def test_a_caller_that_goes_away_holds_nobody_up() -> None:
    model = Doubler(seconds=0.05)
    batches = Batches(model, max_rows=8, max_delay_seconds=0.02)

    async def one_leaves() -> dict[str, Array]:
        leaving = asyncio.create_task(batches.compute(rows(1), ["y"]))
        staying = asyncio.create_task(batches.compute(rows(2), ["y"]))
        await asyncio.sleep(0.03)
        leaving.cancel()
        return await staying

    assert asyncio.run(one_leaves())["y"].tolist() == [[4]]
