"""Model servers on loopback, each with an address of its own as a pod has: HTTP on 8000, gRPC on 8001."""

from __future__ import annotations

import asyncio
import itertools
import os
import threading
import time
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import grpc

HTTP_PORT, GRPC_PORT = 8000, 8001

_worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_numbers = itertools.count(1)


def new_address() -> str:
    """A loopback address that nobody else uses: this process' own part of 127.0.0.0/8."""
    number = next(_numbers)
    return f"127.{100 + _worker}.{number // 250}.{number % 250 + 1}"


class ModelPod:
    """A model server. Its behaviour is set by attributes, for requests that come from then on.

    status, extra (headers), delay_seconds: of HTTP answers. cuts: the connection is closed in place of an answer;
    breaks_off: in the middle of one. grpc_status: of gRPC answers. is_silent: it takes requests and never answers.
    """

    def __init__(self, name: str, address: str | None = None, *, has_grpc: bool = False) -> None:
        self.name = name
        self.address = address or new_address()
        self.status = 200
        self.extra = b""
        self.delay_seconds = 0.0
        self.cuts = self.breaks_off = self.is_silent = False
        self.grpc_status = grpc.StatusCode.OK
        self.requests = 0
        self.heads: list[str] = []
        self.connections: set[asyncio.Transport] = set()
        self._loop = asyncio.new_event_loop()
        self._server: asyncio.Server | None = None
        started = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(started,), daemon=True)
        self._thread.start()
        assert started.wait(10)
        self.grpc = self._serve_grpc() if has_grpc else None

    def close(self) -> None:
        """Ends at once, as by SIGKILL: every connection is reset, and new ones are refused."""
        if self.grpc is not None:
            self.grpc.stop(0).wait()

        def end() -> None:
            assert self._server is not None
            self._server.close()
            for connection in list(self.connections):
                connection.abort()
            self._loop.stop()

        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(end)
            self._thread.join()

    def _run(self, started: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)

        async def serve() -> None:
            self._server = await self._loop.create_server(lambda: _Http(self), self.address, HTTP_PORT, backlog=4096)

        self._loop.run_until_complete(serve())
        started.set()
        self._loop.run_forever()
        self._loop.close()

    def _serve_grpc(self) -> Any:
        server = grpc.server(futures.ThreadPoolExecutor(16))
        server.add_generic_rpc_handlers((_Grpc(self),))
        server.add_insecure_port(f"{self.address}:{GRPC_PORT}")
        server.start()
        return server


class _Http(asyncio.Protocol):
    """HTTP/1.1 as far as these tests need it: quick enough for thousands of requests a second."""

    def __init__(self, pod: ModelPod) -> None:
        self._pod = pod
        self._read = bytearray()
        self._missing = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._pod.connections.add(transport)

    def connection_lost(self, error: Exception | None) -> None:
        self._pod.connections.discard(self._transport)

    def data_received(self, data: bytes) -> None:
        self._read += data
        while len(self._read) >= self._missing and b"\r\n\r\n" in self._read:
            end = self._read.index(b"\r\n\r\n") + 4
            head = bytes(self._read[:end])
            length = next(
                (int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0
            )
            self._missing = end + length
            if len(self._read) < self._missing:
                return
            del self._read[: self._missing]
            self._missing = 0
            self._answer(head, length)

    def _answer(self, head: bytes, length: int) -> None:
        pod = self._pod
        pod.requests += 1
        if len(pod.heads) < 1000:
            pod.heads.append(head.decode("latin-1"))
        if pod.is_silent:
            return
        if pod.cuts:
            self._transport.abort()
            return
        body = f"{pod.name} {length}".encode()
        if pod.breaks_off:
            self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + body)
            pod._loop.call_later(0.05, self._transport.abort)
            return
        if pod.status == 101:
            self._transport.write(b"HTTP/1.1 101 Said\r\n%s\r\n" % pod.extra)
            return
        head = b"HTTP/1.1 %d Said\r\nServer: model\r\n%s" % (pod.status, pod.extra)
        answer = b"%sContent-Length: %d\r\n\r\n%s" % (head, len(body), body)
        if pod.delay_seconds:
            pod._loop.call_later(pod.delay_seconds, self._transport.write, answer)
        else:
            self._transport.write(answer)


class _Grpc(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc has no types
    """/model/One answers with the pod's name; /model/Stream answers each message."""

    def __init__(self, pod: ModelPod) -> None:
        self._pod = pod

    def service(self, details: Any) -> Any:
        if details.method.endswith("/Stream"):
            return grpc.stream_stream_rpc_method_handler(self._stream)
        return grpc.unary_unary_rpc_method_handler(self._one)

    def _one(self, request: bytes, context: Any) -> bytes:
        self._pod.requests += 1
        time.sleep(self._pod.delay_seconds)
        if self._pod.grpc_status is not grpc.StatusCode.OK:
            context.abort(self._pod.grpc_status, "as the test says")
        return self._pod.name.encode()

    def _stream(self, requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        self._pod.requests += 1
        for request in requests:
            yield self._pod.name.encode() + request
