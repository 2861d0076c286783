"""Reads what the agents in model pods report: GET http://POD:8081/status. They are never told anything here.

Invariant: an agent that can't be reached is no report, never an error: pods come and go, and the operator may run where
it can't reach them.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable

import aiohttp

from slipway import metrics
from slipway.manifests import AGENT_PORT
from slipway.observe import AgentReport, Pod, read_report

TIMEOUT_SECONDS = 2.0
MAX_REPORT_BYTES = 256 * 1024
AT_ONCE = 64


class Agents:
    """A bounded pool of connections to agents."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None
        self._slots = asyncio.Semaphore(AT_ONCE)

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()

    async def read_reports(self, pods: Iterable[Pod]) -> dict[str, AgentReport]:
        """Pod uid → its agent's report, for those that answer."""
        asked = [pod for pod in pods if pod.ip and not pod.is_ending]
        reports = await asyncio.gather(*(self._read(pod) for pod in asked))
        return {pod.uid: report for pod, report in zip(asked, reports, strict=True) if report is not None}

    async def _read(self, pod: Pod) -> AgentReport | None:
        if self._session is None:
            timeout = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
            connector = aiohttp.TCPConnector(limit=AT_ONCE, force_close=True)
            self._session = aiohttp.ClientSession(timeout=timeout, connector=connector)
        host = f"[{pod.ip}]" if pod.ip and ":" in pod.ip else pod.ip
        async with self._slots:
            try:
                async with self._session.get(f"http://{host}:{AGENT_PORT}/status") as response:
                    report = read_report(json.loads(await _read_all(response.content)))
            except (aiohttp.ClientError, OSError, TimeoutError, ValueError):
                metrics.AGENT_READS.labels("unreachable").inc()
                return None
        metrics.AGENT_READS.labels("ok").inc()
        return report


async def _read_all(stream: aiohttp.StreamReader) -> bytes:
    """A whole answer. Raises ValueError for one that no agent would give."""
    answer = bytearray()
    async for chunk in stream.iter_any():
        answer += chunk
        if len(answer) > MAX_REPORT_BYTES:
            raise ValueError(f"a report of more than {MAX_REPORT_BYTES} bytes")
    return bytes(answer)
