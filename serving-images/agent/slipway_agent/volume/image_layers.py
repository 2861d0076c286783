"""Layers of a container image, applied in their order to a folder; no layer is trusted (OCI image spec, layer.md).
Runs in a process of its own (`unpacking`).

Invariant: nothing is written outside the target, no symbolic link is ever made (a link to a file becomes a second name
of it), and no file is changed in place, so that a name that a lower layer shares keeps its bytes.

A documented subset: files, folders, links to files, whiteouts. A link to a folder, a device or a pipe is left out; it
matters only where it stands in the part of the image that holds the model, and is refused there. Where an image has a
folder /models that is the model (KServe's modelcars, and the images that Triton's users make), else its whole root.
"""

import os
import posixpath
import shutil
import stat
import tarfile
from collections import Counter
from pathlib import Path
from typing import IO

from slipway_agent.model.errors import Reason, SpecError
from slipway_agent.model.limits import Budget
from slipway_agent.volume import tar_stream
from slipway_agent.volume.entry_names import find_fault, show_name
from slipway_agent.volume.second_names import follow_links
from slipway_agent.volume.written import give_second_name, write_content

MODEL_FOLDER = "models"
_WHITEOUT, _OPAQUE = ".wh.", ".wh..wh..opq"


class Layers:
    """One image's content so far."""

    def __init__(self, target: Path, where: str, budget: Budget) -> None:
        target.mkdir()
        self._target = target
        self._where = where
        self._budget = budget
        self._noted = _Noted()
        self._made: set[str] = set()  # folders that are there; a memory of stat, no more

    def apply(self, layer: Path) -> None:
        """One layer's tar, plain or gzip. SpecError for damage, names that lead out and zstd; OSError of the disk."""
        with layer.open("rb") as file:
            beginning = file.read(4)
        if beginning == b"\x28\xb5\x2f\xfd":
            raise SpecError(
                Reason.UNSUPPORTED_ARCHIVE,
                f"{self._where} has a layer packed with zstd, which the agent can't unpack. Push it with gzip "
                "(buildah push --compression-format gzip)",
            )
        try:
            self._apply(layer, is_packed=beginning.startswith(b"\x1f\x8b"))
        except tar_stream.DAMAGES as cause:
            raise self._damaged(cause) from cause
        except OSError as cause:
            if cause.errno is None:  # gzip's and tarfile's own complaints carry no errno
                raise self._damaged(cause) from cause
            raise

    def place(self, name: str, file: Path) -> None:
        """A file that is a layer by itself, moved to its name."""
        relative = self._judge(name)
        if relative is None:
            raise self._unsafe(name, "names no file")
        os.rename(file, self._clear(relative))

    def finish(self) -> Path:
        """Make the links; the folder that holds the model. SpecError(UnsafePath) for what it lacks."""
        links, complaints = self._noted.links, dict(self._noted.complaints)
        for relative, inside in follow_links(links).items():
            origin = self._target / inside
            if inside in links or find_fault(inside) or not origin.is_file():
                complaints[relative] = (
                    f"is a link to {show_name(links[relative]) or 'the root'}, which is no file of the image"
                )
            else:
                self._make_parents(relative)
                give_second_name(origin, self._target / relative, self._budget)
        folder = self._target / MODEL_FOLDER
        inside_models = folder.is_dir() and not folder.is_symlink()
        for name, what in sorted(complaints.items()):
            if not inside_models or name.startswith(f"{MODEL_FOLDER}/"):
                raise self._unsafe(name, what)
        return folder if inside_models else self._target

    def _apply(self, layer: Path, is_packed: bool) -> None:
        written: dict[str, None] = {"": None}  # what this layer brings, with the folders above
        emptied: set[str] = set()
        for member, content in tar_stream.entries(layer, is_packed, self._where):
            relative = self._judge(member.name)
            if relative is None:
                continue
            folder, name = posixpath.split(relative)
            if name == _OPAQUE:
                if folder not in emptied:
                    self._empty(folder, written)
                emptied.add(folder)
                continue
            if name.startswith(_WHITEOUT):
                self._remove(posixpath.join(folder, self._judge_removed(name)))
                continue
            for above in (relative, *_folders_above(relative)):
                written[above] = None
            self._apply_entry(member, relative, content)

    def _apply_entry(self, member: tarfile.TarInfo, relative: str, content: IO[bytes] | None) -> None:
        self._noted.forget_name(relative)
        if member.isdir():
            self._make_folder(relative)
        elif content is not None:
            self._budget.claim(member.size)
            self._write(relative, content)
        elif member.islnk():
            self._link(relative, self._judge(member.linkname))
        elif member.issym():
            destination = member.linkname
            if not destination.startswith("/"):
                destination = posixpath.join("/", posixpath.dirname(relative), destination)
            self._remove(relative)
            self._noted.add_link(relative, posixpath.normpath(destination).lstrip("/"))
        else:
            self._remove(relative)
            self._noted.complain(relative, "is a device, pipe or socket")

    def _judge_removed(self, name: str) -> str:
        removed = name.removeprefix(_WHITEOUT)
        if removed in ("", ".", ".."):
            raise self._unsafe(name, "marks nothing as removed")
        return removed

    def _write(self, relative: str, content: IO[bytes]) -> None:
        write_content(self._clear(relative), content)

    def _link(self, relative: str, inside: str | None) -> None:
        origin = self._target / inside if inside is not None else None
        if origin is None or not origin.is_file():
            self._remove(relative)
            self._noted.complain(relative, f"is a link to {inside}, which is no file of the image so far")
        elif inside != relative:
            # the origin may lie below what gives way to the link
            path = self._clear(relative)
            if not origin.is_file():
                self._noted.complain(relative, f"is a link to {inside}, which it replaces")
                return
            give_second_name(origin, path, self._budget)

    def _make_folder(self, relative: str) -> None:
        path = self._target / relative
        if not path.is_dir():
            self._clear(relative)
            path.mkdir()

    def _clear(self, relative: str) -> Path:
        """The path with nothing at it, and folders above it."""
        self._remove(relative)
        self._make_parents(relative)
        return self._target / relative

    def _make_parents(self, relative: str) -> None:
        folders = _folders_above(relative)
        if not folders or folders[0] in self._made:
            return
        for above in reversed(folders):
            path = self._target / above
            if not path.is_dir():
                path.unlink(missing_ok=True)  # a file of a lower layer gives way to a folder
                self._noted.forget_name(above)
                self._budget.count()
                path.mkdir()
        self._made.update(folders)

    def _remove(self, relative: str) -> None:
        path = f"{self._target}/{relative}"
        try:
            if stat.S_ISDIR(os.lstat(path).st_mode):
                shutil.rmtree(path)
                self._made.clear()
            else:
                os.unlink(path)
        except (FileNotFoundError, NotADirectoryError):
            pass
        self._noted.forget(relative)

    def _empty(self, folder: str, written: dict[str, None]) -> None:
        """Nothing of the lower layers stays in a folder; what this layer put there before does."""
        place = self._target / folder
        for path in sorted(place.rglob("*"), reverse=True) if place.is_dir() else []:
            relative = str(path.relative_to(self._target))
            if relative not in written:
                self._remove(relative)
        for name in self._noted.below(folder):
            if name not in written:
                self._noted.forget(name)

    def _judge(self, name: str) -> str | None:
        """The entry's path below the target, `/models/a` and `./models/a` as `models/a`; None for the target itself."""
        self._budget.count()
        relative = "/".join(part for part in name.split("/") if part not in ("", "."))
        if fault := find_fault(relative, "image"):
            raise self._unsafe(name, fault)
        return relative or None

    def _unsafe(self, name: str, what: str) -> SpecError:
        return SpecError(
            Reason.UNSAFE_PATH, f"{self._where}: the entry {show_name(name)} {what}. Build the image without it"
        )

    def _damaged(self, cause: object) -> SpecError:
        words = str(cause)[:300] or type(cause).__name__
        return SpecError(
            Reason.UNSUPPORTED_ARCHIVE, f"{self._where} has a layer that can't be unpacked: {words}. Push it again"
        )


