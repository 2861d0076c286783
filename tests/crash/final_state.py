"""What a namespace looks like once everything has come to rest, in a form that two namespaces can be compared in.

Left out is only what must differ between two runs: uids, resource versions, times, cluster addresses, the namespace's
own name, numbers of requests that were counted, counters of how often a thing was touched, and what is drawn at random:
of a Secret it is compared which fields it has, how long each is, and whether anything alive owns it; one that no pod
template asks for any more, and that goes with what owns it, is the garbage collector's matter. An owner reference is
compared by what it points to: one that points to nothing alive shows as an orphan.
Pure; must not import slipway.
"""

import difflib
import json
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from tests.apiserver import Manifest

STATE_KINDS = (
    "ModelDeployment",
    "ConfigMap",
    "Secret",
    "Service",
    "ServiceAccount",
    "ControllerRevision",
    "Deployment",
    "ReplicaSet",
    "HorizontalPodAutoscaler",
    "PodDisruptionBudget",
    "NetworkPolicy",
)
EVERY_NAMESPACE_HAS = {("ConfigMap", "kube-root-ca.crt"), ("ServiceAccount", "default")}
DROPPED_METADATA = ("uid", "resourceVersion", "creationTimestamp", "managedFields", "selfLink")
DROPPED_SPEC = {"Service": ("clusterIP", "clusterIPs")}
# What began and ended between two lives of the operator is in nobody's memory: only how it ended must be told.
BEGINNINGS = ("Started", "Step")
# Moments and counts of requests; hashes and names have letters beside their digits.
NUMBER = re.compile(r"(?:over )?(?<![\w.:-])\d[\d.,:]*(?![\w-])")
HOLD_COUNTS = ("transitions", "rejected", "verdict")
# How often a Deployment was touched on its way is no part of where it ends.
COUNTING_KINDS = ("Deployment", "ReplicaSet")
ROUTED = "slipway.dev/routed"
# Of the ModelDeployment's uid, in the name of a Secret.
MARK = re.compile(r"(-key)-[0-9a-f]{5}\b")
TIME = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)$")

# In messages: until when a bake lasts, since when something is waited for.
TIME_OF_DAY = re.compile(r"\b\d\d:\d\d(:\d\d)? UTC\b")

State = Mapping[str, Manifest]


def normalise(objects: Mapping[str, Sequence[Manifest]], namespace: str) -> State:
    """`objects` holds the namespace's objects by kind; returns "Kind/name" → what is compared of it."""
    names = {
        item["metadata"]["uid"]: f"{kind}/{item['metadata']['name']}"
        for kind, items in objects.items()
        for item in items
    }
    templates = _name_templates(objects.get("ReplicaSet", ()))
    state: dict[str, Manifest] = {}
    for kind, items in objects.items():
        for item in items:
            if (kind, item["metadata"]["name"]) in EVERY_NAMESPACE_HAS:
                continue
            text = json.dumps(item)
            for template_hash, place in templates.items():
                text = text.replace(template_hash, place)
            kept = json.loads(text)
            metadata = kept["metadata"]
            name = metadata["name"]
            for field in DROPPED_METADATA:
                metadata.pop(field, None)
            for field in DROPPED_SPEC.get(kind, ()):
                kept["spec"].pop(field, None)
            if kind == "ModelDeployment":
                if "settled" in kept.get("status", {}):
                    kept["status"]["settled"] = "HASH"  # over uids: that all agree is compared, not who
                _leave_counts_out(kept)
            if kind == "ConfigMap" and (generation := metadata.get("annotations", {}).get(ROUTED)):
                # Names the whole of it, and so the namespace, which is in the names of the hosts.
                kept = json.loads(json.dumps(kept).replace(generation, "GENERATION"))
                metadata = kept["metadata"]
            if kind == "Secret" and not _is_to_compare(kept, objects.get("Deployment", ()), names.keys()):
                continue
            if kind in COUNTING_KINDS:
                metadata.pop("generation", None)
                kept.get("status", {}).pop("observedGeneration", None)
            for owner in metadata.get("ownerReferences", []):
                owner["uid"] = names.get(owner["uid"], "ORPHAN: its owner is gone")
            state[MARK.sub(r"\1", f"{kind}/{name}")] = _scrub(kept, namespace)
    return state


def _name_templates(replica_sets: Sequence[Manifest]) -> dict[str, str]:
    """Hash of a pod template → its place among those of its Deployment. A template names its Secret, and so a uid."""
    of_deployment: dict[str, list[Manifest]] = {}
    for each in replica_sets:
        owner, _, _ = each["metadata"]["name"].rpartition("-")
        of_deployment.setdefault(owner, []).append(each)
    return {
        str(each["metadata"]["labels"]["pod-template-hash"]): f"TEMPLATE{place}"
        for found in of_deployment.values()
        for place, each in enumerate(sorted(found, key=_made_as), 1)
    }


def _made_as(replica_set: Manifest) -> int:
    return int(replica_set["metadata"].get("annotations", {}).get("deployment.kubernetes.io/revision", 0))


def _is_to_compare(secret: Manifest, deployments: Sequence[Manifest], alive: Collection[str]) -> bool:
    """Whether a Secret is in use, or nothing alive owns it. What chance decides of it is left out."""
    secret["data"] = {field: f"{len(value)} characters" for field, value in secret.get("data", {}).items()}
    owners = secret["metadata"].get("ownerReferences", [])
    if not any(owner["uid"] in alive for owner in owners):
        return True
    del secret["metadata"]["ownerReferences"]  # the garbage collector takes those that are gone off the others
    reference = f'"name": "{secret["metadata"]["name"]}"'
    return any(reference in json.dumps(deployment["spec"]) for deployment in deployments)


def _leave_counts_out(model_deployment: Manifest) -> None:
    """What tells of moments and of requests that were counted is compared without its numbers."""
    status = model_deployment.get("status", {})
    if "transitions" in status:
        status["transitions"] = [each for each in status["transitions"] if each["reason"] not in BEGINNINGS]
    rejected = {each["message"] for each in status.get("rejected", [])}
    kept = [status[name] for name in HOLD_COUNTS if name in status]
    entries = [each for one in kept for each in (one if isinstance(one, list) else [one])]
    for entry in [*entries, *status.get("conditions", [])]:
        message = entry.get("message", "")
        if entry in entries or any(each in message for each in rejected):
            entry["message"] = NUMBER.sub("N", message)


def _scrub(value: Any, namespace: str) -> Any:
    match value:
        case dict():
            return {key: _scrub(part, namespace) for key, part in value.items()}
        case list():
            # Conditions are a map by type: their order tells only in which order they came.
            parts = [_scrub(part, namespace) for part in value]
            is_conditions = bool(parts) and all(isinstance(p, dict) and {"type", "status"} <= p.keys() for p in parts)
            return sorted(parts, key=lambda part: str(part["type"])) if is_conditions else parts
        case str() if TIME.match(value):
            return "TIME"
        case str():
            return MARK.sub(r"\1", TIME_OF_DAY.sub("TIME UTC", value.replace(namespace, "NAMESPACE")))
        case _:
            return value


def difference(expected: State, actual: State) -> str:
    """A unified diff of two states; empty when they are the same."""

    def lines(state: State) -> list[str]:
        return json.dumps(state, indent=1, sort_keys=True).splitlines()

    return "\n".join(
        difflib.unified_diff(lines(expected), lines(actual), "undisturbed", "after the crash", lineterm="")
    )
