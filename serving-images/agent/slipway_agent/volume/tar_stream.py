"""A tar, packed or plain, read once from its beginning to its end in constant memory.

tarfile reads whatever a header asks for into memory before it judges it: a PAX header of 600 MB, a chain of long names,
a map of a million holes. So it reads through a file of ours, which counts what one entry's header takes. Invariant:
between two entries at most HEADER_BYTES are read; nothing is ever read a second time.
"""

import gzip
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

from slipway_agent.model.errors import Reason, SpecError
from slipway_agent.model.ledger import describe_bytes
from slipway_agent.model.limits import HEADER_BYTES

CHUNK_BYTES = 1 << 20
DAMAGES = (tarfile.TarError, zlib.error, EOFError, ValueError, gzip.BadGzipFile)
"""What a tar that can't be read raises, from here and from reading what `entries` yields."""


def entries(path: Path, is_packed: bool, where: str) -> Iterator[tuple[tarfile.TarInfo, IO[bytes] | None]]:
    """Each entry, and the content of one that is a file, to be read before the next is asked for.

    One of DAMAGES for what is no tar; SpecError for a header that is too large.
    """
    with path.open("rb") as file:
        content = cast(IO[bytes], gzip.GzipFile(fileobj=file)) if is_packed else file
        forward = _Forward(content, where)
        try:
            forward.begin_header()
            # TarFile itself, not tarfile.open: its own stream stops at a second gzip member and keeps all that follows
            opened = tarfile.TarFile(fileobj=cast(IO[bytes], forward), encoding="utf-8", errorlevel=2)
            while (member := opened.next()) is not None:
                opened.members.clear()  # type: ignore[attr-defined]  # it would keep them all
                forward.end_header()
                if member.size < 0:
                    raise tarfile.ReadError(f"an entry has the size {member.size}")
                yield member, opened.extractfile(member) if member.isreg() else None
                forward.begin_header()
        except RecursionError as cause:  # a header of headers of headers
            raise tarfile.ReadError("too many headers stand before one entry") from cause


class _Forward:
    """What TarFile needs of a file: read, tell, and a seek that only goes on."""

    def __init__(self, content: IO[bytes], where: str) -> None:
        self._content = content
        self._where = where
        self._at = 0
        self._left: int | None = None

    def begin_header(self) -> None:
        self._left = HEADER_BYTES

    def end_header(self) -> None:
        self._left = None

    def read(self, size: int) -> bytes:
        if self._left is not None:
            if size > self._left:
                asked_bytes = HEADER_BYTES - self._left + size
                raise SpecError(
                    Reason.UNSUPPORTED_ARCHIVE,
                    f"{self._where} has an entry whose header takes {describe_bytes(asked_bytes)} (a name, attributes "
                    f"or a map of holes), and {describe_bytes(HEADER_BYTES)} are read. Pack it again, with plain names "
                    "and without extended attributes",
                )
            self._left -= size
        content = self._content.read(size)
        self._at += len(content)
        return content

    def tell(self) -> int:
        return self._at

    def seek(self, place: int) -> None:
        if place < self._at:
            raise tarfile.ReadError("an entry begins before the one that it follows")
        while self._at < place:
            skipped = self._content.read(min(CHUNK_BYTES, place - self._at))
            if not skipped:
                return  # what is read next is empty, and TarFile says so
            self._at += len(skipped)

    def seekable(self) -> bool:
        return False
