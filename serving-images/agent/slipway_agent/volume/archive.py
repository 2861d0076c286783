"""Unpack a zip or tar.gz. No entry is trusted. Runs in a process of its own (`unpacking`).

Invariant: nothing is ever written outside the target folder, whatever the archive says: names are judged as text,
only ordinary files are created, and no symbolic link is ever made (a link to a file of the archive becomes a second
name of that file). Nothing is written, and no list of entries read, that the budget doesn't allow. Refusals are
SpecError(UnsafePath), damage, unknown kinds and limits SpecError(UnsupportedArchive).
"""

import errno
import lzma
import os
import posixpath
import stat
import struct
import tarfile
import zipfile
from pathlib import Path
from typing import IO

from slipway_agent.model.errors import Reason, SpecError
from slipway_agent.model.limits import Budget
from slipway_agent.volume import tar_stream
from slipway_agent.volume.entry_names import find_fault, show_name
from slipway_agent.volume.second_names import follow_links
from slipway_agent.volume.written import Folders, give_second_name, write_content


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


_ZIP_DAMAGES = (zipfile.BadZipFile, NotImplementedError, OverflowError, struct.error, lzma.LZMAError)


def unpack(kind: str, archive: Path, target: Path, where: str, budget: Budget) -> None:
    """Unpack below `target`, which must not exist. OSError of the disk."""
    target.mkdir()
    writer = _Writer(target, where, budget)
    try:
        if kind == "zip":
            _unpack_zip(archive, writer, budget)
        else:
            _unpack_tar(archive, writer, budget)
    except (*_ZIP_DAMAGES, *tar_stream.DAMAGES) as cause:
        raise _damaged(where, cause) from cause
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as cause:
        raise _damaged(where, "one name is both a file and a folder") from cause
    except OSError as cause:
        if cause.errno not in (None, errno.EINVAL):  # of the disk; a place before a file's beginning is EINVAL
            raise
        raise _damaged(where, cause) from cause
    except RuntimeError as cause:  # zipfile's word for "encrypted, password required"
        raise SpecError(Reason.UNSUPPORTED_ARCHIVE, f"{where} is encrypted; pack it without a password") from cause
    writer.make_links()


def _unpack_zip(archive: Path, writer: "_Writer", budget: Budget) -> None:
    with archive.open("rb") as file:
        # The very function by which ZipFile finds the directory that it then reads whole: no other reading of the same
        # bytes is what counts.
        ending = zipfile._EndRecData(file)  # type: ignore[attr-defined]
        if ending is not None:
            budget.refuse_directory(ending[zipfile._ECD_ENTRIES_TOTAL], ending[zipfile._ECD_SIZE])  # type: ignore[attr-defined]
        with zipfile.ZipFile(file) as opened:
            entries = opened.infolist()
            budget.refuse_directory(len(entries), 0)
            _refuse_overlaps(entries, opened.start_dir)
            budget.claim(sum(entry.file_size for entry in entries), is_all=True)
            for entry in entries:
                mode = entry.external_attr >> 16
                if entry.is_dir():
                    writer.make_folder(entry.filename)
                elif stat.S_IFMT(mode) not in (0, stat.S_IFREG):
                    raise writer.unsafe(entry.filename, "is a link or device, which a zip may not hold here")
                else:
                    with opened.open(entry) as content:
                        writer.write_file(entry.filename, content, entry.file_size)


def _refuse_overlaps(entries: list[zipfile.ZipInfo], end: int) -> None:
    """Entries that share bytes: each of them unpacks the same ones again."""
    for entry in sorted(entries, key=lambda entry: entry.header_offset, reverse=True):
        if entry.header_offset + zipfile.sizeFileHeader + entry.compress_size > end:  # type: ignore[attr-defined]
            raise zipfile.BadZipFile(f"the entry {show_name(entry.filename)} overlaps what follows it")
        end = entry.header_offset


