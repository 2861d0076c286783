"""Attacks by servers: stores, registries, the model server beside the agent, and whoever connects to the agent."""

import asyncio
import gzip
import http.client
import json
import socket
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from unittest.mock import patch

from aiohttp import web

from slipway.controller import agents
from slipway.observe.pods import Pod
from slipway_agent.config import Source
from slipway_agent.model.errors import AgentError
from slipway_agent.model.limits import Room
from slipway_agent.servers.local_http import LOST, LocalHttp
from slipway_agent.servers.open_inference import read_index
from slipway_agent.sources.base import ModelSource, Progress
from slipway_agent.sources.https import HttpsSource
from slipway_agent.sources.object_store import ObjectSource
from slipway_agent.sources.oci import OciSource
from slipway_agent.sources.s3 import S3
from slipway_agent.supervisor.front import Front, start_front
from slipway_agent.supervisor.judging import GOOD
from tests.isolation.attack import Attack
from tests.isolation.links import in_time
from tests.isolation.strangers import Say, Stranger, response, stranger

PASSWORD = "a-password"
SHORT_SECONDS = 1.0  # in the place of minutes, so that a row takes no longer
HTTP = "slipway_agent.sources.http_exchange"
FREE_BYTES = 8 << 20  # in the place of a volume's own, which is not filled for a test
DIGEST = "sha256:" + "a" * 64
FRONT = Front({"/healthz": lambda: GOOD}, b"", lambda: "there is no worker", lambda: "")
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
SHORTENED = {
    f"{HTTP}.HEAD_SECONDS": SHORT_SECONDS,
    f"{HTTP}.SMALL_SECONDS": SHORT_SECONDS,
    f"{HTTP}.SLOW_SECONDS": SHORT_SECONDS,
    "slipway_agent.sources.s3.LIST_SECONDS": SHORT_SECONDS,
    "slipway_agent.sources.https.find_room": lambda folder: Room(FREE_BYTES),
}

Answer = Callable[[Stranger, str], Iterable[bytes]]
"""Server, a request's head → what is sent."""


def fetched(name: str, answer: Answer, open_source: Callable[[Stranger, str], ModelSource], *, tls: bool) -> Attack:
    """Must end in one sentence, in time, and leave little on the disk; no password goes anywhere else."""

    def attempt(folder: Path) -> str | None:
        (folder / "secret").mkdir()
        (folder / "secret" / "username").write_text("user")
        (folder / "secret" / "password").write_text(PASSWORD)
        (folder / "staging").mkdir()

        def say(state: Stranger) -> Say:
            return lambda head: answer(state, head)

        def fetch() -> str | None:
            try:
                source = open_source(server, str(folder / "secret"))
                source.list_versions()
                source.fetch(3, folder / "staging", Progress(), None)
            except AgentError as refusal:
                return None if refusal.message and PASSWORD not in refusal.message else "the message has the password"
            return "it was fetched without a word"

        with ExitStack() as stack:
            for place, value in SHORTENED.items():
                stack.enter_context(patch(place, value))
            server = stack.enter_context(stranger(say, folder / "tls" if tls else None))
            found = in_time(fetch)
        stored_bytes = sum(path.stat().st_size for path in (folder / "staging").rglob("*") if path.is_file())
        return found or (f"{stored_bytes} bytes are left" if stored_bytes > 2 * FREE_BYTES else None)

    return Attack("server", name, attempt)


def https(name: str, answer: Answer) -> Attack:
    def open_source(server: Stranger, secret: str) -> ModelSource:
        return HttpsSource(Source(f"{server.url}/", None, {3: "m.onnx"}, True, server.ca_file, secret))

    return fetched(f"https: {name}", answer, open_source, tls=True)


def oci(name: str, answer: Answer) -> Attack:
    def open_source(server: Stranger, secret: str) -> ModelSource:
        return OciSource(Source(f"oci://{server.host}/digits", None, {3: "v3"}, credentials=secret))

    return fetched(f"oci: {name}", answer, open_source, tls=False)


def s3(name: str, answer: Answer) -> Attack:
    def open_source(server: Stranger, secret: str) -> ModelSource:
        source = Source("s3://bucket/digits", None, endpoint=server.url)
        return ObjectSource(source, S3(source), 3, lambda folder: True)

    return fetched(f"s3: {name}", answer, open_source, tls=False)


def says(*chunks: bytes, drip: bytes = b"", flood: bytes = b"") -> Answer:
    """The chunks; then for ever `drip` with pauses, or `flood` without."""

    def answer(state: Stranger, head: str) -> Iterator[bytes]:
        yield from chunks
        if drip:
            yield from state.drip(drip)
        while flood and not state.ended.is_set():
            yield flood

    return answer


def head_of(**headers: str) -> bytes:
    return response(**{"content_length": "", **headers})[0]  # type: ignore[arg-type]


