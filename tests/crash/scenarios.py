"""What is done to a ModelDeployment in a crash test: what exists before, the one edit, what is true at the end.

Pure but for the edit itself; must not import slipway.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from tests.apiserver import ApiServer, Manifest

from .pod_player import BROKEN, FAILING

NAME = "digits"
Edit = Callable[[ApiServer, str], Awaitable[object]]


def model_deployment(namespace: str, **changes: Any) -> Manifest:
    """The ModelDeployment of all scenarios; `changes` replace parts of its spec."""
    spec: Manifest = {
        "runtime": {"name": "Triton"},
        "model": {"uri": "pvc://models/digits", "version": 1},
        "replicas": 2,
        "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}},
        "rollout": {"revisionHistoryLimit": 1, "strategy": "RollingUpdate"},
    }
    return {
        "apiVersion": "slipway.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": NAME, "namespace": namespace},
        "spec": spec | changes,
    }


def apply(**changes: Any) -> Edit:
    async def edit(api: ApiServer, namespace: str) -> None:
        await api.apply(model_deployment(namespace, **changes))

    return edit


async def delete(api: ApiServer, namespace: str) -> None:
    await api.delete("ModelDeployment", namespace, NAME)


def command(verb: str, on: str = "canary") -> Edit:
    """A person's command about the revision that is the canary, stable, the previous or the last rejected (status)."""

    async def edit(api: ApiServer, namespace: str) -> None:
        found = await api.read("ModelDeployment", namespace, NAME)
        assert found is not None
        meant = found["status"][on][-1] if on == "rejected" else found["status"][on]
        annotation = f"{verb}/{meant['revision']}/the-{verb}"  # each is carried out once
        change = {"metadata": {"annotations": {"slipway.dev/command": annotation}}}
        await api.merge("ModelDeployment", namespace, NAME, change)

    return edit


ENDS = ("Promoted", "RolledBack")
"""Reasons of condition Promoted at which a rollout is over."""
STOPS = (*ENDS, "Paused")
"""Those at which it goes no further by itself."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """before: edits made, each to its end, by an undisturbed operator. edit: what the dying operator works on.
    while_down: an edit made when it is dead, before it is started again. leaves_nothing: nothing may remain.
    begins: the reasons of condition Promoted, or phases, at which the last edit before is at its end; ends: the edit
    itself."""

    name: str
    edit: Edit
    before: tuple[Edit, ...] = ()
    begins: tuple[str, ...] = ENDS
    ends: tuple[str, ...] = ENDS
    while_down: Edit | None = None
    leaves_nothing: bool = False

    @property
    def edit_deletes(self) -> bool:
        """Whether the edit itself leaves nothing, so that there is no status to wait for."""
        return self.leaves_nothing and self.while_down is None


def version(number: int) -> Manifest:
    return {"uri": "pvc://models/digits", "version": number}


def in_place(number: int | None) -> Edit:
    """That version, or the newest that is found, loaded into the pods that serve."""
    model = version(number) if number else {"uri": "pvc://models/digits"}
    return apply(model=model, rollout={"revisionHistoryLimit": 1})


def by_steps(
    number: int, *more: Manifest, provider: str = "Router", has_analysis: bool = False, bake_seconds: int = 1
) -> Edit:
    """That version by steps: 25 percent, whatever else, all. Nothing is held for long."""
    rollout: Manifest = {
        "steps": [{"weight": 25}, *more, {"weight": 100}],
        "bakeSeconds": bake_seconds,
        "revisionHistoryLimit": 2,
    }
    # Written either way: without a word of it, steps are judged.
    rollout["analysis"] = {"mode": "Enforce", "minRequests": 20} if has_analysis else {"mode": "Off"}
    return apply(model=version(number), rollout=rollout, traffic={"provider": provider})


def analysed(number: int) -> Edit:
    """The same, with analysis of the requests that it gets."""
    return by_steps(number, has_analysis=True)


def paused(number: int) -> Edit:
    """The same, with a pause at 25 percent that only a person ends."""
    return by_steps(number, {"pause": {}})


def baking(number: int) -> Edit:
    """The same, with the version before it kept warm for longer than a test takes."""
    return by_steps(number, bake_seconds=3600)


def ratio(number: int) -> Edit:
    """The same by the ratio of pods."""
    return by_steps(number, provider="Replicas")


def said_while_paused(name: str, verb: str, end: str) -> Scenario:
    """A person's command about a canary that waits for one."""
    return Scenario(name, command(verb), before=(paused(1), paused(2)), begins=("Paused",), ends=(end,))


SCENARIOS = (
    Scenario("create", apply()),
    # The history's limit is one: the third revision also prunes the first's objects.
    Scenario("new-version", apply(model=version(3)), before=(apply(), apply(model=version(2)))),
    Scenario("in-place", in_place(2), before=(in_place(1),)),
    Scenario("in-place-refused", in_place(BROKEN), before=(in_place(1),)),
    Scenario("found", in_place(None), before=(in_place(1),)),
    Scenario("scale", apply(replicas=3), before=(apply(),)),
    Scenario("delete", delete, before=(apply(),), leaves_nothing=True),
    Scenario("delete-while-down", apply(), while_down=delete, leaves_nothing=True),
)

ROLLOUTS = (
    Scenario("back-again", apply(), before=(apply(), apply(model=version(2)))),
    Scenario("resources", apply(resources={"requests": {"cpu": "200m", "memory": "256Mi"}}), before=(apply(),)),
    Scenario("canary", analysed(2), before=(analysed(1),), ends=("Promoted",)),
    Scenario("canary-fails", analysed(FAILING), before=(analysed(1),), ends=("RolledBack",)),
    said_while_paused("canary-aborted", "abort", "RolledBack"),
    said_while_paused("canary-promoted", "promote", "Promoted"),
    said_while_paused("canary-skipped", "skip", "Promoted"),
    Scenario(
        "canary-retried",
        command("retry", on="rejected"),
        before=(paused(1), paused(2), command("abort")),
        ends=("Paused",),
    ),
    # A third revision in mid-rollout: one canary goes, another comes, and never have both requests.
    Scenario("canary-replaced", by_steps(3), before=(paused(1), paused(2)), begins=("Paused",), ends=("Promoted",)),
    Scenario("canary-set-back", paused(1), before=(paused(1), paused(2)), begins=("Paused",), ends=("Promoted",)),
    Scenario(
        "bake-aborted",
        command("abort", on="stable"),
        before=(baking(1), baking(2)),
        begins=("Baking",),
        ends=("RolledBack",),
    ),
    Scenario(
        "rolled-back-to",
        command("rollback", on="previous"),
        before=(baking(1), baking(2)),
        begins=("Baking",),
        ends=("RolledBack",),
    ),
    Scenario("canary-by-replicas", ratio(2), before=(ratio(1),), ends=("Promoted",)),
    Scenario("router-goes", ratio(1), before=(by_steps(1),)),
    Scenario("router-comes", by_steps(1), before=(ratio(1),)),
)
