"""Reads what the agents in model pods report: GET http://POD:8081/status and /listing. They are told nothing.

Invariant: an agent that can't be reached is no report, never an error: pods come and go, and the operator may run where
it can't reach them. Neither is one whose worker is away for a moment: what it said before counts no more. A pod runs a
stranger's code, which may answer in the agent's place: answers are bounded in bytes and time, and lead nowhere else.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp

from slipway.controller import metrics
from slipway.model.names import AGENT_PORT
from slipway.observe.agent_reports import AgentReport, read_found, read_report
from slipway.observe.pods import Pod

TIMEOUT_SECONDS = 2.0
MAX_REPORT_BYTES = 256 * 1024
AT_ONCE = 64
PLAIN = {"Accept-Encoding": "identity"}
"""And nothing is unpacked: 64 KiB of a packed answer may be 64 MiB, before its bytes can be counted."""
LISTING_WAIT_SECONDS = 50
"""How long an agent holds its answer while its listing stays the same; middleboxes forget a connection after 60."""


@dataclass(frozen=True, slots=True)
class Listing:
    """The versions that an agent found at its source. token: names this listing, to wait for the next one."""

    token: str
    found: Mapping[int, str | None]


class Agents:
    """A bounded pool of connections to agents."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None
        self._waiting: aiohttp.ClientSession | None = None
        self._slots = asyncio.Semaphore(AT_ONCE)

    async def close(self) -> None:
        """Close all connections."""
        for session in (self._session, self._waiting):
            if session is not None:
                await session.close()

    async def await_listing(self, ip: str, after: str) -> Listing | None:
        """The agent's listing as soon as it is another than `after`, else when it has waited long enough.

        None when it can't be reached or read. These requests rest at the agents, so no pool bounds their number.
        """
        if self._waiting is None:
            timeout = aiohttp.ClientTimeout(total=LISTING_WAIT_SECONDS + 5, sock_connect=TIMEOUT_SECONDS)
            connector = aiohttp.TCPConnector(limit=0, force_close=True)
            self._waiting = aiohttp.ClientSession(
                timeout=timeout, connector=connector, headers=PLAIN, auto_decompress=False
            )
        query = {"after": after, "wait": str(LISTING_WAIT_SECONDS)}
        try:
            async with self._waiting.get(f"{_address(ip)}/listing", params=query, allow_redirects=False) as response:
                response.raise_for_status()
                answer = _parse(await _read_all(response.content))
            return Listing(str(answer["token"]), read_found(answer["found"]))
        except (aiohttp.ClientError, OSError, TimeoutError, AttributeError, KeyError, TypeError, ValueError):
            return None

    async def read_reports(self, pods: Iterable[Pod]) -> dict[str, AgentReport]:
        """Pod uid → its agent's report, for those that answer."""
        asked = [pod for pod in pods if pod.ip and not pod.is_ending]
        reports = await asyncio.gather(*(self._read(pod) for pod in asked))
        return {pod.uid: report for pod, report in zip(asked, reports, strict=True) if report is not None}

    async def _read(self, pod: Pod) -> AgentReport | None:
        if self._session is None:
            timeout = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
            connector = aiohttp.TCPConnector(limit=AT_ONCE, force_close=True)
            self._session = aiohttp.ClientSession(
                timeout=timeout, connector=connector, headers=PLAIN, auto_decompress=False
            )
        assert pod.ip is not None
        async with self._slots:
            try:
                async with self._session.get(f"{_address(pod.ip)}/status", allow_redirects=False) as response:
                    response.raise_for_status()  # 503: the pod serves on, and its agent's worker is away
                    answer = _parse(await _read_all(response.content))
                    report = read_report(answer)
                    if report is not None and answer.get("pod") not in (None, "", pod.name):
                        raise ValueError(f"the address is pod {answer['pod']}'s by now")
            except (aiohttp.ClientError, OSError, TimeoutError, ValueError):
                metrics.AGENT_READS.labels("unreachable").inc()
                return None
        metrics.AGENT_READS.labels("ok").inc()
        return report


def _parse(answer: bytes) -> Any:
    """ValueError for what is no JSON, or is nested deeper than the stack: RecursionError would end the whole pass."""
    try:
        return json.loads(answer)
    except RecursionError:
        raise ValueError("nested too deep") from None


def _address(ip: str) -> str:
    return f"http://[{ip}]:{AGENT_PORT}" if ":" in ip else f"http://{ip}:{AGENT_PORT}"


async def _read_all(stream: aiohttp.StreamReader) -> bytes:
    """A whole answer. Raises ValueError for one that no agent would give."""
    answer = bytearray()
    async for chunk in stream.iter_any():
        answer += chunk
        if len(answer) > MAX_REPORT_BYTES:
            raise ValueError(f"a report of more than {MAX_REPORT_BYTES} bytes")
    return bytes(answer)
