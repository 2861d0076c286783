"""Reads and writes below a folder that strangers write to at the same time: a claim, a shared cache.

Between a look at a name and its use, whoever shares the folder can put a link to /proc/self/environ, a FIFO or a device
there. So no path is handed to the kernel whole: each component is opened from the open folder before it, never
through a link, and what was opened is looked at, not its name.

Links that stay inside are followed by hand, because people have them: `latest -> 3`, a Hugging Face snapshot's
`../../blobs/…`, a kubelet's `..data`. Refused: a link that leads out of the folder, one with an absolute target (it
means another place in each container), rings, and all that is neither a folder nor an ordinary file. Nothing is ever
waited on. openat2(RESOLVE_BENEATH) would do the same for the kernels and seccomp profiles that know it.
"""

import errno
import itertools
import os
import shutil
import stat
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

LINKS_LIMIT = 40  # as the kernel's, for one path
DEPTH_LIMIT = 64
ENTRIES_LIMIT = 100_000
"""Of one walk, folders included: links can make a tree of few files that has billions of paths and no ring."""

_LOOK = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_KINDS = (
    (stat.S_ISLNK, "a link"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISCHR, "a device"),
)


class UnsafeError(OSError):
    """What was met is not followed, opened or waited on. Its text is one sentence with the name and the way out."""

    def __init__(self, words: str, number: int = errno.ELOOP) -> None:
        super().__init__(number, words)
        self.words = words

    def __str__(self) -> str:
        return self.words

    @property
    def is_too_much(self) -> bool:
        """It is a matter of bytes or entries, not of a link or a device."""
        return self.errno == errno.EFBIG


