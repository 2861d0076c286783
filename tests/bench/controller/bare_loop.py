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

from .workload import RecordedWrite, model_deployment, name_of

CONNECTIONS = 32


@dataclass(frozen=True, slots=True)
class BareLoop:
    """What the loop reached."""

    writes: int
    seconds: float

    @property
    def writes_per_second(self) -> float:
        return self.writes / self.seconds


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


async def run_bare_loop(api: ApiServer, writes: Sequence[RecordedWrite], uid: str, uids: dict[int, str]) -> BareLoop:
    """Replays the writes recorded for number 0 (of this uid) for each of the uids."""
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

    began = time.monotonic()
    async with asyncio.TaskGroup() as group:
        for _ in range(CONNECTIONS):
            group.create_task(replay())
    return BareLoop(writes=sent, seconds=time.monotonic() - began)
