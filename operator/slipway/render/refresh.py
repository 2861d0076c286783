"""A person's refresh: the same revision on today's agent, images and pod template, and the way back.

    refresh    today's template is put in the place of the revision's own, as its ControllerRevision's annotation: the
               data there is immutable, and stays what an abort goes back to
    then       its Deployment gets that template and replaces pods one by one; none goes before a new one is ready
    abort      while that goes on: the template before it holds again

The revision's hash stays, and so does the user's choice. Revisions that arrived in the same pods share their template
to the letter, so they share this one, too: else a rollback in place would become a restart. The routers' template is
rendered anew with it.
Invariant: without the command nothing changes, however often it is looked at; a command that an operator began and
didn't write down comes to the same in the next one (the annotation says by which command it is).
Must not import: report, controller. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from slipway.api import ModelDeployment
from slipway.decide.commands import CommandOutcome, TemplateChange
from slipway.decide.inputs import Inputs
from slipway.model.names import REFRESHED_BY_ANNOTATION
from slipway.model.revision import (
    Json,
    Refresh,
    Revision,
    differs_in_version_only,
    is_same_template,
    spec_of,
    write_refresh,
)
from slipway.observe.snapshot import Snapshot
from slipway.render.pod_template import Images, render_template
from slipway.render.router import router_images

MAX_BYTES = 200_000
"""Of the annotation; all annotations of an object may have 256 KiB."""


@dataclass(frozen=True, slots=True)
class Refreshed:
    """What becomes of the kept revisions.

    revisions: all, those that the command speaks of with their template of now. outcome: the command's, with what to
    tell. offer: what a refresh would change, in words; empty: nothing. are_routers_anew: their template is rendered
    anew. first: the revisions that share the one that serves' template; they are written before it, for by that one an
    operator that goes on finds out that all is done.
    """

    revisions: Mapping[str, Revision]
    outcome: CommandOutcome
    offer: str
    are_routers_anew: bool = False
    first: frozenset[str] = frozenset()


def refresh(inputs: Inputs, revisions: Mapping[str, Revision], snapshot: Snapshot, images: Images) -> Refreshed:
    """Carry out what a command makes of the pod template. revisions: the kept ones, and the spec's."""
    outcome, deployment = inputs.outcome, inputs.deployment
    shown = inputs.state.stable or inputs.state.canary
    kept = snapshot.revisions.get(shown or "")
    if kept is None:
        return Refreshed(revisions, outcome, "")
    today = todays_template(deployment, kept, images)
    routers = _of_routers(router_images(deployment, snapshot.live, images))
    own = _difference(kept.pod_template, today)
    offer = "; ".join(each for each in (own, routers) if each)
    command = outcome.command
    if command is None or outcome.template is None:
        return Refreshed(revisions, outcome, offer)
    if outcome.template is TemplateChange.BACK:
        changed = _put(revisions, kept, _back(kept, command.id))
        return Refreshed({**revisions, **changed}, outcome, offer, first=frozenset(changed) - {kept.hash})
    if kept.refresh is not None and _is_by(kept, command.id):
        return Refreshed(revisions, _told(outcome, kept, kept.refresh), "", are_routers_anew=True)
    if not own:
        words = f"pods of revision {kept.hash} are made of today's agent and images already: nothing to refresh"
        words = f"{words}, but for {routers}" if routers else words
        return Refreshed(revisions, replace(outcome, message=words), "", are_routers_anew=True)
    made = _anew(kept, today, command.id, snapshot)
    if (size := len(write_refresh(made))) > MAX_BYTES:
        words = (
            f"the pod template of revision {kept.hash} has {size} bytes, and a refresh keeps at most {MAX_BYTES}: make "
            "spec.podTemplate smaller, which is a new revision and has today's agent and images anyway"
        )
        return Refreshed(revisions, replace(outcome, is_accepted=False, message=words, template=None), offer)
    changed = _put(revisions, kept, made)
    first = frozenset(changed) - {kept.hash}
    told = _told(outcome, kept, made)
    return Refreshed({**revisions, **changed}, told, "", are_routers_anew=True, first=first)


def todays_template(deployment: ModelDeployment, revision: Revision, images: Images) -> Json:
    """The pod template that would be made of the revision's own choice today."""
    own = spec_of(deployment, revision)
    # Which image a version is at is no part of the choice: the spec may speak of others by now.
    model = own.model.model_copy(update={"versions": dict(revision.fetching.get("versions") or own.model.versions)})
    spec = own.model_copy(update={"model": model})
    return render_template(deployment.model_copy(update={"spec": spec}), images, revision.hash)


