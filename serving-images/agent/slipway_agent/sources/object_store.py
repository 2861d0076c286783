"""Model versions in an object store: folders of objects below a prefix, or single objects that model.versions names.

    s3://BUCKET/PREFIX/<version>/…      what is listed; a URI that is itself a model is one version

Invariant: what is published is one state of the store. Every part is asked for by the ETag of the listing, and the
listing is compared again at the end, so bytes of two uploads are never mixed. What an interrupted fetch left is gone on
with only while the listing is the same. Knows no store: one that has ObjectStore's two verbs joins in `by_scheme`.
"""

import errno
import hashlib
import itertools
import json
import os
import queue
import shutil
import tempfile
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias

from slipway_agent.config import VERSION_NAME, Source, parse_version
from slipway_agent.model.errors import AgentError, Reason, SpecError, TransientError, UnchangedError
from slipway_agent.sources.allocator import keeping_blocks
from slipway_agent.sources.base import Fetched, Progress
from slipway_agent.sources.ordered_download import Part, fetch_in_order, split_parts
from slipway_agent.volume.digest import CHUNK_BYTES, digest_of_files
from slipway_agent.volume.models_volume import CONFIG, RESUMED_FOLDER, ensure_room, explain_disk, goes_with
from slipway_agent.volume.safe_open import Tree

if TYPE_CHECKING:
    from hashlib import _Hash

Digest: TypeAlias = "_Hash"
OBJECTS_LIMIT = 50_000
"""Of one version. Below a URI there may be more, in thousands of versions; then one version's are held at a time."""
_NESTED_FOLDERS = 4
_EMPTY_ZIP = b"PK\x05\x06" + bytes(18)
_BESIDE_BYTES = 16 << 20  # of a file beside the versions: labels, warm-up data


@dataclass(frozen=True, slots=True)
class StoredObject:
    key: str
    size_bytes: int
    etag: str


class ObjectStore(Protocol):
    """What stores have in common. Both raise SpecError and TransientError in the user's words."""

    def list_objects(self, bucket: str, prefix: str) -> Iterator[StoredObject]:
        """All objects whose key is `prefix` or begins with `prefix/`, those of one folder in a row; lazily."""

    def read(self, bucket: str, wanted: StoredObject, begin: int, end: int) -> Iterator[bytes]:
        """Bytes [begin, end) of the object while its ETag is that of `wanted`, else ChangedError."""


class ChangedError(Exception):
    """The object was replaced or removed since it was listed."""


@dataclass(frozen=True, slots=True)
class _File:
    """An object by its path below the version's folder; that of a single object is empty."""

    relative: str
    stored: StoredObject


@dataclass(frozen=True, slots=True)
class _Place:
    bucket: str
    prefix: str


