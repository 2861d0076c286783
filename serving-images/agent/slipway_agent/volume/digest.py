"""The sha256 of a model version, the same for the agent, the CLI and `sha256sum`.

A file's digest is that of its bytes. A folder's is the sha256 over one line per file, `<hex>  <relative path>`,
sorted by the path's bytes. For a folder it is what this prints:

    cd FOLDER && find -L . -type f -printf '%P\\0' | LC_ALL=C sort -z | xargs -0 -r sha256sum | sha256sum

Names that begin with ".." are left out: a kubelet keeps a ConfigMap's generations there, dated anew by every pod. So is
a lost+found that only root can read.

Two worked examples: the folder {a: "x"} has the one line sha256("x") + "  a\\n"; a folder that holds b/c and a sorts
a first, since "a" < "b/c" as bytes. For a folder of one's own: links are followed wherever they lead.
"""

import errno
import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from slipway_agent.volume.safe_open import open_ordinary

CHUNK_BYTES = 1 << 20


def digest_path(path: Path) -> str:
    """The sha256 in hex of a file or folder, an empty one too. OSError where it can't be read."""
    if path.is_dir():
        return digest_of_files((relative, digest_file(path / relative)) for relative in list_files(path))
    return digest_file(path)


def digest_file(path: Path) -> str:
    """OSError at once for what is no ordinary file: a FIFO is not waited on."""
    with open_ordinary(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_of_files(files: Iterable[tuple[str, str]]) -> str:
    """The folder digest from (relative path, hex) pairs, in any order."""
    total = hashlib.sha256()
    for name, hexdigest in sorted((os.fsencode(relative), hexdigest) for relative, hexdigest in files):
        total.update(_line(name, hexdigest))
    return total.hexdigest()


def list_files(folder: Path) -> Iterator[str]:
    """Relative paths of all files below, links followed. A link to a folder that holds it is an OSError (ELOOP)."""
    yield from _list_below(folder, "", frozenset())


def _list_below(folder: Path, prefix: str, above: frozenset[tuple[int, int]]) -> Iterator[str]:
    status = folder.stat()
    here = (status.st_dev, status.st_ino)
    if here in above:
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(folder))
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.name.startswith("..") or _is_unreadable_lost_and_found(entry):
                continue
            if entry.is_dir():
                yield from _list_below(Path(entry.path), f"{prefix}{entry.name}/", above | {here})
            else:
                yield f"{prefix}{entry.name}"


def _is_unreadable_lost_and_found(entry: os.DirEntry[str]) -> bool:
    return entry.name == "lost+found" and not os.access(entry.path, os.R_OK | os.X_OK)


def _line(name: bytes, hexdigest: str) -> bytes:
    # coreutils' sha256sum marks and escapes a name that would break its line
    escaped = name.replace(b"\\", b"\\\\").replace(b"\n", b"\\n").replace(b"\r", b"\\r")
    return (b"\\" if escaped != name else b"") + hexdigest.encode() + b"  " + escaped + b"\n"
