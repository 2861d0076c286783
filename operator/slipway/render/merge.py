"""Maps and list-maps merged as a strategic merge does: the user's podTemplate into ours, and what drift compares by.

Invariant: what the user didn't write stays ours.
Must not import: other parts of render. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from slipway.api.pod_lists import MERGE_KEYS, identity_of
from slipway.model.revision import Json

CHOICES = {"volumes", "resourceClaims", "env"}
"""List-maps whose items hold one of several fields."""


def merge(base: Json, extra: Mapping[str, Any]) -> Json:
    """`extra` merged into `base` as a strategic merge does: maps by key, list-maps by MERGE_KEYS, the rest replaced.

    >>> merge({"env": [{"name": "A", "value": "1"}]}, {"env": [{"name": "A", "value": "2"}, {"name": "B"}]})
    {'env': [{'name': 'A', 'value': '2'}, {'name': 'B'}]}
    """
    merged = dict(base)
    for key, value in extra.items():
        match merged.get(key), value:
            case dict() as ours, dict():
                merged[key] = merge(ours, value)
            case list() as ours, list() if key in MERGE_KEYS:
                merged[key] = merge_list(key, ours, value)
            case _:
                merged[key] = value
    return merged


def merge_list(field: str, base: list[Json], extra: list[Json]) -> list[Json]:
    """A list-map merged: items with the same keys merged in place, new ones appended.

    Where an item is a choice (one kind of volume, a value or where it comes from), another choice takes the first's
    place: the API server refuses both.
    """
    merged = {identity_of(field, item): item for item in base}
    for item in extra:
        ours = merged.get(identity_of(field, item), {})
        if field in CHOICES:
            ours = {key: value for key, value in ours.items() if key in item}
        merged[identity_of(field, item)] = merge(ours, item)
    return list(merged.values())