class ObjectSource:
    def __init__(
        self, source: Source, store: ObjectStore, served: int | None, holds_model: Callable[[Path], bool]
    ) -> None:
        self._source = source
        self._store = store
        self._served = served if served is not None else 1  # a URI that is itself a model is version 1 unless said
        self._holds_model = holds_model
        self._verdicts: dict[str, bool] = {}
        self._beside: Path | None = None

    def list_versions(self) -> Mapping[int, str | None]:
        if self._source.versions:
            places = {version: self._place(version) for version in sorted(self._source.versions)}
            listed = {version: self._survey(place) for version, place in places.items()}
            return {version: _stamp(files) if files else None for version, files in listed.items()}
        files = self._survey_root()
        if files is not None and self._is_itself_a_model(files):
            return {self._served: _stamp(files)}
        stamps: dict[int, str] = {}
        verdicts: dict[str, bool] = {}
        for version, found in self._stream_versions() if files is None else _by_version(files).items():
            stamp = stamps[version] = _stamp(found)
            verdicts[stamp] = self._looks_complete(found, stamp)
        if not stamps and files is None:
            raise SpecError(
                Reason.UNSUPPORTED_ARCHIVE,
                f"{self._source.uri} holds more than {OBJECTS_LIMIT} objects and no folder that is named by a version. "
                "Point model.uri at the model's own folder, or at the one that holds its versions",
            )
        self._verdicts = verdicts
        return {version: stamp for version, stamp in sorted(stamps.items()) if verdicts[stamp]}

    def model_folder(self) -> Tree | None:
        return Tree(self._beside, shown=self._source.uri) if self._beside is not None else None

    def fetch(
        self, version: int, staging: Path, progress: Progress, refused: str | None, known: str | None = None
    ) -> Fetched:
        where = self._source.location(version)
        place, files = self._locate(version)
        stamp = _stamp(files)
        if refused is not None and stamp == refused:
            raise UnchangedError
        download = _Download(self._store, place.bucket, files, staging=staging, stamp=stamp, where=where)
        try:
            with keeping_blocks():
                digests = download.run(progress)
        except OSError as cause:
            raise _explain_store(cause, where) from cause
        if _stamp(self._survey_again(place, version)) != stamp:
            download.forget()
            raise TransientError(f"{where} changed while it was fetched; it is fetched again")
        self._beside = self._fetch_beside(staging, version, place, progress)
        if files[0].relative == "":
            name = files[0].stored.key.rpartition("/")[2]
            return Fetched(download.folder / "object", digests[0][1], name, stamp)
        return Fetched(download.folder, digest_of_files(digests), str(version), stamp)

    def _fetch_beside(self, staging: Path, version: int, place: _Place, progress: Progress) -> Path | None:
        """The model's own config.pbtxt and the small files beside its versions that it names, in a folder.

        None without one. What else lies there isn't fetched: it may be a history of folders that are no versions.
        """
        root = _parse_place(self._source.uri)
        if version in self._source.versions or place == root:
            return None
        config = self._survey(_below(root, CONFIG))
        if len(config) != 1 or config[0].relative or config[0].stored.size_bytes > _BESIDE_BYTES:
            return None
        folder = staging / "beside"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        try:
            self._fetch_small(root, config[0].stored, folder / CONFIG, progress)
            said = (folder / CONFIG).read_text(errors="replace")
            for file in self._stream_root():
                is_small = file.stored.size_bytes <= _BESIDE_BYTES
                if is_small and goes_with(file.relative.partition("/")[0], said):
                    self._fetch_small(root, file.stored, folder / file.relative, progress)
        except ChangedError:
            raise TransientError(f"{self._source.uri} changed while it was fetched; it is fetched again") from None
        return folder

    def _fetch_small(self, root: _Place, stored: StoredObject, place: Path, progress: Progress) -> None:
        place.parent.mkdir(parents=True, exist_ok=True)
        with place.open("wb") as writing:
            for chunk in self._store.read(root.bucket, stored, 0, stored.size_bytes):
                writing.write(chunk)
                progress.check()

    def _place(self, version: int) -> _Place:
        place = self._source.location(version)
        if not place.startswith(f"{self._source.scheme}://"):
            raise SpecError(
                Reason.VERSION_NOT_FOUND,
                f"model.versions names {place} for version {version}: write a path below {self._source.uri}, or a "
                f"{self._source.scheme}:// URI",
            )
        return _parse_place(place)

    def _locate(self, version: int) -> tuple[_Place, list[_File]]:
        """Where a version's objects are, never empty; SpecError in the user's words where there are none."""
        if version in self._source.versions:
            place = self._place(version)
            mapped = self._survey(place)
            if mapped:
                return place, mapped
            raise SpecError(
                Reason.VERSION_NOT_FOUND,
                f"{self._source.location(version)}, which model.versions names for version {version}, isn't in the "
                "store. Correct the entry, or upload the model there",
            )
        root, files = _parse_place(self._source.uri), self._survey_root()
        if files is not None and self._is_itself_a_model(files):
            if version == self._served:
                return root, files
            raise SpecError(
                Reason.VERSION_NOT_FOUND,
                f"{self._source.uri} is itself one model, version {self._served}, so there is no version {version}. "
                "Name its place in model.versions, or leave it out of the version policy",
            )
        place = _below(root, str(version))
        found = self._survey(place) if files is None else _by_version(files).get(version)
        if not found:
            folders = {name for name, _ in _by_folder(self._stream_root() if files is None else files)}
            raise SpecError(Reason.VERSION_NOT_FOUND, self._what_was_found(version, folders))
        return place, found

    def _survey_root(self) -> list[_File] | None:
        """What is at or below the URI, never empty. None where it is more than a model's: to be read by the version."""
        files = self._look(_parse_place(self._source.uri))
        if files is not None and not files:
            raise SpecError(
                Reason.SOURCE_NOT_FOUND,
                f"{self._source.uri} holds nothing. Correct model.uri, or upload the model there; it is looked for "
                "again every few seconds",
            )
        return files

    def _survey_again(self, place: _Place, version: int) -> list[_File]:
        return self._survey(place) or self._locate(version)[1]

    def _survey(self, place: _Place) -> list[_File]:
        """What is at or below a version's place, sorted by path; SpecError where it is more than a version holds."""
        files = self._look(place)
        if files is None:
            raise self._refuse_many(place)
        return files

    def _look(self, place: _Place) -> list[_File] | None:
        """What is at or below a place, sorted by path. Folder markers (`…/`) are left out. None: too much."""
        listing = self._store.list_objects(place.bucket, place.prefix)
        stored = list(itertools.islice(listing, OBJECTS_LIMIT + 1))
        if len(stored) > OBJECTS_LIMIT:
            return None
        single = [each for each in stored if each.key == place.prefix]
        files = sorted(self._name(place, stored), key=lambda file: file.relative)
        return [_File("", single[0])] if single and not files else files

    def _name(self, place: _Place, stored: Iterable[StoredObject]) -> Iterator[_File]:
        """The objects below a place that are files of a model, by their paths."""
        shown, below = self._show(place), f"{place.prefix}/" if place.prefix else ""
        for each in stored:
            relative = each.key.removeprefix(below)
            if each.key != place.prefix and not each.key.endswith("/") and _is_kept(relative, shown):
                yield _File(relative, each)

    def _stream_root(self) -> Iterator[_File]:
        """What is below the URI, however much, as it is read."""
        root = _parse_place(self._source.uri)
        return self._name(root, self._store.list_objects(root.bucket, root.prefix))

    def _stream_versions(self) -> Iterator[tuple[int, list[_File]]]:
        """Version after version, each as `_survey` has it: no more than one version's objects are held."""
        for name, files in _by_folder(self._stream_root()):
            version = parse_version(name)
            if version is None:
                continue
            first = itertools.islice(files, OBJECTS_LIMIT + 1)
            found = [_File(file.relative.partition("/")[2], file.stored) for file in first]
            if len(found) > OBJECTS_LIMIT:
                raise self._refuse_many(_below(_parse_place(self._source.uri), name))
            yield version, sorted(found, key=lambda file: file.relative)

    def _show(self, place: _Place) -> str:
        return f"{self._source.scheme}://{place.bucket}/{place.prefix}"

    def _refuse_many(self, place: _Place) -> SpecError:
        return SpecError(
            Reason.UNSUPPORTED_ARCHIVE,
            f"{self._show(place)} holds more than {OBJECTS_LIMIT} objects, and a version may have that many. Leave "
            "only the model's own files there, or pack them into one archive",
        )

    def _is_itself_a_model(self, files: Sequence[_File]) -> bool:
        if files[0].relative == "":
            return True
        return self._holds([file.relative for file in files])

    def _looks_complete(self, files: Sequence[_File], stamp: str) -> bool:
        """Whether the names are what the server knows as a model, maybe a folder further down: not half an upload."""
        known = self._verdicts.get(stamp)
        return self._judge_names([file.relative for file in files]) if known is None else known

    def _judge_names(self, names: list[str]) -> bool:
        for _ in range(_NESTED_FOLDERS):
            if self._holds(names):
                return True
            folders = {name.partition("/")[0] for name in names}
            if len(folders) != 1 or not all("/" in name for name in names):
                return False
            names = [name.partition("/")[2] for name in names]
        return False

    def _holds(self, names: Iterable[str]) -> bool:
        """The server's own judgement, which looks at names, of a folder of the files' first two levels.

        Where it looks into a file, it looks whether an archive is whole, and a store has no half objects: each file
        here is a whole, empty zip archive.
        """
        with tempfile.TemporaryDirectory() as scratch:
            levels = {tuple(name.split("/")[:3]) for name in names}
            for first, *more in sorted(levels, key=len, reverse=True):  # a store may have both `a` and `a/b`
                place = Path(scratch, first, *more[:1])
                if len(more) > 1:
                    place.mkdir(parents=True, exist_ok=True)
                elif not place.exists():
                    place.parent.mkdir(exist_ok=True)
                    place.write_bytes(_EMPTY_ZIP)
            return self._holds_model(Path(scratch))

    def _what_was_found(self, version: int, folders: Collection[str]) -> str:
        found = sorted((name for name in folders if parse_version(name) is not None), key=int)
        others = sorted(name for name in folders if parse_version(name) is None)
        message = f"{self._source.uri} has no version {version} (nothing below {self._source.location(version)}/)"
        message += f"; it has {_listing(found)}" if found else "; it has no version at all"
        if others:
            message += (
                f". Folders that are no versions: {_listing(others)}; a version's name is {VERSION_NAME}, or an entry "
                "in model.versions"
            )
        return message + f". Upload version {version} there, or write another model.version"


