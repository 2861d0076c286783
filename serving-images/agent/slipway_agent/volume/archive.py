"""Unpack a zip or tar.gz. No entry is trusted.

Invariant: nothing is ever written outside the target folder, whatever the archive says: names are judged as text,
only ordinary files are created, and no symbolic link is ever made (a link to a file of the archive becomes a second
name of that file). Refusals are SpecError(UnsafePath), damage and unknown kinds SpecError(UnsupportedArchive).
"""

import os
import posixpath
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO

from slipway_agent.model.errors import Reason, SpecError
from slipway_agent.volume.digest import CHUNK_BYTES
from slipway_agent.volume.models_volume import link_or_copy

ENTRY_LIMIT = 50_000  # a model has thousands of files at most; tarfile keeps about 1 KiB of memory for each


def archive_kind(name: str, beginning: bytes) -> str | None:
    """`zip`, `tar.gz` or None, by the file's name and, where that says nothing, by its first bytes."""
    lowered = name.lower()
    if lowered.endswith(".zip"):
        return "zip"
    if lowered.endswith((".tar.gz", ".tgz")):
        return "tar.gz"
    if "." in lowered and not lowered.endswith(".mar"):  # torch-model-archiver's files are either
        return None
    if beginning.startswith(b"PK\x03\x04"):
        return "zip"
    return "tar.gz" if beginning.startswith(b"\x1f\x8b") else None


def unpacked_bytes(kind: str, archive: Path, where: str) -> int | None:
    """What the archive says it unpacks to; None where only unpacking shows it (tar.gz)."""
    if kind != "zip":
        return None
    try:
        with zipfile.ZipFile(archive) as opened:
            return sum(entry.file_size for entry in opened.infolist())
    except (zipfile.BadZipFile, ValueError, EOFError) as cause:
        raise _damaged(where, cause) from cause


def unpack(kind: str, archive: Path, target: Path, where: str, check: Callable[[], None]) -> None:
    """Unpack below `target`, which must not exist. `check` is called between chunks and may raise to stop."""
    target.mkdir()
    writer = _Writer(target, where, check)
    try:
        if kind == "zip":
            _unpack_zip(archive, writer)
        else:
            _unpack_tar(archive, writer)
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, ValueError, NotImplementedError) as cause:
        raise _damaged(where, cause) from cause
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as cause:
        raise _damaged(where, "one name is both a file and a folder") from cause
    except RuntimeError as cause:  # zipfile's word for "encrypted, password required"
        raise SpecError(Reason.UNSUPPORTED_ARCHIVE, f"{where} is encrypted; pack it without a password") from cause
    writer.make_links()


def _unpack_zip(archive: Path, writer: "_Writer") -> None:
    with zipfile.ZipFile(archive) as opened:
        for entry in opened.infolist():
            mode = entry.external_attr >> 16
            if entry.is_dir():
                writer.make_folder(entry.filename)
            elif stat.S_IFMT(mode) not in (0, stat.S_IFREG):
                raise writer.unsafe(entry.filename, "is a link or device, which a zip may not hold here")
            else:
                with opened.open(entry) as content:
                    writer.write_file(entry.filename, content)


def _unpack_tar(archive: Path, writer: "_Writer") -> None:
    # as a stream: constant memory, and the archive is read once
    with archive.open("rb") as file, tarfile.open(fileobj=file, mode="r|gz", errorlevel=2) as opened:
        try:
            for member in opened:
                if member.isdir():
                    writer.make_folder(member.name)
                elif member.isreg():
                    content = opened.extractfile(member)
                    assert content is not None
                    writer.write_file(member.name, content)
                elif member.issym():
                    destination = posixpath.join(posixpath.dirname(member.name), member.linkname)
                    writer.note_link(member.name, destination, member.linkname)
                elif member.islnk():
                    writer.note_link(member.name, member.linkname, member.linkname)
                else:
                    raise writer.unsafe(member.name, "is a device, pipe or socket")
        except OSError as cause:
            if cause.errno is None:  # gzip's BadGzipFile and tarfile's own complaints carry no errno
                raise tarfile.ReadError(str(cause)) from cause
            raise


class _Writer:
    """Creates the entries of one archive below one folder."""

    def __init__(self, target: Path, where: str, check: Callable[[], None]) -> None:
        self._target = target
        self._where = where
        self._check = check
        self._links: list[tuple[str, str, str]] = []
        self._entries = 0

    def unsafe(self, name: str, what: str) -> SpecError:
        shown = name if name.isprintable() else repr(name)
        message = f"{self._where}: the entry {shown[:200]} {what}. Pack the model without it"
        return SpecError(Reason.UNSAFE_PATH, message)

    def make_folder(self, name: str) -> None:
        if (relative := self._judge(name)) is not None:
            (self._target / relative).mkdir(parents=True, exist_ok=True)

    def write_file(self, name: str, content: IO[bytes]) -> None:
        relative = self._judge(name)
        if relative is None:
            return
        path = self._target / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            writing = path.open("xb", buffering=0)
        except FileExistsError:
            raise self.unsafe(name, "is there twice") from None
        with writing:
            while chunk := content.read(CHUNK_BYTES):
                writing.write(chunk)
                self._check()

    def note_link(self, name: str, destination: str, as_written: str) -> None:
        relative = self._judge(name)
        inside = posixpath.normpath(destination)
        if as_written.startswith("/") or inside == ".." or inside.startswith("../") or "\0" in inside:
            raise self.unsafe(name, f"is a link to {as_written}, which leads out of the archive")
        if relative is not None:
            self._links.append((name, relative, inside))

    def make_links(self) -> None:
        """Links to files of this archive, made last, as second names; a link to a link settles in a later round."""
        waiting = self._links
        while waiting:
            undone = []
            for name, relative, inside in waiting:
                origin, path = self._target / inside, self._target / relative
                if origin.is_file():
                    path.parent.mkdir(parents=True, exist_ok=True)
                    if os.path.lexists(path):
                        raise self.unsafe(name, "is there twice")
                    link_or_copy(origin, path)
                else:
                    undone.append((name, relative, inside))
            if len(undone) == len(waiting):
                raise self.unsafe(undone[0][0], f"is a link to {undone[0][2]}, which is no file of the archive")
            waiting = undone

    def _judge(self, name: str) -> str | None:
        """The entry's path below the target; None for the target itself and what macOS adds. SpecError when unsafe."""
        self._entries += 1
        if self._entries > ENTRY_LIMIT:
            raise self.unsafe(name, f"is one of more than {ENTRY_LIMIT}")
        self._check()
        if name.startswith("/") or "\\" in name or "\0" in name or name[1:2] == ":":
            raise self.unsafe(name, "is no relative path")
        parts = [part for part in name.split("/") if part not in ("", ".")]
        if ".." in parts:
            raise self.unsafe(name, "leads out of the archive by '..'")
        if not parts or parts[0] == "__MACOSX":
            return None
        return "/".join(parts)


def _damaged(where: str, cause: object) -> SpecError:
    return SpecError(
        Reason.UNSUPPORTED_ARCHIVE,
        f"{where} can't be unpacked as zip or tar.gz: {str(cause) or type(cause).__name__}. Pack it again, or give the "
        "model as a folder",
    )