@dataclass(frozen=True, slots=True)
class Tree:
    """A folder and what is below it. `root` is trusted (a mount point); `inside` is not, and nothing below it is.

    Links may lead anywhere below `inside`, and `inside` itself may be one that stays below `root`. follows: False where
    no link has any business. shown: how people name `inside`, for messages. Every method may raise OSError,
    FileNotFoundError where there is nothing, and UnsafeError; paths are relative to `inside`, which is "" itself.
    """

    root: Path
    inside: str = ""
    shown: str = ""
    follows: bool = True

    def look(self, relative: str) -> os.stat_result:
        """Of a folder or an ordinary file."""
        with self._resolve(relative) as found:
            return os.fstat(found)

    def is_folder(self, relative: str = "") -> bool:
        """False, too, where it can't be looked at."""
        try:
            return stat.S_ISDIR(self.look(relative).st_mode)
        except OSError:
            return False

    def is_file(self, relative: str = "") -> bool:
        try:
            return stat.S_ISREG(self.look(relative).st_mode)
        except OSError:
            return False

    def open_file(self, relative: str) -> FileIO:
        """An ordinary file to read, unbuffered. Its size and times are those of the open file (os.fstat)."""
        with self._resolve(relative) as found:
            if not stat.S_ISREG(os.fstat(found).st_mode):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), self._name(relative))
            # the descriptor that was looked at, opened for reading: no name is looked up again
            try:
                file = os.open(f"/proc/self/fd/{found}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            except OSError as cause:
                raise OSError(cause.errno, cause.strerror, self._name(relative)) from cause
        return os.fdopen(file, "rb", buffering=0)

    def read_small(self, relative: str, limit_bytes: int) -> bytes:
        """A whole file. UnsafeError when it is larger."""
        with self.open_file(relative) as file:
            content = bytearray()
            while chunk := file.read(limit_bytes + 1 - len(content)):
                content += chunk
        if len(content) > limit_bytes:
            raise UnsafeError(
                f"{self._name(relative)} has more than {limit_bytes} bytes, the most that is read of it", errno.EFBIG
            )
        return bytes(content)

    def list_names(self, relative: str = "") -> list[str]:
        """What a folder holds, sorted; UnsafeError where it is too much."""
        with self._resolve(relative) as found:
            names = self._names(found, relative)
        self._judge_size(relative, len(names), "")
        return names

    @contextmanager
    def open_folder(self, relative: str = "") -> Iterator[Path]:
        """A path that means this very folder while it is open. For looks at names alone: links below are links."""
        with self._resolve(relative) as found:
            yield Path(f"/proc/self/fd/{found}")

    def list_files(self, relative: str = "") -> Iterator[str]:
        """Paths, relative to the folder, of all files below it, as their digest counts them (volume.digest).

        UnsafeError for anything else that is there; NotADirectoryError for a file.
        """
        count = 0
        waiting: list[tuple[str, frozenset[tuple[int, int]]]] = [("", frozenset())]
        while waiting:
            prefix, above = waiting.pop()
            place = _join(relative, prefix)
            with self._resolve(place) as found:
                status = os.fstat(found)
                here = (status.st_dev, status.st_ino)
                if here in above:
                    raise UnsafeError(f"{self._name(place)} is a link to a folder that holds it. Remove it")
                names = self._names(found, place)
                count += len(names)
                self._judge_size(relative, count, prefix)
                kept = [name for name in names if not name.startswith("..") and _is_readable(found, name)]
                modes = [self._status_of(found, name, _join(place, name)).st_mode for name in kept]
            below = [(_join(prefix, name), stat.S_ISDIR(mode)) for name, mode in zip(kept, modes, strict=True)]
            yield from (name for name, is_folder in below if not is_folder)
            waiting += [(name, above | {here}) for name, is_folder in below if is_folder]

    def _judge_size(self, relative: str, count: int, prefix: str) -> None:
        if count > ENTRIES_LIMIT:
            raise UnsafeError(
                f"{self._name(relative)} has more than {ENTRIES_LIMIT} files and folders, links followed, and a "
                "version may have that many. Leave only the model's own files there, or pack them into one archive",
                errno.EFBIG,
            )
        if prefix.count("/") >= DEPTH_LIMIT:
            raise UnsafeError(
                f"{self._name(relative)} has folders more than {DEPTH_LIMIT} deep. Make it flatter", errno.EFBIG
            )

    # what is written: for folders that others write to as well, such as the cache

    def create(self, relative: str) -> FileIO:
        """A new file to write, unbuffered, and the folders above it. FileExistsError where the name is taken."""
        folder, _, name = relative.rpartition("/")
        with self._make_folders(folder) as above:
            return os.fdopen(os.open(name, _NEW, 0o644, dir_fd=above), "wb", buffering=0)

    def write_small(self, relative: str, content: str) -> None:
        """A small file whole or not at all, in place of the one that is there."""
        working = f"{relative}.{os.getpid()}.new"
        self.remove(working)
        with self.create(working) as file:
            file.write(content.encode())
            os.fsync(file.fileno())
        self.rename(working, relative)

    def make_folder(self, relative: str) -> None:
        with self._make_folders(relative):
            pass

    def rename(self, relative: str, other: str) -> None:
        """Over a file, or an empty folder, that is there. Neither name is followed."""
        folder, _, name = relative.rpartition("/")
        other_folder, _, other_name = other.rpartition("/")
        with self._resolve(folder) as from_folder, self._make_folders(other_folder) as to_folder:
            os.rename(name, other_name, src_dir_fd=from_folder, dst_dir_fd=to_folder)

    def touch(self, relative: str) -> None:
        """Its time is now. Nothing is made."""
        with self._resolve(relative) as found:
            os.utime(f"/proc/self/fd/{found}")

    def remove(self, relative: str) -> None:
        """A file, a link itself, or a folder with all below it; nothing where there is nothing."""
        folder, _, name = relative.rpartition("/")
        try:
            with self._resolve(folder) as above:
                if stat.S_ISDIR(os.stat(name, dir_fd=above, follow_symlinks=False).st_mode):
                    shutil.rmtree(name, dir_fd=above)
                else:
                    os.unlink(name, dir_fd=above)
        except FileNotFoundError:
            return

    # how names become open files

    @contextmanager
    def _resolve(self, relative: str) -> Iterator[int]:
        """A descriptor (O_PATH) of the folder or ordinary file that a path leads to."""
        with ExitStack() as opened:
            try:
                floor = os.open(self.root, os.O_PATH | os.O_CLOEXEC)
            except OSError as cause:
                raise OSError(cause.errno, cause.strerror, self._name("")) from cause
            opened.callback(os.close, floor)
            if self.inside:
                floor = self._walk(floor, self.inside, _Words(self._name(""), "", "its volume"), opened)
            yield self._walk(floor, relative, _Words("", self.shown, self.shown or "its folder"), opened)

    def _walk(self, floor: int, relative: str, words: "_Words", opened: ExitStack) -> int:
        """From an open folder on, never above it. What is opened is closed with `opened`."""
        above, names = [floor], deque(relative.split("/"))
        walked: list[str] = []
        last_link, links = "..", 0
        while names:
            name = names.popleft()
            if name in ("", "."):
                continue
            if name == "..":
                if len(above) == 1:
                    raise self._refuse_link(words, walked, last_link)
                above.pop()
                continue
            if not links:
                walked.append(name)
            try:
                found = os.open(name, _LOOK, dir_fd=above[-1])
            except OSError as cause:
                raise OSError(cause.errno, cause.strerror, words.name(walked)) from cause
            opened.callback(os.close, found)
            mode = os.fstat(found).st_mode
            if stat.S_ISLNK(mode):
                last_link, links = os.readlink("", dir_fd=found), links + 1
                if not self.follows or last_link.startswith("/"):
                    raise self._refuse_link(words, walked, last_link)
                if links > LINKS_LIMIT:
                    raise UnsafeError(f"{words.name(walked)} is a link in a ring of links. Remove it")
                names.extendleft(reversed(last_link.split("/")))
            elif stat.S_ISDIR(mode):
                above.append(found)
            elif not stat.S_ISREG(mode):
                raise UnsafeError(f"{words.name(walked)} is {_kind(mode)}, no ordinary file. Remove it", errno.EINVAL)
            elif any(each not in ("", ".") for each in names):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), words.name(walked))
            else:
                return found
        return above[-1]

    def _refuse_link(self, words: "_Words", walked: list[str], target: str) -> UnsafeError:
        where = f"{words.name(walked)} is a link (to {target[:100]})"
        if not self.follows:
            return UnsafeError(f"{where}, and none is followed here. Remove it")
        return UnsafeError(
            f"{where} that leads out of {words.bounds}. Put the file or folder itself there, or link to it by a "
            "relative path that stays inside"
        )

    @contextmanager
    def _make_folders(self, relative: str) -> Iterator[int]:
        """A descriptor of a folder, made with those above it where they are missing. No link is followed on the way."""
        with ExitStack() as opened:
            self.root.mkdir(parents=True, exist_ok=True)
            here = os.open(self.root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            opened.callback(os.close, here)
            for name in _join(self.inside, relative).split("/"):
                if name in ("", "."):
                    continue
                with suppress(FileExistsError):
                    os.mkdir(name, 0o755, dir_fd=here)
                here = os.open(name, _LOOK | os.O_DIRECTORY, dir_fd=here)
                opened.callback(os.close, here)
            yield here

    def _names(self, folder: int, relative: str) -> list[str]:
        """Of an open folder, sorted; of one with too many, one more than are allowed."""
        try:
            reading = os.open(".", _READ | os.O_DIRECTORY, dir_fd=folder)
            try:
                with os.scandir(reading) as entries:
                    return sorted(entry.name for entry in itertools.islice(entries, ENTRIES_LIMIT + 1))
            finally:
                os.close(reading)
        except OSError as cause:
            raise OSError(cause.errno, cause.strerror, self._name(relative)) from cause

    def _status_of(self, folder: int, name: str, place: str) -> os.stat_result:
        """Of what an entry is, or what it leads to where it is a link."""
        status = os.stat(name, dir_fd=folder, follow_symlinks=False)
        if stat.S_ISDIR(status.st_mode) or stat.S_ISREG(status.st_mode):
            return status
        try:
            return self.look(place)
        except FileNotFoundError:
            raise UnsafeError(
                f"{self._name(place)} is a link that leads nowhere. Remove it, or put the file there"
            ) from None

    def _name(self, relative: str) -> str:
        return _Words("", self.shown, "").name([relative] if relative else [])


@dataclass(frozen=True, slots=True)
class _Words:
    """How what is walked is named: always `whole`, or what was walked below `shown`. bounds: what it must stay in."""

    whole: str
    shown: str
    bounds: str

    def name(self, walked: list[str]) -> str:
        return self.whole or _join(self.shown.rstrip("/"), "/".join(walked)) or "the folder"


def open_ordinary(path: Path) -> FileIO:
    """A file of a folder that is one's own, its links followed; UnsafeError at once for a FIFO, socket or device."""
    if not (stat.S_ISREG(mode := path.stat().st_mode) or stat.S_ISDIR(mode)):
        raise UnsafeError(f"{path} is {_kind(mode)}, no ordinary file")
    file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        mode = os.fstat(file).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise UnsafeError(f"{path} is {_kind(mode)}, no ordinary file")
        return os.fdopen(file, "rb", buffering=0)  # IsADirectoryError for a folder
    except OSError:
        os.close(file)
        raise


def read_whole(path: Path, limit_bytes: int) -> bytes:
    """A file of a folder of one's own; UnsafeError (EFBIG) where it is larger."""
    with open_ordinary(path) as file:
        content = bytearray()
        while chunk := file.read(limit_bytes + 1 - len(content)):
            content += chunk
    if len(content) > limit_bytes:
        raise UnsafeError(f"{path.name} has more than {limit_bytes} bytes, the most that is read of it", errno.EFBIG)
    return bytes(content)


def require_plain(folder: Path, shown: str) -> None:
    """UnsafeError unless all below a folder of our own is folders and ordinary files: what servers are given."""
    for above, folders, files in os.walk(folder, onerror=_fail):
        for name in (*folders, *files):
            place = os.path.join(above, name)
            mode = os.lstat(place).st_mode
            if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
                where = os.path.relpath(place, folder)
                raise UnsafeError(f"{shown} holds {where}, which is {_kind(mode)}, no ordinary file. Remove it")


def _fail(cause: OSError) -> None:
    raise cause


def _is_readable(folder: int, name: str) -> bool:
    """False for the lost+found of a file system, which only root can read."""
    return name != "lost+found" or os.access(name, os.R_OK | os.X_OK, dir_fd=folder)


def _kind(mode: int) -> str:
    return next((words for is_kind, words in _KINDS if is_kind(mode)), "no file")


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder and name else folder or name
