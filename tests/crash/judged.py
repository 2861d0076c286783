"""Rollouts in trouble that isn't theirs, while every operator dies at its first write, on a real API server.

A rollout comes to a place (it prepares, is in its first step, at a pause, in its last step, bakes), then stable's pod
is deleted, or loses its readiness as when its agent starts anew, or nobody wants pods, or the operator is away.
From there on one operator after the other makes one write and is killed, after the answer and before it in turn, until
one has nothing to do; then all is well again, and the same; then a person goes on, and the same to the end. The history
of the ModelDeployment tells who became stable and why, and that nobody was rejected. And each way to become stable.
Run by `make judgement` (`python -m tests.crash --judged`); the same on a cluster that is a dictionary, with more
troubles: tests/transition/test_judgement.py.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from tests.apiserver import ApiServer, Manifest, read_access
from tests.judgement import ON_API_SERVER, Story, Trial, keep

from .conftest import ControlPlane
from .history import History, breaches
from .launcher import Moment
from .phases import rests
from .pod_player import PodPlayer
from .run import CrashRun, is_converged, wait_for
from .scenarios import NAME, STOPS, Edit, apply, baking, by_steps, command, in_place, paused, version

LIVES_AT_MOST = 300
AWAY_SECONDS = 6
OFF: Manifest = {"analysis": {"mode": "Off"}, "bakeSeconds": 1, "revisionHistoryLimit": 2}
HOUR = 3600


def rollout(number: int, *steps: Manifest, **more: object) -> Edit:
    """That version by these steps, in one pod."""
    return apply(model=version(number), replicas=1, rollout={**OFF, "steps": list(steps), **more})


@dataclass(frozen=True, slots=True)
class Place:
    """Where a rollout is. to: the edit that a version comes there by. is_there: by its status.

    goes_on: what a person says so that it comes to its end; None: it does by itself. is_held: the new version's pods
    run and are not ready.
    """

    to: Callable[[int], Edit]
    is_there: Callable[[Manifest], bool]
    goes_on: Edit | None = None
    is_held: bool = False


def in_force(weight: int) -> Callable[[Manifest], bool]:
    return lambda status: status.get("canary", {}).get("weightInForce") == weight


def is_preparing(status: Manifest) -> bool:
    return "canary" in status and status["step"]["index"] == 0


PLACES = {
    "preparing": Place(lambda number: rollout(number, {"weight": 20}), is_preparing, is_held=True),
    "first-step": Place(
        lambda number: rollout(number, {"weight": 20, "holdSeconds": HOUR}), in_force(20), command("skip")
    ),
    "pause": Place(
        lambda number: rollout(number, {"weight": 20}, {"pause": {}}),
        lambda status: status["phase"] == "Paused",
        command("resume"),
    ),
    "last-step": Place(
        lambda number: rollout(number, {"weight": 20}, {"weight": 100, "holdSeconds": HOUR}),
        in_force(100),
        command("promote"),
    ),
    "bake": Place(
        lambda number: rollout(number, {"weight": 20}, bakeSeconds=HOUR),
        lambda status: status["phase"] == "Baking",
        command("promote", on="stable"),
    ),
}


@dataclass(frozen=True, slots=True)
class Trouble:
    """happens, ends: to a namespace. is_told: what status says meanwhile; None: no operator looks."""

    happens: Callable[["Court", str], Awaitable[None]]
    ends: Callable[["Court", str], Awaitable[None]]
    is_told: Callable[[Manifest], bool] | None


@dataclass(frozen=True, slots=True)
class Court:
    """What a trial needs."""

    run: CrashRun
    api: ApiServer
    player: PodPlayer
    history: History

    async def read(self, namespace: str) -> Manifest:
        found = await self.api.read("ModelDeployment", namespace, NAME)
        assert found is not None
        return found

    async def live_in_turn(self, namespace: str, is_over: Callable[[Manifest], bool]) -> int:
        """Operators that each die at their first write, until one rests and it is over. Returns how many died."""
        for deaths in range(LIVES_AT_MOST):
            moment = (Moment.AFTER_ANSWER, Moment.BEFORE_ANSWER)[deaths % 2]
            async with self.run.life(namespace, 1, moment, is_awaited=False) as life:
                if await rests(self.run, namespace, life, lambda found: found is not None and is_over(found)):
                    return deaths
        found = await self.read(namespace)
        raise AssertionError(f"{namespace}: {LIVES_AT_MOST} operators died, and it isn't over: {found['status']}")


async def delete_stables_pod(court: Court, namespace: str) -> None:
    court.player.hold(namespace)
    workload = (await court.read(namespace))["status"]["stable"]["workload"]
    items, _ = await court.api.list_all("Pod", selector=f"slipway.dev/revision={workload}")
    for pod in items:
        if pod["metadata"]["namespace"] == namespace:
            await court.api.delete("Pod", namespace, pod["metadata"]["name"])


async def restart_its_agent(court: Court, namespace: str) -> None:
    await court.player.take_readiness(namespace, (await court.read(namespace))["status"]["stable"]["workload"])


async def be_well(court: Court, namespace: str) -> None:
    await court.player.release(namespace)


async def scale_to_zero(court: Court, namespace: str) -> None:
    await court.api.merge("ModelDeployment", namespace, NAME, {"spec": {"replicas": 0}})


async def scale_up(court: Court, namespace: str) -> None:
    await court.api.merge("ModelDeployment", namespace, NAME, {"spec": {"replicas": 1}})
    await be_well(court, namespace)


async def lose_it_and_be_back(court: Court, namespace: str) -> None:
    await delete_stables_pod(court, namespace)
    await asyncio.sleep(AWAY_SECONDS)


def is_stable_unavailable(status: Manifest) -> bool:
    return any((each["type"], each["reason"]) == ("Degraded", "StableUnavailable") for each in status["conditions"])


TROUBLES = {
    "pod-deleted": Trouble(delete_stables_pod, be_well, is_stable_unavailable),
    "agent-restarts": Trouble(restart_its_agent, be_well, is_stable_unavailable),
    "no-replicas": Trouble(scale_to_zero, scale_up, lambda status: status["phase"] == "ScaledToZero"),
    "operator-away": Trouble(lose_it_and_be_back, be_well, None),
}


async def arrive(court: Court, namespace: str, place: Place) -> None:
    """Version 1 serves, and version 2 has come that far, with an operator that nobody disturbs."""
    await court.run.make_namespace(namespace)
    async with court.run.life(namespace) as life:
        await place.to(1)(court.api, namespace)
        await court.run.wait_until_converged([namespace], life)
        if place.is_held:
            court.player.hold(namespace)
        await place.to(2)(court.api, namespace)

        async def is_there() -> bool:
            return place.is_there((await court.read(namespace))["status"])

        assert await wait_for(is_there, 0.5), f"{namespace}: {(await court.read(namespace))['status']}\n{life.tail()}"


async def try_one(court: Court, namespace: str, place: Place, trouble: Trouble) -> Trial:
    """The whole of one trial."""
    await arrive(court, namespace, place)
    deaths, is_told = 0, trouble.is_told
    await trouble.happens(court, namespace)
    if is_told is not None:
        deaths += await court.live_in_turn(namespace, lambda found: is_told(found["status"]))
    await trouble.ends(court, namespace)
    if place.goes_on is not None:
        deaths += await court.live_in_turn(namespace, lambda found: is_ready(found) and place.is_there(found["status"]))
        await place.goes_on(court.api, namespace)
    deaths += await court.live_in_turn(namespace, lambda found: is_converged(found, ("Promoted",)))
    assert breaches(court.history.of(namespace)) == [], f"{namespace}: requests went astray"
    return Trial(ON_API_SERVER, deaths, *heard(court.history, namespace))


def is_ready(model_deployment: Manifest) -> bool:
    conditions = model_deployment["status"]["conditions"]
    return any((each["type"], each["status"]) == ("Ready", "True") for each in conditions)


def heard(history: History, namespace: str) -> tuple[list[str], list[str]]:
    """Who became stable by which reason, and who was rejected, in every state that the ModelDeployment ever had."""
    story = Story()
    for seen in sorted(history.of(namespace), key=lambda seen: seen.version):
        if seen.kind == "ModelDeployment" and seen.content is not None:
            story.hear(seen.content.get("status", {}))
    return story.promotions, story.rejections


Trying = Callable[[Court, str], Awaitable[Trial]]


async def try_all(control_plane: ControlPlane, folder: Path, trials: Mapping[str, Trying]) -> dict[str, Trial]:
    """All of these, side by side in namespaces that are called as they are. Each counts in `make judgement`."""
    async with (
        ApiServer(read_access(control_plane.kubeconfig)) as api,
        PodPlayer(api) as player,
        History(api) as history,
    ):
        court = Court(CrashRun(control_plane, api, folder), api, player, history)
        done = await asyncio.gather(*(trial(court, name) for name, trial in trials.items()), return_exceptions=True)
        for name, result in zip(trials, done, strict=True):
            told = result if isinstance(result, Trial) else Trial(ON_API_SERVER, 0, *heard(history, name))
            keep(told)
            print(f"{name}: {told.deaths} operators ended, {', '.join(told.promotions)}, {told.rejections}")
    for result in done:
        if isinstance(result, BaseException):
            raise result
    return {name: result for name, result in zip(trials, done, strict=True) if isinstance(result, Trial)}


@dataclass(frozen=True, slots=True)
class Way:
    """A way to become stable. to, begins: where it begins, and the reasons of condition Promoted, or phases, by which
    that is told. edit: what makes it stable. ends: how that is told."""

    because: str
    edit: Edit
    to: tuple[Edit, ...] = ()
    begins: tuple[str, ...] = STOPS
    ends: tuple[str, ...] = ("Promoted",)


WAYS = {
    "first": Way("First", apply()),
    "steps-done": Way("StepsDone", by_steps(2), (by_steps(1),)),
    "promoted": Way("Person", command("promote"), (paused(1), paused(2)), ("Paused",)),
    "rolled-back-to": Way(
        "Person", command("rollback", on="previous"), (baking(1), baking(2)), ("Baking",), ("RolledBack",)
    ),
    "set-back": Way("SetBack", baking(1), (baking(1), baking(2)), ("Baking",)),
    "rolled-over": Way("RolledOver", apply(model=version(2)), (apply(),)),
    "loaded-everywhere": Way("LoadedEverywhere", in_place(2), (in_place(1),)),
}
"""StableWasDown needs a stable revision without pods: below."""


async def become_stable(court: Court, namespace: str, way: Way) -> Trial:
    await court.run.make_namespace(namespace)
    async with court.run.life(namespace) as life:
        for number, edit in enumerate(way.to, 1):
            await edit(court.api, namespace)
            ends = way.begins if number == len(way.to) else STOPS
            await court.run.wait_until_converged([namespace], life, ends)
    await way.edit(court.api, namespace)
    deaths = await court.live_in_turn(namespace, lambda found: is_converged(found, way.ends))
    return Trial(ON_API_SERVER, deaths, *heard(court.history, namespace))


async def replace_what_is_down(court: Court, namespace: str) -> Trial:
    """Stable's only pod doesn't come back, and somebody asks for another version."""
    await court.run.make_namespace(namespace)
    async with court.run.life(namespace) as life:
        await rollout(1, {"weight": 20})(court.api, namespace)
        await court.run.wait_until_converged([namespace], life)
        await delete_stables_pod(court, namespace)

        async def is_down() -> bool:
            return not (await court.read(namespace))["status"]["stable"]["readyReplicas"]

        assert await wait_for(is_down, 0.5), f"{namespace}: its pod is not missed\n{life.tail()}"
    workload = (await court.read(namespace))["status"]["stable"]["workload"]
    await court.player.release(namespace, but=workload)
    await rollout(2, {"weight": 20})(court.api, namespace)
    deaths = await court.live_in_turn(namespace, lambda found: is_converged(found, ("Promoted",)))
    return Trial(ON_API_SERVER, deaths, *heard(court.history, namespace))


@pytest.mark.parametrize("name", list(PLACES))
def test_in_trouble_that_is_not_its_own_nothing_is_promoted_or_rejected_though_every_operator_dies(
    name: str, control_plane: ControlPlane, tmp_path: Path
) -> None:
    trials = {f"{name}-{what}": partial(try_one, place=PLACES[name], trouble=TROUBLES[what]) for what in TROUBLES}
    for trial in asyncio.run(try_all(control_plane, tmp_path, trials)).values():
        assert trial.rejections == []
        assert trial.promotions == ["First", "Person" if name == "last-step" else "StepsDone"]


def test_each_way_to_become_stable_is_named_though_every_operator_dies(
    control_plane: ControlPlane, tmp_path: Path
) -> None:
    trials: dict[str, Trying] = {name: partial(become_stable, way=way) for name, way in WAYS.items()}
    done = asyncio.run(try_all(control_plane, tmp_path, {**trials, "stable-was-down": replace_what_is_down}))
    reasons = {name: trial.promotions[-1] for name, trial in done.items()}
    assert reasons == {**{name: way.because for name, way in WAYS.items()}, "stable-was-down": "StableWasDown"}
