"""What the API server itself can take: the operator's own writes for N ModelDeployments, sent by a plain loop.

The same requests (recorded from the operator for one ModelDeployment, re-named for the rest), the same kind of
account, 32 connections; no watch, no thought, no queue. The operator's writes per second are held against this.
Must not import slipway.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

from tests.apiserver import ApiServer

from .machine import busy_seconds, describe_cpu, read_cpu_seconds
from .workload import RecordedWrite, model_deployment, name_of

CONNECTIONS = 32


@dataclass(frozen=True, slots=True)
class BareLoop:
    """What the loop reached.

    creation_seconds: how long it took before to create the ModelDeployments, which the operator's time has in it.
    cpu_seconds: of control plane and loop, creation included. cpu: whose they were, in words.
    """

    writes: int
    seconds: float
    creation_seconds: float
    cpu_seconds: float
    cpu: str

    @property
    def writes_per_second(self) -> float:
        return self.writes / self.seconds

    @property
    def writes_per_second_with_creation(self) -> float:
        return self.writes / (self.seconds + self.creation_seconds)


async def create_model_deployments(api: ApiServer, numbers: Sequence[int]) -> dict[int, str]:
    """Creates them all at once, over the session's connections; returns number → uid."""
    uids: dict[int, str] = {}
    waiting = iter(numbers)

    async def create() -> None:
        for number in waiting:
            uids[number] = (await api.create(model_deployment(number)))["metadata"]["uid"]

    async with asyncio.TaskGroup() as group:
        for _ in range(CONNECTIONS):
            group.create_task(create())
    return uids


async def run_bare_loop(api: ApiServer, writes: Sequence[RecordedWrite], uid: str, numbers: Sequence[int]) -> BareLoop:
    """Creates the ModelDeployments, then replays for each the writes recorded for number 0 (of this uid)."""
    cpu, began = read_cpu_seconds(), time.monotonic()
    uids = await create_model_deployments(api, numbers)
    created = time.monotonic()
    waiting = iter(uids.items())
    sent = 0

    async def replay() -> None:
        nonlocal sent
        for number, new_uid in waiting:
            for write in writes:
                renamed = write.renamed(name_of(0), uid, name_of(number), new_uid)
                await api.request(
                    renamed.method, renamed.path, body=renamed.body.encode(), content_type=renamed.content_type
                )
                sent += 1

    async with asyncio.TaskGroup() as group:
        for _ in range(CONNECTIONS):
            group.create_task(replay())
    ended, used = time.monotonic(), read_cpu_seconds()
    return BareLoop(
        writes=sent,
        seconds=ended - created,
        creation_seconds=created - began,
        cpu_seconds=busy_seconds(cpu, used),
        cpu=describe_cpu(cpu, used, ended - began),
    )
