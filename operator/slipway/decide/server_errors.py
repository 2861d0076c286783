"""Which pods leave the Service because their servers answer their own request with server errors.

An agent can't know whether others do better; here all of a workload's are seen. A pod leaves only while another one of
its workload serves and answers well, and it comes back only after a good answer:

    a fails                        b answers well                      a is out
    a is out, not heard            b answers well                      a is out: silence is no good answer
    a is out, b ends or starts     nobody answers well for a moment    a is out: it would only come back to fail
    a fails, b fails               nobody answers well                 none: out, they would help nobody
    a answers well again           b …                                 none

Each change is one write of the workload's orders. An agent of an older release says nothing, and is never named.
Pure.
"""

from __future__ import annotations

from collections.abc import Sequence

from slipway.model.workload import Workload


def pods_out(here: Workload, before: Sequence[str]) -> tuple[str, ...]:
    """The pods that the orders name, sorted. before: those that they named until now."""
    known = {each.name: each.server_error for each in here.members}
    out = {name for name, error in known.items() if error or (error is None and name in before)}
    if any(each.is_ready and each.server_error == "" and each.name not in out for each in here.members):
        return tuple(sorted(out))
    if all(known.values()):
        return ()
    return tuple(sorted(out.intersection(before)))
