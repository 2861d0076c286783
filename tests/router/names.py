"""A DNS server on loopback: what a cluster's DNS answers for headless Services, changed by the test."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Sequence

TTL_SECONDS = 5
NXDOMAIN = 3
A_RECORD = 1


class Names:
    """Names and their addresses. One without any is answered NXDOMAIN, as CoreDNS does for a Service without pods."""

    def __init__(self) -> None:
        self._addresses: dict[str, tuple[str, ...]] = {}
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port = int(self._socket.getsockname()[1])
        self.asked: dict[str, int] = {}
        self.is_silent = False
        threading.Thread(target=self._serve, daemon=True).start()

    def put(self, name: str, addresses: Sequence[str]) -> None:
        """From now on the name has these addresses."""
        self._addresses[name] = tuple(addresses)

    def close(self) -> None:
        self._socket.close()

    def _serve(self) -> None:
        while True:
            try:
                question, sender = self._socket.recvfrom(4096)
            except OSError:
                return
            if not self.is_silent:
                self._socket.sendto(self._answer(question), sender)

    def _answer(self, question: bytes) -> bytes:
        labels, at = [], 12
        while question[at]:
            labels.append(question[at + 1 : at + 1 + question[at]].decode())
            at += 1 + question[at]
        name, (kind, _) = ".".join(labels), struct.unpack("!HH", question[at + 1 : at + 5])
        self.asked[name] = self.asked.get(name, 0) + 1
        addresses = self._addresses.get(name, ())
        answers = addresses if kind == A_RECORD else ()
        flags = 0x8180 | (0 if addresses else NXDOMAIN)
        records = b"".join(
            struct.pack("!HHHIH", 0xC00C, A_RECORD, 1, TTL_SECONDS, 4) + socket.inet_aton(address)
            for address in answers
        )
        header = question[:2] + struct.pack("!HHHHH", flags, 1, len(answers), 0, 0)
        return header + question[12 : at + 5] + records
