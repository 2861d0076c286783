"""A revision arrives in place: it takes over the stable one's workload, whose pods go over to the new version in turn.

    N = 4                                      in turn      out of the Service
    stable one, spec says two                  a            a   (it leaves, drains, loads 2 beside 1)
    a is ready with 2                          a b          b
    a b are ready with 2                       a b c        c
    a b c d are ready with 2                   two is stable; one stays loaded until bake is over
    or a can't load 2, or 2 fails its gates    nobody: a goes back, and b c d never had anything to do with it

One pod goes first, alone: on most servers a request that names no version gets the highest one loaded, and a version
that ends its server takes that along. Once it serves, a quarter of the pods may be out at once, those that are out for
another reason included. A single pod without a gate loads the version beside the old one and stays, since nobody could
stand in.

Back goes at once, in all pods that hold the new version: what they go back to is loaded, or was until a moment ago, and
served.
Pure.
"""

from __future__ import annotations

from collections.abc import Sequence

from slipway.decide import unsplit
from slipway.decide.step_input import StepInput
from slipway.model.rollout import Plan
from slipway.model.workload import Member, Turn


def go_on(given: StepInput) -> Plan:
    """The stable revision's pods load the target's version beside their own, those whose turn it is."""
    return unsplit.go_on(given, unsplit.shift(given), given.stable, _turn(given))


def _turn(given: StepInput) -> Turn | None:
    if given.goes_at_once:
        return None
    is_held, replicas = unsplit.holds(given), given.target.replicas
    members = given.here.members if given.is_carried else tuple(map(_not_yet, given.here.members))
    return Turn(next_in_turn(members, replicas), leaves=replicas > 1 or is_held, is_held=is_held)


def next_in_turn(members: Sequence[Member], replicas: int) -> tuple[str, ...]:
    """The pods that go over now or have gone, sorted by name.

    Of 4 that serve the old version: one. Of 8, of which one serves the new: that and two more. Of 8, of which one
    serves the new and one is unready: those two, and one more.
    """
    in_turn = {each.name for each in members if each.is_in_turn}
    serving = sum(each.is_ready and (each.has_switched or not each.is_in_turn) for each in members)
    most = max(1, replicas // 4)
    room = serving - (replicas - most)
    ready = sorted(each.name for each in members if each.is_ready and not each.is_in_turn)
    idle = sorted(each.name for each in members if not each.is_ready and not each.is_in_turn)
    if any(each.has_switched for each in members):
        # Each change of orders is one for all pods: as many as may go, go together.
        batch = ready[:room] if 2 * room >= most else []
        return tuple(sorted({*in_turn, *idle, *batch}))  # a pod that serves nothing costs nothing
    if in_turn:
        return tuple(sorted(in_turn))
    return tuple((ready if room > 0 else idle)[:1])


def _not_yet(member: Member) -> Member:
    return Member(member.name, member.is_ready, is_out=member.is_out)
