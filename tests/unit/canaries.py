"""A small world for the state machine of canaries: pods, routers that learn late, evidence, a person's commands.

It plays what the shell does around `rollout.step` and holds each plan against the laws of `split`. Routers are two,
each with the configuration that it has loaded; what they say is read before a pass, and may be older than what was
asked last.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from slipway.api.status import Pinned
from slipway.decide.catch_up import catch_up, recall_stable
from slipway.decide.commands import carry_out
from slipway.decide.rollout import step
from slipway.model.rollout import Plan, Promotion, Step, Target
from slipway.model.rollout_state import Rejection, RolloutState
from slipway.model.signals import OPEN, Command, GateState, GateVerdict, InForce, Outcome, Signals, Verdict
from slipway.model.workload import ABSENT, Crash, Workload
from tests.simulation.workloads import Counted

NOW = datetime(2026, 3, 1, tzinfo=UTC)
DEADLINE_SECONDS = 600
BAKE_SECONDS = 300

GOOD, ALSO_GOOD = "a", "b"
NEVER_READY, REFUSED, GATED, FAILING, CRASHING, SILENT = "n", "r", "g", "f", "c", "s"
BAD = (NEVER_READY, REFUSED, GATED, FAILING, CRASHING)
REVISIONS = (GOOD, ALSO_GOOD, *BAD, SILENT)


def to_steps(*shares: int | None, replicas: int, hold_seconds: int = 60) -> tuple[Step, ...]:
    """As `decide.steps.steps_of` makes them with a router; None: a pause without an end."""
    steps: list[Step] = []
    weight = 0
    for share in (*shares, 100):
        if share is None:
            steps.append(Step(weight, _pods(weight, replicas), None, is_pause=True))
        else:
            weight = share
            steps.append(Step(weight, _pods(weight, replicas), 0 if weight == 100 else hold_seconds))
    return tuple(steps)


def _pods(weight: int, replicas: int) -> int:
    return -(-replicas * weight // 100)


@dataclass
class World(Counted):
    """One ModelDeployment with steps.

    shares, is_swap and so on: the spec. scale: workload → what its Deployment says. pods: workload → one True (ready)
    or False for each. asked: every configuration of the routers so far; loaded: which of these each router has.
    are_silent: routers don't answer. gates_wait: for an agent's word. said: revision → what the evidence says of it.
    crashes: workload → of its pod. named: the stable revision, as the Service names it.
    told: who was taken back and may not get a request until something is said for it. lost: workloads that are gone and
    had no ready pod, or that a person deleted.
    """

    never_ready = (NEVER_READY, REFUSED)
    revision: str = GOOD
    replicas: int = 2
    shares: tuple[int | None, ...] = (25, 50)
    content: str = ""
    is_judged: bool = True
    holds: bool = False
    is_swap: bool = False
    bake_seconds: int = BAKE_SECONDS
    scale: dict[str, int] = field(default_factory=dict)
    pods: dict[str, list[bool]] = field(default_factory=dict)
    asked: list[dict[str, int]] = field(default_factory=list)
    loaded: list[int] = field(default_factory=lambda: [-1, -1])
    are_silent: bool = False
    gates_wait: bool = False
    said: dict[str, Outcome] = field(default_factory=dict)
    crashes: dict[str, Crash] = field(default_factory=dict)
    named: str | None = None
    memory: RolloutState = field(default_factory=RolloutState)
    pinned: Pinned | None = None
    command: Command | None = None
    commands: int = 0
    now: datetime = NOW
    told: set[Rejection] = field(default_factory=set)
    lost: set[str] = field(default_factory=set)

    # ---- what a pass sees

    def wanted(self) -> Target:
        steps = to_steps(*self.shares, replicas=self.replicas)
        if self.is_swap:
            steps = tuple(replace(each, pods=min(each.pods, max(1, self.replicas - 1))) for each in steps)
        revision = self.pinned.revision if self.pinned else self.revision
        return Target(
            revision,
            self.content,
            self.replicas,
            DEADLINE_SECONDS,
            revision,
            self.bake_seconds,
            steps[-1:] if self.pinned else steps,
            is_judged=self.is_judged and not self.pinned,
            holds_on_inconclusive=self.holds,
            is_swap=self.is_swap,
            is_rollback=self.pinned is not None,
        )

    def snapshot(self) -> dict[str, Workload]:
        return {
            name: Workload(
                name,
                count,
                len(self.pods.get(name, [])),
                sum(self.pods.get(name, [])),
                is_refused=name == REFUSED and bool(self.pods.get(name)),
                crashes=(self.crashes[name],) if name in self.crashes else (),
            )
            for name, count in self.scale.items()
        }

    def in_force(self) -> InForce | None:
        """As all routers say: of each workload the most that one gives it, and the pods that all of them know."""
        if self.are_silent or min(self.loaded) < 0:
            return None
        configs = [self.asked[index] for index in self.loaded]
        names = {name for config in configs for name in config}
        return InForce(
            {name: max(config.get(name, 0) for config in configs) for name in names},
            {name: sum(self.pods.get(name, [])) for name in names if all(name in config for config in configs)},
            is_latest=all(index == len(self.asked) - 1 for index in self.loaded),
        )

    def signals(self, wanted: Target, memory: RolloutState) -> Signals:
        gates, verdict = OPEN, None
        if memory.stable is not None and memory.stable != wanted.revision and wanted.revision == GATED:
            gates = GateVerdict(GateState.FAILED, "SignatureChanged", "input x is gone")
        elif memory.stable is not None and memory.stable != wanted.revision and self.gates_wait:
            gates = GateVerdict(GateState.WAITING, message="the signature of version 2 is being read")
        judged = memory.stable if memory.previous else memory.canary if memory.step_index else None
        if wanted.is_judged and judged is not None and judged in self.said:
            verdict = Verdict(self.said[judged], "Said", "the numbers")
        return Signals(gates, verdict, self.in_force(), sent_weights=self.asked[-1] if self.asked else None)

    # ---- a pass

    def operate(self, *, is_ended_before_status: bool = False) -> Plan:
        """Plan, hold it against the laws, write the children, then the status unless the operator is ended."""
        workloads = self.snapshot()
        asked = {self.revision, self.pinned.revision if self.pinned else ""}
        remembered = tuple(each for each in self.memory.rejected if each.revision in asked)
        memory = replace(self.memory, rejected=remembered)
        steps = self.wanted().steps
        told = self.asked[-1] if self.asked else {}
        going = self.pinned.revision if self.pinned and self.pinned.instead_of == self.revision else self.revision
        memory = recall_stable(memory, self.named, workloads, {}, self.revision, is_lost=memory == RolloutState())
        memory = catch_up(memory, told, workloads, steps, going, is_commanded=self.command is not None)
        outcome = carry_out(self.command, replace(memory, pinned=self.pinned), self.revision, set(REVISIONS), steps)
        pinned, self.pinned = self.pinned, outcome.state.pinned
        wanted = self.wanted()
        signals = replace(self.signals(wanted, outcome.state), abort=outcome.abort)
        plan = step(wanted, outcome.state, workloads, self.now, signals)
        self.named = plan.state.stable
        self.told &= {*outcome.state.rejected}
        self.check(plan, wanted, outcome.state, workloads, signals)
        self.scale = dict(plan.replicas)
        self.lost |= {name for name, here in workloads.items() if not here.ready or not here.replicas}
        self.lost -= set(self.scale)
        for gone in set(self.pods) - set(self.scale):
            del self.pods[gone]
            self.crashes.pop(gone, None)
        assert plan.weights is not None
        if not self.asked or self.asked[-1] != dict(plan.weights):
            self.asked.append(dict(plan.weights))
        if is_ended_before_status:
            self.pinned = pinned
            return plan
        self.command = None
        newly = (plan.newly_rejected,) if plan.newly_rejected else ()
        self.told |= set(newly)
        self.memory = plan.state
        return plan

    def check(
        self, plan: Plan, wanted: Target, memory: RolloutState, workloads: Mapping[str, Workload], signals: Signals
    ) -> None:
        """The laws."""
        told = f"{memory}\n{dict(workloads)}\n{signals}\n{plan}"
        weights, in_force = plan.weights, signals.in_force
        assert weights is not None, told
        # Weights sum to 100, every workload has one, and only those of stable and canary have any.
        assert sum(weights.values()) == 100, told
        assert set(weights) >= set(plan.replicas), told
        may_have = {plan.state.stable, plan.state.canary} - {None}
        having = {plan.revision_on(name) for name, weight in weights.items() if weight}
        assert having <= may_have, told
        # A workload that has a weight in force keeps its pods.
        for name, here in workloads.items():
            if here.ready and here.replicas and (in_force is None or in_force.weights.get(name, 0) > 0):
                least = (
                    1 if name in (wanted.workload, memory.stable, memory.previous, plan.state.stable) else here.replicas
                )
                assert plan.replicas.get(name, 0) >= least or self.replicas == 0, (name, told)
        # A rejected revision never has a weight.
        # What became stable did so for a named reason, or because what bakes was taken back.
        if plan.state.stable not in (None, memory.stable):
            assert plan.promotion_reason or plan.cause, told
        rejected = {each.revision for each in self.told if each.content == self.content} - {plan.state.stable}
        if plan.newly_rejected:
            rejected |= {plan.newly_rejected.revision}
        assert not having & rejected, told
        serving = sum(here.ready for here in workloads.values() if here.revision == memory.stable)
        if memory.stable is None or serving == 0 or self.replicas == 0:
            return  # nothing to protect
        # A canary gets its first weight only when it is known to those who split, with ready pods and gates passed.
        share = weights.get(wanted.workload, 0)
        is_canary = plan.state.canary == wanted.revision or (plan.state.stable == wanted.revision != memory.stable)
        is_back = memory.previous == wanted.revision
        was_asked = memory.weight_percent if memory.canary == wanted.revision else 0
        if is_canary and not is_back and share > was_asked:
            here = workloads.get(wanted.workload, ABSENT)
            assert memory.step_index or signals.gates.state is GateState.PASSED, told
            assert in_force is not None, told
            needed = _pods(share, self.replicas)
            if wanted.is_swap:
                needed = min(needed, max(1, self.replicas - 1))
            assert min(here.ready, in_force.endpoints.get(wanted.workload, 0)) >= needed, told
        # Without a ready pod a canary has no weight.
        if plan.state.canary is not None and share:
            assert workloads.get(wanted.workload, ABSENT).ready, told
        # Without data nothing that is judged advances.
        steps = wanted.steps
        at = steps[memory.step_index - 1] if 0 < memory.step_index <= len(steps) else None
        is_same = memory.canary == wanted.revision and plan.state.canary in (memory.canary, None)
        passes = signals.verdict is not None and signals.verdict.outcome is Outcome.PASS
        is_judged = at is not None and wanted.is_judged and not at.is_pause and 0 < at.weight_percent < 100
        if is_judged and is_same and not passes and not memory.is_promote_requested and not is_back:
            assert plan.state.stable == memory.stable, told
            assert plan.state.step_index <= memory.step_index, told
        # Stable's pods never shrink before the bake ends.
        if wanted.is_swap:
            return
        bakes = memory.previous is not None and memory.bake_until is not None and self.now < memory.bake_until
        protected = memory.previous if bakes and not is_back else memory.stable
        here = next((here for here in workloads.values() if here.revision == protected), ABSENT)
        is_over = plan.state.stable != memory.stable and plan.state.previous is None and self.bake_seconds == 0
        if (
            not is_over
            and protected
            and (plan.promotion is not Promotion.ROLLED_BACK or protected == plan.state.stable)
        ):
            assert plan.replicas.get(protected, 0) >= min(here.replicas, self.replicas), (protected, told)

    def stand_still(self) -> None:
        """While nothing happens and no time goes by, passes come to rest, and none takes back what one before asked."""
        world = copy.deepcopy(self)
        plans = [world.operate() for _ in range(len(self.shares) + 6)]
        assert plans[-1] == plans[-2], plans[-2:]
        asked = [plan.weights for plan in plans]
        changed = [each for number, each in enumerate(asked) if number == 0 or each != asked[number - 1]]
        assert all(each not in changed[:number] for number, each in enumerate(changed)), changed

    # ---- what happens

    def crash(self, name: str) -> None:
        """A server ends by itself and is started again."""
        if self.pods.get(name):
            before = self.crashes[name].ends if name in self.crashes else 0
            self.crashes[name] = Crash(name, before + 1, "the server ended with exit code 139")

    def learn(self, router: int, count: int) -> None:
        """A router loads a later configuration, not always the latest."""
        self.loaded[router] = max(self.loaded[router], min(len(self.asked) - 1, self.loaded[router] + count))
        self.check_reached()

    def check_reached(self) -> None:
        """No router sends requests where no pods are to be."""
        for index in self.loaded:
            if index < 0 or self.replicas == 0:
                continue
            for name, weight in self.asked[index].items():
                assert not weight or name in self.lost or self.scale.get(name), (index, self.asked, self.scale)

    def say(self, verb: str, revision: str) -> None:
        """A person's command."""
        self.commands += 1
        self.command = Command(verb, revision, str(self.commands))

    def delete(self, name: str) -> None:
        """A person deletes a Deployment."""
        if self.scale.pop(name, None) is not None:
            self.pods.pop(name, None)
            self.lost.add(name)

    def wait(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    def be_kind(self) -> None:
        """Controllers come, pods start, routers learn, evidence comes as the revisions deserve."""
        self.are_silent = self.gates_wait = False
        self.control()
        for name in self.pods:
            for _ in range(self.replicas + 2):
                self.start(name)
        for router in range(len(self.loaded)):
            self.learn(router, len(self.asked))
        self.said = dict.fromkeys(REVISIONS, Outcome.PASS) | {
            FAILING: Outcome.FAIL,
            SILENT: Outcome.INCONCLUSIVE,
        }
        if self.asked and self.asked[-1].get(CRASHING) and self.memory.stable not in (None, CRASHING):
            self.crash(CRASHING)

    def settle(self, seconds: float = 60, passes: int = 60) -> Plan:
        """From now on the world is kind, and time goes by. Returns the plan that stays."""
        for _ in range(passes):
            plan = self.operate()
            self.be_kind()
            self.wait(seconds)
        return plan
