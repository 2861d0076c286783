"""An API server as a dictionary: applies as it does, counts and keeps what the operator writes, and refuses as told.

Only the operator's writes are counted and kept. Everything is in one namespace.
"""

from __future__ import annotations

import json
import marshal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from slipway.api.pod_lists import MERGE_KEYS
from slipway.api.v1alpha1 import KIND
from slipway.controller.kube import Cluster, ClusterError, TransientError
from tests.simulation.pods import Json

Refusal = Callable[[str], Exception | None]
"""The name of an object → the error that a write to it is answered with."""
T = TypeVar("T")
Slot = tuple[str, str]
"""Kind and name."""

APPLY_KEYS = {**MERGE_KEYS, "ownerReferences": ("uid",)}
"""Lists that an apply merges by keys; all others it replaces."""


UNSEEN = frozenset({"Secret"})
"""Kinds that the operator may create, and neither read nor list nor watch."""


class OperatorEndedError(BaseException):
    """The operator's process ends here, as by SIGKILL."""


@dataclass(frozen=True, slots=True)
class Write:
    """One mutating request of the operator that changed something or was answered."""

    verb: str
    kind: str
    name: str


@dataclass
class DictionaryCluster(Cluster):
    """refuse: (verb, kind) → the error to answer with, as long as it stands. requests: mutating ones so far.

    end_at: the operator ends after (True) or before (False) that request, counted from 1.
    """

    refuse: dict[tuple[str, str], Refusal] = field(default_factory=dict)
    end_at: tuple[int, bool] | None = None
    objects: dict[Slot, Json] = field(default_factory=dict)
    writes: list[Write] = field(default_factory=list)
    events: list[Json] = field(default_factory=list)
    requests: int = 0
    _sent: dict[Slot, Json] = field(default_factory=dict)
    _news: list[tuple[str, Json]] = field(default_factory=list)
    _version: int = 100
    _made: int = 0

    # ---- what Cluster offers

    async def read(self, kind: str, namespace: str, name: str) -> Json | None:
        assert kind not in UNSEEN, f"the operator has no right to read {kind} {name}"
        return copied(self.objects.get((kind, name)))

    async def create(self, manifest: Json) -> Json | None:
        slot = slot_of(manifest)
        self._admit("create", *slot)
        if slot in self.objects:
            return None
        self._sent[slot] = copied(manifest)
        return self._answer("create", {**manifest, "metadata": self._store(managed(manifest, manifest))["metadata"]})

    async def create_secret(self, manifest: Json) -> bool:
        slot = slot_of(manifest)
        if slot in self.objects:  # as a dry run tells; no write
            self._refuse("create", *slot)
            return False
        self._admit("create", *slot)
        self._answer("create", self._store(manifest))
        return True

    async def apply(self, manifest: Json, uid: str) -> Json:
        slot = slot_of(manifest)
        assert slot[0] not in UNSEEN, f"the operator has no right to change {slot}"
        self._admit("apply", *slot)
        live = self.objects.get(slot)
        if live is None or live["metadata"]["uid"] != uid:
            raise TransientError(f"apply {slot}", 409, "the uid in the precondition is another")
        if manifest["kind"] == "ControllerRevision" and live["data"] != manifest["data"]:
            raise ClusterError(f"apply {slot}", 422, "data: field is immutable")
        live = _without_dropped(live, self._sent.get(slot), manifest)
        self._sent[slot] = copied(manifest)
        return self._answer(
            "apply", {**manifest, "metadata": self._store(managed(_applied(live, manifest), manifest))["metadata"]}
        )

    async def apply_status(self, namespace: str, name: str, uid: str, status: Json) -> Json:
        self._admit("status", KIND, name)
        live = self.objects.get((KIND, name))
        if live is None or live["metadata"]["uid"] != uid:
            raise ClusterError("status", 404, "not found")
        return self._answer("status", self._store({**live, "status": received(status)}))

    async def delete(self, kind: str, namespace: str, name: str, uid: str) -> None:
        assert kind not in UNSEEN, f"the operator has no right to delete {kind} {name}"
        self._admit("delete", kind, name)
        live = self.objects.get((kind, name))
        if live is not None and live["metadata"]["uid"] == uid:
            self._remove((kind, name))
            self._answer("delete", live)

    async def annotate_pod(self, namespace: str, name: str, annotation: str, value: str) -> Json | None:
        self._admit("annotate", "Pod", name)
        live = self.objects.get(("Pod", name))
        if live is None:
            return None
        annotations = {**(live["metadata"].get("annotations") or {}), annotation: value}
        return self._answer(
            "annotate", self._store({**live, "metadata": {**live["metadata"], "annotations": annotations}})
        )

    async def post_event(self, namespace: str, event: Json) -> None:
        self.events.append(event)

    def _admit(self, verb: str, kind: str, name: str) -> None:
        self.requests += 1
        if self.end_at == (self.requests, False):
            raise OperatorEndedError
        self._refuse(verb, kind, name)

    def _refuse(self, verb: str, kind: str, name: str) -> None:
        refusal = self.refuse.get((verb, kind))
        error = refusal(name) if refusal else None
        if error is not None:
            raise error

    def _answer(self, verb: str, answer: Json) -> Json:
        self.writes.append(Write(verb, answer["kind"], answer["metadata"]["name"]))
        if self.end_at == (self.requests, True):
            raise OperatorEndedError
        return copied(answer)

    # ---- the API server's store

    def _store(self, body: Json) -> Json:
        """Write an object whole. Nothing happens when it stands so already."""
        slot = slot_of(body)
        known = self.objects.get(slot)
        if known is not None and _plain(known) == _plain(body):
            return known
        stored = received(body)
        meta = stored["metadata"]
        if known is None:
            meta.setdefault("uid", f"uid-{self._next_number()}")
            meta["generation"] = 1
        elif known.get("spec") != stored.get("spec"):
            meta["generation"] = known["metadata"]["generation"] + 1
        if slot[0] == "Deployment":
            stored["spec"] = _with_defaults(stored["spec"])
        self._version += 1
        meta["resourceVersion"] = str(self._version)
        self.objects[slot] = stored
        if slot[0] not in UNSEEN:
            self._news.append(("MODIFIED", copied(stored)))
        return stored

    def _remove(self, slot: Slot) -> None:
        gone = self.objects.pop(slot)
        self._version += 1
        gone["metadata"]["resourceVersion"] = str(self._version)
        if slot[0] not in UNSEEN:
            self._news.append(("DELETED", gone))

    def _next_number(self) -> int:
        self._made += 1
        return self._made

    def seen(self) -> list[tuple[str, Json]]:
        """Kind and object of all that the operator may list, ModelDeployments last."""
        listed = [(kind, live) for (kind, _), live in self.objects.items() if kind not in UNSEEN]
        return sorted(listed, key=lambda item: item[0] == KIND)

    def news(self) -> list[tuple[str, Json]]:
        """What happened since the last time this was asked: the watch."""
        news, self._news = self._news, []
        return news


