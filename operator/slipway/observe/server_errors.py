"""Servers that call a version ready and answer every request for it with an error, in words for a person.

An agent asks its own server a golden or warm-up request now and then (serving-images/agent/README.md), and says when it
gets a server error again and again. Which pods leave the Service for it is for `decide.server_errors`.
Must not import: decide, render, report, controller. Pure.
"""

from __future__ import annotations

from collections.abc import Collection

from slipway.model.workload import Member, Trouble, Workload
from slipway.observe.quoting import first_line

SERVER_ERRORS = "ServerErrors"
NAMES_SAID = 3
UNHEARD = "they were seen before, and its agent doesn't answer now"


def server_errors(here: Workload, out: Collection[str] = ()) -> Trouble | None:
    """That pods of a workload answer their own request with server errors; None: none does, as far as is known.

    out: those that are out of the Service for it; one whose agent is silent goes on being so.
    """
    found = (each for each in here.members if each.server_error or (each.server_error is None and each.name in out))
    failing = sorted(found, key=lambda each: (not each.server_error, each.name))
    if not failing:
        return None
    name, said = failing[0].name, first_line(failing[0].server_error or UNHEARD).rstrip(".")
    who = f"pod {name} answers its" if len(failing) == 1 else f"pods {', '.join(_names(failing))} answer their"
    place = "no other pod serves that could stand in, so nothing is taken out of the Service"
    if out or any(each.is_ready and not each.server_error for each in here.members):
        place = f"{'it is' if len(failing) == 1 else 'they are'} out of the Service until that is answered well"
    return Trouble(
        SERVER_ERRORS,
        f"{who} own golden or warm-up request with server errors: {said}; {place}. Read the server's log: kubectl logs "
        f"{name} -c server. For a new pod: kubectl delete pod {name}",
    )


def _names(failing: list[Member]) -> list[str]:
    """The first few: a message is no list."""
    names = [each.name for each in failing[:NAMES_SAID]]
    return names if len(failing) <= NAMES_SAID else [*names, f"{len(failing) - NAMES_SAID} more"]
