"""How the content of an archive or image reaches the disk: folders, files, second names. All of it counts.

Invariant: a file is never opened that is there already, and no link is followed. Runs where the unpacking runs.
"""

import os
from pathlib import Path
from typing import IO

from slipway_agent.model.limits import Budget
from slipway_agent.volume.tar_stream import CHUNK_BYTES


class Folders:
    """The folders below one target. What an entry's path brings along counts as entries do: one path may bring 64."""

    def __init__(self, target: Path, budget: Budget) -> None:
        self._target = target
        self._budget = budget
        self._made = {""}

    def make(self, relative: str, is_counted: bool = False) -> None:
        """This folder, maybe an entry that is counted by itself, and those above it.

        FileExistsError or NotADirectoryError where a file has such a name.
        """
        missing, asked = [], relative
        while relative not in self._made:
            missing.append(relative)
            relative = relative.rpartition("/")[0]
        for folder in reversed(missing):
            if not (is_counted and folder == asked):
                self._budget.count()
            (self._target / folder).mkdir(exist_ok=True)
            self._made.add(folder)

    def holds(self, relative: str) -> bool:
        return relative in self._made


def write_content(path: Path, content: IO[bytes]) -> int:
    """A new file; how many bytes it has. FileExistsError where there is one. The caller claimed what it writes."""
    count_bytes = 0
    with path.open("xb") as writing:  # buffered: a raw write that fills the disk writes less, and says nothing
        while chunk := content.read(CHUNK_BYTES):
            count_bytes += writing.write(chunk)
    return count_bytes


def give_second_name(origin: Path, path: Path, budget: Budget) -> None:
    """A second name for a file; a second file on file systems that have no hard links (SMB, some FUSE).

    Either counts as large as the file: what reads the folder later reads it once for each name.
    """
    budget.claim(origin.stat().st_size)
    try:
        os.link(origin, path)
    except OSError:
        with origin.open("rb") as content:
            write_content(path, content)
