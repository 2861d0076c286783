"""A real HTTPS server on the loopback with Range, ETags, and every way in which a download can go wrong."""

import http.server
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import trustme


@dataclass
class ObjectServer:
    """What is served, and how it misbehaves; the tests change it while it runs."""

    content: bytes = b""
    etag: str | None = '"one"'
    last_modified: str | None = None
    statuses: list[int] = field(default_factory=list)  # answered first, one request each
    headers: dict[str, str] = field(default_factory=dict)  # beside such a status
    cuts_after_bytes: list[int] = field(default_factory=list)  # one request each: close after that much
    announces_extra_bytes: int = 0
    supports_range: bool = True
    is_chunked: bool = False
    stall_seconds: float = 0.0  # after the first megabyte
    requests: list[dict[str, str]] = field(default_factory=list)
    sent_bytes: int = 0
    url: str = ""
    ca_file: str = ""


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that hang up are what these tests are about."""


@contextmanager
def serve_objects(folder: Path) -> Iterator[ObjectServer]:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1", "localhost").configure_cert(tls)
    state = ObjectServer(ca_file=str(folder / "ca.pem"))

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            answer(self, state)

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

    server = _Server(("127.0.0.1", 0), Handler)
    server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    state.url = f"https://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def answer(handler: http.server.BaseHTTPRequestHandler, state: ObjectServer) -> None:
    state.requests.append({"path": handler.path, **dict(handler.headers.items())})
    if state.statuses:
        handler.send_response(state.statuses.pop(0))
        for name, value in state.headers.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", "0")
        handler.end_headers()
        return
    if state.etag is not None and handler.headers.get("If-None-Match") == state.etag:
        handler.send_response(304)
        handler.end_headers()
        return
    start = asked_start(handler, state)
    body = state.content[start:]
    handler.send_response(206 if start else 200)
    if start:
        handler.send_header("Content-Range", f"bytes {start}-{len(state.content) - 1}/{len(state.content)}")
    if state.etag is not None:
        handler.send_header("ETag", state.etag)
    if state.last_modified is not None:
        handler.send_header("Last-Modified", state.last_modified)
    if state.is_chunked:
        handler.send_header("Transfer-Encoding", "chunked")
    else:
        handler.send_header("Content-Length", str(len(body) + state.announces_extra_bytes))
    handler.end_headers()
    cut = state.cuts_after_bytes.pop(0) if state.cuts_after_bytes else None
    sent = body if cut is None else body[:cut]
    state.sent_bytes += len(sent)
    if state.stall_seconds:
        handler.wfile.write(sent[: 1 << 20])
        handler.wfile.flush()
        time.sleep(state.stall_seconds)
        sent = sent[1 << 20 :]
    handler.wfile.write(b"%x\r\n%s\r\n" % (len(sent), sent) if state.is_chunked else sent)
    if state.is_chunked and cut is None:
        handler.wfile.write(b"0\r\n\r\n")
    if cut is not None or state.announces_extra_bytes:
        handler.wfile.flush()
        handler.close_connection = True
        handler.connection.shutdown(socket.SHUT_RDWR)


def asked_start(handler: http.server.BaseHTTPRequestHandler, state: ObjectServer) -> int:
    wanted = handler.headers.get("Range")
    if wanted is None or not state.supports_range:
        return 0
    if handler.headers.get("If-Range") not in (None, state.etag, state.last_modified):
        return 0
    return int(wanted.removeprefix("bytes=").removesuffix("-"))
