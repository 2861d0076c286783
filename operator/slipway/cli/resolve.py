"""Which object and revision were typed, whether a command can work now, and which commands may come next.

Invariant: a command names its revision, so that a late one does nothing to another revision; a command that can't work
is refused before anything is written, and the message says what to type instead.
Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from slipway.cli.errors import CommandError, failed, misused, not_found
from slipway.cli.view import View
from slipway.model.revision import Revision

VERBS = ("promote", "pause", "resume", "abort", "skip", "retry", "rollback", "refresh")
WAYS = {"RollingUpdate": "pod by pod", "InPlace": "in place"}
SHORTEST_PREFIX = 4
"""Characters of a hash that name a revision. Fewer are more likely a version number that does not exist."""
ROLES = ("stable", "canary", "previous")


@dataclass(frozen=True, slots=True)
class Hint:
    """A command that may come next: its words after `slipway`, and its effect."""

    words: str
    effect: str


# --- names ---


def model_name(typed: str) -> str:
    """The name in `digits`, `mdep/digits` or `modeldeployment.slipway.dev/digits`: the forms that kubectl takes.

    >>> model_name("mdep/digits")
    'digits'
    """
    kind, slash, name = typed.rpartition("/")
    kind = kind.lower().partition(".")[0]
    if slash and kind not in ("mdep", "modeldeployment", "modeldeployments"):
        raise misused(f"{typed!r} is not a ModelDeployment; type digits or mdep/digits")
    return name


def no_such_model(name: str, namespace: str, here: Sequence[str], elsewhere: Iterable[str], flags: str) -> CommandError:
    """For an unknown name: the same name elsewhere, else the nearest names here, else all names here.

    here: the names in the namespace; elsewhere: the namespaces that have this name.
    """
    others = sorted(set(elsewhere) - {namespace})
    missing = f"there is no ModelDeployment {name!r} in namespace {namespace}"
    if others:
        return not_found(f"{missing}, but in {_listed(others)}: add -n {others[0]}")
    if near := get_close_matches(name, here, n=3, cutoff=0.5):
        return not_found(f"{missing}; did you mean {' or '.join(near)}?")
    if here:
        return not_found(f"{missing}; there {_are(here)}")
    return not_found(
        f"{missing}: the namespace has none; slipway status -A{flags.replace(f' -n {namespace}', '')} lists all"
    )


def _are(names: Sequence[str]) -> str:
    return f"{'is' if len(names) == 1 else 'are'} {_listed(sorted(names))}"


def _listed(names: Sequence[str], most: int = 8) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def parse_span(typed: str) -> float:
    """Seconds in 90, 90s, 10m or 1h30m, as kubectl takes them.

    >>> [parse_span(text) for text in ("90", "90s", "10m", "1h30m", "1.5s")]
    [90.0, 90.0, 600.0, 5400.0, 1.5]
    """
    parts = re.fullmatch(r"(?:([0-9.]+)h)?(?:([0-9.]+)m)?(?:([0-9.]+)s?)?", typed.strip())
    try:
        if parts is None or not any(parts.groups()):
            raise ValueError
        hours, minutes, seconds = (float(part or 0) for part in parts.groups())
    except ValueError:
        raise misused(f"{typed!r} is not a time span; write it like 90s, 10m or 1h30m") from None
    return hours * 3600 + minutes * 60 + seconds


# --- revisions ---


def choose_revision(typed: str, history: Sequence[Revision], view: View) -> Revision:
    """The revision for a role (stable, canary, previous), a hash, the beginning of one, or a version number.

    history: in any order. A number that is some revision's version is never read as the beginning of a hash.
    Raises CommandError(NOT_FOUND), listing the revisions; or (USAGE) when several match.
    """
    by_hash = {revision.hash: revision for revision in history}
    if typed in ROLES:
        role = view.of_role(typed)  # type: ignore[arg-type]  # checked one line above
        if role is None:
            raise not_found(f"{view.name} has no {typed} revision now; {_known(history, view)}")
        if role.revision not in by_hash:
            raise not_found(f"the {typed} revision {role.revision} is no longer kept; {_known(history, view)}")
        return by_hash[role.revision]
    if typed in by_hash:
        return by_hash[typed]
    found = [revision for revision in history if re.fullmatch("[0-9]{1,9}", typed) and revision.version == int(typed)]
    what = "these revisions serve version"
    if not found:
        found = [each for each in history if len(typed) >= SHORTEST_PREFIX and each.hash.startswith(typed)]
        what = "these revisions begin with"
    if not found:
        raise not_found(f"{view.name} has no revision {typed!r}; {_known(history, view)}")
    if len(found) > 1:
        raise misused(f"{what} {typed}: {_named(found, view)}; name one by its hash")
    return found[0]


def revision_before(history: Sequence[Revision], view: View) -> Revision:
    """The target of `rollback` without --to: the warm revision, else the newest that is older than stable.

    Rejected revisions are skipped. Raises CommandError when there is none, and while a canary is under way: a person
    may mean to leave the canary or stable.
    """
    canary, stable = view.of_role("canary"), view.of_role("stable")
    if stable is None:
        raise failed(f"no revision of {view.name} serves yet, so there is nothing to roll back from")
    if canary is not None:
        raise failed(
            f"revision {canary.revision} is taking over: abort sends all requests back to {stable.revision}; to leave "
            "stable too, name a revision with --to"
        )
    by_hash = {revision.hash: revision for revision in history}
    previous = view.of_role("previous")
    if previous is not None and previous.revision in by_hash:
        return by_hash[previous.revision]
    rejected = {each.revision for each in view.rejected}
    own = by_hash.get(stable.revision)
    older = [each for each in history if each.hash not in rejected and (own is None or each.number < own.number)]
    older = [each for each in older if each.hash != stable.revision]
    if not older:
        others = [each for each in history if each.hash != stable.revision]
        if others:
            raise failed(
                f"no kept revision is older than stable {stable.revision}; name one with --to: {_named(others, view)}"
            )
        raise failed(f"{stable.revision} is the only kept revision, so there is none to go back to")
    return max(older, key=lambda revision: revision.number)


def _known(history: Sequence[Revision], view: View) -> str:
    return f"there {'is' if len(history) == 1 else 'are'} {_named(history, view)}" if history else "none is kept"


def _named(history: Sequence[Revision], view: View) -> str:
    """Hash, version and role of each, the newest first."""
    roles = {each.revision: each.role for each in reversed(view.revisions)}
    newest = sorted(history, key=lambda revision: -revision.number)
    return _listed(
        [
            f"{each.hash} (version {each.version}{', ' + roles[each.hash] if each.hash in roles else ''})"
            for each in newest
        ]
    )


# --- commands ---


def revision_for(verb: str, view: View) -> str:
    """The revision for every verb but `rollback`. Raises CommandError when the command can't work now."""
    if verb == "retry":
        return _rejected(view)
    if verb == "refresh":
        return _refreshable(view)
    canary, stable = view.of_role("canary"), view.of_role("stable")
    if canary is None:
        if verb == "abort" and view.may_refresh and not view.bakes and stable is not None:
            return stable.revision
        if view.bakes and verb in ("promote", "abort") and stable is not None:
            return stable.revision  # promote ends the bake, abort goes back to what is warm
        raise failed(_nothing_runs(verb, view))
    if verb == "pause" and view.is_paused:
        raise failed(f"the rollout of {canary.revision} is paused already; resume continues it, abort takes it back")
    if verb == "resume" and not view.waits_for_person:
        raise failed(f"the rollout of {canary.revision} is not paused; skip ends its step now, promote ends all steps")
    if verb == "skip" and view.step_index == 0:
        raise failed(
            f"revision {canary.revision} still prepares: its first step has not begun; promote goes straight to 100 %"
        )
    if verb in ("pause", "resume", "skip", "promote") and not view.steps:
        way = canary.strategy or "without steps"
        raise failed(
            f"{verb} needs a rollout by steps, but {canary.revision} arrives {WAYS.get(way, way)}; abort takes it back"
        )
    return canary.revision


