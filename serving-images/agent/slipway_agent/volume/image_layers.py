"""Layers of a container image, applied in their order to a folder; no layer is trusted (OCI image spec, layer.md).

Invariant: nothing is written outside the target, no symbolic link is ever made (a link to a file becomes a second name
of it), and no file is changed in place, so that a name that a lower layer shares keeps its bytes.

A documented subset: files, folders, links to files, whiteouts. A link to a folder, a device or a pipe is left out; it
matters only where it stands in the part of the image that holds the model, and is refused there. Where an image has a
folder /models that is the model (KServe's modelcars, and the images that Triton's users make), else its whole root.
"""

import os
import posixpath
import shutil
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO

from slipway_agent.model.errors import Reason, SpecError
from slipway_agent.volume.archive import ENTRY_LIMIT
from slipway_agent.volume.digest import CHUNK_BYTES
from slipway_agent.volume.models_volume import link_or_copy

MODEL_FOLDER = "models"
_WHITEOUT, _OPAQUE = ".wh.", ".wh..wh..opq"


class Layers:
    """One image's content so far. `check` is called between chunks and may raise to stop."""

    def __init__(self, target: Path, where: str, check: Callable[[], None]) -> None:
        target.mkdir()
        self._target = target
        self._where = where
        self._check = check
        self._entries = 0
        self._links: dict[str, str] = {}
        self._complaints: dict[str, str] = {}

    def apply(self, layer: Path) -> None:
        """One layer's tar, plain or gzip. SpecError for damage, names that lead out and zstd."""
        with layer.open("rb") as file:
            beginning = file.read(4)
            file.seek(0)
            if beginning == b"\x28\xb5\x2f\xfd":
                raise SpecError(
                    Reason.UNSUPPORTED_ARCHIVE,
                    f"{self._where} has a layer packed with zstd, which the agent can't unpack. Push it with gzip "
                    "(buildah push --compression-format gzip)",
                )
            mode = "r|gz" if beginning.startswith(b"\x1f\x8b") else "r|"
            try:
                with tarfile.open(fileobj=file, mode=mode, errorlevel=2) as opened:  # type: ignore[call-overload]
                    self._apply(opened)
            except (tarfile.TarError, zlib.error, EOFError, ValueError) as cause:
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
        waiting = dict(self._links)
        while waiting:
            undone = {}
            for relative, inside in waiting.items():
                origin, path = self._target / inside, self._target / relative
                if origin.is_file():
                    path.parent.mkdir(parents=True, exist_ok=True)
                    link_or_copy(origin, path)
                else:
                    undone[relative] = inside
            if len(undone) == len(waiting):
                for relative, inside in undone.items():
                    self._complaints[relative] = f"is a link to {inside}, which is no file of the image"
                break
            waiting = undone
        folder = self._target / MODEL_FOLDER
        inside_models = folder.is_dir() and not folder.is_symlink()
        for name, what in sorted(self._complaints.items()):
            if not inside_models or name.startswith(f"{MODEL_FOLDER}/"):
                raise self._unsafe(name, what)
        return folder if inside_models else self._target

    def _apply(self, opened: tarfile.TarFile) -> None:
        written: set[str] = set()
        for member in opened:
            relative = self._judge(member.name)
            if relative is None:
                continue
            folder, name = posixpath.split(relative)
            if name == _OPAQUE:
                self._empty(folder, written)
                continue
            if name.startswith(_WHITEOUT):
                self._remove(posixpath.join(folder, name.removeprefix(_WHITEOUT)))
                continue
            written.add(relative)
            self._complaints.pop(relative, None)
            if member.isdir():
                self._make_folder(relative)
            elif member.isreg():
                content = opened.extractfile(member)
                assert content is not None
                self._write(relative, content)
            elif member.islnk():
                self._link(relative, self._judge(member.linkname))
            elif member.issym():
                destination = member.linkname
                if not destination.startswith("/"):
                    destination = posixpath.join("/", folder, destination)
                self._remove(relative)
                self._links[relative] = posixpath.normpath(destination).lstrip("/")
            else:
                self._remove(relative)
                self._complaints[relative] = "is a device, pipe or socket"

    def _write(self, relative: str, content: IO[bytes]) -> None:
        path = self._clear(relative)
        with path.open("xb", buffering=0) as writing:
            while chunk := content.read(CHUNK_BYTES):
                writing.write(chunk)
                self._check()

    def _link(self, relative: str, inside: str | None) -> None:
        origin = self._target / inside if inside is not None else None
        if origin is None or not origin.is_file():
            self._remove(relative)
            self._complaints[relative] = f"is a link to {inside}, which is no file of the image so far"
        elif inside != relative:
            link_or_copy(origin, self._clear(relative))

    def _make_folder(self, relative: str) -> None:
        path = self._target / relative
        if not path.is_dir():
            self._clear(relative)
            path.mkdir()

    def _clear(self, relative: str) -> Path:
        """The path with nothing at it, and folders above it."""
        self._remove(relative)
        path = self._target / relative
        for above in reversed(path.parents):
            if above.is_relative_to(self._target) and not above.is_dir():
                above.unlink(missing_ok=True)  # a file of a lower layer gives way to a folder
                above.mkdir()
        return path

    def _remove(self, relative: str) -> None:
        path = self._target / relative
        if path.is_dir():
            shutil.rmtree(path)
        elif os.path.lexists(path):
            path.unlink()
        self._forget(relative)

    def _empty(self, folder: str, written: set[str]) -> None:
        """Nothing of the lower layers stays in a folder; what this layer put there before does."""
        kept = {each for each in written if each.startswith(f"{folder}/" if folder else "")}
        for path in (
            sorted((self._target / folder).rglob("*"), reverse=True) if (self._target / folder).is_dir() else []
        ):
            relative = str(path.relative_to(self._target))
            if any(each == relative or each.startswith(f"{relative}/") for each in kept):
                continue
            self._remove(relative)
        for name in [*self._links, *self._complaints]:
            if name.startswith(f"{folder}/" if folder else "") and name not in kept:
                self._forget(name)

    def _forget(self, relative: str) -> None:
        for noted in (self._links, self._complaints):
            for name in [name for name in noted if name == relative or name.startswith(f"{relative}/")]:
                del noted[name]

    def _judge(self, name: str) -> str | None:
        """The entry's path below the target, `/models/a` and `./models/a` as `models/a`; None for the target itself."""
        self._entries += 1
        if self._entries > ENTRY_LIMIT:
            raise self._unsafe(name, f"is one of more than {ENTRY_LIMIT}")
        self._check()
        parts = [part for part in name.split("/") if part not in ("", ".")]
        if ".." in parts or "\0" in name:
            raise self._unsafe(name, "leads out of the image by '..'")
        return "/".join(parts) or None

    def _unsafe(self, name: str, what: str) -> SpecError:
        shown = name if name.isprintable() else repr(name)
        return SpecError(
            Reason.UNSAFE_PATH, f"{self._where}: the entry {shown[:200]} {what}. Build the image without it"
        )

    def _damaged(self, cause: object) -> SpecError:
        words = str(cause) or type(cause).__name__
        return SpecError(
            Reason.UNSUPPORTED_ARCHIVE, f"{self._where} has a layer that can't be unpacked: {words}. Push it again"
        )
