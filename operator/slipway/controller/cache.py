"""The last seen state of every ModelDeployment and of everything under its label, in memory.

It is filled by watch events and by the answers to our own writes, so a pass never works on something older than what
it wrote itself. Objects are kept as compact JSON text: a thousand deployments with their children take about ten MiB.
Invariant: an older resourceVersion never replaces a newer one, nor brings back what was deleted after it. Nothing here
is needed to go on after a restart.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from slipway.api.v1alpha1 import KIND
from slipway.model.names import FIELD_MANAGER, MODEL_LABEL, model_of_label
from slipway.observe.snapshot import is_left_behind

Json = dict[str, Any]
Key = tuple[str, str]
"""Namespace and name of a ModelDeployment."""

START_CONDITIONS = ("PodScheduled", "PodReadyToStartContainers", "Initialized")
"""How far a pod's start is, and since when."""

REMEMBERED_DELETIONS = 4096
"""The answer to a write of ours may come after the event of a deletion; seconds later none does any more."""


class Cache:
    """Objects by the ModelDeployment that they belong to."""

    def __init__(self) -> None:
        self._objects: dict[Key, dict[tuple[str, str], tuple[int, bytes]]] = {}
        self._deleted: dict[tuple[Key, tuple[str, str]], int] = {}

    def put(self, kind: str, body: Mapping[str, Any]) -> Key | None:
        """Remember an object. Returns whose it is when that is news, else None."""
        key, slot = owner_key(kind, body), (kind, body["metadata"]["name"])
        if key is None:
            return None
        version = int(body["metadata"].get("resourceVersion", 0))
        objects = self._objects.setdefault(key, {})
        known = objects.get(slot)
        if known is not None and known[0] >= version:
            return None
        if known is None and self._deleted.get((key, slot), -1) >= version:
            return None
        text = json.dumps(trim(kind, body), separators=(",", ":")).encode()
        objects[slot] = (version, text)
        return key if known is None or known[1] != text else None

    def drop(self, kind: str, body: Mapping[str, Any]) -> Key | None:
        """Forget an object. Returns whose it was."""
        key = owner_key(kind, body)
        if key is None:
            return None
        objects = self._objects.get(key, {})
        slot, version = (kind, body["metadata"]["name"]), int(body["metadata"].get("resourceVersion", 0))
        known = objects.get(slot)
        if known is not None and known[0] <= version:
            del objects[slot]
        self._deleted[key, slot] = max(version, self._deleted.get((key, slot), 0))
        if len(self._deleted) > REMEMBERED_DELETIONS:
            del self._deleted[next(iter(self._deleted))]
        if not objects:
            self._objects.pop(key, None)
        return key

    def versions(self, kind: str) -> dict[tuple[str, str], tuple[Key, int]]:
        """Namespace and name of every cached object of a kind → whose it is, and its resourceVersion."""
        return {
            (key[0], slot[1]): (key, version)
            for key, objects in self._objects.items()
            for slot, (version, _) in objects.items()
            if slot[0] == kind
        }

    def lose(self, kind: str, key: Key, name: str, version: int) -> bool:
        """Forget an object that is gone, unless it has become another since that version. Returns whether it was."""
        known = self._objects.get(key, {}).get((kind, name))
        if known is None or known[0] != version:
            return False
        del self._objects[key][kind, name]
        if not self._objects[key]:
            del self._objects[key]
        return True

    def forget(self, key: Key) -> None:
        """Forget a ModelDeployment that the API server does not know any more."""
        self._objects.get(key, {}).pop((KIND, key[1]), None)

    def deployment(self, key: Key) -> Json | None:
        """The ModelDeployment itself."""
        known = self._objects.get(key, {}).get((KIND, key[1]))
        return json.loads(known[1]) if known else None

    def children(self, key: Key) -> list[Json]:
        """Everything else under its label."""
        return [json.loads(text) for (kind, _), (_, text) in sorted(self._objects.get(key, {}).items()) if kind != KIND]

    def deployments(self) -> Iterator[Key]:
        """All ModelDeployments."""
        return (key for key, objects in self._objects.items() if (KIND, key[1]) in objects)

    def generation(self, key: Key) -> int | None:
        """The newest generation seen of a ModelDeployment; None when it is not known."""
        body = self.deployment(key)
        return int(body["metadata"].get("generation", 0)) if body else None


def owner_key(kind: str, body: Mapping[str, Any]) -> Key | None:
    """The ModelDeployment that an object belongs to: itself, or the one that our label names."""
    meta = body["metadata"]
    name = meta["name"] if kind == KIND else model_of_label((meta.get("labels") or {}).get(MODEL_LABEL) or "")
    return (meta["namespace"], name) if name else None


def trim(kind: str, body: Mapping[str, Any]) -> Json:
    """What passes read of an object: no managed fields, no status but the parts that `observe` looks at.

    Of an object without a controller it stays that we applied it: it may be left behind, and becomes ours again.
    """
    meta = {key: value for key, value in body["metadata"].items() if key not in ("managedFields", "resourceVersion")}
    meta.pop("annotations", None)
    annotations = {
        key: value
        for key, value in (body["metadata"].get("annotations") or {}).items()
        if key.startswith("slipway.dev/")
    }
    if annotations:
        meta["annotations"] = annotations
    if kind not in (KIND, "Pod") and is_left_behind({"metadata": body["metadata"]}):
        meta["managedFields"] = [{"manager": FIELD_MANAGER, "operation": "Apply"}]
    trimmed: Json = {"kind": kind, "metadata": meta}
    status = body.get("status") or {}
    match kind:
        case "Pod":
            trimmed["spec"] = _pod_spec(body.get("spec") or {})
            # Probe and start times in containerStatuses change often and mean nothing to a pass.
            trimmed["status"] = {
                "phase": status.get("phase"),
                "podIP": status.get("podIP"),
                "conditions": [
                    {part: condition.get(part) for part in ("type", "status", "reason", "message")}
                    | ({"lastTransitionTime": condition.get("lastTransitionTime")} if is_dated else {})
                    for condition in status.get("conditions") or []
                    if (is_dated := condition["type"] in START_CONDITIONS) or condition["type"] == "Ready"
                ],
                "initContainerStatuses": _containers(status.get("initContainerStatuses")),
                "containerStatuses": _containers(status.get("containerStatuses")),
            }
        case "Deployment":
            trimmed["spec"] = body["spec"]
            trimmed["status"] = {
                "conditions": [
                    {
                        part: condition.get(part)
                        for part in ("type", "status", "reason", "message", "lastTransitionTime")
                    }
                    for condition in status.get("conditions") or []
                    if condition["type"] == "ReplicaFailure"
                ]
            }
        case _ if kind == KIND:
            trimmed |= {"spec": body.get("spec"), "status": body.get("status")}
        case _:
            trimmed |= {part: body[part] for part in ("spec", "data", "revision") if part in body}
    return trimmed


def _pod_spec(spec: Json) -> Json:
    """Where a pod is, and what its containers may use: the rest is in its Deployment."""
    return {
        "nodeName": spec.get("nodeName"),
        "containers": [
            {"name": container["name"], "resources": {"limits": {"memory": memory}}}
            for container in spec.get("containers") or []
            if (memory := ((container.get("resources") or {}).get("limits") or {}).get("memory"))
        ],
    }


def _containers(statuses: list[Json] | None) -> list[Json]:
    return [
        {part: status.get(part) for part in ("name", "image", "state", "lastState", "restartCount")}
        for status in statuses or []
    ]
