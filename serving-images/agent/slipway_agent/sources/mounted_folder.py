"""A folder in the pod: `pvc://`, `volume://`, or an `oci://` image, mounted read-only by the node.

Copied, never linked: the server doesn't mount it. Messages speak of the user's URI and the path below it, never of the
mount. Others write there meanwhile, so everything is opened by `safe_open.Tree`: links may lead anywhere below the URI,
and the URI's own folder may be a link that stays in its volume.
"""

import errno
import hashlib
import os
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from slipway_agent.config import VERSION_NAME, Source, parse_version
from slipway_agent.model.errors import AgentError, Reason, SpecError, TransientError, UnchangedError
from slipway_agent.sources.base import Fetched, Progress
from slipway_agent.volume.digest import CHUNK_BYTES, digest_of_files
from slipway_agent.volume.image_layers import MODEL_FOLDER
from slipway_agent.volume.models_volume import CONFIG, ensure_room, explain_disk
from slipway_agent.volume.safe_open import Tree, UnsafeError

_MODEL_SUFFIXES = (".onnx", ".mar", ".zip", ".tar.gz", ".tgz")
_NESTED_FOLDERS = 4
_READ_BYTES = 1 << 20
"""The most that a ConfigMap or Secret holds."""
_NOT_A_MODEL = ("lost+found",)  # what a freshly made file system holds
_NAMES_LOOKED_AT = 1000  # of folders that are no versions, for a message


@dataclass(frozen=True, slots=True)
class _File:
    """`relative`: below the version's folder, empty for a single file; `path`: below the URI. `changed`: in ns."""

    relative: str
    path: str
    size_bytes: int
    changed: int


