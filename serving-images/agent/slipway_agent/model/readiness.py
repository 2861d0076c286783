"""Whether a pod may get traffic: the worker's verdict, and how the server is asked for it while no worker is there.

Values, and how they travel as JSON. Imports nothing of the agent: the supervisor reads them too, and has to stay small.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class ReadinessQuestion:
    """One request to the server on the pod's loopback, which it answers well while it has one version ready.

    body: JSON; None: the request has none. keys: header → the environment variable that holds its value; the value
    itself is written nowhere. expected: what the JSON answer must hold (`holds`); None: status 200 says it all.
    """

    port: int
    path: str
    method: str = "GET"
    body: str | None = None
    keys: Mapping[str, str] = field(default_factory=dict)
    expected: object = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a turn of the worker's loop comes to.

    is_judging: False: it has no configuration in force, or its turn failed, and the rest says nothing. stays_out: the
    pod keeps out of the Service on purpose: for its turn, held, or since its server answers with errors. knows_out: the
    operator's `out` names the pod, and the rest was judged with that in mind. version: what serves, which is what
    `question` asks the server for. why_not_…: what a failed probe says. Nine fields: a turn comes to that much.
    """

    is_judging: bool
    may_start: bool = False
    is_serving: bool = False
    stays_out: bool = False
    knows_out: bool = False
    generation: str | None = None
    version: int | None = None
    question: ReadinessQuestion | None = None
    why_not_started: str = ""
    why_not_ready: str = ""


def holds(expected: object, found: object) -> bool:
    """Whether a JSON value holds another one: an object all fields of it, a list each of its entries, somewhere.

    [{"version": "3"}] is held by [{"version": 2}, {"version": 3, "state": "READY"}], and not by {"version": "3"}.
    """
    if isinstance(expected, Mapping):
        return isinstance(found, Mapping) and all(
            name in found and holds(value, found[name]) for name, value in expected.items()
        )
    if isinstance(expected, list | tuple):
        return isinstance(found, list) and all(any(holds(each, entry) for entry in found) for each in expected)
    return not isinstance(found, Mapping | list) and str(expected) == str(found)


def write_verdict(verdict: Verdict) -> dict[str, Any]:
    """As JSON has it."""
    return asdict(verdict)


def read_verdict(raw: Any) -> Verdict | None:
    """What `write_verdict` wrote; None for anything else, such as another release's."""
    try:
        fields = dict(raw)
        question = fields.pop("question")
        return Verdict(**fields, question=None if question is None else ReadinessQuestion(**question))
    except (KeyError, TypeError, ValueError):
        return None
