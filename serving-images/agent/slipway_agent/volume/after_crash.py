"""After the node's crash, what is called verified is verified again, before anything is built on it.

Files aren't flushed one by one: each model's first answer would wait for the node's disk. So a crash may leave files of
the right size that hold zeros, beside a ledger that was flushed. A ledger of before the node's last start vouches for
nothing by itself. What it names is kept where its files have the digest that they were sealed with right after they
were published, and is fetched again otherwise. Downloads that had begun begin anew.

The seal isn't the version's sha256, which is that of the bytes at the source: an archive, say.
"""

import contextlib
import hashlib
import json
import os
import shutil
import threading
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Protocol

from slipway_agent.node import read_boot_id
from slipway_agent.volume.digest import CHUNK_BYTES, digest_of_files, list_files
from slipway_agent.volume.models_volume import LEDGER, replace_file

SEALS = "seals.json"
IDLE_PRIORITY = 19  # sealing has time; the server, which starts just then, hasn't


class _Log(Protocol):
    def info(self, message: str, **fields: object) -> None: ...

    def warning(self, message: str, **fields: object) -> None: ...


def verify_again(models: Path, log: _Log) -> Generator[None, None, None]:
    """Make the ledger one that can be relied on. Yields while it works, at least for each megabyte.

    Where that can't be done the ledger stays what it is, and vouches for nothing.
    """
    try:
        yield from _verify(models, log)
    except (OSError, AttributeError, KeyError, TypeError, ValueError) as cause:
        log.warning("what is published can't be verified again, and is fetched", detail=str(cause))


def _verify(models: Path, log: _Log) -> Generator[None, None, None]:
    notes, boot_id = models / ".agent", read_boot_id()
    raw = _read(notes / LEDGER)
    versions = raw.get("versions")
    if raw.get("boot") == boot_id or not isinstance(versions, dict):
        return
    repository, seals = models / "repository" / str(raw.get("model")), _read(notes / SEALS)
    log.info("the node was started anew: what is published is verified again", versions=sorted(map(int, versions)))
    shutil.rmtree(models / ".staging", ignore_errors=True)
    kept = {}
    for version, published in versions.items():
        folder, seal = repository / str(int(version)), seals.get(version)
        found = yield from digest_slowly(folder)
        if found is not None and seal == _seal(published, found):
            kept[version] = published
            continue
        why = "its files aren't what they were" if seal is not None else "the node ended before its files were sealed"
        log.warning("version is fetched again", version=int(version), detail=why)
        shutil.rmtree(folder, ignore_errors=True)
    replace_file(notes / LEDGER, json.dumps({**raw, "versions": kept, "boot": boot_id}, indent=1))


def seal(models: Path, model: str, published: Mapping[int, str]) -> None:
    """Remember what the files of these versions hold now: number → its sha256 in the ledger. Takes a while, and no more
    than an idle core. Whatever fails costs a fetch after the node's next crash, and nothing else."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), IDLE_PRIORITY)
    place = models / ".agent" / SEALS
    known = _read(place)
    seals = {str(version): known.get(str(version)) for version in published}
    for version, sha256 in published.items():
        before = seals[str(version)]
        if isinstance(before, dict) and before.get("sha256") == sha256:
            continue
        found = _run(digest_slowly(models / "repository" / model / str(version)))
        seals[str(version)] = None if found is None else _seal({"sha256": sha256}, found)
    if seals != known:
        with contextlib.suppress(OSError):
            replace_file(place, json.dumps(seals, indent=1))


def digest_slowly(folder: Path) -> Generator[None, None, str | None]:
    """A folder's digest (`volume.digest`), and None where it can't be read; yields after each megabyte."""
    files = []
    try:
        for relative in list_files(folder):
            digest = hashlib.sha256()
            with (folder / relative).open("rb") as file:
                while chunk := file.read(CHUNK_BYTES):
                    digest.update(chunk)
                    yield
            files.append((relative, digest.hexdigest()))
    except OSError:
        return None
    return digest_of_files(files)


def _seal(published: Mapping[str, object], content: str) -> dict[str, object]:
    return {"sha256": published["sha256"], "content": content}


def _run(steps: Generator[None, None, str | None]) -> str | None:
    while True:
        try:
            next(steps)
        except StopIteration as end:
            found: str | None = end.value
            return found


def _read(place: Path) -> dict[str, object]:
    try:
        raw = json.loads(place.read_text())
    except (OSError, ValueError):
        return {}
    return raw if isinstance(raw, dict) else {}
