"""How a new revision takes over: worked examples, and laws that hold in any world."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slipway.rollout import Memory, Plan, Promotion, Rejection, RevisionPods, Wanted, enough, step

NOW = datetime(2026, 3, 1, tzinfo=UTC)
DEADLINE_SECONDS = 600
RUNNING = {"existing": 0, "ready": 0}


def wanted(revision: str = "new", replicas: int = 2, content: str = "") -> Wanted:
    return Wanted(revision, content, replicas, DEADLINE_SECONDS)


def pods(wanted: int, existing: int | None = None, ready: int | None = None, **more: bool) -> RevisionPods:
    """All existing and ready, unless said otherwise."""
    there = wanted if existing is None else existing
    return RevisionPods(wanted, there, there if ready is None else ready, **more)


def since(seconds: float, ready: int = 0) -> Memory:
    """old is stable, new takes over and made its last progress so long ago."""
    return Memory("old", "new", ready, NOW - timedelta(seconds=seconds))


# ---- tables: a row is a world and the plan for it

ROLLING = [
    pytest.param({"old": pods(2)}, {"old": 2, "new": 1}, id="the first new pod comes on top"),
    pytest.param({"old": pods(2), "new": pods(1, ready=0)}, {"old": 2, "new": 1}, id="not ready yet: nothing goes"),
    pytest.param({"old": pods(2), "new": pods(1)}, {"old": 1, "new": 1}, id="one ready: one old goes"),
    pytest.param({"old": pods(1, existing=2), "new": pods(1)}, {"old": 1, "new": 1}, id="old pod still there: wait"),
    pytest.param({"old": pods(1), "new": pods(1)}, {"old": 1, "new": 2}, id="room: the next new pod"),
    pytest.param({"old": pods(1), "new": pods(2, ready=1)}, {"old": 1, "new": 2}, id="the second starts: do nothing"),
    pytest.param({"old": pods(2), "new": pods(1, existing=0)}, {"old": 2, "new": 1}, id="no pod made yet: do nothing"),
    pytest.param({"old": pods(1), "new": pods(1, ready=0)}, {"old": 2, "new": 1}, id="new one lost: old comes back"),
    pytest.param(
        {"old": pods(1), "new": pods(2, ready=0)}, {"old": 2, "new": 2}, id="a blip: old comes back, new pods go on"
    ),
    pytest.param({"old": pods(2, ready=1), "new": pods(1)}, {"old": 1, "new": 1}, id="an unready old pod goes first"),
    pytest.param(
        {"old": pods(2, ready=0), "new": pods(1, ready=0)}, {"old": 2, "new": 2}, id="nothing serves: no hurry"
    ),
    pytest.param(
        {"old": pods(2, ready=0), "new": pods(2, ready=0, is_blocked=True)},
        {"old": 0, "new": 2},
        id="nothing serves and new finds no room: old gives way",
    ),
    pytest.param({"old": pods(2, ready=0), "new": pods(2, ready=1)}, {"old": 0, "new": 2}, id="only new serves"),
    pytest.param(
        {"old": pods(2), "mid": pods(1)}, {"old": 2, "mid": 0, "new": 0}, id="a third revision: the second goes first"
    ),
    pytest.param(
        {"old": pods(1), "mid": pods(1)}, {"old": 2, "mid": 1, "new": 1}, id="but not while it is needed to serve"
    ),
    pytest.param(
        {"old": pods(2, ready=1), "mid": pods(1)},
        {"old": 2, "mid": 1, "new": 1},
        id="old can't do without the second: the third does not wait for it",
    ),
]


@pytest.mark.parametrize(("world", "replicas"), ROLLING)
def test_rolling_on(world: dict[str, RevisionPods], replicas: dict[str, int]) -> None:
    plan = step(wanted(), since(10, ready=2), world, NOW)
    assert (plan.stable, plan.canary, plan.promotion) == ("old", "new", Promotion.IN_PROGRESS)
    assert plan.replicas == replicas
    assert plan.wake_at == NOW + timedelta(seconds=DEADLINE_SECONDS - 10)


STABLE = [
    pytest.param(2, {"new": pods(2)}, {"new": 2}, id="at rest: do nothing"),
    pytest.param(5, {"new": pods(2)}, {"new": 5}, id="scaled up at once"),
    pytest.param(1, {"new": pods(2)}, {"new": 1}, id="scaled down at once"),
    pytest.param(0, {"new": pods(2)}, {"new": 0}, id="to zero"),
    pytest.param(2, {}, {"new": 2}, id="its Deployment is gone"),
    pytest.param(2, {"new": pods(2), "old": pods(0)}, {"new": 2}, id="an empty old one is not named: it is pruned"),
    pytest.param(2, {"new": pods(2), "old": pods(0, existing=1)}, {"new": 2, "old": 0}, id="an old pod still there"),
    pytest.param(
        2, {"new": pods(2, ready=1), "old": pods(2)}, {"new": 2, "old": 1}, id="old pods fill what is missing"
    ),
    pytest.param(2, {"new": pods(2, ready=1), "old": pods(0)}, {"new": 2}, id="but never come back"),
]


@pytest.mark.parametrize(("replicas", "world", "expected"), STABLE)
def test_stable(replicas: int, world: dict[str, RevisionPods], expected: dict[str, int]) -> None:
    plan = step(wanted(replicas=replicas), Memory("new"), world, NOW)
    assert plan == Plan("new", None, expected, Promotion.PROMOTED, None)


@pytest.mark.parametrize(
    ("replicas", "here", "is_stable"),
    [(1, 0, False), (1, 1, True), (2, 1, False), (4, 2, False), (4, 3, True), (8, 6, True), (0, 0, True)],
)
def test_the_first_revision_is_stable_once_enough_pods_are_ready(replicas: int, here: int, *, is_stable: bool) -> None:
    plan = step(wanted(replicas=replicas), Memory(), {"new": pods(replicas, ready=here)}, NOW)
    assert plan.replicas == {"new": replicas}
    assert (plan.stable, plan.canary) == (("new", None) if is_stable else (None, "new"))


def test_the_first_revision_starts_with_all_its_pods() -> None:
    plan = step(wanted(replicas=3), Memory(), {}, NOW)
    assert plan == Plan(None, "new", {"new": 3}, Promotion.IN_PROGRESS, NOW, 0)


def test_a_first_revision_is_never_given_up() -> None:
    plan = step(wanted(), Memory(None, "new", 0, NOW - timedelta(days=3)), {"new": pods(2, ready=0)}, NOW)
    assert plan.replicas == {"new": 2}
    assert plan.newly_rejected is None


def test_a_first_revision_that_never_served_makes_room_for_the_next_at_once() -> None:
    plan = step(wanted("second"), Memory(None, "new", 0, NOW), {"new": pods(2, ready=0)}, NOW)
    assert plan.replicas == {"second": 2}
    assert plan.stable is None


def test_promoted_when_all_its_pods_are_ready() -> None:
    plan = step(wanted(), since(10), {"old": pods(0), "new": pods(2)}, NOW)
    assert plan == Plan("new", None, {"new": 2}, Promotion.PROMOTED, None)


def test_the_spec_set_back_is_a_rollback_at_once_and_new_pods_serve_until_old_ones_do() -> None:
    plan = step(wanted("old", 3), since(10, ready=2), {"old": pods(1), "new": pods(2)}, NOW)
    assert plan == Plan("old", None, {"old": 3, "new": 2}, Promotion.PROMOTED, None)


def test_without_status_the_revision_with_most_ready_pods_is_stable() -> None:
    world = {"a": pods(1), "b": pods(3), "c": pods(4, ready=0)}
    plan = step(wanted(replicas=3), Memory(), world, NOW)
    assert plan.stable == "b"
    assert plan.replicas["b"] == 3


# ---- the deadline


@pytest.mark.parametrize(("seconds", "is_over"), [(0, False), (599, False), (600, True), (10_000, True)])
def test_without_progress_until_the_deadline_it_is_taken_back(seconds: int, *, is_over: bool) -> None:
    plan = step(wanted(content="c"), since(seconds), {"old": pods(2), "new": pods(1, ready=0)}, NOW)
    assert plan.newly_rejected == (Rejection("new", "c") if is_over else None)
    assert plan.promotion is (Promotion.ROLLED_BACK if is_over else Promotion.IN_PROGRESS)
    assert plan.replicas == {"old": 2, "new": 0 if is_over else 1}
    assert plan.canary == (None if is_over else "new")


def test_more_ready_pods_than_ever_is_progress() -> None:
    plan = step(wanted(replicas=3), since(599, ready=1), {"old": pods(1), "new": pods(3, ready=2)}, NOW)
    assert (plan.progress_since, plan.canary_ready) == (NOW, 2)


def test_a_time_from_a_clock_ahead_gives_no_longer_deadline() -> None:
    plan = step(wanted(), since(-86_400), {"old": pods(2), "new": pods(1, ready=0)}, NOW)
    assert plan.progress_since == NOW


def test_losing_and_regaining_a_pod_is_no_progress() -> None:
    plan = step(wanted(replicas=3), since(500, ready=2), {"old": pods(1), "new": pods(3, ready=2)}, NOW)
    assert (plan.progress_since, plan.canary_ready) == (NOW - timedelta(seconds=500), 2)


def test_fetching_past_the_deadline_goes_on() -> None:
    world = {"old": pods(2), "new": pods(1, ready=0, is_fetching=True)}
    plan = step(wanted(), since(601), world, NOW)
    assert plan.promotion is Promotion.IN_PROGRESS
    assert plan.wake_at == NOW + timedelta(seconds=1)


def test_another_revision_has_a_deadline_of_its_own() -> None:
    plan = step(wanted("third"), since(601), {"old": pods(2), "new": pods(1, ready=0)}, NOW)
    assert plan.progress_since == NOW
    assert plan.newly_rejected is None


def test_taken_back_pods_that_serve_go_only_when_old_ones_do() -> None:
    plan = step(wanted(replicas=3), since(600, ready=2), {"old": pods(1), "new": pods(3, ready=2)}, NOW)
    assert plan.promotion is Promotion.ROLLED_BACK
    assert plan.replicas == {"old": 3, "new": 2}


def test_a_rejected_revision_gets_no_pod() -> None:
    memory = Memory("old", None, 0, None, (Rejection("new", "c"),))
    plan = step(wanted(content="c"), memory, {"old": pods(2)}, NOW)
    assert plan == Plan("old", None, {"old": 2}, Promotion.ROLLED_BACK, None)


def test_a_rejected_revision_with_other_bytes_is_tried_again() -> None:
    memory = Memory("old", None, 0, None, (Rejection("new", "c"),))
    plan = step(wanted(content="other"), memory, {"old": pods(2)}, NOW)
    assert plan.promotion is Promotion.IN_PROGRESS
    assert plan.replicas == {"old": 2, "new": 1}


@pytest.mark.parametrize("replicas", range(20))
def test_enough_is_at_least_three_quarters(replicas: int) -> None:
    assert replicas * 3 <= enough(replicas) * 4
    assert enough(replicas) <= replicas


# ---- laws, in a world that does what it likes

GOOD, ALSO_GOOD, BAD = "a", "b", "c"


@dataclass
class Anywhere:
    """Pods that start, die and stay behind; a controller that comes when it comes; an operator that may be ended.

    scale: revision → what its Deployment says. pods: revision → one True (ready) or False for each pod.
    """

    spec: Wanted
    scale: dict[str, int] = field(default_factory=dict)
    pods: dict[str, list[bool]] = field(default_factory=dict)
    memory: Memory = field(default_factory=Memory)
    now: datetime = NOW
    rejected: frozenset[Rejection] = frozenset()

    def observed(self) -> dict[str, RevisionPods]:
        return {
            revision: RevisionPods(scale, len(self.pods.get(revision, [])), sum(self.pods.get(revision, [])))
            for revision, scale in self.scale.items()
        }

    def operate(self, *, is_ended_before_status: bool = False) -> Plan:
        """One pass: plan, check the laws, write the children, then the status unless the operator is ended."""
        world = self.observed()
        plan = step(self.spec, self.memory, world, self.now)
        self.check_capacity(plan, world)
        self.check_rejected(plan, world)
        self.scale = dict(plan.replicas)
        for gone in set(self.pods) - set(self.scale):
            del self.pods[gone]
        if is_ended_before_status:
            return plan
        kept = tuple(entry for entry in self.memory.rejected if entry.revision == self.spec.revision)
        newly = (plan.newly_rejected,) if plan.newly_rejected else ()
        self.memory = Memory(plan.stable, plan.canary, plan.canary_ready, plan.progress_since, kept + newly)
        self.check_repeated(plan)
        return plan

    def check_capacity(self, plan: Plan, world: dict[str, RevisionPods]) -> None:
        """Of the pods that serve and were to stay, the plan gives none up that is needed.

        A Deployment that shrinks loses pods that are not ready first.
        """
        staying = sum(min(here.ready, here.wanted) for here in world.values())
        left = sum(min(here.ready, plan.replicas.get(revision, 0)) for revision, here in world.items())
        assert left >= min(self.spec.replicas, staying), (plan, world)

    def check_rejected(self, plan: Plan, world: dict[str, RevisionPods]) -> None:
        """A rejected revision gets no new pod, and none at all once others serve."""
        if plan.promotion is not Promotion.ROLLED_BACK:
            return
        assert plan.stable is not None
        here = world.get(self.spec.revision, RevisionPods(0, 0, 0))
        assert plan.replicas.get(self.spec.revision, 0) <= here.wanted
        stable = world.get(plan.stable, RevisionPods(0, 0, 0))
        if stable.ready >= self.spec.replicas:
            assert plan.replicas.get(self.spec.revision, 0) == 0

    def check_repeated(self, plan: Plan) -> None:
        """The same world again, as far as we ask for it: nothing else is asked."""
        again = step(self.spec, self.memory, self.observed(), self.now)
        assert again.replicas == {
            revision: count
            for revision, count in plan.replicas.items()
            if count or self.pods.get(revision) or revision in again.replicas
        }

    def control(self, revision: str) -> None:
        """The Deployment controller makes or ends pods."""
        count = self.scale.get(revision, 0)
        here = sorted(self.pods.get(revision, []), reverse=True)[:count]
        if revision in self.scale:
            self.pods[revision] = here + [False] * (count - len(here))

    def start(self, revision: str) -> None:
        """A pod becomes ready, unless the revision is a bad one."""
        here = self.pods.get(revision, [])
        if False in here and revision != BAD:
            here[here.index(False)] = True

    def die(self, revision: str) -> None:
        """A ready pod is lost; its replacement comes when the controller does."""
        here = self.pods.get(revision, [])
        if True in here:
            here.remove(True)

    def settle(self) -> Plan:
        """From now on the world is kind: controllers come, good pods start. Returns the plan that stays."""
        for _ in range(60):
            plan = self.operate()
            for revision in (GOOD, ALSO_GOOD, BAD):
                self.control(revision)
                for _ in range(self.spec.replicas + 2):
                    self.start(revision)
            self.now += timedelta(seconds=60)
        return plan


REVISIONS = st.sampled_from([GOOD, ALSO_GOOD, BAD])
EVENTS = st.one_of(
    st.tuples(st.just("control"), REVISIONS),
    st.tuples(st.just("start"), REVISIONS),
    st.tuples(st.just("die"), REVISIONS),
    st.tuples(st.just("wait"), st.sampled_from([1, 60, 601])),
    st.tuples(st.just("spec"), REVISIONS),
    st.tuples(st.just("scale"), st.integers(1, 6)),
    st.tuples(st.just("correct"), st.sampled_from(["x", "y"])),
    st.tuples(st.just("lose status"), st.none()),
    st.tuples(st.just("end before status"), st.none()),
)


def happen(world: Anywhere, what: str, argument: object) -> None:
    """One event, and the pass that follows it."""
    match what, argument:
        case "control", str(revision):
            world.control(revision)
        case "start", str(revision):
            world.start(revision)
        case "die", str(revision):
            world.die(revision)
        case "wait", int(seconds):
            world.now += timedelta(seconds=seconds)
        case "spec", str(revision):
            world.spec = Wanted(revision, world.spec.content, world.spec.replicas, DEADLINE_SECONDS)
        case "scale", int(replicas):
            world.spec = Wanted(world.spec.revision, world.spec.content, replicas, DEADLINE_SECONDS)
        case "correct", str(content):
            world.spec = Wanted(world.spec.revision, content, world.spec.replicas, DEADLINE_SECONDS)
        case "lose status", _:
            world.memory = Memory()
    world.operate(is_ended_before_status=what == "end before status")


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 6), st.lists(EVENTS, max_size=40))
def test_whatever_happens_capacity_is_kept_and_the_end_is_reached(
    replicas: int, events: list[tuple[str, object]]
) -> None:
    world = Anywhere(Wanted(GOOD, "", replicas, DEADLINE_SECONDS))
    world.settle()
    for what, argument in events:
        happen(world, what, argument)
    plan = world.settle()
    target, count = world.spec.revision, world.spec.replicas
    match plan.promotion:
        case Promotion.PROMOTED:
            assert plan.replicas == {target: count}
            assert plan.stable == target
        case Promotion.ROLLED_BACK:
            assert plan.stable not in (None, target)
            assert plan.replicas == {plan.stable: count}
        case Promotion.IN_PROGRESS:  # a bad revision, and nothing that served before it
            assert target == BAD
            assert plan.stable is None
            assert plan.replicas == {BAD: count}
    if target != BAD and not world.memory.rejected:
        assert plan.promotion is Promotion.PROMOTED
    assert world.operate() == plan  # and it stays


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 8), st.booleans(), st.booleans())
def test_a_rollout_without_trouble_never_has_fewer_ready_pods(replicas: int, ends: bool, back: bool) -> None:
    world = Anywhere(Wanted(GOOD, "", replicas, DEADLINE_SECONDS))
    world.settle()
    world.spec = Wanted(ALSO_GOOD, "", replicas, DEADLINE_SECONDS)
    for number in range(8 * replicas):
        if back and number == 3 * replicas:
            world.spec = Wanted(GOOD, "", replicas, DEADLINE_SECONDS)
        world.operate(is_ended_before_status=ends and number % 3 == 0)
        for revision in (GOOD, ALSO_GOOD):
            world.control(revision)
        assert sum(sum(here) for here in world.pods.values()) >= replicas
        assert sum(len(here) for here in world.pods.values()) <= 2 * replicas + 2
        world.start(GOOD)
        world.start(ALSO_GOOD)
    world.settle()
    assert world.scale == {GOOD if back else ALSO_GOOD: replicas}