def _rejected(view: View) -> str:
    if view.pinned is not None:
        return view.pinned.instead_of
    if not view.rejected:
        raise failed(f"{view.name} has no rejected revision, so there is nothing to retry")
    return max(view.rejected, key=lambda each: each.at).revision


def _refreshable(view: View) -> str:
    if why := not_refreshable(view):
        raise failed(why)
    assert view.shown is not None
    return view.shown.revision


def not_refreshable(view: View) -> str:
    """Why pods can't be refreshed now, and what to do; empty: they can."""
    canary, stable = view.of_role("canary"), view.of_role("stable")
    if view.shown is None:
        return f"{view.name} has no revision with pods, so there is nothing to refresh: new pods have today's agent"
    if canary is not None and stable is not None:
        return f"revision {canary.revision} is taking over; refresh once that has ended, or abort it first"
    if view.bakes:
        return f"revision {view.shown.revision} bakes; refresh once that is over, or end it with promote"
    return ""


def _nothing_runs(verb: str, view: View) -> str:
    stable = view.of_role("stable")
    serving = f"revision {stable.revision} (version {stable.version}) serves alone" if stable else "nothing serves yet"
    nothing = f"no revision of {view.name} is taking over, so there is nothing to {verb}: {serving}"
    if view.pinned is not None:
        return f"{nothing}, because a person rolled back to it; retry serves {view.pinned.instead_of} again"
    if view.rejected:
        return f"{nothing}, and {view.rejected[-1].revision} is rejected; retry tries it again"
    if verb == "abort" and stable:
        return f"{nothing}; rollback goes back to the revision before it"
    return f"{nothing}; a change of the spec starts a rollout"


def next_commands(view: View) -> tuple[Hint, ...]:
    """The commands that a person may want now, the likeliest first."""
    canary, stable, previous = view.of_role("canary"), view.of_role("stable"), view.of_role("previous")
    name = view.name
    if canary is not None and stable is not None:
        back = Hint(f"abort {name}", f"all requests back to {stable.revision}")
        if not view.steps:
            return (back, Hint(f"diff {name}", "show what changes"))
        onward = Hint(f"promote {name}", "to 100 % now")
        if view.waits_for_person:
            return (Hint(f"resume {name}", "continue with the steps"), onward, back)
        return (onward, Hint(f"pause {name}", "stay at this weight"), back)
    if view.bakes:
        warm = f"{previous.revision}, which is warm" if previous else "the version before, still loaded"
        back = Hint(f"abort {name}", f"back to {warm}")
        return (back, Hint(f"promote {name}", "end the bake now"))
    if view.pinned is not None:
        return (Hint(f"retry {name}", f"try the spec's revision {view.pinned.instead_of} again"),)
    if view.rejected:
        rejected = view.rejected[-1].revision
        return (Hint(f"diff {name} {rejected}", "show what it changed"), Hint(f"retry {name}", f"try {rejected} again"))
    if view.is_refreshing:
        return (Hint(f"abort {name}", "back to the pods before the refresh"),)
    if view.agents is not None and view.agents.status == "True":
        return (Hint(f"refresh {name}", "today's agent and images, pod by pod"),)
    return ()
