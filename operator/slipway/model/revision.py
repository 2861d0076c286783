"""Revisions: the user's choice of everything that changes what a pod serves, hashed.

A revision's pods belong to a *workload*, a Deployment. Most revisions have one of their own, called like them; one that
arrives in place takes over the workload of the revision before it, pods and all, with nothing but another configuration
of the agents.

Invariant: the hash covers only what the user set, defaults left out, so that a new operator, a new default image or a
new default in the CRD starts no rollout. A revision's pod template is rendered once and kept in its ControllerRevision
(whose data is immutable); later passes take it from there. Only a person's refresh puts another one in its place, in an
annotation beside it.
Must not import: anything but `api`, `model.names` and `model.server_key`. Pure.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from slipway.api.quantity import parse_quantity
from slipway.api.v1alpha1 import REVISION_FIELDS, ModelDeployment, ModelDeploymentSpec, StorageLimits
from slipway.model.names import (
    CONFIG_VOLUME,
    REFRESHED_ANNOTATION,
    REFRESHED_BY_ANNOTATION,
    REVISION_LABEL,
    child_name,
)
from slipway.model.server_key import with_secret

Json = dict[str, Any]

DIGESTS_ANNOTATION = "slipway.dev/digests"


@dataclass(frozen=True, slots=True)
class Refresh:
    """The pod template that a command put in the place of a revision's own.

    by: the id of the command. template: as in Revision. before: what an abort of it goes back to. Empty: the revision's
    own, of both.
    """

    by: str
    template: Json
    before: Json = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Revision:
    """One revision, as it stands in its ControllerRevision.

    number: position in the history, from 1; a later revision has a higher one.
    version: the served version; 0 while none was found yet at a place that is followed.
    choice: `user_choice` of the spec it was made from; a valid spec by itself.
    fetching: `ways_of_fetching` of that spec, for the day when the spec names another place.
    template: the pod template, complete but for the workload's name (`workload_template`). Empty: not rendered yet.
    digests: version → sha256 of what was served under that number, as its ControllerRevision's annotation keeps it.
    refresh: what a person's refresh put in the template's place; None: nothing.
    """

    hash: str
    number: int
    version: int
    choice: Json
    fetching: Json
    template: Json
    digests: Mapping[int, str] = field(default_factory=dict)
    refresh: Refresh | None = None

    @property
    def pod_template(self) -> Json:
        """What its pods are made of: the template of the last refresh, else its own."""
        return (self.refresh.template if self.refresh is not None else {}) or self.template

    @property
    def refreshed_by(self) -> str | None:
        """The refresh that made that template; None: none did."""
        annotations = (self.pod_template.get("metadata") or {}).get("annotations") or {}
        found = annotations.get(REFRESHED_BY_ANNOTATION)
        return None if found is None else str(found)


@dataclass(frozen=True, slots=True)
class Assignment:
    """The revision of a workload. replaces: the revision whose version stays loaded beside it; None: none does."""

    revision: str
    replaces: str | None = None


def served_version(spec: ModelDeploymentSpec) -> int:
    """The version clients get; 0 when the spec names none and none was found yet."""
    return spec.model.version or 0


def user_choice(spec: ModelDeploymentSpec) -> Json:
    """The part of the spec that makes a revision, fields at their default left out."""
    choice = spec.model_dump(
        mode="json",
        by_alias=True,
        exclude_defaults=True,
        include=REVISION_FIELDS,
    )
    for amounts in choice.get("resources", {}).values():
        amounts.update({name: str(amount) for name, amount in amounts.items()})  # 2 and "2" are one choice
    if "sizeLimit" in choice.get("storage", {}):
        choice["storage"]["sizeLimit"] = str(choice["storage"]["sizeLimit"])
    return {part: value for part, value in choice.items() if value not in ({}, [])}


def hash_of(value: Any) -> str:
    """Ten characters that name a JSON value; the order of keys does not matter."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def ways_of_fetching(spec: ModelDeploymentSpec) -> Json:
    """What the spec says about fetching that is no part of a revision and reaches agents at once."""
    ways: Json = {
        "versions": dict(sorted(spec.model.versions.items())),
        "sha256": dict(sorted(spec.model.sha256.items())),
        "allowRedirects": bool(spec.storage and spec.storage.allow_redirects),
    }
    # Left out where the spec says nothing: the agents' configuration must not change with the operator's release.
    if spec.storage is not None and spec.storage.endpoint:
        ways["endpoint"] = spec.storage.endpoint
    if spec.storage is not None and spec.storage.region:
        ways["region"] = spec.storage.region
    if _is_path_style(spec):
        ways["pathStyle"] = True
    if spec.storage is not None and "poll_interval_seconds" in spec.storage.model_fields_set:
        ways["pollSeconds"] = spec.storage.poll_interval_seconds
    if spec.storage is not None and (limits := _limits(spec.storage.limits)):
        ways["limits"] = limits
    return ways