def copied(value: T) -> T:
    """Of what was received; eight times as fast as by way of JSON."""
    stored: Any = value
    copied: T = marshal.loads(marshal.dumps(stored))
    return copied


def received(value: T) -> T:
    """As it comes out of a request: what isn't JSON is refused, a tuple is a list."""
    received: T = json.loads(json.dumps(value))
    return received


def slot_of(body: Mapping[str, Any]) -> Slot:
    return body["kind"], body["metadata"]["name"]


def _plain(body: Mapping[str, Any]) -> Json:
    """An object without what the store itself counts."""
    meta = {key: value for key, value in body["metadata"].items() if key not in ("resourceVersion", "generation")}
    return {**body, "metadata": meta}


def managed(body: Json, changes: Json, manager: str = "slipway", operation: str = "Apply") -> Json:
    """The object, whose managed fields say who made these changes; what was another's in them is so no longer."""
    meta = body["metadata"]
    fields = _fields(changes)
    others = [
        {**entry, "fieldsV1": _without(entry["fieldsV1"], fields)}
        for entry in meta.get("managedFields", [])
        if entry["manager"] != manager
    ]
    own = {"manager": manager, "operation": operation, "fieldsV1": fields}
    return {**body, "metadata": {**meta, "managedFields": [*others, own]}}


def _fields(value: Any) -> Json:
    return {f"f:{key}": _fields(part) for key, part in value.items()} if isinstance(value, dict) else {}


def _without(fields: Json, taken: Json) -> Json:
    left = {key: _without(part, taken[key]) if key in taken else part for key, part in fields.items()}
    return {key: part for key, part in left.items() if part or key not in taken}


def _applied(live: Any, manifest: Any, name: str = "") -> Any:
    """A server-side apply as far as our manifests go: maps merged, list-maps by their keys, the rest replaced.

    A selector is one value to it.
    """
    match live, manifest:
        case dict(), dict() if name not in ("selector", "podSelector"):
            return {**live, **{key: _applied(live.get(key), value, key) for key, value in manifest.items()}}
        case list(), list() if name in APPLY_KEYS and all(isinstance(item, dict) for item in manifest):
            keys = APPLY_KEYS[name] if name != "ports" or "port" not in manifest[0] else ("port", "protocol")
            merged_items = {tuple(item.get(key) for key in keys): item for item in live}
            for item in manifest:
                identity = tuple(item.get(key) for key in keys)
                merged_items[identity] = _applied(merged_items.get(identity, {}), item)
            return list(merged_items.values())
    return received(manifest)


def _without_dropped(live: Json, before: Json | None, manifest: Json) -> Json:
    """The object without the Service ports that were applied before and are no more; others' stay."""
    if manifest["kind"] != "Service" or before is None:
        return live
    dropped = {port["port"] for port in before["spec"]["ports"]} - {port["port"] for port in manifest["spec"]["ports"]}
    ports = [port for port in live["spec"]["ports"] if port["port"] not in dropped]
    return {**live, "spec": {**live["spec"], "ports": ports}}


def _with_defaults(spec: Json) -> Json:
    """Some of what the API server adds to a Deployment, and quantities as it writes them."""
    spec = copied(spec)
    spec.setdefault("progressDeadlineSeconds", 600)
    pod = spec["template"]["spec"]
    pod.setdefault("dnsPolicy", "ClusterFirst")
    pod.setdefault("schedulerName", "default-scheduler")
    for container in [*pod.get("initContainers", []), *pod["containers"]]:
        container.setdefault("terminationMessagePath", "/dev/termination-log")
        for amounts in container.get("resources", {}).values():
            for resource, amount in amounts.items():
                if str(amount).endswith("000m"):
                    amounts[resource] = str(amount).removesuffix("000m")
    return spec
