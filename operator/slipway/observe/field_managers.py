"""Who else wrote the fields of an object that we write, as its managedFields say.

Must not import: decide, render, report, controller. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from slipway.model.names import FIELD_MANAGER
from slipway.model.revision import Json

Path = tuple[str, ...]
"""The names of a field and of what it is in, from the object's own: ("spec", "replicas")."""


def managers_of(fields: Iterable[Path], live: Json) -> tuple[str, ...]:
    """The managers, but for ourselves, of one of these fields or of a part of one. live: with its managedFields."""
    paths = list(fields)
    return tuple(
        sorted(
            {
                str(entry.get("manager"))
                for entry in live["metadata"].get("managedFields") or []
                if entry.get("manager") != FIELD_MANAGER
                and any(_is_managed(path, entry.get("fieldsV1")) for path in paths)
            }
        )
    )


def _is_managed(path: Path, fields: Any) -> bool:
    """fields: as in FieldsV1, where each name begins with `f:`."""
    for name in path:
        if not isinstance(fields, Mapping) or f"f:{name}" not in fields:
            return False
        fields = fields[f"f:{name}"]
    return True
