"""A workload: a Deployment of ours and its pods, with one revision at a time, and what troubles them.

Invariant: as observed; what should be is `model.rollout.Plan`'s.
Must not import: other parts of slipway. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why something is not ready: a CamelCase reason and a message in words for a person.

    needs_person: waiting alone will not end it.
    """

    reason: str
    message: str
    needs_person: bool = True


@dataclass(frozen=True, slots=True)
class Crash:
    """A pod's server ended by itself: how often so far, and its last words. pod: its uid."""

    pod: str
    ends: int
    message: str


@dataclass(frozen=True, slots=True)
class Turn:
    """Which pods of a workload may take its new revision up now, and how; as ordered, or as it is to be.

    pods: in place, the names of those that go over or have gone; None: all, for they are the revision's own.
    leaves: a pod is out of the Service, and drained, before it loads the version.
    is_held: a pod that has the version ready stays out of the Service until the version's signature was judged.
    """

    pods: tuple[str, ...] | None = None
    leaves: bool = False
    is_held: bool = False


@dataclass(frozen=True, slots=True)
class Member:
    """One pod of a workload, as far as turns go.

    is_in_turn: its orders are to go over, or it is the revision's own. has_switched: it is ready, and an unversioned
    request gets that version. is_out: its server serves, and its agent keeps it out of the Service, or has just
    let it in again. crash: the last time that its server ended by itself. server_error: the words of the server error
    that its own request gets again and again; empty: it is answered; None: that isn't known.
    """

    name: str
    is_ready: bool
    is_in_turn: bool = False
    has_switched: bool = False
    is_out: bool = False
    crash: Crash | None = None
    server_error: str | None = None


@dataclass(frozen=True, slots=True)
class Workload:
    """A Deployment's pods and their agents' configuration, as observed.

    revision: the one that its agents serve, or are to. replaces: the one before it in place, until bake is over.
    replicas: what the Deployment asks for. existing: its pods that are not ending. ready: of these, the ready ones.
    switched: of the ready ones, those whose agents say that the revision's version is what an unversioned request gets.
    is_fetching: a pod's agent is downloading, without error: that is progress.
    is_blocked: a pod can't be scheduled for want of resources.
    waits_for_room: what its pods wait for that isn't the revision's fault (a node, quota, a claim, an image's pull), in
    words; None: nothing. While it is set, no deadline counts.
    is_refused: a pod's agent or server can't use the revision's version, and waiting will not help.
    crashes: of its pods whose server has ended by itself.
    turn: which of the pods have the revision's orders; None: all, and nothing is held. members: the pods.
    Thirteen fields: each is observed on its own.
    """

    revision: str
    replicas: int
    existing: int
    ready: int
    replaces: str | None = None
    switched: int = 0
    is_fetching: bool = False
    is_blocked: bool = False
    waits_for_room: Trouble | None = None
    is_refused: bool = False
    crashes: tuple[Crash, ...] = ()
    turn: Turn | None = None
    members: tuple[Member, ...] = ()

    @property
    def server_error(self) -> str:
        """What all pods that serve the revision answer to their own request, a server error; empty: not all do."""
        said = [each.server_error for each in self.members if each.is_in_turn and (each.is_ready or each.server_error)]
        return said[0] or "" if said and all(said) else ""

    @property
    def ends(self) -> dict[str, int]:
        """Pod uid → how often its server has ended, of those that have."""
        return {crash.pod: crash.ends for crash in self.crashes}

    def other_than(self, revision: str | None) -> str | None:
        """In place, the revision that its pods have loaded beside that one, or go over to; None: none."""
        return next((each for each in (self.replaces, self.revision) if each and each != revision), None)


ABSENT = Workload("", 0, 0, 0)


def enough(replicas: int) -> int:
    """Ready pods that count as serving: a quarter may be missing, as in a Deployment.

    >>> [enough(n) for n in (1, 2, 3, 4, 8)]
    [1, 2, 3, 3, 6]
    """
    return replicas - replicas // 4


def workload_of(revision: str, workloads: Mapping[str, Workload]) -> str | None:
    """The workload of a revision; of several the one whose revision it is now, then the one with most ready pods."""
    found = [name for name, here in workloads.items() if revision in (here.revision, here.replaces)]
    return max(
        found,
        key=lambda name: (workloads[name].revision == revision, workloads[name].ready, name),
        default=None,
    )


def serving_pods(here: Workload) -> int:
    """Pods that serve the workload's revision. Taken over, ready ones may still serve what was there before."""
    return here.switched if here.replaces is not None else here.ready
