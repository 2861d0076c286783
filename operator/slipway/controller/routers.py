"""Reads what the routers say of themselves: what is in force, and what they counted. They are told nothing by it.

Two ports of a router's pod are asked: the one of requests, under a host name of its own, because the answer comes from
the very routes that requests take; and the one of stats. Envoy merges a histogram when it is asked for stats, but
answers with what it had before: so it is asked twice, first for the counters, then for the times of the same requests.
Invariant: a router that can't be reached is no report, never an error.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import aiohttp

from slipway.controller import metrics
from slipway.model.names import POD_HEADER, ROUTER_PORT, STATUS_HOST, STATUS_PORT
from slipway.observe.router_reports import MAX_STATS_BYTES, MAX_STATUS_BYTES, RouterPod, RouterReport, read_report

TIMEOUT_SECONDS = 2.0
AT_ONCE = 64
PLAIN = {"Accept-Encoding": "identity"}
"""And nothing is unpacked: 64 KiB of a packed answer may be 64 MiB, before its bytes can be counted."""
KEPT_SECONDS = 15.0
"""Between two looks in a rollout is a second; afterwards nothing is kept open to thousands of routers."""
COUNTERS = "/stats/prometheus?filter=%5Eslipway%5C.%7Cmembership_healthy%24"
TIMES = "/stats/prometheus?filter=upstream_rq_time%24"


class Routers:
    """A bounded pool of connections to routers."""

    def __init__(self, router_port: int = ROUTER_PORT, status_port: int = STATUS_PORT) -> None:
        self._ports = (router_port, status_port)
        self._session: aiohttp.ClientSession | None = None
        self._slots = asyncio.Semaphore(AT_ONCE)

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()

    async def read(self, pods: Iterable[RouterPod]) -> dict[str, RouterReport]:
        """Pod uid → its report, for those that answer. One that ends is asked while it answers: it still counts."""
        asked = [pod for pod in pods if pod.ip]
        reports = await asyncio.gather(*(self._read(pod) for pod in asked))
        return {pod.uid: report for pod, report in zip(asked, reports, strict=True) if report is not None}

    async def _read(self, pod: RouterPod) -> RouterReport | None:
        assert pod.ip is not None
        host = f"[{pod.ip}]" if ":" in pod.ip else pod.ip
        traffic, status = (f"http://{host}:{port}" for port in self._ports)
        async with self._slots:
            try:
                counters = await self._get(f"{status}{COUNTERS}", MAX_STATS_BYTES)
                # Between the two, so that its threads have time to bring their times together.
                routes = await self._get(f"{traffic}/", MAX_STATUS_BYTES, {"Host": STATUS_HOST}, of=pod.name)
                times = await self._get(f"{status}{TIMES}", MAX_STATS_BYTES)
            except (aiohttp.ClientError, OSError, TimeoutError, ValueError):
                metrics.ROUTER_READS.labels("unreachable").inc()
                return None
        report = read_report(
            pod.source, routes, f"{counters.decode(errors='replace')}\n{times.decode(errors='replace')}"
        )
        metrics.ROUTER_READS.labels("ok" if report is not None else "unreadable").inc()
        return report

    async def _get(self, url: str, most: int, headers: dict[str, str] | None = None, of: str | None = None) -> bytes:
        """A whole answer. Raises ValueError for one that no router would give, or another pod than `of`."""
        if self._session is None:
            timeout = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
            connector = aiohttp.TCPConnector(limit=2 * AT_ONCE, keepalive_timeout=KEPT_SECONDS)
            self._session = aiohttp.ClientSession(
                timeout=timeout, connector=connector, headers=PLAIN, auto_decompress=False
            )
        async with self._session.get(url, headers=headers, allow_redirects=False) as response:
            if response.status != 200:
                raise ValueError(f"{url} answered {response.status}")
            if of is not None and (whose := response.headers.get(POD_HEADER, "-")) not in ("", "-", of):
                raise ValueError(f"{url} is pod {whose}'s by now")
            answer = bytearray()
            async for chunk in response.content.iter_any():
                answer += chunk
                if len(answer) > most:
                    raise ValueError(f"{url} answered more than {most} bytes")
            return bytes(answer)
