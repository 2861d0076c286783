"""The models volume: what is published, and how a fetched version gets there.

    repository/<model>/<version>/   what the server reads; a version appears here by one rename, complete and verified
    .staging/<version>/             work in progress, on the same file system; an agent that starts resumes or cleans it
    .agent/published.json           the ledger: each published version's digest, size and location (`name_place`)
    .agent/config.pbtxt             the model's own configuration, as its source had it
    .agent/warm.json                which versions have answered the warm-up requests
    .agent/golden.json              which versions have answered the golden requests, or stood before them
    .agent/loaded.json              which folders TensorFlow Serving's versions were loaded from
    .agent/seals.json               what the files of each published version held (after_crash.py)
    .agent/readiness.json           what the agent's first process remembers (supervisor/memory.py)

The ledger is written after the rename. A crash in between costs one more fetch, never an unverified version. Files
aren't flushed one by one: a ledger of before the node's last start vouches for nothing until `after_crash` has verified
what it names.
"""

import errno
import filecmp
import json
import os
import shutil
import stat
from collections.abc import Collection
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from types import MappingProxyType

from slipway_agent.config import name_place, parse_version
from slipway_agent.model.errors import AgentError, Reason, SpecError, TransientError
from slipway_agent.model.ledger import Ledger, Published, describe_bytes
from slipway_agent.model.limits import Room
from slipway_agent.node import read_boot_id
from slipway_agent.volume.digest import CHUNK_BYTES
from slipway_agent.volume.safe_open import Tree, UnsafeError, read_whole, require_plain

RESUMED_FOLDER = "download"  # of a version's staging: what a source goes on with after a restart, by its download.json
CONFIG = "config.pbtxt"
LEDGER = "published.json"
CONFIG_BYTES = 1 << 20  # the most that is read of a config.pbtxt
SPARE_BYTES = 16 << 20  # left free, so that ledgers and configuration can still be written


_limits: dict[Path, int] = {}
"""The sizeLimit of each models volume that has one, by its root: a kubelet evicts the pod that goes above."""


