"""A proxy before a real store that misbehaves as networks and stores do, on demand."""

import http.client
import http.server
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import trustme

CHUNK_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Answer:
    """What the proxy says itself, in the store's place."""

    status: int
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()

    @classmethod
    def error(cls, status: int, code: str, **headers: str) -> "Answer":
        """In S3's form; headers with underscores for dashes."""
        body = f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>said by the proxy</Message></Error>'
        named = tuple((name.replace("_", "-"), value) for name, value in headers.items())
        return cls(status, body.encode(), named)


@dataclass
class Faults:
    """What goes wrong; a test changes it while the proxy runs. `paths` are the requests that came, in order."""

    url: str = ""
    answers: list[Answer] = field(default_factory=list)  # each for one request
    cuts_after_bytes: list[int] = field(default_factory=list)  # of one body each: then the connection breaks
    stall_seconds: float = 0.0  # in the middle of each body
    bytes_per_second: float | None = None  # of each connection
    on_request: Callable[[str], None] | None = None  # before a request is passed on
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    sent_bytes: int = 0

    @property
    def paths(self) -> list[str]:
        return [path for path, _ in self.requests]

    def bodies(self, word: str) -> int:
        """How many requests there were whose path holds that word."""
        return sum(word in path for path in self.paths)


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that hang up are what these tests are about."""


@contextmanager
def proxy(target: str, ca_folder: Path | None = None) -> Iterator[Faults]:
    """A proxy before `target`; with `ca_folder` it speaks TLS, and ca.pem there is its authority."""
    faults = Faults()
    host = urlsplit(target).netloc

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            pass_on(self, host, faults)

        def do_HEAD(self) -> None:
            pass_on(self, host, faults)

        def do_POST(self) -> None:
            pass_on(self, host, faults)

        def do_PUT(self) -> None:
            pass_on(self, host, faults)

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

    server = _Server(("127.0.0.1", 0), Handler)
    faults.url = f"http://127.0.0.1:{server.server_address[1]}"
    if ca_folder is not None:
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(ca_folder / "ca.pem"))
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(tls)
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        faults.url = faults.url.replace("http://", "https://")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield faults
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def pass_on(handler: http.server.BaseHTTPRequestHandler, host: str, faults: Faults) -> None:
    faults.requests.append((handler.path, dict(handler.headers.items())))
    if faults.on_request is not None:
        faults.on_request(handler.path)
    if faults.answers:
        say(handler, faults.answers.pop(0))
        return
    upstream = http.client.HTTPConnection(host, timeout=30)
    try:
        headers = dict(handler.headers.items())
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        upstream.request(handler.command, handler.path, body, headers)
        answer = upstream.getresponse()
        handler.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("connection", "transfer-encoding", "date", "server"):
                handler.send_header(name, value)
        if answer.getheader("Content-Length") is None:
            handler.send_header("Connection", "close")
            handler.close_connection = True
        handler.end_headers()
        if handler.command != "HEAD":
            send_body(handler, answer, faults)
    finally:
        upstream.close()


def send_body(handler: http.server.BaseHTTPRequestHandler, answer: http.client.HTTPResponse, faults: Faults) -> None:
    is_object = answer.getheader("ETag") is not None or answer.getheader("Docker-Content-Digest") is not None
    cut = faults.cuts_after_bytes.pop(0) if is_object and faults.cuts_after_bytes else None
    sent = 0
    while chunk := answer.read(CHUNK_BYTES):
        if cut is not None and sent + len(chunk) > cut:
            handler.wfile.write(chunk[: cut - sent])
            handler.wfile.flush()
            handler.close_connection = True
            handler.connection.shutdown(socket.SHUT_RDWR)
            return
        handler.wfile.write(chunk)
        sent += len(chunk)
        faults.sent_bytes += len(chunk)
        if faults.bytes_per_second is not None:
            time.sleep(len(chunk) / faults.bytes_per_second)
        if is_object and faults.stall_seconds:
            handler.wfile.flush()
            time.sleep(faults.stall_seconds)


def say(handler: http.server.BaseHTTPRequestHandler, answer: Answer) -> None:
    handler.send_response(answer.status)
    for name, value in answer.headers:
        handler.send_header(name, value)
    handler.send_header("Content-Length", str(len(answer.body)))
    handler.end_headers()
    if handler.command != "HEAD":
        handler.wfile.write(answer.body)