def _limits(limits: StorageLimits | None) -> Json:
    """As in agent.json; empty where the spec says nothing."""
    found: Json = {}
    if limits is not None and limits.unpacked_size is not None:
        found["unpackedBytes"] = int(parse_quantity(limits.unpacked_size))
    if limits is not None and limits.entries is not None:
        found["entries"] = limits.entries
    return found


def _is_path_style(spec: ModelDeploymentSpec) -> bool:
    """Stores of one's own seldom have a name for every bucket; AWS has."""
    storage = spec.storage
    if storage is None:
        return False
    return storage.path_style if storage.path_style is not None else storage.endpoint is not None


def place_of(revision: Revision) -> str:
    """The URI that a revision's model comes from."""
    return str((revision.choice.get("model") or {}).get("uri", ""))


def content_hash(spec: ModelDeploymentSpec) -> str:
    """Names what the user said about the served version's bytes beside the revision: its pin, path, way of fetching and
    who must have signed it.

    A rejected revision is tried again when this changes.
    """
    version = str(served_version(spec))
    ways = ways_of_fetching(spec)
    parts = [ways["sha256"].get(version), ways["versions"].get(version), ways["allowRedirects"]]
    if "endpoint" in ways:  # appended where it is set: what an older operator remembered must stay remembered
        parts.append(ways["endpoint"])
    if "limits" in ways:
        parts.append(ways["limits"])
    if spec.storage is not None and spec.storage.trusted_keys:
        parts.append(sorted(spec.storage.trusted_keys))
    return hash_of(parts)


def differs_in_version_only(one: Revision, other: Revision) -> bool:
    """Whether the user chose the same but for the served version."""
    return _without_version(one.choice) == _without_version(other.choice)


def _without_version(choice: Json) -> Json:
    return choice | {"model": {key: value for key, value in choice.get("model", {}).items() if key != "version"}}


def read_revision(controller_revision: Json) -> Revision | None:
    """The revision kept in a ControllerRevision, or None when the object can't be read as one of ours."""
    data = controller_revision.get("data") or {}
    meta = controller_revision.get("metadata", {})
    labels = meta.get("labels") or {}
    try:
        return Revision(
            hash=labels["slipway.dev/revision"],
            number=int(controller_revision["revision"]),
            version=int(data["version"]),
            choice=dict(data["choice"]),
            fetching=dict(data["fetching"]),
            template=dict(data["template"]),
            digests=read_digests((meta.get("annotations") or {}).get(DIGESTS_ANNOTATION)),
            refresh=_read_refresh((meta.get("annotations") or {}).get(REFRESHED_ANNOTATION)),
        )
    except (KeyError, TypeError, ValueError):
        return None


def read_digests(text: str | None) -> dict[int, str]:
    """Version → sha256 from the annotation; what can't be read counts as never recorded."""
    try:
        found = json.loads(text or "{}")
        return {int(version): str(digest) for version, digest in found.items()}
    except (AttributeError, TypeError, ValueError):
        return {}


def _read_refresh(text: str | None) -> Refresh | None:
    """The refresh in the annotation; what can't be read counts as none, and the revision's own template holds."""
    try:
        found = json.loads(text or "")
        return Refresh(str(found["by"]), dict(found.get("template", {})), dict(found.get("before", {})))
    except (AttributeError, KeyError, TypeError, ValueError):
        return None


def write_refresh(refresh: Refresh) -> str:
    """As the annotation holds it, always in the same order."""
    parts = {"by": refresh.by, "template": refresh.template, "before": refresh.before}
    return json.dumps({part: value for part, value in parts.items() if value}, sort_keys=True, separators=(",", ":"))


def workload_template(template: Json, name: str, workload: str, secret: str | None = None) -> Json:
    """A revision's template with its workload's name in it: the pods' label, their agents' ConfigMap, their Secret.

    secret: the one that they take their key from; None: the one that stands there.
    """
    template = with_secret(template, secret) if secret is not None else template
    spec = template["spec"]
    volumes = [
        volume | {"configMap": volume["configMap"] | {"name": child_name(name, workload)}}
        if volume["name"] == CONFIG_VOLUME and "configMap" in volume
        else volume
        for volume in spec["volumes"]
    ]
    labels = template["metadata"]["labels"] | {REVISION_LABEL: workload}
    return template | {
        "metadata": template["metadata"] | {"labels": labels},
        "spec": spec | {"volumes": volumes},
    }


def is_same_template(one: Json, other: Json) -> bool:
    """Whether two templates differ in nothing but the workloads that are written in them."""
    return workload_template(one, "", "", "") == workload_template(other, "", "", "")


def model_name(deployment: ModelDeployment) -> str:
    """The name that clients put into the URL."""
    return deployment.spec.model.name or deployment.name


def spec_of(deployment: ModelDeployment, revision: Revision) -> ModelDeploymentSpec:
    """The spec that a revision was made from, as far as it makes the revision."""
    if revision.choice == user_choice(deployment.spec):
        return deployment.spec
    return ModelDeploymentSpec.model_validate(revision.choice)