def layer(**fields: object) -> bytes:
    titled = {"org.opencontainers.image.title": "model.onnx"}
    found = {"mediaType": "application/octet-stream", "digest": DIGEST, "size": 10, "annotations": titled}
    return json.dumps({"mediaType": MANIFEST, "layers": [found | fields]}).encode()


def manifest(content: bytes, blob: Answer | None = None) -> Answer:
    def answer(state: Stranger, head: str) -> Iterable[bytes]:
        if "/blobs/" in head and blob is not None:
            return blob(state, head)
        return response(content, content_type=MANIFEST)

    return answer


def challenge(realm: str, token: Answer) -> Answer:
    """A registry that wants a token from `realm`, where HOST is its own."""

    def answer(state: Stranger, head: str) -> Iterable[bytes]:
        if "/token" in head.split("\r\n", 1)[0]:
            return token(state, head)
        return response(status=401, www_authenticate=f'Bearer realm="{realm.replace("HOST", state.host)}"')

    return answer


def page(*entries: bytes) -> list[bytes]:
    more = b"<IsTruncated>true</IsTruncated><NextContinuationToken>same</NextContinuationToken>"
    body = b"<ListBucketResult><Name>b</Name>" + more + b"".join(entries) + b"</ListBucketResult>"
    return response(body, content_type="application/xml")


ENTRY = b"<Contents><Key>digits/3/a</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified><Size>1</Size></Contents>"
ENTITIES = b'<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa">%s]><ListBucketResult><Name>&n;</Name></ListBucketResult>' % b"".join(
    b'<!ENTITY %c "%s">' % (letter, b"&%c;" % (letter - 1) * 10) for letter in range(ord("b"), ord("o"))
)


def packed_zeros(mebibytes: int) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    return b"".join(packer.compress(bytes(1 << 20)) for _ in range(mebibytes)) + packer.flush()


def local(name: str, answer: Answer) -> Attack:
    """A model server in the place of the real one: asked for its index and a prediction, it must not hold the agent."""

    def attempt(folder: Path) -> str | None:
        def ask() -> str | None:
            asked = LocalHttp(server.port)
            with suppress(*LOST):
                read_index(asked.ask("POST", "/v2/repository/index", SHORT_SECONDS)[1], "digits")
            asked.predict("/v2/models/digits/infer", {}, SHORT_SECONDS)
            return None

        with stranger(lambda state: lambda head: answer(state, head)) as server:
            return in_time(ask)

    return Attack("server", f"model server: {name}", attempt)


def connections(folder: Path) -> str | None:
    """5,000 connections of one pod: the kubelet's probe is answered meanwhile, and few are held."""
    server = start_front(0, FRONT)
    port = int(server.server_address[1])
    try:
        opened: deque[socket.socket] = deque()
        with ExitStack() as stack:
            for number in range(5000):
                opened.append(stack.enter_context(_connect(port)))
                if len(opened) > 400:  # a test may hold as few files as an agent
                    opened.popleft().close()
                if number % 500 == 499:
                    began = time.monotonic()
                    if _probe(port) != 200 or time.monotonic() - began > 2:
                        return f"a probe isn't answered within 2 s, with {number + 1} connections opened"
            held = server.connections
        return f"{held} connections are held" if held > server.limits.connections else None
    finally:
        server.shutdown()
        server.server_close()


def _connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), 20, ("127.0.0.9", 0))


def _probe(port: int) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status
    except OSError:
        return 0
    finally:
        connection.close()


def heads(folder: Path) -> str | None:
    """A request whose headers have no end."""
    server = start_front(0, FRONT)
    try:
        with _connect(int(server.server_address[1])) as opened:
            opened.sendall(b"GET /status HTTP/1.1\r\n")
            with suppress(OSError):
                for number in range(100_000):
                    opened.sendall(b"X-%d: %s\r\n" % (number, bytes(1000)))
                return "100 MB of headers are read"
        return None
    finally:
        server.shutdown()
        server.server_close()