class _Noted:
    """What is known of the image and isn't on the disk: links, and what can't be made, each with why."""

    def __init__(self) -> None:
        self.links: dict[str, str] = {}
        self.complaints: dict[str, str] = {}
        self._count_below: Counter[str] = Counter()

    def add_link(self, relative: str, inside: str) -> None:
        self._make_way(relative)
        self.links[relative] = inside

    def complain(self, relative: str, what: str) -> None:
        self._make_way(relative)
        self.complaints[relative] = what

    def _make_way(self, relative: str) -> None:
        """What has this name goes, and what has the name of a folder above it."""
        self.forget(relative)
        folders = _folders_above(relative)
        for folder in folders:
            self.forget_name(folder)
        self._count_below.update(folders)

    def below(self, folder: str) -> list[str]:
        """The names in a folder, "" for all. Not looked for where there are none: that is asked for every entry."""
        if folder and self._count_below[folder] <= 0:
            return []
        beginning = f"{folder}/" if folder else ""
        return [name for noted in (self.links, self.complaints) for name in noted if name.startswith(beginning)]

    def forget(self, relative: str) -> None:
        """This name, and all below it."""
        for name in [relative, *self.below(relative)]:
            self.forget_name(name)

    def forget_name(self, name: str) -> None:
        if self.links.pop(name, None) is not None or self.complaints.pop(name, None) is not None:
            self._count_below.subtract(_folders_above(name))


def _folders_above(relative: str) -> list[str]:
    """a/b/c lies in [a/b, a]."""
    found = []
    while (relative := relative.rpartition("/")[0]) != "":
        found.append(relative)
    return found
