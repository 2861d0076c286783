"""How old the pods' agents are, and what a refresh would change: condition AgentsOutdated.

A new operator restarts no pod, so pods keep the agent they have, defects included. Those that are older than the
operator's floor (`AGENT_FLOOR`) are named. It is no part of Degraded: after an upgrade it may hold for thousands of
models that serve well, and alerts on Degraded must stay worth waking up for.
Invariant: what was found out stands while nobody is asked, and while an agent doesn't answer for a moment.
Pure.
"""

from __future__ import annotations

from slipway.api.status import AgentsStatus, Condition, ModelDeploymentStatus
from slipway.observe.agent_reports import AGENT_FLOOR
from slipway.observe.pods import Pod
from slipway.observe.snapshot import Snapshot
from slipway.report.pass_result import PassResult

AGENTS_OUTDATED = "AgentsOutdated"
TOO_OLD = "AgentsTooOld"
REFRESH_AVAILABLE = "RefreshAvailable"
MAX_NAMED = 5


def agents_status(
    result: PassResult, snapshot: Snapshot, stored: ModelDeploymentStatus
) -> tuple[AgentsStatus | None, Condition]:
    """How old they are, for the status; None: never found out. Then the condition."""
    running = [pod for pod in snapshot.pods if not pod.is_ending and pod.ip is not None]
    are_all_heard = all(pod.report is not None for pod in running)
    if result.are_settled or not are_all_heard:
        before = stored.condition(AGENTS_OUTDATED)
        if before is not None and before.status == "True" and stored.agents is not None and stored.agents.outdated:
            return stored.agents, before
        unknown = Condition(
            type=AGENTS_OUTDATED, status="Unknown", reason="NotReported", message="no agent has said its release yet"
        )
        return stored.agents, unknown if stored.agents is None else _no_trouble(result)
    old = [pod for pod in running if pod.report is not None and pod.report.is_below_floor]
    status = AgentsStatus(floor=AGENT_FLOOR, outdated=len(old))
    return status, _outdated(result.name, old, len(running)) if old else _no_trouble(result)


def _outdated(name: str, old: list[Pod], running: int) -> Condition:
    releases = sorted({pod.report.release for pod in old if pod.report is not None})
    said = ", ".join(release or "too old to tell its release" for release in releases)
    return Condition(
        type=AGENTS_OUTDATED,
        status="True",
        reason=TOO_OLD,
        message=f"the agent is older than {AGENT_FLOOR} ({said}) in {len(old)} of {running} pods: "
        f"{_named([pod.name for pod in old])}. They serve on; what was mended since is not in them. To replace them "
        f"one by one, without losing a request: kubectl slipway refresh {name}",
    )


def _no_trouble(result: PassResult) -> Condition:
    offer = result.carried_out.rendered.offer if result.carried_out is not None else ""
    if offer:
        message = f"a refresh would change: {offer}. To do it, pod by pod: kubectl slipway refresh {result.name}"
        return Condition(type=AGENTS_OUTDATED, status="False", reason=REFRESH_AVAILABLE, message=message[:4096])
    return Condition(
        type=AGENTS_OUTDATED,
        status="False",
        reason="AsExpected",
        message=f"no agent is older than {AGENT_FLOOR}; a refresh would change nothing",
    )


def _named(pods: list[str]) -> str:
    more = len(pods) - MAX_NAMED
    return ", ".join(sorted(pods)[:MAX_NAMED]) + (f" and {more} more" if more > 0 else "")
