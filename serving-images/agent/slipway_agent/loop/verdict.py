"""What a turn of the loop comes to, for the supervisor: it answers the probes by it, and goes on by it alone.

Pure: no I/O, no clock.
"""

from slipway_agent.model.readiness import Verdict
from slipway_agent.plan.world import World, is_out, is_ready
from slipway_agent.reporting.endpoints import explain_readiness, explain_start
from slipway_agent.reporting.report import Report
from slipway_agent.servers.base import Server


def compose_verdict(world: World, report: Report, server: Server) -> Verdict:
    """`report` is that World's. What serves is the served version, else the one that stands."""
    version = world.config.served if is_ready(world) else world.standing
    return Verdict(
        is_judging=True,
        may_start=report.may_start,
        is_serving=report.is_serving,
        stays_out=world.left_at is not None or is_out(world),
        knows_out=world.config.is_out,
        generation=world.config.generation,
        version=version,
        question=server.readiness_question(version) if version is not None else None,
        why_not_started="" if report.may_start else explain_start(report),
        why_not_ready="" if report.is_serving else explain_readiness(report),
    )


def no_verdict(report: Report) -> Verdict:
    """Of a turn that had no configuration in force, or failed."""
    return Verdict(False, why_not_started=explain_start(report), why_not_ready=explain_readiness(report))
