"""Credentials as files: one for each key of the Secret that the spec names, mounted by the kubelet.

Read anew for every listing and fetch, so a Secret that comes late, or changes, is taken up by itself. A value never
reaches a message. Must not import a store.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

from slipway_agent.config import Source
from slipway_agent.model.errors import Reason, SpecError

SecretStamp: TypeAlias = tuple[tuple[str, int, int], ...]


def read_secret(source: Source) -> Mapping[str, str] | None:
    """The Secret's keys and values, without the white space around a value; None when the spec names no Secret.

    Empty when the Secret isn't there yet. A kubelet's own entries (`..data`) are no keys. SpecError(AccessDenied) when
    a file can't be read.
    """
    if source.credentials is None:
        return None
    found = {}
    folder = Path(source.credentials)
    try:
        names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
        for name in names:
            if not name.startswith("..") and (folder / name).is_file():
                found[name] = (folder / name).read_text(errors="replace").strip()
    except FileNotFoundError:
        return found  # the kubelet exchanges the files just now
    except OSError as cause:
        raise SpecError(
            Reason.ACCESS_DENIED,
            f"{name_secret(source)} can't be read by the agent: {cause.strerror}. Mount it readable",
        ) from cause
    return found


def stamp_secret(source: Source) -> SecretStamp:
    """Names what the Secret's folder holds without reading it: other files, another stamp. Empty without any."""
    if source.credentials is None:
        return ()
    try:
        with os.scandir(source.credentials) as entries:
            looks = [(entry.name, entry.stat()) for entry in entries]
    except OSError:
        return ()
    return tuple(sorted((name, status.st_mtime_ns, status.st_ino) for name, status in looks))


def name_secret(source: Source) -> str:
    """For messages: `Secret store-credentials`."""
    return f"Secret {source.secret_name}" if source.secret_name else "the Secret of storage.secretRef"


def refuse_secret(source: Source, found: Mapping[str, str], expected: str) -> SpecError:
    """Why a Secret can't be used. `expected`: the keys that it must have, for the message."""
    filled = [name for name, value in found.items() if value]
    if not found:
        what = "isn't there, or has no keys"
    elif filled:
        what = f"has the keys {', '.join(filled)}"
    else:
        what = f"has only empty values ({', '.join(found)})"
    return SpecError(
        Reason.ACCESS_DENIED,
        f"{name_secret(source)} {what}; {source.scheme}:// needs {expected}. Create it, or correct it, in the model's "
        "namespace; it is read again by itself",
    )