def _anew(kept: Revision, today: Json, command: str, snapshot: Snapshot) -> Refresh:
    """Today's template, and what an abort of that goes back to. Where that is the same, no pod has to go."""
    before = _goes_back_to(kept, snapshot)
    is_same = not _difference(before or kept.template, today)
    return Refresh(command, before if is_same else _marked(today, command), before)


def _told(outcome: CommandOutcome, kept: Revision, made: Refresh) -> CommandOutcome:
    """The same whenever it is asked: an operator may have ended before it told it."""
    changes = _difference(made.before or kept.template, made.template or kept.template)
    return replace(outcome, message=f"{outcome.message}, one by one{': ' if changes else ''}{changes}")


def _of_routers(images: tuple[str, str] | None) -> str:
    """What changes of the routers, in words; empty: nothing."""
    if images is None:
        return ""
    old, new = images
    return f"image of routers {old} becomes {new}" if old != new else "the routers' pods are this release's"


def _put(revisions: Mapping[str, Revision], kept: Revision, made: Refresh) -> dict[str, Revision]:
    """`kept` and all that share its template, with that in them; some may have it already."""
    return {
        name: replace(each, refresh=_shared_with(each, kept, made))
        for name, each in revisions.items()
        if differs_in_version_only(each, kept)
        and (is_same_template(each.pod_template, kept.pod_template) or _is_by(each, made.by))
    }


def _is_by(revision: Revision, command: str) -> bool:
    """Whether that command was carried out on the revision."""
    return revision.refresh is not None and revision.refresh.by == command


def _shared_with(each: Revision, kept: Revision, made: Refresh) -> Refresh:
    """The refresh of `kept` for a revision that shares its template by now, though its own may be an older one."""
    if is_same_template(each.template, kept.template):
        return made
    return replace(made, template=made.template or kept.template, before=made.before or kept.template)


def _back(kept: Revision, command: str) -> Refresh:
    """What holds again. Said a second time, by whoever goes on after an end, it is the same."""
    if kept.refresh is None or kept.refresh.by == command:
        return kept.refresh or Refresh(command, {})
    return Refresh(command, kept.refresh.before)


def _goes_back_to(kept: Revision, snapshot: Snapshot) -> Json:
    """What an abort of a new refresh goes back to: what serves, not what another refresh failed to bring up."""
    if kept.refresh is None:
        return {}
    return kept.refresh.before if snapshot.pods_to_replace(kept) else kept.refresh.template


def _marked(template: Json, command: str) -> Json:
    meta = template["metadata"]
    annotations = (meta.get("annotations") or {}) | {REFRESHED_BY_ANNOTATION: command}
    return template | {"metadata": meta | {"annotations": annotations}}


def _unmarked(template: Json) -> Json:
    meta = template["metadata"]
    annotations = {
        key: value for key, value in (meta.get("annotations") or {}).items() if key != REFRESHED_BY_ANNOTATION
    }
    bare = {key: value for key, value in meta.items() if key != "annotations"}
    return template | {"metadata": bare | ({"annotations": annotations} if annotations else {})}


def _difference(kept: Json, today: Json) -> str:
    """What differs, in words: images by name, the rest as one; empty: nothing does."""
    before, after = _images(kept), _images(today)
    changed = [
        f"image of {name} {before[name]} becomes {image}"
        for name, image in after.items()
        if name in before and before[name] != image
    ]
    if not is_same_template(_imageless(_unmarked(kept)), _imageless(_unmarked(today))):
        changed.append("the pod template is this release's")
    return "; ".join(changed)


def _containers(template: Json) -> list[Json]:
    spec: Mapping[str, Any] = template["spec"]
    return [*(spec.get("initContainers") or []), *(spec.get("containers") or [])]


def _images(template: Json) -> dict[str, str]:
    return {str(each.get("name")): str(each.get("image")) for each in _containers(template)}


def _imageless(template: Json) -> Json:
    bare = {
        part: [
            {key: value for key, value in each.items() if key != "image"} for each in template["spec"].get(part) or []
        ]
        for part in ("initContainers", "containers")
    }
    return template | {"spec": template["spec"] | bare}
