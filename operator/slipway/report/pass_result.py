"""What a pass found out, from which the status follows.

Pure.
"""

from __future__ import annotations

from dataclasses import dataclass

from slipway.api import ModelDeployment
from slipway.api.status import ModelDeploymentStatus
from slipway.decide.commands import CommandOutcome, read_command
from slipway.decide.discovery import listing_trouble, needs_agents_listing, of_same_place
from slipway.decide.inputs import Inputs
from slipway.decide.steps import unreachable_weights, wants_router
from slipway.model.names import MODEL_LABEL, router_label
from slipway.model.revision import Json
from slipway.model.rollout import Plan, Promotion
from slipway.model.rollout_state import RolloutState
from slipway.model.signals import Signals
from slipway.model.workload import ABSENT, Trouble, workload_of
from slipway.observe.snapshot import Snapshot
from slipway.render.desired import Rendered


@dataclass(frozen=True, slots=True)
class CarriedOut:
    """A spec that can be read, and what a pass made of it.

    load: the versions that the agents of what serves were told to load. listing: why versions can't be found.
    unreachable: which weights the traffic provider can't make.
    """

    inputs: Inputs
    plan: Plan
    rendered: Rendered
    signals: Signals
    load: tuple[int, ...]
    listing: Trouble | None = None
    unreachable: str = ""

    @property
    def evidence(self) -> Json | None:
        """The accumulators to keep; None once nothing is judged any more."""
        state = self.plan.state
        return self.signals.accumulators if state.canary is not None or state.previous is not None else None


@dataclass(frozen=True, slots=True)
class PassResult:
    """What a pass found out, from which the status follows.

    problem: why the spec can't be carried out (a spec error, a name taken by another's object); None when it can.
    With a spec error, all that was carried out is what the last spec that could be read asks for.
    are_settled: every pod's agent agrees with its configuration, so the stored versions still hold. settled: the hash
    of what agrees now. carried_out: None when no spec can be read, neither today's nor an earlier one; then
    outcome_unread is what becomes of a person's command.
    """

    name: str
    generation: int
    replicas: int
    problem: Trouble | None
    listed: tuple[int, ...]
    are_settled: bool
    settled: str | None
    carried_out: CarriedOut | None = None
    outcome_unread: CommandOutcome | None = None

    @property
    def outcome(self) -> CommandOutcome | None:
        """What becomes of a person's command; None, or one without a command: there was none."""
        carried = self.carried_out
        if carried is None:
            return self.outcome_unread
        return carried.rendered.outcome or carried.inputs.outcome

    @property
    def plan(self) -> Plan | None:
        """None when no spec can be read."""
        return self.carried_out.plan if self.carried_out is not None else None

    @property
    def revision(self) -> str | None:
        """The one that the spec gone by asks for; None when none can be read."""
        return self.carried_out.inputs.placement.revision.hash if self.carried_out is not None else None

    @property
    def version(self) -> int:
        """The one that the spec gone by asks for; 0 while none is found, and when no spec can be read."""
        return self.carried_out.inputs.placement.revision.version if self.carried_out is not None else 0

    @property
    def listing(self) -> Trouble | None:
        """Why versions can't be found."""
        return self.carried_out.listing if self.carried_out is not None else None


def judge_unreadable(body: Json, snapshot: Snapshot, stored: ModelDeploymentStatus, problem: Trouble) -> PassResult:
    """With a spec that can't be carried out, and none before it that could be, what serves goes on as it is."""
    home = workload_of(stored.stable.revision, snapshot.workloads) if stored.stable else None
    stable = snapshot.workloads.get(home or "", ABSENT)
    replicas = (body.get("spec") or {}).get("replicas")
    why = "the spec can't be read, and no earlier one is kept to go on by: correct it first"
    return PassResult(
        name=body["metadata"]["name"],
        generation=int(body["metadata"].get("generation", 0)),
        replicas=stable.replicas if stored.stable else replicas if isinstance(replicas, int) else 1,
        problem=problem,
        listed=tuple(stored.listed),
        are_settled=True,
        settled=stored.settled,
        outcome_unread=CommandOutcome(RolloutState(), read_command(body, stored), message=why),
    )


