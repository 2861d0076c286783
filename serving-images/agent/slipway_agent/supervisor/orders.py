"""The one order that is heard while no worker is there: agent.json names the pod in `out`.

Any other order waits for the worker: until somebody acts on it, what serves goes on serving.
"""

import json
from pathlib import Path


class Orders:
    """`pod`: the pod's name. Reads the file again when it has changed."""

    def __init__(self, config: Path, pod: str) -> None:
        self._config = config
        self._pod = pod
        self._stamp: tuple[int, int, int] | None = None
        self._is_out = False

    def is_out(self) -> bool:
        """What can't be read takes nobody out."""
        try:
            status = self._config.stat()
            stamp = (status.st_mtime_ns, status.st_ino, status.st_size)
            if stamp != self._stamp:
                self._is_out = names_out(self._config.read_text(), self._pod)
                self._stamp = stamp
        except (OSError, UnicodeDecodeError):
            return False
        return self._is_out


def names_out(text: str, pod: str) -> bool:
    """Whether the text of an agent.json has the pod leave the Service for its server's errors."""
    try:
        out = json.loads(text)["out"]
    except (ValueError, KeyError, TypeError):
        return False
    return isinstance(out, list) and pod in out
