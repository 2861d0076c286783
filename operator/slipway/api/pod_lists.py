"""The lists of a PodSpec whose items have keys, and what a podTemplate says twice in one of them.

The API server writes an item under its keys, so a list with two items of the same keys can't be applied: it answers
`failed to create typed patch object` for all of the object.
Invariant: MERGE_KEYS are the API server's own.
Must not import: kopf, kubernetes, anything that does I/O. Pure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

MERGE_KEYS: dict[str, tuple[str, ...]] = {
    "containers": ("name",),
    "initContainers": ("name",),
    "ephemeralContainers": ("name",),
    "env": ("name",),
    "volumes": ("name",),
    "volumeMounts": ("mountPath",),
    "volumeDevices": ("devicePath",),
    "ports": ("containerPort", "protocol"),
    "imagePullSecrets": ("name",),
    "hostAliases": ("ip",),
    "resourceClaims": ("name",),
    "topologySpreadConstraints": ("topologyKey", "whenUnsatisfiable"),
    "schedulingGates": ("name",),
}
"""The list-map keys of PodSpec, as the API server's own schema has them (tested against it); other lists replace."""

OWN_CONTAINERS = frozenset({"server", "agent"})
"""What a podTemplate says of these is merged into ours, item by item: of two for one variable the last one counts."""


def identity_of(field: str, item: Mapping[str, Any]) -> tuple[Any, ...]:
    """By what an item of such a list is found again."""
    return tuple(item.get(key, "TCP" if key == "protocol" else None) for key in MERGE_KEYS[field])


def said_twice(pod_template: Mapping[str, Any]) -> Iterator[str]:
    """Each thing that stands twice, with its place.

    >>> list(said_twice({"spec": {"volumes": [{"name": "a"}, {"name": "a"}]}}))
    ['spec.podTemplate.spec.volumes has name a twice']
    """
    spec = pod_template.get("spec")
    if not isinstance(spec, Mapping):
        return
    place = "spec.podTemplate.spec"
    yield from _twice_in(spec, place)
    containers = [
        (kind, item) for kind in ("initContainers", "containers") for item in _items(spec, kind) if "name" in item
    ]
    for kind, container in containers:
        yield from _twice_in(container, f"{place}.{kind}[{container['name']}]")
    for name in sorted(_names(spec, "containers") & _names(spec, "initContainers")):
        yield f"{place} has container {name} in containers and in initContainers"


def _twice_in(owner: Mapping[str, Any], place: str) -> Iterator[str]:
    for field, keys in MERGE_KEYS.items():
        if field == "env" and owner.get("name") in OWN_CONTAINERS:
            continue
        told = [item for item in _items(owner, field) if keys[0] in item]
        found = Counter(
            ", ".join(f"{key} {value}" for key, value in zip(keys, identity_of(field, item), strict=True))
            for item in told
        )
        yield from (f"{place}.{field} has {what} twice" for what, count in found.items() if count > 1)


def _names(spec: Mapping[str, Any], field: str) -> set[str]:
    return {str(item["name"]) for item in _items(spec, field) if "name" in item}


def _items(owner: Mapping[str, Any], field: str) -> list[Mapping[str, Any]]:
    """What can't be read as such a list is the API server's to refuse."""
    found = owner.get(field)
    return [item for item in found if isinstance(item, Mapping)] if isinstance(found, list) else []