class _Download:
    """One version's objects on their way into staging/download, written and digested in one order."""

    def __init__(
        self, store: ObjectStore, bucket: str, files: Sequence[_File], *, staging: Path, stamp: str, where: str
    ) -> None:
        self._store = store
        self._bucket = bucket
        self._files = files
        self._staging = staging
        self._note = staging / "download.json"
        self._stamp = stamp
        self._where = where
        self.folder = staging / RESUMED_FOLDER

    def run(self, progress: Progress) -> list[tuple[str, str]]:
        """Relative paths and digests, complete. AgentError, CancelledError; OSError of the disk."""
        total_bytes = sum(file.stored.size_bytes for file in self._files)
        if _read_note(self._note) != self._stamp:
            self.forget()
            self._note.write_text(json.dumps({"stamp": self._stamp}))
        self.folder.mkdir(exist_ok=True)
        begun = [self._begun_bytes(file) for file in self._files]
        ensure_room(self._staging, total_bytes - sum(begun), self._where)
        progress.expect(total_bytes, sum(begun))
        digester = _Digester()
        writers = [
            _Writer(self._path(file), size_bytes, digester, progress)
            for file, size_bytes in zip(self._files, begun, strict=True)
        ]
        parts = [
            part
            for position, file in enumerate(self._files)
            for part in split_parts(position, begun[position], file.stored.size_bytes)
        ]
        finished = 0
        try:
            for part, chunk in fetch_in_order(parts, self._read, progress):
                while finished < part.file:
                    writers[finished].finish()
                    finished += 1
                writers[part.file].write(chunk)
                progress.add(len(chunk))
            for writer in writers[finished:]:
                writer.finish()
        except ChangedError:
            self.forget()
            raise TransientError(f"{self._where} changed while it was fetched; it is fetched from the start") from None
        finally:
            digester.settle()
            for writer in writers:
                writer.close()
        return [(file.relative, writer.digest.hexdigest()) for file, writer in zip(self._files, writers, strict=True)]

    def forget(self) -> None:
        self._note.unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _read(self, part: Part) -> Iterator[bytes]:
        return self._store.read(self._bucket, self._files[part.file].stored, part.begin, part.end)

    def _path(self, file: _File) -> Path:
        return self.folder / (file.relative or "object")

    def _begun_bytes(self, file: _File) -> int:
        """What an earlier attempt left of a file. A beginning without gaps, as all is written in order."""
        try:
            return min(self._path(file).stat().st_size, file.stored.size_bytes)
        except FileNotFoundError:
            return 0