def sum_up(
    inputs: Inputs,
    plan: Plan,
    rendered: Rendered,
    snapshot: Snapshot,
    signals: Signals,
    *,
    problem: Trouble | None,
    are_settled: bool,
    settled: str | None,
) -> PassResult:
    """What a pass that carried a plan out found out. settled: the hash of what agrees now."""
    asked, deployment, desired = inputs.asked, inputs.deployment, inputs.placement.revision
    shown = plan.state.stable or plan.state.canary or ""
    home = workload_of(shown, snapshot.workloads) or inputs.placement.workload
    tells_listed = needs_agents_listing(asked) and (
        shown in of_same_place(deployment, snapshot) or desired.version == 0
    )
    return PassResult(
        name=deployment.name,
        generation=deployment.generation,
        replicas=deployment.spec.replicas,
        problem=problem,
        listed=inputs.listed if tells_listed else (),
        are_settled=are_settled,
        settled=settled,
        carried_out=CarriedOut(
            inputs,
            plan,
            rendered,
            signals,
            load=rendered.load.get(home, ()),
            listing=listing_trouble(asked, snapshot),
            unreachable=unreachable_weights(deployment)
            or _without_router(deployment, rendered)
            or _by_path(deployment, plan, rendered),
        ),
    )


def what_stands_in_the_way(unread: Trouble | None, hindrance: Trouble | None, plan: Plan, name: str) -> Trouble | None:
    """Why the spec can't be carried out, in one. None: it can.

    unread: why it can't be read, so that the plan is that of the last one that could be. hindrance: why something can't
    be written. name: the ModelDeployment's.
    """
    if unread is None:
        return hindrance
    words = [unread.message.rstrip("."), _goes_on(plan, name)]
    if hindrance is not None:
        words.append(f"{hindrance.reason}: {hindrance.message}")
    return Trouble(unread.reason, ". ".join(words))


def _goes_on(plan: Plan, name: str) -> str:
    """What happens by the last spec that could be read, and what a person can do about it."""
    state, by = plan.state, "by the last spec that could be read"
    if state.canary is not None and state.stable is not None:
        return (
            f"Until that is corrected, revision {state.canary} goes on taking over {by}; to take it back: "
            f"kubectl slipway abort {name}"
        )
    if plan.promotion is Promotion.ROLLED_BACK:
        return f"Until that is corrected, revision {state.stable} serves: the one of the last such spec was taken back"
    return f"Until that is corrected, revision {state.stable or state.canary} goes on {by}"


def _without_router(deployment: ModelDeployment, rendered: Rendered) -> str:
    """That there is no router where one is wanted, and how to look; empty when there is."""
    if not wants_router(deployment) or rendered.service_target.is_router:
        return ""
    return (
        "no router is in force yet, so requests reach pods directly; see them with: "
        f"kubectl get pods -l {MODEL_LABEL}={router_label(deployment.name)}"
    )


def _by_path(deployment: ModelDeployment, plan: Plan, rendered: Rendered) -> str:
    """That requests can't follow the weights, since what takes over answers on other paths; empty where they can."""
    apart = sorted(name for name in rendered.apart if plan.replicas.get(name) and name in plan.assignments)
    if not apart:
        return ""
    what = f"revision {plan.assignments[apart[0]].revision} answers on other paths than revision {plan.state.stable}"
    if wants_router(deployment):
        return f"{what}: each request goes to the one that answers its path, whatever the weight"
    return (
        f"{what}, and pods of both get all requests: those that a pod doesn't answer fail. "
        "Write spec.traffic.provider: Router"
    )