class PathSource:
    def __init__(self, source: Source, served: int | None, holds_model: Callable[[Path], bool]) -> None:
        assert source.path is not None
        self._source = source
        self._tree = _tree_of(source.uri, Path(source.path))
        self._name = Path(source.path).name
        self._served = served if served is not None else 1  # a URI that is itself a model is version 1 unless said
        self._holds_model = holds_model

    def list_versions(self) -> Mapping[int, str | None]:
        self._require_root()
        if self._source.versions:
            places = dict(self._source.versions)
        elif self._is_itself_a_model():
            places = {self._served: ""}
        else:
            found = {version: str(version) for version in self._version_folders()}
            places = {version: place for version, place in found.items() if self._looks_complete(place)}
            if not places:
                raise SpecError(Reason.VERSION_NOT_FOUND, self._what_is_missing(sorted(found)))
        return {version: self._stamp(places[version]) for version in sorted(places)}

    def _stamp(self, place: str) -> str | None:
        """Names a version's bytes; None where they can't be looked at.

        Small files are read: each pod has its own copy of a ConfigMap, with times of its own, and a version must not
        count as another one because another pod lists it. Of larger ones, names, sizes and times.
        """
        try:
            files = list(self._survey(place))
            if sum(file.size_bytes for file in files) > _READ_BYTES:
                return _fingerprint(files)
            return digest_of_files(
                (file.relative, hashlib.sha256(self._tree.read_small(file.path, _READ_BYTES)).hexdigest())
                for file in files
            )
        except OSError:
            return None

    def _looks_complete(self, place: str) -> bool:
        """Whether a folder holds what the server knows as a model, maybe a folder further down: not half a copy."""
        try:
            for _ in range(_NESTED_FOLDERS):
                if self._holds(place):
                    return True
                folders = self._folders_of(place, self._tree.list_names(place))
                if len(folders) != 1:
                    return False
                place = f"{place}/{folders[0]}"
        except OSError:
            return False
        return False

    def _holds(self, place: str) -> bool:
        with self._tree.open_folder(place) as folder:
            return self._holds_model(folder)

    def _folders_of(self, place: str, names: list[str]) -> list[str]:
        return [name for name in names if not name.startswith("..") and self._tree.is_folder(f"{place}/{name}")]

    def model_folder(self) -> Tree | None:
        if self._tree.is_folder() and self._tree.is_file(CONFIG) and not self._holds(""):
            return self._tree
        return None

    def fetch(
        self, version: int, staging: Path, progress: Progress, refused: str | None, known: str | None = None
    ) -> Fetched:
        origin = self._locate(version)
        where = self._source.location(version)
        try:
            files = list(self._survey(origin))
            fingerprint = _fingerprint(files)
            if refused is not None and fingerprint == refused:
                raise UnchangedError
            total_bytes = sum(file.size_bytes for file in files)
            target = staging / "copy"
            _remove(target)
            ensure_room(staging, total_bytes, f"version {version} ({where})")
            progress.expect(total_bytes)
            single = len(files) == 1 and not files[0].relative
            digests = [
                (file.relative, self._copy(file, target if single else target / file.relative, where, progress))
                for file in files
            ]
            if list(self._survey(origin)) != files:
                raise _changed(where)
        except OSError as cause:
            raise self._explain(cause, where) from cause
        if not single:
            target.mkdir(exist_ok=True)
        sha256 = digests[0][1] if single else digest_of_files(digests)
        return Fetched(target, sha256, origin.rpartition("/")[2] or self._name, fingerprint)

    def _locate(self, version: int) -> str:
        """The folder or file of a version, below the URI; SpecError in the user's words where there is none."""
        self._require_root()
        uri = self._source.uri
        mapped = self._source.versions.get(version)
        if mapped is not None:
            if not self._is_there(mapped):
                raise SpecError(
                    Reason.VERSION_NOT_FOUND,
                    f"{uri} has no {mapped}, which model.versions names for version {version}. Correct the entry, or "
                    f"put the model at {self._source.location(version)}",
                )
            return mapped
        if self._is_itself_a_model():
            if version == self._served:
                return ""
            raise SpecError(
                Reason.VERSION_NOT_FOUND,
                f"{uri} is itself one model, version {self._served}, so there is no version {version}. Name its place "
                f"in model.versions, or leave it out of the version policy",
            )
        if self._tree.is_file():
            raise SpecError(
                Reason.UNSUPPORTED_ARCHIVE,
                f"{uri} is a file that is neither .onnx, .zip nor .tar.gz. Point the URI at a model, or at the folder "
                "that holds one folder per version",
            )
        if not self._is_there(str(version)) or not self._tree.is_folder(str(version)):
            raise SpecError(Reason.VERSION_NOT_FOUND, self._what_was_found(version))
        return str(version)

    def _is_there(self, place: str) -> bool:
        """SpecError for what is there and can't be used."""
        try:
            self._tree.look(place)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as cause:
            raise self._explain(cause, f"{self._source.uri.rstrip('/')}/{place}") from cause
        return True

    def _require_root(self) -> None:
        try:
            self._tree.look("")
        except (FileNotFoundError, NotADirectoryError):
            raise SpecError(
                Reason.SOURCE_NOT_FOUND,
                f"{self._source.uri}: there is no such folder in the volume. Correct model.uri, or copy the model "
                "there; it is looked for again every few seconds",
            ) from None
        except OSError as cause:
            raise self._explain(cause, self._source.uri) from cause

    def _is_itself_a_model(self) -> bool:
        if self._tree.is_file():
            return self._name.endswith(_MODEL_SUFFIXES)
        try:
            return self._holds("")
        except OSError as cause:
            raise self._explain(cause, self._source.uri) from cause

    def _version_folders(self) -> list[int]:
        try:
            names = self._tree.list_names()
        except OSError as cause:
            raise self._explain(cause, self._source.uri) from cause
        found, refused = [], None
        for name in names:
            version = parse_version(name)
            try:
                if version is not None and stat.S_ISDIR(self._tree.look(name).st_mode):
                    found.append(version)
            except OSError as cause:
                refused = cause if isinstance(cause, UnsafeError) else refused
        if refused is not None and not found:
            raise self._explain(refused, self._source.uri)
        return found

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
        names = [name for name in self._tree.list_names() if parse_version(name) is None and name not in _NOT_A_MODEL]
        others = self._folders_of("", names[:_NAMES_LOOKED_AT])
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

    def _survey(self, origin: str) -> Iterator[_File]:
        """All files of a version in a fixed order. OSError; UnsafeError for what is neither file nor folder."""
        if not stat.S_ISDIR(self._tree.look(origin).st_mode):
            yield self._measure(origin, "")
            return
        for relative in sorted(self._tree.list_files(origin), key=lambda path: path.split("/")):
            yield self._measure(origin, relative)

    def _measure(self, origin: str, relative: str) -> _File:
        path = f"{origin}/{relative}".strip("/")
        status = self._tree.look(path)
        return _File(relative, path, status.st_size, status.st_mtime_ns)

    def _copy(self, file: _File, target: Path, where: str, progress: Progress) -> str:
        """The digest of what was copied: never more than was listed, as a file may grow for ever."""
        target.parent.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256()
        left_bytes = file.size_bytes
        with self._tree.open_file(file.path) as reading, target.open("wb", buffering=0) as writing:
            while chunk := reading.read(CHUNK_BYTES):
                left_bytes -= len(chunk)
                if left_bytes < 0:
                    raise _changed(where)
                digest.update(chunk)
                writing.write(chunk)
                progress.add(len(chunk))
        return digest.hexdigest()

    def _explain(self, cause: OSError, where: str) -> AgentError:
        if isinstance(cause, UnsafeError):
            return SpecError(Reason.UNSUPPORTED_ARCHIVE if cause.is_too_much else Reason.UNSAFE_PATH, cause.words)
        if cause.errno in (errno.ENOSPC, errno.EDQUOT):
            return explain_disk(cause, where, "copied")
        if cause.errno in (errno.EACCES, errno.EPERM):
            return SpecError(
                Reason.ACCESS_DENIED,
                f"{self._below(cause, where)} can't be read by the agent (uid {os.getuid()}): {cause.strerror}. "
                "Let others read it (chmod -R a+rX), or set podTemplate's securityContext.fsGroup",
            )
        words = cause.strerror or str(cause)
        return TransientError(f"{self._below(cause, where)} can't be read: {words}; it is tried again")

    def _below(self, cause: OSError, where: str) -> str:
        """The file that an error names, as the user wrote its place."""
        name = os.fsdecode(cause.filename) if cause.filename else ""
        return name if name.startswith(self._source.uri.rstrip("/")) else where


def _tree_of(uri: str, mounted: Path) -> Tree:
    """What the URI names: of an image its folder /models, as if it were pulled (`image_layers`), else all of it.

    pvc://claim/a/b, mounted at /source/a/b: only /source is the kubelet's; a and b may be links by who writes there.
    """
    if uri.startswith("oci://"):
        has_models = Tree(mounted, follows=False).is_folder(MODEL_FOLDER)
        return Tree(mounted, MODEL_FOLDER if has_models else "", uri)
    inside = uri.partition("://")[2].partition("/")[2].strip("/")
    if inside and mounted.as_posix().endswith(f"/{inside}"):
        return Tree(Path(mounted.as_posix().removesuffix(inside)), inside, uri)
    return Tree(mounted, "", uri)


def _changed(where: str) -> TransientError:
    return TransientError(f"{where} changed while it was copied; it is copied again")


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