class _Digester:
    """Computes digests on a thread of its own, beside the writes: at 10 Gbit/s neither waits for the other."""

    def __init__(self) -> None:
        # short: what waits here is memory beyond the window of parts
        self._work: queue.Queue[tuple[Digest, bytes] | None] = queue.Queue(maxsize=4)
        self._thread = threading.Thread(target=self._run, name="digest", daemon=True)
        self._thread.start()

    def update(self, digest: Digest, chunk: bytes) -> None:
        self._work.put((digest, chunk))

    def settle(self) -> None:
        """All that was given is in its digest; nothing more may be given."""
        self._work.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (item := self._work.get()) is not None:
            digest, chunk = item
            digest.update(chunk)


class _Writer:
    """One file that grows at its end, and its digest. Opened when its turn comes: a model may have many files."""

    def __init__(self, path: Path, begun_bytes: int, digester: _Digester, progress: Progress) -> None:
        self._path = path
        self._begun_bytes = begun_bytes
        self._digester = digester
        self._check = progress.check
        self.digest: Digest = hashlib.sha256()
        self._file: int | None = None

    def write(self, chunk: bytes) -> None:
        self._open()
        assert self._file is not None
        self._digester.update(self.digest, chunk)
        view = memoryview(chunk)
        while view:
            view = view[os.write(self._file, view) :]

    def finish(self) -> None:
        self._open()
        self.close()

    def close(self) -> None:
        if self._file is not None and self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _open(self) -> None:
        if self._file is not None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        os.ftruncate(self._file, self._begun_bytes)
        left_bytes = self._begun_bytes
        while left_bytes:
            chunk = os.read(self._file, min(CHUNK_BYTES, left_bytes))
            if not chunk:
                raise TransientError(
                    f"{self._path.name} no longer holds the bytes that were fetched; it is fetched again"
                )
            self._digester.update(self.digest, chunk)
            left_bytes -= len(chunk)
            self._check()


