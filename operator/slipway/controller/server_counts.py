"""Reads what model servers count by themselves: GET http://POD:PORT/PATH, where no router counts for them.

Invariant: a pod that can't be read is missing from the reading, never zero in it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping

import aiohttp

from slipway.model.signals import Counts, Reading
from slipway.observe.agent_reports import AgentReport
from slipway.observe.pods import Pod
from slipway.observe.server_counts import Counter, read_counts

TIMEOUT_SECONDS = 2.0
MAX_PAGE_BYTES = 4 * 1024 * 1024
AT_ONCE = 64
PLAIN = {"Accept-Encoding": "identity"}
"""And nothing is unpacked: 64 KiB of a packed answer may be 64 MiB, before its bytes can be counted."""


class ServerCounts:
    """A bounded pool of connections to servers' metrics."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None
        self._slots = asyncio.Semaphore(AT_ONCE)

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()

    async def read(self, pods: Iterable[Pod], counters: Mapping[str, Counter]) -> Reading:
        """What the ready pods of these workloads counted since their servers started.

        missing: ready pods that did not answer, or whose server counts nothing; trouble: why, of one of them.
        """
        asked = [pod for pod in pods if pod.is_ready and not pod.is_ending and pod.workload in counters]
        answers = await asyncio.gather(*(self._read(pod, counters[pod.workload]) for pod in asked))
        counts = {
            _source(pod): {pod.workload: answer}
            for pod, answer in zip(asked, answers, strict=True)
            if isinstance(answer, Counts)
        }
        troubles = [answer for answer in answers if isinstance(answer, str)]
        return Reading(counts, len(troubles), troubles[0] if troubles else "")

    async def _read(self, pod: Pod, counter: Counter) -> Counts | str:
        """Its counts, or why there are none."""
        if counter.metrics is None:
            return f"pod {pod.name}: {counter.runtime} counts no failed requests"
        if pod.ip is None:
            return f"pod {pod.name} has no address yet"
        if counter.is_asked and pod.report is None:
            return f"pod {pod.name}: its agent doesn't answer, which alone knows what it asked the server itself"
        if self._session is None:
            timeout = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
            connector = aiohttp.TCPConnector(limit=AT_ONCE, force_close=True)
            self._session = aiohttp.ClientSession(
                timeout=timeout, connector=connector, headers=PLAIN, auto_decompress=False
            )
        host = f"[{pod.ip}]" if ":" in pod.ip else pod.ip
        url = f"http://{host}:{counter.port}{counter.metrics.path}"
        async with self._slots:
            try:
                async with self._session.get(url, allow_redirects=False) as response:
                    if response.status != 200:
                        return f"pod {pod.name}: {url} answers {response.status}"
                    page = await _read_all(response.content)
                return _of_clients(read_counts(page, counter), pod.report)
            except TimeoutError:
                return f"pod {pod.name}: {url} doesn't answer within {TIMEOUT_SECONDS:.0f} s"
            except (aiohttp.ClientError, OSError, ValueError) as error:
                return f"pod {pod.name}: {url}: {error}"


def _source(pod: Pod) -> str:
    """A name that changes when counters start anew: the server's, once it was started again, or its agent's."""
    name = pod.uid if pod.crash is None else f"{pod.uid}@{pod.crash.ends}"
    probe = pod.report.probe if pod.report is not None else None
    return name if probe is None else f"{name}/{probe.since}"


def _of_clients(counts: Counts, report: AgentReport | None) -> Counts:
    """Without what the pod's own agent asked. It counts as answered quickly: agents tell no latencies."""
    probe = report.probe if report is not None else None
    if probe is None:
        return counts
    requests = max(0, counts.requests - probe.asked)
    return Counts(
        requests,
        max(0, counts.errors - probe.failed),
        max(0, counts.refusals - probe.refused),
        tuple(min(requests, max(0, within - probe.asked)) for within in counts.within),
    )


async def _read_all(stream: aiohttp.StreamReader) -> str:
    """A whole page. Raises ValueError for one that no server would give."""
    page = bytearray()
    async for chunk in stream.iter_any():
        page += chunk
        if len(page) > MAX_PAGE_BYTES:
            raise ValueError(f"more than {MAX_PAGE_BYTES} bytes")
    return page.decode()
