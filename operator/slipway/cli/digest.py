"""The sha256 of a model version, as the agents compute it and `spec.model.sha256` pins it. Needs no cluster.

A file's digest is that of its bytes. A folder's is the sha256 over one line per file, `<hex>  <relative path>`, sorted
by the path's bytes, as `sha256sum` prints them:

    cd FOLDER && find -L . -type f -printf '%P\\0' | LC_ALL=C sort -z | xargs -0 -r sha256sum | sha256sum

Left out, as agents do: names that begin with ".." (a kubelet keeps a ConfigMap's generations there), and a lost+found
that only root can read. Links are followed wherever they lead; agents refuse those that lead out of the model's URI.
Operator and agent share no code; a test compares the two.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path


def digest_of(path: Path) -> str:
    """The sha256 in hex of a file or a folder. Raises OSError where something can't be read."""
    if not path.is_dir():
        return _digest_of_file(path)
    total = hashlib.sha256()
    for relative in sorted(_files(path), key=os.fsencode):
        total.update(_line(os.fsencode(relative), _digest_of_file(path / relative)))
    return total.hexdigest()


def _digest_of_file(path: Path) -> str:
    if not stat.S_ISREG(path.stat().st_mode):  # a FIFO would be waited on for ever; agents refuse it
        raise OSError(errno.EINVAL, "no ordinary file: remove it", str(path))
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _files(folder: Path, below: str = "", above: frozenset[tuple[int, int]] = frozenset()) -> Iterator[str]:
    """Relative paths of all files, links followed; a link to a folder that holds it is an OSError (ELOOP)."""
    known = folder.stat()
    here = (known.st_dev, known.st_ino)
    if here in above:
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(folder))
    with os.scandir(folder) as found:
        for entry in found:
            is_hidden = entry.name == "lost+found" and not os.access(entry.path, os.R_OK | os.X_OK)
            if entry.name.startswith("..") or is_hidden:
                continue
            if entry.is_dir():
                yield from _files(Path(entry.path), f"{below}{entry.name}/", above | {here})
            else:
                yield below + entry.name


def _line(name: bytes, digest: str) -> bytes:
    # as sha256sum marks and escapes a name that would break its line
    escaped = name.replace(b"\\", b"\\\\").replace(b"\n", b"\\n").replace(b"\r", b"\\r")
    mark = b"\\" if escaped != name else b""
    return mark + digest.encode() + b"  " + escaped + b"\n"
