"""Fetched versions on a volume that the model's replicas share: ten download once, and a rollback needs no network.

    entries/<sha256>/    one version as it was fetched: content (a folder or a file), about.json, maybe beside/
    places/<key>.json    which digest a location had under a stamp
    leases/<key>         who fetches it now; touched every few seconds while that goes on
    incoming/            what is being written; an entry appears by one rename, complete

Invariants: nothing leaves an entry whose digest isn't the entry's name, computed while it is copied; a damaged one is
removed. A cache that is full, read-only or gone costs one line in the log and a fetch of one's own, never a version.
Others write to the volume, too: nothing of it is followed if it is a link, waited on, or believed of its size
(`safe_open.Tree`), and URLs are written there without what opens them.
No flock and no clock is relied on: two nodes' clocks may differ, a lease is stale when nobody saw it change for
STALE_SECONDS. Two holders of one lease cost a second download and nothing else.
"""

import contextlib
import hashlib
import json
import re
import shutil
import stat
import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from slipway_agent.config import Source, show_url
from slipway_agent.model.errors import UnchangedError
from slipway_agent.model.untrusted_json import parse_json
from slipway_agent.servers.base import Say
from slipway_agent.sources.base import Fetched, ModelSource, Progress
from slipway_agent.volume.digest import CHUNK_BYTES, digest_of_files
from slipway_agent.volume.models_volume import SPARE_BYTES, ensure_room
from slipway_agent.volume.safe_open import Tree

BEAT_SECONDS, STALE_SECONDS, POLL_SECONDS = 3.0, 20.0, 0.2
REFUSED_SECONDS = 600.0  # how long the others don't try a cache that was too full for a version
UNUSED_SECONDS = 3600.0  # an entry that was used since is kept

NOTE_BYTES = 64 << 10  # the most that is read of what an entry says of itself

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class _About:
    """What an entry is, beside its bytes. `uri`: whose it is when room is needed."""

    name: str
    is_folder: bool
    size_bytes: int
    fingerprint: str | None
    location: str
    uri: str


class CachedSource:
    """A source whose versions come from the cache where it has them. `kept`: digests that are not to be pruned."""

    def __init__(self, inner: ModelSource, source: Source, say: Say, kept: Callable[[], Collection[str]]) -> None:
        assert source.cache is not None
        self._inner = inner
        self._source = source
        self._cache = Cache(Path(source.cache), source.uri, say, kept)
        self._beside: Tree | None = None

    def list_versions(self) -> Mapping[int, str | None]:
        return self._inner.list_versions()

    def model_folder(self) -> Tree | None:
        return self._beside

    def fetch(
        self, version: int, staging: Path, progress: Progress, refused: str | None, known: str | None = None
    ) -> Fetched:
        if known is not None and (found := self._take(known, staging, progress, refused)) is not None:
            return found
        location = self._source.location(version)
        stamp = self._inner.list_versions().get(version)
        if refused is not None and stamp == refused:
            raise UnchangedError
        place = _Place(location, stamp)
        seen = self._cache.read_place(place) if stamp is None else None
        while True:
            found_at = self._cache.read_place(place)
            # without a stamp only what was put there while we waited is known to be what the location holds
            if found_at is not None and found_at != seen:
                found = self._take(found_at.sha256, staging, progress, refused)
                if found is not None:
                    return found
            with self._cache.lease(place, progress) as is_ours:
                if is_ours is None:
                    continue  # another one's fetch ended: look again
                return self._fetch(version, staging, progress, refused, place, may_keep=is_ours)

    def _take(self, sha256: str, staging: Path, progress: Progress, refused: str | None) -> Fetched | None:
        found = self._cache.take(sha256, staging, progress, refused)
        if found is None:
            return None
        self._beside = self._cache.beside(sha256)
        return found

    def _fetch(
        self, version: int, staging: Path, progress: Progress, refused: str | None, place: "_Place", *, may_keep: bool
    ) -> Fetched:
        fetched = self._inner.fetch(version, staging, progress, refused)
        self._beside = self._inner.model_folder()
        if may_keep:
            self._cache.keep(fetched, place, self._beside, progress)
        return fetched


