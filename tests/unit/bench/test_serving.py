"""What the serving bench computes: requests of a span, the last old answer, a goal that is missed, gRPC bytes."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import zlib
from itertools import pairwise

import pytest
from tritonclient.grpc import service_pb2

from tests.bench.figures import Goal
from tests.bench.serving.figures import Figure, Span, last_old_answer, render_table, requests_within
from tests.e2e.generator import clients_of
from tests.e2e.reach import Address
from tests.e2e.traffic import GRPC, KEPT, NEW, Client, Record, go_on
from tests.e2e.wire import inference_protocol, tensorflow_serving, torchserve

OLD, NEWER = 1, 2


def record(*requests: tuple[float, float, int | None]) -> Record:
    """Requests as (due, seconds, answer)."""
    made = Record()
    for due, seconds, answer in requests:
        made.due.append(due)
        made.seconds.append(seconds)
        made.answers.append(answer)
        made.late.append(0.0)
        if answer is None:
            made.failures.append((due, "lost"))
    return made


def test_a_span_has_its_begin_and_not_its_end_and_failures_have_no_latency() -> None:
    window = requests_within(record((1, 9, OLD), (2, 0.5, OLD), (3, 7, None), (4, 9, OLD)), [Span(2, 4)])
    assert (window.asked, window.seconds, window.failures) == (2, [0.5], ["lost"])
    assert window.p99_milliseconds == 500


def test_spans_without_an_answer_have_no_p99() -> None:
    assert requests_within(record((3, 7, None)), [Span(2, 4)]).p99_milliseconds is None
    assert requests_within(record(), [Span(2, 4)]).asked == 0


def test_the_last_old_answer_counts_even_after_the_first_new_one() -> None:
    asked = record((0, 0.1, OLD), (5, 0.1, OLD), (6, 0.1, NEWER), (7, 0.5, OLD), (8, 0.1, NEWER))
    assert last_old_answer(asked, Span(0, 4), Span(4, 10)) == 7.5
    assert last_old_answer(asked, Span(0, 4), Span(7.5, 10)) == 7.5


def test_a_version_that_never_came_has_no_last_old_answer() -> None:
    assert last_old_answer(record((0, 0.1, OLD), (5, 0.1, OLD), (6, 0.1, None)), Span(0, 4), Span(4, 10)) is None


@pytest.mark.parametrize(
    ("measured", "goal", "met"),
    [
        (0, Goal("at most", 0), "yes"),
        (1, Goal("at most", 0), "NO"),
        (2.0, Goal("at most", 2), "yes"),
        (2.01, Goal("at most", 2), "NO"),
        (None, Goal("at most", 2), "-"),
        (1, None, "-"),
    ],
)
def test_the_table_says_whether_a_goal_is_met(measured: float | None, goal: Goal | None, met: str) -> None:
    row = render_table([Figure("figure", measured, "s", goal, 2)]).splitlines()[2]
    assert row.split("|")[4].strip() == met


def test_what_was_not_measured_says_why() -> None:
    assert "not run: no store" in render_table([Figure("figure", None, "s", note="no store")])


def test_the_clients_share_the_rate_and_a_server_without_grpc_gets_all_of_it_over_rest() -> None:
    prediction = inference_protocol("digits", "image", [1.0])
    both = clients_of(Address("http://a:1", "a:2"), [prediction], 200)
    assert {one.kind: one.rate for one in both} == {KEPT: 80, NEW: 20, GRPC: 100}
    rest = clients_of(Address("http://a:1", ""), [prediction], 200)
    assert {one.kind: one.rate for one in rest} == {KEPT: 180, NEW: 20}


def test_the_inference_protocols_message_reads_back() -> None:
    made = inference_protocol("digits", "image", [0.5] * 300)
    read = service_pb2.ModelInferRequest.FromString(made.message)
    assert (read.model_name, read.id, read.inputs[0].name, read.inputs[0].datatype) == (
        "digits", "bench", "image", "FP32"
    )  # fmt: skip
    assert list(read.inputs[0].shape) == [1, 300]
    assert len(read.raw_input_contents[0]) == 1200
    assert json.loads(made.body)["inputs"][0]["shape"] == [1, 300]


def test_the_other_servers_messages_are_bytes_as_protobuf_has_them() -> None:
    # model_spec{name:"m"} inputs{key:"x" value{dtype:1 tensor_shape{dim{size:1} dim{size:1}} tensor_content:1.0f}}
    assert tensorflow_serving("m", "x", [1.0]).message.hex() == (
        "0a030a016d" "1217" "0a0178" "1212" "0801" "1208" "12020801" "12020801" "22040000803f"
    )  # fmt: skip
    # model_name:"m" input{key:"data" value:"{}"}
    assert torchserve("m", "data", b"{}").message.hex() == "0a016d" "1a0a" "0a0464617461" "12027b7d"  # fmt: skip


# ---- the load itself, against a server that is told how to answer


async def _loaded(kind: str, answers: str, seconds: float = 0.4, rate: float = 50) -> Record:
    """What a client records of a server that answers in turn: k(ept), c(losed after it), s(low), u(navailable)."""
    turn = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal turn
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                size = int(next(line for line in head.lower().splitlines() if b"content-length" in line).split()[1])
                await reader.readexactly(size)
                told = answers[turn % len(answers)]
                turn += 1
                if told == "s":
                    await asyncio.sleep(1.0)
                status = b"503 Unavailable" if told == "u" else b"200 OK"
                writer.write(b"HTTP/1.1 " + status + b"\r\nContent-Length: 2\r\n\r\n{}")
                await writer.drain()
                if told == "c":
                    with contextlib.suppress(asyncio.IncompleteReadError):
                        await reader.readuntil(b"\r\n\r\n")  # the next request is there, and gets no answer
                    break
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()[:2]
    ended = asyncio.Event()
    client = Client(kind, f"http://{host}:{port}/", rate, [base64.b64encode(b"{}").decode()])
    async with server:
        task = asyncio.create_task(go_on(client, 0, ended, Record()))
        await asyncio.sleep(seconds)
        ended.set()
        return await task


def test_each_request_is_answered_and_recorded_in_order() -> None:
    record = asyncio.run(_loaded(KEPT, "k"))
    assert len(record.due) > 5
    assert None not in record.answers
    assert (record.failures, record.reconnected) == ([], [])
    assert [round(later - earlier, 3) for earlier, later in pairwise(record.due)] == [0.02] * (len(record.due) - 1)


def test_an_error_is_a_failure_and_is_not_sent_again() -> None:
    record = asyncio.run(_loaded(NEW, "ku"))
    assert 0 < len(record.failures) < len(record.due)
    assert record.answers.count(None) == len(record.failures)
    assert "HTTP 503" in record.failures[0][1]


def test_a_kept_connection_that_the_server_closed_is_opened_again_and_counted_apart() -> None:
    record = asyncio.run(_loaded(KEPT, "kkc"))
    assert record.reconnected
    assert record.failures == []


def test_a_slow_answer_delays_nobody_else_and_its_latency_is_its_own() -> None:
    record = asyncio.run(_loaded(NEW, "s" + "k" * 99, seconds=1.2))
    assert max(record.seconds) >= 1.0
    assert sorted(record.seconds)[len(record.seconds) // 2] < max(record.seconds) / 2


def test_requests_take_turns_and_answers_are_known_by_their_marks() -> None:
    async def both() -> Record:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(asyncio.IncompleteReadError):
                while await reader.readuntil(b"\r\n\r\n"):
                    told = await reader.readexactly(1)
                    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nversion " + told)
                    await writer.drain()
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()[:2]
        ended = asyncio.Event()
        bodies = [base64.b64encode(body).decode() for body in (b"1", b"2", b"1", b"3")]
        marks = {"old": "version 1", "new": "version 2"}
        async with server:
            task = asyncio.create_task(
                go_on(Client(KEPT, f"http://{host}:{port}/", 50, bodies, marks=marks), 0, ended, Record())
            )
            await asyncio.sleep(0.3)
            ended.set()
            return await task

    record = asyncio.run(both())
    assert record.answers[:4] == ["old", "new", "old", zlib.crc32(b"version 3")]
    assert record.told()["by"]["old"] == record.answers.count("old")
