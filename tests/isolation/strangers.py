"""Servers of strangers: each says what an attack wants said, for as long as anybody reads."""

import socket
import ssl
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import trustme

Say: TypeAlias = Callable[[str], Iterable[bytes]]
"""A request's head → what is sent for it, maybe without an end; then the connection is closed."""


@dataclass(slots=True)
class Stranger:
    """requests: the heads that came, in order. ca_file: what signed its certificate, None where it speaks http."""

    port: int
    ca_file: str | None
    requests: list[str] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"{'https' if self.ca_file else 'http'}://{self.host}"

    def drip(self, chunk: bytes, pause_seconds: float = 0.02) -> Iterator[bytes]:
        """The same bytes again and again, with pauses."""
        while not self.ended.wait(pause_seconds):
            yield chunk


@contextmanager
def stranger(say: Callable[["Stranger"], Say], tls_folder: Path | None = None) -> Iterator[Stranger]:
    """A server on the loopback, with TLS where it is given a folder for its certificate."""
    tls, ca_file = None, None
    if tls_folder is not None:
        tls_folder.mkdir(parents=True, exist_ok=True)
        authority = trustme.CA()
        ca_file = str(tls_folder / "ca.pem")
        authority.cert_pem.write_to_path(ca_file)
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1", "localhost").configure_cert(tls)
    with ExitStack() as opened:
        listening = opened.enter_context(socket.create_server(("127.0.0.1", 0), backlog=64))
        state = Stranger(listening.getsockname()[1], ca_file)
        accepting = threading.Thread(target=_accept, args=(listening, tls, state, say(state)), daemon=True)
        accepting.start()
        try:
            yield state
        finally:
            state.ended.set()
            with suppress(OSError):
                listening.shutdown(socket.SHUT_RDWR)
            accepting.join()


def _accept(listening: socket.socket, tls: ssl.SSLContext | None, state: Stranger, say: Say) -> None:
    while not state.ended.is_set():
        try:
            opened, _ = listening.accept()
        except OSError:
            return
        threading.Thread(target=_serve, args=(opened, tls, state, say), daemon=True).start()


def _serve(plain: socket.socket, tls: ssl.SSLContext | None, state: Stranger, say: Say) -> None:
    with suppress(OSError), plain, ExitStack() as stack:
        plain.settimeout(30)
        opened = plain if tls is None else stack.enter_context(tls.wrap_socket(plain, server_side=True))
        head = b""
        while b"\r\n\r\n" not in head:
            chunk = opened.recv(65536)
            if not chunk:
                return
            head += chunk
        said = head.decode(errors="replace")
        state.requests.append(said)
        for chunk in say(said):
            opened.sendall(chunk)
            if state.ended.is_set():
                return


def response(body: bytes = b"", status: int = 200, **headers: str) -> list[bytes]:
    """One whole answer; headers with underscores for dashes. content_length="" leaves the length out."""
    named = {"content_length": str(len(body)), "connection": "close"} | headers
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in named.items() if value]
    return ["\r\n".join([f"HTTP/1.1 {status} OK", *lines, "", ""]).encode(), body]