class ModelVolume:
    """Used by the loop and the fetching worker; the ledger is changed by the loop alone."""

    def __init__(self, root: Path, model: str) -> None:
        self.model = model
        self.repository = root / "repository" / model
        self._root = root
        self._staging = root / ".staging"
        self._notes = root / ".agent"
        for folder in (self.repository, self._staging, self._notes):
            folder.mkdir(parents=True, exist_ok=True)

    def limit(self, limit_bytes: int | None) -> None:
        """The volume's sizeLimit, None without one. Whatever asks for room in it from now on is told what is left."""
        _limits.pop(self._root, None)
        if limit_bytes is not None:
            _limits[self._root] = limit_bytes

    def read_ledger(self) -> Ledger:
        """What is published and intact. Anything in the repository that the ledger doesn't vouch for is removed."""
        ledger = self._parse_ledger()
        intact = {
            version: published
            for version, published in ledger.versions.items()
            if _size_bytes(self.repository / str(version)) == published.size_bytes
        }
        for entry in list(self.repository.iterdir()):
            version = parse_version(entry.name)
            if version is not None and version not in intact:
                shutil.rmtree(entry, ignore_errors=True)
        return replace(ledger, versions=MappingProxyType(intact))

    def _parse_ledger(self) -> Ledger:
        empty = Ledger(self.model, {})
        try:
            raw = json.loads((self._notes / LEDGER).read_text())
            versions = {int(version): _named(Published(**fields)) for version, fields in raw["versions"].items()}
            standing, has_left = raw["standing"], raw.get("left") is True
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return empty  # nothing vouches for anything: fetch again
        is_ours = raw.get("model") == self.model and raw.get("boot") == read_boot_id()
        return Ledger(self.model, versions, standing, has_left) if is_ours else empty

    def write_ledger(self, ledger: Ledger) -> None:
        content = {
            "model": ledger.model,
            "boot": read_boot_id(),
            "standing": ledger.standing,
            "left": ledger.has_left,
            "versions": {str(version): asdict(published) for version, published in sorted(ledger.versions.items())},
        }
        replace_file(self._notes / LEDGER, json.dumps(content, indent=1))

    def staging(self, version: int) -> Path:
        folder = self._staging / str(version)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def staged_version(self, folder: Path) -> int:
        """The version that is being prepared in a folder below its staging: 3 for .staging/3/content/model."""
        return int(folder.relative_to(self._staging).parts[0])

    def drop_staging(self, version: int) -> None:
        shutil.rmtree(self._staging / str(version), ignore_errors=True)

    def clean_staging(self, wanted: Collection[int]) -> None:
        """Keep partial downloads of wanted versions; remove all else that an earlier process left."""
        for entry in list(self._staging.iterdir()):
            if entry.is_dir() and parse_version(entry.name) in wanted and (entry / "download.json").is_file():
                for work in list(entry.iterdir()):
                    if work.is_dir() and work.name != RESUMED_FOLDER:
                        shutil.rmtree(work, ignore_errors=True)
            elif entry.is_dir():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink(missing_ok=True)

    def publish(self, version: int, folder: Path) -> tuple[int, bool]:
        """Rename a verified folder into the repository. Its size in bytes, and whether it replaced another.

        UnsafeError where it holds anything but folders and ordinary files: a server follows links.
        """
        require_plain(folder, f"version {version}")
        _make_readable(folder)
        size_bytes = _size_bytes(folder)
        place, aside = self.repository / str(version), self._staging / f"{version}.replaced"
        shutil.rmtree(aside, ignore_errors=True)
        replaced = place.exists()
        if replaced:
            os.rename(place, aside)
        os.rename(folder, place)
        shutil.rmtree(aside, ignore_errors=True)
        return size_bytes, replaced

    def remove(self, version: int) -> None:
        """Out of the server's sight by one rename, then deleted."""
        aside = self._staging / f"{version}.removed"
        shutil.rmtree(aside, ignore_errors=True)
        try:
            os.rename(self.repository / str(version), aside)
        except FileNotFoundError:
            return
        shutil.rmtree(aside, ignore_errors=True)

    def keep_model_files(self, origin: Tree) -> None:
        """Copy a model's own config.pbtxt, and the files beside its versions that it names, to where Triton looks.

        Only what differs is written: Triton loads every version again when a file beside them changes. UnsafeError for
        a named file that is a link out of the model's folder, or no ordinary file.
        """
        kept = origin.read_small(CONFIG, CONFIG_BYTES).decode(errors="replace")
        replace_file(self._notes / CONFIG, kept)
        for name in origin.list_names():
            if not goes_with(name, kept):
                continue
            try:
                is_folder = stat.S_ISDIR(origin.look(name).st_mode)
            except FileNotFoundError:
                continue  # a link that leads nowhere; the server says what it misses
            for relative in origin.list_files(name) if is_folder else ("",):
                self._keep_file(origin, f"{name}/{relative}".rstrip("/"))

    def _keep_file(self, origin: Tree, relative: str) -> None:
        place, working = self.repository / relative, self._staging / "model-file"
        with origin.open_file(relative) as reading:
            left_bytes = os.fstat(reading.fileno()).st_size
            ensure_room(self._staging, left_bytes, f"{relative}, beside the model's versions,")
            with working.open("wb") as writing:
                while left_bytes > 0 and (chunk := reading.read(min(CHUNK_BYTES, left_bytes))):
                    writing.write(chunk)
                    left_bytes -= len(chunk)
                writing.flush()
                os.fsync(writing.fileno())  # small, and under no version's seal: nothing verifies it after a crash
        if place.is_file() and filecmp.cmp(working, place, shallow=False):
            working.unlink()
            return
        place.parent.mkdir(parents=True, exist_ok=True)
        os.replace(working, place)

    def forget_model_files(self) -> None:
        (self._notes / "config.pbtxt").unlink(missing_ok=True)

    def kept_config(self, version: int) -> str | None:
        """The configuration the model came with: the version's own before the model's; None when it had neither.

        SpecError(ModelInvalid) for one of more than CONFIG_BYTES.
        """
        for place in (self.repository / str(version) / "config.pbtxt", self._notes / "config.pbtxt"):
            try:
                return read_whole(place, CONFIG_BYTES).decode(errors="replace")
            except FileNotFoundError:
                continue
            except UnsafeError as cause:
                raise SpecError(Reason.MODEL_INVALID, f"version {version}: {cause.words}. Make it smaller") from cause
        return None

    def read_in_repository(self, name: str) -> str | None:
        """A file beside the versions; None when there is none. What a crash left of one is read as it is."""
        try:
            return (self.repository / name).read_text(errors="replace")
        except FileNotFoundError:
            return None

    def read_note(self, name: str) -> str | None:
        """A note of the agent's own, which the server doesn't see; None when there is none."""
        try:
            return (self._notes / name).read_text()
        except (OSError, UnicodeDecodeError):
            return None

    def write_note(self, name: str, content: str) -> None:
        """Whole or not at all; a full volume costs the note, not the work that it is about."""
        with suppress(OSError):
            replace_file(self._notes / name, content)

    def write_in_repository(self, name: str, content: str) -> None:
        """A file beside the versions, whole or not at all; its time is left alone when it is the same already."""
        place = self.repository / name
        if self.read_in_repository(name) == content:
            return
        working = self._staging / f"{name}.new"
        working.write_text(content)
        os.replace(working, place)


