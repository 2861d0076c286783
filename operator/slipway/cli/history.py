"""The kept revisions: what each one is, what it changed, and what became of it.

Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from slipway.api.status import Rejected, read_time
from slipway.cli.view import View
from slipway.model.revision import Revision, read_revision

Json = dict[str, Any]

MISSING = object()


@dataclass(frozen=True, slots=True)
class KeptRevision:
    """One revision of the history.

    number: its place in the history, from 1. state: stable, canary, previous, rejected, or empty.
    image: of the server's container. resources: limits, else requests, as written. digest: of the model's bytes.
    changed: the fields that differ from the revision before.
    """

    revision: str
    number: int
    version: int
    state: str
    created: datetime | None
    image: str
    resources: Mapping[str, str]
    changed: tuple[str, ...]
    digest: str | None
    rejected: Rejected | None


def read_history(objects: Sequence[Json]) -> list[Revision]:
    """The revisions in these ControllerRevisions, the oldest first. Objects of other owners are skipped."""
    found = [revision for revision in map(read_revision, objects) if revision is not None]
    return sorted(found, key=lambda revision: revision.number)


def kept_revisions(objects: Sequence[Json], view: View) -> list[KeptRevision]:
    """The history, the newest first."""
    created = {
        str((each.get("metadata") or {}).get("labels", {}).get("slipway.dev/revision")): read_time(
            (each.get("metadata") or {}).get("creationTimestamp")
        )
        for each in objects
    }
    history = read_history(objects)
    states: dict[str, str] = {each.revision: each.role for each in reversed(view.revisions)}
    rejected = {each.revision: each for each in view.rejected}
    kept = []
    for place, revision in enumerate(history):
        before = history[place - 1] if place else None
        kept.append(
            KeptRevision(
                revision=revision.hash,
                number=revision.number,
                version=revision.version,
                state=states.get(revision.hash) or ("rejected" if revision.hash in rejected else ""),
                created=created.get(revision.hash),
                image=_image(revision.pod_template),
                resources=_resources(revision),
                changed=changed_fields(before.choice, revision.choice) if before else (),
                digest=revision.digests.get(revision.version),
                rejected=rejected.get(revision.hash),
            )
        )
    return kept[::-1]


def changed_fields(before: Any, after: Any, path: str = "") -> tuple[str, ...]:
    """The shortest dotted paths at which two choices differ; a list counts as one value.

    >>> changed_fields({"model": {"version": 1}}, {"model": {"version": 2}, "batching": {"maxBatchSize": 8}})
    ('batching', 'model.version')
    """
    if not isinstance(before, dict) or not isinstance(after, dict):
        return () if before == after else (path,)
    found: list[str] = []
    for key in sorted(before.keys() | after.keys()):
        below = f"{path}.{key}" if path else key
        found += changed_fields(before.get(key, MISSING), after.get(key, MISSING), below)
    return tuple(found)


def short_image(image: str) -> str:
    """The image without its registry, its digest cut to the part that people compare.

    >>> short_image("registry.example:5000/slipway/triton@sha256:0123456789abcdef")
    'triton@sha256:0123456'
    """
    name = image.rpartition("/")[2]
    name, at, digest = name.partition("@sha256:")
    return name + (f"@sha256:{digest[:7]}" if at else "")


def _image(template: Json) -> str:
    containers = (template.get("spec") or {}).get("containers") or []
    server = next((each for each in containers if isinstance(each, dict) and each.get("name") == "server"), {})
    return str(server.get("image", ""))


def _resources(revision: Revision) -> dict[str, str]:
    resources = revision.choice.get("resources") or {}
    amounts = {**(resources.get("requests") or {}), **(resources.get("limits") or {})}
    return {str(name): str(amount) for name, amount in sorted(amounts.items())}