def _unpack_tar(archive: Path, writer: "_Writer", budget: Budget) -> None:
    for member, content in tar_stream.entries(archive, is_packed=True, where=writer.where):
        if member.isdir():
            writer.make_folder(member.name)
        elif content is not None:
            budget.claim(member.size)
            writer.write_file(member.name, content, member.size)
        elif member.issym():
            destination = posixpath.join(posixpath.dirname(member.name), member.linkname)
            writer.note_link(member.name, destination, member.linkname)
        elif member.islnk():
            writer.note_link(member.name, member.linkname, member.linkname)
        else:
            raise writer.unsafe(member.name, "is a device, pipe or socket")


class _Writer:
    """Creates the entries of one archive below one folder."""

    def __init__(self, target: Path, where: str, budget: Budget) -> None:
        self.where = where
        self._target = target
        self._budget = budget
        self._folders = Folders(target, budget)
        self._links: dict[str, str] = {}
        self._names: dict[str, str] = {}

    def unsafe(self, name: str, what: str) -> SpecError:
        message = f"{self.where}: the entry {show_name(name)} {what}. Pack the model without it"
        return SpecError(Reason.UNSAFE_PATH, message)

    def make_folder(self, name: str) -> None:
        if (relative := self._judge(name)) is not None:
            self._folders.make(relative, is_counted=True)

    def write_file(self, name: str, content: IO[bytes], size_bytes: int) -> None:
        relative = self._judge(name)
        if relative is None:
            return
        self._folders.make(posixpath.dirname(relative))
        try:
            written_bytes = write_content(self._target / relative, content)
        except FileExistsError:
            raise self.unsafe(name, "is there twice") from None
        if written_bytes != size_bytes:
            raise tarfile.ReadError(f"{show_name(name)} has {written_bytes} of {size_bytes} bytes")

    def note_link(self, name: str, destination: str, as_written: str) -> None:
        relative = self._judge(name)
        inside = posixpath.normpath(destination)
        if as_written.startswith("/") or inside == ".." or inside.startswith("../") or "\0" in inside:
            raise self.unsafe(name, f"is a link to {show_name(as_written)}, which leads out of the archive")
        if relative is None:
            return
        if relative in self._links:
            raise self.unsafe(name, "is there twice")
        self._links[relative], self._names[relative] = inside, name

    def make_links(self) -> None:
        """Links to files of this archive, made last, as second names."""
        for relative, inside in follow_links(self._links).items():
            origin, path, name = self._target / inside, self._target / relative, self._names[relative]
            if not (self._folders.holds(posixpath.dirname(inside)) and origin.is_file()):
                what = f"is a link to {show_name(self._links[relative])}, which is no file of the archive"
                raise self.unsafe(name, what)
            try:
                self._folders.make(posixpath.dirname(relative))
            except (FileExistsError, NotADirectoryError) as cause:
                raise _damaged(self.where, "one name is both a file and a folder") from cause
            if os.path.lexists(path):
                raise self.unsafe(name, "is there twice")
            give_second_name(origin, path, self._budget)

    def _judge(self, name: str) -> str | None:
        """The entry's path below the target; None for the target itself and what macOS adds. SpecError when unsafe."""
        self._budget.count()
        if name.startswith("/") or "\\" in name or "\0" in name or name[1:2] == ":":
            raise self.unsafe(name, "is no relative path")
        parts = [part for part in name.split("/") if part not in ("", ".")]
        if not parts or (parts[0] == "__MACOSX" and ".." not in parts):
            return None
        relative = "/".join(parts)
        if fault := find_fault(relative):
            raise self.unsafe(name, fault)
        return relative


def _damaged(where: str, cause: object) -> SpecError:
    return SpecError(
        Reason.UNSUPPORTED_ARCHIVE,
        f"{where} can't be unpacked as zip or tar.gz: {str(cause)[:300] or type(cause).__name__}. Pack it again, or "
        "give the model as a folder",
    )
