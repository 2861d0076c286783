"""A folder in the pod: `pvc://`, `volume://`, or an `oci://` image, mounted read-only by the node.

Copied, never linked: the server doesn't mount it. Messages speak of the user's URI and the path below it, never of the
mount.
"""

import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from slipway_agent.config import VERSION_NAME, Source, parse_version
from slipway_agent.model.errors import AgentError, Reason, SpecError, TransientError, UnchangedError
from slipway_agent.sources.base import Fetched, Progress
from slipway_agent.volume.digest import CHUNK_BYTES, digest_of_files, list_files
from slipway_agent.volume.image_layers import MODEL_FOLDER
from slipway_agent.volume.models_volume import ensure_room, explain_disk

_MODEL_SUFFIXES = (".onnx", ".mar", ".zip", ".tar.gz", ".tgz")
_NESTED_FOLDERS = 4
_READ_BYTES = 1 << 20
"""The most that a ConfigMap or Secret holds."""
_NOT_A_MODEL = ("lost+found",)  # what a freshly made file system holds


@dataclass(frozen=True, slots=True)
class _File:
    relative: str
    path: Path
    size_bytes: int
    changed: int  # modification time in nanoseconds


class PathSource:
    def __init__(self, source: Source, served: int | None, holds_model: Callable[[Path], bool]) -> None:
        assert source.path is not None
        self._source = source
        self._root = _root_of(source.uri, Path(source.path))
        self._served = served if served is not None else 1  # a URI that is itself a model is version 1 unless said
        self._holds_model = holds_model

    def list_versions(self) -> Mapping[int, str | None]:
        self._require_root()
        if self._source.versions:
            places = {version: self._root / entry for version, entry in self._source.versions.items()}
        elif self._is_itself_a_model():
            places = {self._served: self._root}
        else:
            found = {version: self._root / str(version) for version in self._version_folders()}
            places = {version: place for version, place in found.items() if self._looks_complete(place)}
            if not places:
                raise SpecError(Reason.VERSION_NOT_FOUND, self._what_is_missing(sorted(found)))
        return {version: self._stamp(places[version]) for version in sorted(places)}

    def _stamp(self, place: Path) -> str | None:
        """Names a version's bytes; None where they can't be looked at.

        Small files are read: each pod has its own copy of a ConfigMap, with times of its own, and a version must not
        count as another one because another pod lists it. Of larger ones, names, sizes and times.
        """
        try:
            files = list(self._survey(place, str(place)))
            if sum(file.size_bytes for file in files) > _READ_BYTES:
                return _fingerprint(files)
            return digest_of_files(
                [(file.relative, hashlib.sha256(file.path.read_bytes()).hexdigest()) for file in files]
            )
        except (OSError, SpecError):
            return None

    def _looks_complete(self, place: Path) -> bool:
        """Whether a folder holds what the server knows as a model, maybe a folder further down: not half a copy."""
        try:
            for _ in range(_NESTED_FOLDERS):
                if self._holds_model(place):
                    return True
                with os.scandir(place) as entries:
                    folders = [entry for entry in entries if entry.is_dir() and not entry.name.startswith("..")]
                if len(folders) != 1:
                    return False
                place = Path(folders[0].path)
        except OSError:
            return False
        return False

    def model_folder(self) -> Path | None:
        if self._root.is_dir() and (self._root / "config.pbtxt").is_file() and not self._holds_model(self._root):
            return self._root
        return None

    def fetch(
        self, version: int, staging: Path, progress: Progress, refused: str | None, known: str | None = None
    ) -> Fetched:
        origin = self._locate(version)
        where = self._source.location(version)
        try:
            files = list(self._survey(origin, where))
            fingerprint = _fingerprint(files)
            if refused is not None and fingerprint == refused:
                raise UnchangedError
            total_bytes = sum(file.size_bytes for file in files)
            target = staging / "copy"
            _remove(target)
            ensure_room(staging, total_bytes, f"version {version} ({where})")
            progress.expect(total_bytes)
            single = origin.is_file()
            digests = [
                (file.relative, self._copy(file, target if single else target / file.relative, progress))
                for file in files
            ]
            if list(self._survey(origin, where)) != files:
                raise TransientError(f"{where} changed while it was copied; it is copied again")
        except OSError as cause:
            raise self._explain(cause, where) from cause
        if not single:
            target.mkdir(exist_ok=True)
        sha256 = digests[0][1] if single else digest_of_files(digests)
        return Fetched(target, sha256, origin.name, fingerprint)

    def _locate(self, version: int) -> Path:
        """The folder or file of a version; SpecError in the user's words where there is none."""
        self._require_root()
        uri = self._source.uri
        mapped = self._source.versions.get(version)
        if mapped is not None:
            origin = self._root / mapped
            if not origin.exists():
                raise SpecError(
                    Reason.VERSION_NOT_FOUND,
                    f"{uri} has no {mapped}, which model.versions names for version {version}. Correct the entry, or "
                    f"put the model at {self._source.location(version)}",
                )
            return origin
        if self._is_itself_a_model():
            if version == self._served:
                return self._root
            raise SpecError(
                Reason.VERSION_NOT_FOUND,
                f"{uri} is itself one model, version {self._served}, so there is no version {version}. Name its place "
                f"in model.versions, or leave it out of the version policy",
            )
        if self._root.is_file():
            raise SpecError(
                Reason.UNSUPPORTED_ARCHIVE,
                f"{uri} is a file that is neither .onnx, .zip nor .tar.gz. Point the URI at a model, or at the folder "
                "that holds one folder per version",
            )
        origin = self._root / str(version)
        if not origin.is_dir():
            raise SpecError(Reason.VERSION_NOT_FOUND, self._what_was_found(version))
        return origin

    def _require_root(self) -> None:
        try:
            self._root.stat()
        except FileNotFoundError:
            raise SpecError(
                Reason.SOURCE_NOT_FOUND,
                f"{self._source.uri}: there is no such folder in the volume. Correct model.uri, or copy the model "
                "there; it is looked for again every few seconds",
            ) from None
        except OSError as cause:
            raise self._explain(cause, self._source.uri) from cause

    def _is_itself_a_model(self) -> bool:
        if self._root.is_file():
            return self._root.name.endswith(_MODEL_SUFFIXES)
        return self._holds_model(self._root)

    def _version_folders(self) -> list[int]:
        try:
            names = [entry.name for entry in os.scandir(self._root) if entry.is_dir()]
        except OSError as cause:
            raise self._explain(cause, self._source.uri) from cause
        return [version for version in map(parse_version, names) if version is not None]

    def _what_is_missing(self, incomplete: list[int]) -> str:
        message = f"{self._source.uri} has no version that could be served"
        if incomplete:
            names = _listing([str(each) for each in incomplete])
            message += (
                f"; the folder {names} holds no model file yet"
                if len(incomplete) == 1
                else (f"; the folders {names} hold no model file yet")
            )
        return message + self._name_others() + ". Copy a model into a folder named by its version, such as 1"

    def _name_others(self) -> str:
        """Folders that may be meant as versions, for a message; empty without any."""
        with os.scandir(self._root) as entries:
            others = sorted(
                entry.name
                for entry in entries
                if entry.is_dir()
                and parse_version(entry.name) is None
                and entry.name not in _NOT_A_MODEL
                and not entry.name.startswith("..")
            )
        if not others:
            return ""
        return (
            f". Folders that are no versions: {_listing(others)}; a version's name is {VERSION_NAME}, or an entry in "
            "model.versions"
        )

    def _what_was_found(self, version: int) -> str:
        found = sorted(self._version_folders())
        message = f"{self._source.uri} has no version {version} (no folder {self._source.location(version)})"
        message += f"; it has {_listing([str(each) for each in found])}" if found else "; it has no version at all"
        message += self._name_others()
        return message + f". Copy version {version} there, or write another model.version"

    def _survey(self, origin: Path, where: str) -> Iterator[_File]:
        """All files of a version in a fixed order. Links may lead anywhere below the URI, but not out of it."""
        if origin.is_file():
            status = origin.stat()
            yield _File("", origin, status.st_size, status.st_mtime_ns)
            return
        real_root = Path(os.path.realpath(self._root))
        for relative in list_files(origin):
            path = origin / relative
            real = Path(os.path.realpath(path))
            if not real.is_relative_to(real_root):
                raise SpecError(
                    Reason.UNSAFE_PATH,
                    f"{where}/{relative} is a link that leads out of {self._source.uri}. Put the file itself there",
                )
            if not path.is_file():
                what = "no ordinary file" if path.exists() else "a link that leads nowhere"
                raise SpecError(Reason.UNSAFE_PATH, f"{where}/{relative} is {what}. Remove it, or put the file there")
            status = path.stat()
            yield _File(relative, path, status.st_size, status.st_mtime_ns)

    def _copy(self, file: _File, target: Path, progress: Progress) -> str:
        target.parent.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256()
        with file.path.open("rb", buffering=0) as reading, target.open("wb", buffering=0) as writing:
            while chunk := reading.read(CHUNK_BYTES):
                digest.update(chunk)
                writing.write(chunk)
                progress.add(len(chunk))
        return digest.hexdigest()

    def _explain(self, cause: OSError, where: str) -> AgentError:
        if cause.errno in (errno.ENOSPC, errno.EDQUOT):
            return explain_disk(cause, where, "copied")
        if cause.errno in (errno.EACCES, errno.EPERM):
            return SpecError(
                Reason.ACCESS_DENIED,
                f"{self._below(cause, where)} can't be read by the agent (uid {os.getuid()}): {cause.strerror}. "
                "Let others read it (chmod -R a+rX), or set podTemplate's securityContext.fsGroup",
            )
        if cause.errno == errno.ELOOP:
            message = f"{self._below(cause, where)} is a link to a folder that holds it. Remove it"
            return SpecError(Reason.UNSAFE_PATH, message)
        words = cause.strerror or str(cause)
        return TransientError(f"{self._below(cause, where)} can't be read: {words}; it is tried again")

    def _below(self, cause: OSError, where: str) -> str:
        """The file that an error names, as the user wrote its place."""
        name = os.fsdecode(cause.filename) if cause.filename else ""
        if name and Path(name).is_relative_to(self._root):
            return f"{self._source.uri.rstrip('/')}/{Path(name).relative_to(self._root)}".removesuffix("/.")
        return where


def _root_of(uri: str, mounted: Path) -> Path:
    """What the URI names: of an image its folder /models, as if it were pulled (`layers`), else all of it."""
    models = mounted / MODEL_FOLDER
    return models if uri.startswith("oci://") and models.is_dir() and not models.is_symlink() else mounted


def _fingerprint(files: list[_File]) -> str:
    lines = "\n".join(f"{file.relative}\0{file.size_bytes}\0{file.changed}" for file in files)
    return hashlib.sha256(lines.encode(errors="surrogateescape")).hexdigest()


def _listing(names: list[str], limit: int = 8) -> str:
    shown = ", ".join(names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"


def _remove(target: Path) -> None:
    if target.is_dir() and not target.is_symlink():
        shutil.rmtree(target)
    else:
        target.unlink(missing_ok=True)