@dataclass(frozen=True, slots=True)
class _Place:
    location: str
    stamp: str | None

    @property
    def key(self) -> str:
        return hashlib.sha256(f"{self.location}\0{self.stamp or ''}".encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class _FoundAt:
    sha256: str
    written: tuple[int, int]  # when and which file: another one, another look


class Cache:
    def __init__(self, root: Path, uri: str, say: Say, kept: Callable[[], Collection[str]]) -> None:
        self._root = root
        self._tree = Tree(root, shown="the cache", follows=False)
        self._uri = show_url(uri)
        self._say = say
        self._kept = kept
        self._said: set[str] = set()

    # what is there

    def read_place(self, place: _Place) -> _FoundAt | None:
        note = f"places/{place.key}.json"
        try:
            sha256 = str(parse_json(self._tree.read_small(note, NOTE_BYTES))["sha256"])
            status = self._tree.look(note)
        except (OSError, ValueError, KeyError, TypeError):
            return None
        if not _SHA256.fullmatch(sha256):
            return None  # it becomes a path
        return _FoundAt(sha256, (status.st_mtime_ns, status.st_ino))

    def beside(self, sha256: str) -> Tree | None:
        folder = f"entries/{sha256}/beside"
        return Tree(self._root, folder, "the cache", follows=False) if self._tree.is_folder(folder) else None

    def take(self, sha256: str, staging: Path, progress: Progress, refused: str | None) -> Fetched | None:
        """Copy an entry out, verified. None where there is none, or a damaged one, which is removed.

        SpecError(DiskFull) when the pod's volume can't take it; OSError of that volume.
        """
        if not _SHA256.fullmatch(sha256):
            return None  # it becomes a path
        entry = f"entries/{sha256}"
        about = self._read_about(entry)
        if about is None:
            return None
        if refused is not None and about.fingerprint == refused:
            raise UnchangedError
        ensure_room(staging, about.size_bytes, f"{about.location} (from the cache)")
        progress.expect(about.size_bytes)
        target = staging / "copy"
        _remove(target)
        try:
            found = _copy(self._tree, f"{entry}/content", target, about.size_bytes, progress)
        except _CacheError as cause:
            self._say_once("cache can't be read; the model is fetched from its source", str(cause))
            return None
        if found != sha256:
            _remove(target)
            self._discard(entry)
            self._say("a damaged version was removed from the cache; it is fetched again", sha256=sha256, found=found)
            return None
        with contextlib.suppress(OSError):
            self._tree.touch(entry)  # used now: not the first to be pruned
        return Fetched(target, sha256, about.name, about.fingerprint)

    # who fetches

    @contextlib.contextmanager
    def lease(self, place: _Place, progress: Progress) -> Iterator[bool | None]:
        """True: fetch, and keep it. False: fetch without the cache. None: another replica fetched while we waited."""
        path = f"leases/{place.key}"
        token = uuid.uuid4().hex
        verdict = self._ask_lease(path, token, progress)
        if not verdict:
            yield verdict
            return
        stop = threading.Event()
        beat = threading.Thread(target=_beat, args=(self._tree, path, stop), name="lease", daemon=True)
        beat.start()
        try:
            yield True
        finally:
            stop.set()
            beat.join()
            with contextlib.suppress(OSError):
                if self._tree.read_small(path, NOTE_BYTES) == token.encode():
                    self._tree.remove(path)

    def _ask_lease(self, path: str, token: str, progress: Progress) -> bool | None:
        try:
            if self._is_refused(path):
                return False
            if self._try_lease(path, token):
                return True
            self._wait(path, progress)
        except OSError as cause:
            self._say_unusable(cause)
            return False
        return None

    def _try_lease(self, path: str, token: str) -> bool:
        try:
            with self._tree.create(path) as writing:
                writing.write(token.encode())
        except FileExistsError:
            return False
        return True

    def _wait(self, path: str, progress: Progress) -> None:
        """Until the lease's holder is done, or dead: then the lease is taken from it. CancelledError."""
        seen, seen_at = None, time.monotonic()
        while True:
            progress.check()
            try:
                status = self._tree.look(path)
            except FileNotFoundError:
                return
            now = (status.st_mtime_ns, status.st_ino)
            if now != seen:
                seen, seen_at = now, time.monotonic()
            elif time.monotonic() - seen_at > STALE_SECONDS:
                self._tree.remove(path)
                return
            time.sleep(POLL_SECONDS)

    def _is_refused(self, path: str) -> bool:
        try:
            return time.time() - self._tree.look(f"{path}.refused").st_mtime < REFUSED_SECONDS
        except FileNotFoundError:
            return False

    # what is kept

    def keep(self, fetched: Fetched, place: _Place, beside: Tree | None, progress: Progress) -> None:
        """Copy a fetched version in. Whatever fails is said and forgotten, but for CancelledError."""
        incoming = f"incoming/{uuid.uuid4().hex}"
        try:
            self._keep(fetched, place, beside, incoming, progress)
        except OSError as cause:
            with contextlib.suppress(OSError):
                refused = f"leases/{place.key}.refused"
                self._tree.remove(refused)
                self._tree.create(refused).close()
            self._say_unusable(cause)
        finally:
            with contextlib.suppress(OSError):
                self._tree.remove(incoming)

    def _keep(self, fetched: Fetched, place: _Place, beside: Tree | None, incoming: str, progress: Progress) -> None:
        entry = f"entries/{fetched.sha256}"
        if self._read_about(entry) is None:
            content = Tree(fetched.path, shown="the fetched version", follows=False)
            size_bytes = sum(content.look(relative).st_size for relative in _files(content))
            self._clear_leavings()
            self._make_room(size_bytes)
            self._tree.make_folder(incoming)
            _copy_in(content, self._tree, f"{incoming}/content", progress)
            if beside is not None:
                _copy_in(beside, self._tree, f"{incoming}/beside", progress)
            about = _About(
                name=fetched.name,
                is_folder=fetched.path.is_dir(),
                size_bytes=size_bytes,
                fingerprint=fetched.fingerprint,
                location=show_url(place.location),
                uri=self._uri,
            )
            self._tree.write_small(f"{incoming}/about.json", json.dumps(asdict(about)))
            try:
                self._tree.rename(incoming, entry)
            except OSError:
                if self._read_about(entry) is None:
                    raise
        self._tree.write_small(f"places/{place.key}.json", json.dumps({"sha256": fetched.sha256}))

    def _make_room(self, wanted_bytes: int) -> None:
        """Remove what this model's kept versions don't name, longest unused first, while room is lacking and only then.

        Other models' entries, and all of them where nothing is known to be kept, stay. OSError when it doesn't do.
        """
        kept = frozenset(self._kept())
        if self._has_room(wanted_bytes):
            return
        now = time.time()
        for used_at, entry in sorted(self._unused(kept)) if kept else ():
            about = self._read_about(entry)
            if about is None or about.uri != self._uri or now - used_at < UNUSED_SECONDS:
                continue
            self._discard(entry)
            if self._has_room(wanted_bytes):
                return
        raise OSError(None, f"it has no room for {wanted_bytes} bytes")

    def _unused(self, kept: Collection[str]) -> Iterator[tuple[float, str]]:
        """When it was used last, and its place, of each entry that no kept version names."""
        for name in self._tree.list_names("entries") if self._tree.is_folder("entries") else ():
            if name not in kept:
                with contextlib.suppress(OSError):
                    yield self._tree.look(f"entries/{name}").st_mtime, f"entries/{name}"

    def _has_room(self, wanted_bytes: int) -> bool:
        self._root.mkdir(parents=True, exist_ok=True)
        return shutil.disk_usage(self._root).free > wanted_bytes + SPARE_BYTES

    def _clear_leavings(self) -> None:
        """What agents that were killed had been writing."""
        for name in self._tree.list_names("incoming") if self._tree.is_folder("incoming") else ():
            with contextlib.suppress(OSError):
                if time.time() - self._tree.look(f"incoming/{name}").st_mtime > UNUSED_SECONDS * 24:
                    self._tree.remove(f"incoming/{name}")

    def _discard(self, entry: str) -> None:
        """Out of sight by one rename, then deleted."""
        aside = f"incoming/{uuid.uuid4().hex}.removed"
        with contextlib.suppress(OSError):
            self._tree.rename(entry, aside)
            self._tree.remove(aside)

    def _read_about(self, entry: str) -> _About | None:
        """What can be used of an entry; None for one that isn't there, or says what no entry says."""
        try:
            about = _About(**parse_json(self._tree.read_small(f"{entry}/about.json", NOTE_BYTES)))
        except (OSError, ValueError, TypeError):
            return None
        texts = (about.name, about.location, about.uri, about.fingerprint or "")
        is_size = isinstance(about.size_bytes, int) and about.size_bytes >= 0
        return about if is_size and all(isinstance(text, str) for text in texts) else None

    def _say_unusable(self, cause: OSError) -> None:
        self._say_once("cache can't be used; the model is fetched without it", cause.strerror or str(cause))

    def _say_once(self, message: str, detail: str) -> None:
        if (message + detail) not in self._said:
            self._said.add(message + detail)
            self._say(message, cache=str(self._root), detail=detail)


class _CacheError(Exception):
    """The cache's side of a copy failed."""


def _beat(tree: Tree, path: str, stop: threading.Event) -> None:
    while not stop.wait(BEAT_SECONDS):
        with contextlib.suppress(OSError):
            tree.touch(path)


def _files(tree: Tree, place: str = "") -> list[str]:
    """Of each file its path below the tree."""
    if not tree.is_folder(place):
        return [place]
    return [f"{place}/{relative}".lstrip("/") for relative in tree.list_files(place)]


def _copy(tree: Tree, origin: str, target: Path, most_bytes: int, progress: Progress) -> str:
    """Copy out of the cache, no more than the entry said that it has; the digest of what arrived.

    _CacheError for the cache, OSError for the pod's volume.
    """
    try:
        is_folder = stat.S_ISDIR(tree.look(origin).st_mode)
        paths = _files(tree, origin)
    except OSError as cause:
        raise _CacheError(cause.strerror or str(cause)) from cause
    if is_folder:
        target.mkdir(parents=True)
    digests = []
    for path in paths:
        relative = path.removeprefix(origin).lstrip("/")
        place = target / relative if relative else target
        place.parent.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256()
        with place.open("wb", buffering=0) as writing:
            for chunk in _read(tree, path):
                most_bytes -= len(chunk)
                if most_bytes < 0:
                    break  # its digest is another one, then
                digest.update(chunk)
                writing.write(chunk)
                progress.add(len(chunk))
        digests.append((relative, digest.hexdigest()))
    return digest_of_files(digests) if is_folder else digests[0][1]


def _read(tree: Tree, path: str) -> Iterator[bytes]:
    try:
        with tree.open_file(path) as reading:
            while chunk := reading.read(CHUNK_BYTES):
                yield chunk
    except OSError as cause:
        raise _CacheError(cause.strerror or str(cause)) from cause


def _copy_in(origin: Tree, cache: Tree, target: str, progress: Progress) -> None:
    if origin.is_folder():
        cache.make_folder(target)
    for relative in _files(origin):
        with origin.open_file(relative) as reading, cache.create(f"{target}/{relative}".rstrip("/")) as writing:
            while chunk := reading.read(CHUNK_BYTES):
                writing.write(chunk)
                progress.check()


def _remove(target: Path) -> None:
    if target.is_dir() and not target.is_symlink():
        shutil.rmtree(target)
    else:
        target.unlink(missing_ok=True)