def report(name: str, body: bytes, **headers: str) -> Attack:
    """A pod that answers the operator in its agent's place: no report, and no error that ends the pass."""

    async def answer(request: web.Request) -> web.StreamResponse:
        if "again" in request.query:
            return web.json_response({"schema": 1, "generation": "g", "listed": [], "versions": []})
        status = 302 if "Location" in headers else 200
        return web.Response(body=body, headers=headers, status=status)

    async def read() -> str | None:
        application = web.Application()
        application.router.add_get("/status", answer)
        runner = web.AppRunner(application, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        client = agents.Agents()
        try:
            with patch.object(agents, "AGENT_PORT", runner.addresses[0][1]):
                pod = Pod("pod", "uid", "aaa", False, False, "127.0.0.1", None, None)
                return "it counts as a report" if await client.read_reports([pod]) else None
        finally:
            await client.close()
            await runner.cleanup()

    return Attack("server", f"to the operator: {name}", lambda folder: in_time(lambda: asyncio.run(read())))


OK = head_of()
CHUNKED = head_of(transfer_encoding="chunked")
FLOOD = bytes(1 << 20)

ATTACKS: list[Attack] = [
    https("a body without an end", says(OK, flood=FLOOD)),
    https("chunks without an end", says(CHUNKED, flood=b"100000\r\n" + FLOOD + b"\r\n")),
    https("a body of a byte now and then", says(OK, drip=b"a")),
    https("chunks of a byte now and then", says(CHUNKED, drip=b"1\r\na\r\n")),
    https("a head of a byte now and then", says(b"HTTP/1.1 200 OK\r\nX: ", drip=b"a")),
    https("100 Continue for ever", says(drip=b"HTTP/1.1 100 Continue\r\n\r\n")),
    https("headers without an end", says(b"HTTP/1.1 200 OK\r\n", flood=b"X: y\r\n" * 10_000)),
    https("trailers without an end", says(CHUNKED, b"0\r\n", flood=b"X: y\r\n" * 10_000)),
    https("a Content-Length of 5000 digits", says(head_of(content_length="9" * 5000), b"a", drip=b"a")),
    https("a Content-Length larger than any disk", says(head_of(content_length="9" * 18), flood=FLOOD)),
    https(
        "a small Content-Length, and chunks",
        says(head_of(content_length="9", transfer_encoding="chunked"), flood=b"100000\r\n" + FLOOD + b"\r\n"),
    ),
    https("a redirect to file://", says(*response(status=302, location="file:///etc/passwd"))),
    https("a redirect to http://", says(*response(status=302, location="http://127.0.0.1/"))),
    https("a redirect to itself", says(*response(status=302, location="/again"))),
    https(
        "a redirect with a body without an end",
        says(head_of().replace(b"200 OK", b"302 OK\r\nLocation: /a"), flood=FLOOD),
    ),
    oci("a manifest without an end", says(OK, flood=FLOOD)),
    oci("a manifest of a byte now and then", says(OK, drip=b"[")),
    oci("a manifest that unpacks to 1 GiB", lambda _, head: response(packed_zeros(1024), content_encoding="gzip")),
    oci("a manifest nested 200,000 deep", says(*response(b"[" * 200_000))),
    oci("a size that is no number", manifest(layer().replace(b'"size": 10', b'"size": 1e400'))),
    oci(
        "an index of an index of itself",
        manifest(
            json.dumps(
                {"manifests": [{"digest": DIGEST, "platform": {"architecture": each}} for each in ("amd64", "arm64")]}
            ).encode()
        ),
    ),
    oci("a blob longer than the manifest says", manifest(layer(), says(OK, flood=FLOOD))),
    oci("a blob of a byte now and then", manifest(layer(size=10 << 20), says(OK, drip=b"a"))),
    oci("a blob with other bytes", manifest(layer(), says(*response(b"0123456789")))),
    oci("a token without an end", challenge("http://HOST/token", says(OK, flood=FLOOD))),
    oci("a token of a byte now and then", challenge("http://HOST/token", says(OK, drip=b"a"))),
    oci("a token for ever, and 401 for ever", challenge("http://HOST/token", says(*response(b'{"token": "x"}')))),
    oci("a realm of file://", challenge("file:///etc/passwd", says())),
    oci("a realm elsewhere without https", challenge("http://localhost:1/token", says())),
    s3("empty pages for ever, with one token", lambda state, head: page()),
    s3("the same page for ever", lambda state, head: page(*[ENTRY] * 1000)),
    s3("a page without an end", says(OK, b"<ListBucketResult><Name>b</Name>", flood=ENTRY * 1000)),
    s3("a page of a byte now and then", says(OK, drip=b" ")),
    s3("entities that multiply", says(*response(ENTITIES, content_type="application/xml"))),
    s3("a redirect to itself", lambda state, head: response(status=302, location=f"{state.url}/x")),
    local("an answer without an end", says(OK, flood=FLOOD)),
    local("an answer of a byte now and then", says(OK, drip=b"a")),
    local("a head of a byte now and then", says(b"HTTP/1.1 200 OK\r\nX: ", drip=b"a")),
    local("JSON nested 200,000 deep", says(*response(b"[" * 200_000))),
    report("a report without an end", b"[" + b"1," * (1 << 20)),
    report("a report nested 200,000 deep", b"[" * 200_000),
    report("a report that unpacks to 64 MiB", gzip.compress(bytes(64 << 20), 1), **{"Content-Encoding": "gzip"}),
    report("a redirect", b"", Location="/status?again=1"),
    Attack("server", "the agent's port: 5,000 connections", connections),
    Attack("server", "the agent's port: headers without an end", heads),
]
