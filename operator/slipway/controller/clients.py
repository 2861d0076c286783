"""The connections that passes read and write over, and what a pass reads beside the cache: reports, counts, golden
requests.

Invariant: who doesn't answer is missing from what is read, never zero in it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from slipway.api import ModelDeployment, SpecError
from slipway.controller.agents import Agents
from slipway.controller.kube import Cluster, ClusterError, TransientError
from slipway.controller.routers import Routers
from slipway.controller.server_counts import ServerCounts
from slipway.decide.inputs import Inputs
from slipway.model.revision import Json
from slipway.model.rollout import Plan
from slipway.model.signals import Reading
from slipway.model.workload import Trouble
from slipway.observe.agent_reports import AgentReport
from slipway.observe.router_reports import RouterReport, read_counts
from slipway.observe.server_counts import counters_of
from slipway.observe.snapshot import Snapshot
from slipway.render.agent_orders import golden_kept, golden_orders


@dataclass(frozen=True, slots=True)
class Clients:
    """One of each: the API server, the agents, the routers, the servers' own counts."""

    cluster: Cluster
    agents: Agents
    routers: Routers
    server_counts: ServerCounts

    async def close(self) -> None:
        """Close all connections."""
        await self.agents.close()
        await self.routers.close()
        await self.server_counts.close()
        await self.cluster.close()

    async def read_reports(self, snapshot: Snapshot) -> tuple[Mapping[str, AgentReport], Mapping[str, RouterReport]]:
        """Pod uid → what its agent reports; pod uid → what its router reports."""
        return await asyncio.gather(self.agents.read_reports(snapshot.pods), self.routers.read(snapshot.routers.pods))

    async def read_counts(self, deployment: ModelDeployment, snapshot: Snapshot) -> Reading:
        """What was counted so far: by the routers where requests reach them, else by the servers themselves."""
        if snapshot.service_target is not None and snapshot.service_target.is_router:
            return read_counts(snapshot.routers.pods, snapshot.routers.reports)
        carried = {workload: here.revision for workload, here in snapshot.workloads.items()}
        asked = [workload for workload, orders in snapshot.agent_orders.items() if orders.questions.is_asked]
        counters = counters_of(deployment, snapshot.revisions, carried, asked)
        return await self.server_counts.read(snapshot.pods, counters)

    async def read_golden(
        self, namespace: str, inputs: Inputs, plan: Plan, snapshot: Snapshot
    ) -> Json | Trouble | None:
        """What a revision that isn't stable is asked first, as in agent.json; None: nothing. Trouble: it can't be read.

        Raises TransientError.
        """
        gates = inputs.deployment.spec.rollout.gates
        if gates is None or gates.golden is None or plan.state.canary is None or inputs.target.is_rollback:
            return None
        if gates.golden.config_map is None:
            return golden_orders(gates.golden)
        if plan.state.step_index > 0:  # it has requests: what it was asked stays, whatever becomes of the ConfigMap
            return golden_kept(plan, snapshot)
        name = gates.golden.config_map.name
        try:
            found = await self.cluster.read("ConfigMap", namespace, name)
        except TransientError:
            raise
        except ClusterError as error:  # it waits for this alone; what else runs goes on
            return Trouble(
                "GoldenUnreadable",
                f"the API server refuses to read ConfigMap {name} of spec.rollout.gates.golden: {error.message}. Let "
                "the operator's service account read it, or write the requests into the spec",
            )
        try:
            return golden_orders(gates.golden, (found.get("data") or {}) if found is not None else None)
        except SpecError as error:
            return Trouble(error.reason, error.message)
