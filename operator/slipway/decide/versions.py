"""Which versions of a model are loaded: the policy of the spec, applied to the versions that were found.

Invariant: the served version is always in the answer and is always its highest, because every server answers an
unversioned request with the highest version it has loaded.
Pure; this is the only place where versions are chosen.
"""

from __future__ import annotations

from collections.abc import Iterable

from slipway.api.v1alpha1 import VersionPolicy


def resolve_served(asked: int | None, found: Iterable[int], stable: int | None, canary: int | None) -> int | None:
    """The version that clients get: the one that the spec names, else the newest one found; None while none is.

    Discovery only moves up, and never in the middle of a rollout that has something to go back to.
    stable, canary: versions of the same place's revisions that serve and that take over, None without one.

    >>> resolve_served(None, [1, 2, 3], 2, None), resolve_served(None, [1], 2, None), resolve_served(None, [4], 2, 3)
    (3, 2, 3)
    >>> resolve_served(1, [1, 2, 3], 2, None)
    1
    """
    if asked is not None:
        return asked
    if canary and stable:
        return canary
    return max([*found, stable or 0]) or None


def choose_versions(policy: VersionPolicy | None, served: int, listed: Iterable[int]) -> tuple[int, ...]:
    """The versions to load, ascending.

    `listed` are the versions found at the URI; it may be empty while no agent has listed it yet: then the served
    version alone is loaded and the others follow.

    >>> choose_versions(VersionPolicy.model_validate({"latest": {"count": 2}}), 3, [1, 2, 3, 4])
    (2, 3)
    >>> choose_versions(VersionPolicy.model_validate({"all": {}}), 3, [1, 2, 3, 4])
    (1, 2, 3)
    """
    below = sorted({version for version in listed if version < served})
    match policy:
        case None:
            others: list[int] = []
        case VersionPolicy(latest=latest) if latest is not None:
            others = below[len(below) - (latest.count - 1) :] if latest.count - 1 < len(below) else below
        case VersionPolicy(specific=specific) if specific is not None:
            # Not limited to what is listed: a version that isn't there is reported by the agent, not skipped.
            others = sorted({version for version in specific.versions if version < served})
        case _:
            others = below
    return (*others, served)


def needs_listing(policy: VersionPolicy | None) -> bool:
    """Whether the policy can only be applied to a listing of what is there."""
    if policy is None or policy.specific is not None:
        return False
    return policy.latest is None or policy.latest.count > 1