def _named(published: Published) -> Published:
    """As an agent before this one wrote it: with the whole URL."""
    return replace(published, location=name_place(published.location))


def goes_with(name: str, config: str) -> bool:
    """Whether an entry beside a model's versions is one that its config.pbtxt needs: a file or folder named in it."""
    if name == CONFIG or name.startswith(".") or parse_version(name) is not None:
        return False
    return name in config or name in ("warmup", "initial_state")


def replace_file(place: Path, content: str) -> None:
    """Write a small file whole or not at all."""
    working = place.with_name(place.name + ".new")
    with working.open("w") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(working, place)


def link_or_copy(origin: Path, place: Path) -> None:
    """A second name for a file; a second file on file systems that have no hard links (SMB, some FUSE).

    UnsafeError for a link, FIFO or device: its second name would mean what it leads to.
    """
    if not stat.S_ISREG(origin.lstat().st_mode):
        raise UnsafeError(f"{origin.name} is no ordinary file, and can't have a second name. Put the file itself there")
    try:
        os.link(origin, place, follow_symlinks=False)
    except OSError:
        shutil.copyfile(origin, place)


def find_room(folder: Path) -> Room:
    """What the models volume can take, as seen from a folder in it: by its file system, and by its sizeLimit."""
    free_bytes = max(0, shutil.disk_usage(folder).free - SPARE_BYTES)
    for root in (folder, *folder.parents):
        limit_bytes = _limits.get(root)
        if limit_bytes is not None:
            left_bytes = max(0, limit_bytes - SPARE_BYTES - _taken_bytes(root))
            if left_bytes < free_bytes:
                return Room(left_bytes, limit_bytes)
    return Room(free_bytes)


def ensure_room(folder: Path, wanted_bytes: int, what: str) -> None:
    """SpecError(DiskFull) when the models volume, of which `folder` is a part, can't take that much more."""
    room = find_room(folder)
    if wanted_bytes > room.free_bytes:
        raise room.lacking(what, describe_bytes(wanted_bytes))


def explain_disk(cause: OSError, what: str, action: str = "fetched") -> AgentError:
    """Why `what` couldn't be stored in the pod's model volume while it was fetched, copied or unpacked."""
    if cause.errno in (errno.ENOSPC, errno.EDQUOT):
        message = f"the pod's model volume filled up while {what} was {action}. Free some on the node, or load fewer "
        return SpecError(Reason.DISK_FULL, f"{message}versions")
    words = cause.strerror or str(cause)
    return TransientError(f"{what} can't be stored in the pod's model volume: {words}; it is tried again")


def _taken_bytes(root: Path) -> int:
    """What a kubelet counts: blocks, of each file once."""
    taken: dict[tuple[int, int], int] = {}
    for folder, folders, files in os.walk(root):
        for name in (*folders, *files):
            with suppress(OSError):
                status = os.lstat(os.path.join(folder, name))
                taken[(status.st_dev, status.st_ino)] = status.st_blocks * 512
    return sum(taken.values())


def _size_bytes(folder: Path) -> int:
    """What a folder's files take; a file with two names is there once."""
    found = [path.lstat() for path in folder.rglob("*")]
    return sum({(each.st_dev, each.st_ino): each.st_size for each in found if stat.S_ISREG(each.st_mode)}.values())


def _make_readable(folder: Path) -> None:
    """The server runs as the same user, but a person who debugs may not."""
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