def _parse_place(uri: str) -> _Place:
    """s3://models/digits/3/ is the prefix digits/3 of the bucket models."""
    bucket, _, prefix = uri.partition("://")[2].partition("/")
    return _Place(bucket, prefix.strip("/"))


def _below(place: _Place, name: str) -> _Place:
    return _Place(place.bucket, f"{place.prefix}/{name}".lstrip("/"))


def _by_folder(files: Iterable[_File]) -> Iterator[tuple[str, Iterator[_File]]]:
    """The folders of a place, each with its files, from files of which those of one folder are in a row."""
    inside = (file for file in files if "/" in file.relative)
    return itertools.groupby(inside, key=lambda file: file.relative.partition("/")[0])


def _by_version(files: Sequence[_File]) -> dict[int, list[_File]]:
    found: dict[int, list[_File]] = {}
    for file in files:
        first, slash, rest = file.relative.partition("/")
        version = parse_version(first)
        if slash and version is not None:
            found.setdefault(version, []).append(_File(rest, file.stored))
    return found


def _is_kept(relative: str, where: str) -> bool:
    """Whether an object is a file of the model. Names that begin with `..` are none, as in every folder's digest."""
    parts = relative.split("/")
    if any(part.startswith("..") for part in parts):
        return False
    if "" in parts or "." in parts or "\0" in relative or relative.startswith("/"):
        raise SpecError(
            Reason.UNSAFE_PATH,
            f"{where}/{relative} is no name that a file can have ('//' or '/./' in it). Upload it under another key",
        )
    return True


def _stamp(files: Sequence[_File]) -> str:
    lines = "\n".join(f"{file.relative}\0{file.stored.size_bytes}\0{file.stored.etag}" for file in files)
    return hashlib.sha256(lines.encode(errors="surrogateescape")).hexdigest()


def _read_note(note: Path) -> str | None:
    try:
        return str(json.loads(note.read_text())["stamp"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _listing(names: list[str], limit: int = 8) -> str:
    shown = ", ".join(names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"


def _explain_store(cause: OSError, where: str) -> AgentError:
    if cause.errno in (errno.ENOTDIR, errno.EISDIR, errno.EEXIST):
        return SpecError(
            Reason.UNSAFE_PATH, f"{where} has a name that is both an object and a folder of objects. Remove one"
        )
    if cause.errno == errno.ENAMETOOLONG:
        return SpecError(Reason.UNSAFE_PATH, f"{where} has an object whose name is too long for a file. Shorten it")
    return explain_disk(cause, where)
