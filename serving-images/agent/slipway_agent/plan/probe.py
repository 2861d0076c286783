"""Whether a server that calls the served version ready answers it: it is asked its own request now and then.

A backend process may die while its server says that the version is ready; every request fails then, for ever. So the
served version is asked a golden request that it has passed, or a warm-up request, and its answers are judged:

    a server error (HTTP 5xx)          counts; the third in a row makes it `is_failing`
    any other answer, right or wrong   begins anew, and ends `is_failing`
    none (a time-out, a cut)           says nothing either way: a busy server is no broken one

The pod leaves the Service only where the operator, which sees the other pods, names it (`Config.is_out`); a good answer
brings it back. Nothing is asked while versions load or the pod goes over to another one, and an answer that came
beside a load says nothing.

Two worked examples. Errors at 30, 60 and 90 s: failing at 90 s. An error at 30 s, a time-out at 60 s, errors at 90 and
120 s: failing at 120 s.

Pure: no I/O, no clock.
"""

from dataclasses import dataclass, replace

from slipway_agent.model.probe import Probe
from slipway_agent.plan.world import World, is_out, is_ready

PROBE_SECONDS = 30.0
"""One request in half a minute costs no server anything, and three make a minute and a half: longer than the hiccup of
one that reloads a worker, short enough for whoever is on call."""
PATIENCE_SECONDS = 10.0
FAILURES = 3


@dataclass(frozen=True, slots=True)
class ProbeEnded:
    """An answer to a probe that began at `began`. status: None: none came. words: what the server complained of."""

    version: int
    began: float
    status: int | None
    words: str = ""


def follow(world: World, since: str) -> Probe:
    """The probe of what serves now. since: the date from which one that begins now counts.

    A server that starts, and another served version, begin anew; a pod that is to be out is asked at once.
    """
    served, probe = world.config.served, world.probe
    if world.config.question is None or served is None or not world.server.is_alive:
        return Probe()
    if probe.version == served:
        return probe
    if not is_ready(world):
        return Probe()
    wait_seconds = 0.0 if is_out(world) else PROBE_SECONDS
    return Probe(served, next_at=world.now + wait_seconds, since=since)


def is_due(world: World) -> bool:
    """It is time to ask, and nothing goes on that asking could disturb."""
    is_quiet = world.loading is None and world.left_at is None
    return is_quiet and world.probe.version is not None and is_ready(world) and world.now >= world.probe.next_at


def take_answer(world: World, ended: ProbeEnded) -> World:
    """`world.now`: when the answer came."""
    probe = replace(world.probe, next_at=world.now + PROBE_SECONDS)
    if ended.version != probe.version:
        return world
    is_error = ended.status is not None and is_server_error(ended.status)
    is_refusal = ended.status is not None and 400 <= ended.status < 500
    probe = replace(
        probe,
        asked=probe.asked + 1,
        failed=probe.failed + is_error,
        refused=probe.refused + is_refusal,
    )
    if ended.status is None or _was_beside_a_load(world, ended):
        return replace(world, probe=probe)
    if not is_error:
        return replace(world, probe=replace(probe, failures=0, is_failing=False, message=""))
    failures = probe.failures + 1
    is_failing = True if failures >= FAILURES else probe.is_failing
    return replace(world, probe=replace(probe, failures=failures, is_failing=is_failing, message=ended.words))


def is_server_error(status: int) -> bool:
    """504 is a time-out, told by somebody else."""
    return status >= 500 and status != 504


def _was_beside_a_load(world: World, ended: ProbeEnded) -> bool:
    return world.loading is not None or (world.last_load is not None and world.last_load.at >= ended.began)
