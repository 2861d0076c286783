"""A workload's own objects: its revisions' ControllerRevisions, its agents' ConfigMap, its Deployment.

Invariant: a kept revision is rendered from its ControllerRevision, never from today's defaults.
Must not import: report, controller. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from slipway.decide.discovery import versions_to_load
from slipway.decide.inputs import Inputs
from slipway.decide.server_errors import pods_out
from slipway.model.names import child_name
from slipway.model.revision import Json, Revision, place_of, spec_of
from slipway.model.rollout import Plan
from slipway.model.server_key import first_secret, secret_to_ask
from slipway.model.workload import Trouble, Turn
from slipway.observe.snapshot import Snapshot
from slipway.render.agent_orders import (
    held,
    in_turn,
    labels_before,
    render_agent_config,
    version_labels,
    with_question,
    without_pods,
)
from slipway.render.history import render_kept
from slipway.render.objects import Child, render_config_map, render_deployment
from slipway.render.routing import Backend
from slipway.runtimes import RUNTIMES


@dataclass(frozen=True, slots=True)
class WorkloadInput:
    """What all workloads of a plan are rendered from.

    revisions: the kept ones, and the spec's with its pod template. recorded: version → sha256 at the spec's place.
    golden: the golden requests of the canary's agents; Trouble: they can't be read.
    """

    inputs: Inputs
    plan: Plan
    snapshot: Snapshot
    revisions: Mapping[str, Revision]
    recorded: Mapping[int, str]
    golden: Json | Trouble | None

    def revision_on(self, workload: str) -> Revision | None:
        """The revision of a workload; None: its ControllerRevision is gone."""
        return self.revisions.get(self.plan.assignments[workload].revision)

    def is_stable(self, workload: str) -> bool:
        """Whether the workload's revision is the stable one."""
        return self.plan.assignments[workload].revision == self.plan.state.stable

    def golden_for(self, revision: Revision) -> Json | Trouble | None:
        """The golden requests of a revision's agents: those of the canary alone have some."""
        is_canary = self.plan.state.canary == revision.hash and self.plan.state.stable != revision.hash
        return self.golden if is_canary else None


@dataclass(frozen=True, slots=True)
class RenderedWorkload:
    """A workload's objects, and what they say.

    revisions: those whose ControllerRevisions are among the children. load: the versions that its agents load.
    generation: of its agents' configuration. backend: its part of a split; None: requests aren't split.
    """

    name: str
    revisions: tuple[str, ...]
    children: tuple[Child, ...]
    load: tuple[int, ...]
    generation: str
    backend: Backend | None


def render_workload(given: WorkloadInput, workload: str) -> RenderedWorkload | None:
    """A workload's objects; None: they stay as they are, since the revision or its golden requests can't be read."""
    deployment, plan, snapshot = given.inputs.deployment, given.plan, given.snapshot
    assignment, revision = plan.assignments[workload], given.revision_on(workload)
    golden = given.golden_for(revision) if revision is not None else None
    if revision is None or isinstance(golden, Trouble):
        return None
    former = given.revisions.get(assignment.replaces or "")
    live = snapshot.agent_orders.get(workload)
    load = versions_to_load(deployment, revision, former, given.inputs.listed, live)
    config = render_agent_config(deployment, revision, load, version_labels(deployment, plan, revision, former), golden)
    config = _turned(given, workload, _asked(given, workload, config))
    if live is not None and workload in snapshot.workloads:
        config = without_pods(config, pods_out(snapshot.workloads[workload], live.out))
    recorded = given.recorded if place_of(revision) == deployment.spec.model.uri else revision.digests
    revisions = [revision] if former is None or former.hash == revision.hash else [revision, former]
    newest = plan.state.canary or plan.state.stable
    children = [
        *(
            render_kept(deployment, each, given.recorded, is_newest=each is revision and each.hash == newest)
            for each in revisions
        ),
        render_config_map(deployment, workload, assignment, config, recorded),
    ]
    # Made anew beside pods that are about to end, it would count these as its own, and they would get requests.
    if given.is_stable(workload) or workload not in snapshot.left_over:
        secret = _secret_of(given, workload)
        children.append(render_deployment(deployment, workload, revision.pod_template, plan.replicas[workload], secret))
    weight = plan.weights.get(workload, 0) if plan.weights is not None else None
    return RenderedWorkload(
        name=workload,
        revisions=tuple(each.hash for each in revisions),
        children=tuple(children),
        load=load,
        generation=config["generation"],
        backend=_backend(given, workload, revision, weight, load) if weight is not None else None,
    )


def _secret_of(given: WorkloadInput, workload: str) -> str:
    """The Secret that a workload's pods take their key from, if their template asks for one."""
    deployment = given.inputs.deployment
    live = given.snapshot.live.get(("Deployment", child_name(deployment.name, workload)))
    first = first_secret(deployment.name, deployment.uid, workload)
    template = live["spec"]["template"] if live is not None else None
    return secret_to_ask(first, deployment.name, workload, template, given.snapshot.lost_keys)


def _asked(given: WorkloadInput, workload: str, own: Json) -> Json:
    """The orders with the golden request that the revision arrived with: that one it has answered as expected."""
    live, revision = given.snapshot.agent_orders.get(workload), given.plan.assignments[workload].revision
    if live is None:
        return own
    if live.revision == revision:
        return with_question(own, live.questions.kept)
    return with_question(own, live.questions.before) if live.replaces == revision else own


def _turned(given: WorkloadInput, workload: str, own: Json) -> Json:
    """The orders while pods go over in turn, or are held. own: those of the pods that have gone over."""
    plan, assignment, live = given.plan, given.plan.assignments[workload], given.snapshot.agent_orders.get(workload)
    if assignment.revision != plan.state.canary:
        # What was held and came to nothing stays held until its pods have gone.
        is_left = live is not None and live.turn == Turn(is_held=True) and live.revision == assignment.revision
        return held(own) if is_left and not given.is_stable(workload) else own
    if plan.turn is None:
        return own
    former = given.revisions.get(assignment.replaces or "")
    if plan.turn.pods is None or former is None:
        return held(own) if plan.turn.is_held else own
    deployment = given.inputs.deployment
    load = versions_to_load(deployment, former, None, given.inputs.listed, None)
    before = render_agent_config(deployment, former, load, {})
    before = with_question(before, live.questions.before if live is not None else None)
    if "labels" in own:
        before["labels"] = labels_before(own, before, live.labels if live is not None else {})
    return in_turn(own, before, plan.turn)


def _backend(given: WorkloadInput, workload: str, revision: Revision, weight: int, load: tuple[int, ...]) -> Backend:
    own = spec_of(given.inputs.deployment, revision)
    ports = {port.name: port.number for port in RUNTIMES[own.runtime.name].ports(own)}
    is_open = weight > 0 or revision.hash in (given.plan.state.stable, given.plan.state.previous)
    return Backend(workload, weight, load, ports["http"], ports.get("grpc"), spec=own, is_open=is_open)
