"""Revisions: the user's choice of everything that changes what a pod serves, hashed.

Invariant: the hash covers only what the user set, defaults left out, so that a new operator, a new default image or a
new default in the CRD starts no rollout. A revision's pod template is rendered once and kept in its ControllerRevision
(whose data is immutable); later passes take it from there.
Pure.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from slipway.api.v1alpha1 import ModelDeploymentSpec

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Revision:
    """One revision, as it stands in its ControllerRevision.

    number: position in the history, from 1; a later revision has a higher one.
    version: the served version.
    choice: `user_choice` of the spec it was made from; a valid spec by itself.
    fetching: `ways_of_fetching` of that spec, for the day when the spec names another place.
    template: the pod template, complete.
    """

    hash: str
    number: int
    version: int
    choice: Json
    fetching: Json
    template: Json


def served_version(spec: ModelDeploymentSpec) -> int:
    """The version clients get. `parse` has refused a spec without one."""
    assert spec.model.version is not None
    return spec.model.version


def user_choice(spec: ModelDeploymentSpec) -> Json:
    """The part of the spec that makes a revision, fields at their default left out."""
    choice = spec.model_dump(
        mode="json",
        by_alias=True,
        exclude_defaults=True,
        include={
            "model": {"name", "uri", "version"},
            "runtime": True,
            "resources": True,
            "batching": True,
            "warmup": True,
            "pod_template": True,
            "storage": {"ca_bundle"},  # mounted into the pod, so a part of its template
        },
    )
    for amounts in choice.get("resources", {}).values():
        amounts.update({name: str(amount) for name, amount in amounts.items()})  # 2 and "2" are one choice
    return {part: value for part, value in choice.items() if value not in ({}, [])}


def hash_of(value: Any) -> str:
    """Ten characters that name a JSON value; the order of keys does not matter."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def ways_of_fetching(spec: ModelDeploymentSpec) -> Json:
    """What the spec says about fetching that is no part of a revision and reaches agents at once."""
    return {
        "versions": dict(sorted(spec.model.versions.items())),
        "sha256": dict(sorted(spec.model.sha256.items())),
        "allowRedirects": bool(spec.storage and spec.storage.allow_redirects),
    }


def place_of(revision: Revision) -> str:
    """The URI that a revision's model comes from."""
    return str((revision.choice.get("model") or {}).get("uri", ""))


def content_hash(spec: ModelDeploymentSpec) -> str:
    """Names what the user said about the served version's bytes beside the revision: its pin, path and way of fetching.

    A rejected revision is tried again when this changes.
    """
    version = str(served_version(spec))
    ways = ways_of_fetching(spec)
    return hash_of([ways["sha256"].get(version), ways["versions"].get(version), ways["allowRedirects"]])


def read_revision(controller_revision: Json) -> Revision | None:
    """The revision kept in a ControllerRevision, or None when the object can't be read as one of ours."""
    data = controller_revision.get("data") or {}
    labels = controller_revision.get("metadata", {}).get("labels") or {}
    try:
        return Revision(
            hash=labels["slipway.dev/revision"],
            number=int(controller_revision["revision"]),
            version=int(data["version"]),
            choice=dict(data["choice"]),
            fetching=dict(data["fetching"]),
            template=dict(data["template"]),
        )
    except (KeyError, TypeError, ValueError):
        return None
