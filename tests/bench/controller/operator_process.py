"""The operator as a process: started, watched from outside by /proc and its /metrics, stopped.

Invariant: measures what the kernel says of the process; the operator's own metrics are only asked where nobody else
can know (its queue, its own count of writes). Must not import slipway.
"""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

METRICS_PORT = 18080
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


class OperatorError(Exception):
    """The operator did not start, ended early, or does not answer."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Mebibytes."""

    resident: float
    resident_peak: float  # the kernel's high-water mark since the process began
    anonymous: float


@dataclass(frozen=True, slots=True)
class OperatorMetrics:
    """What the operator says of itself; a metric it does not export is None."""

    queue_depth: float | None
    model_deployments: float | None
    writes: float | None
    passes: float | None


class OperatorProcess:
    """One life of the operator."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path, started: float) -> None:
        self._process = process
        self._log = log
        self.started = started  # time.monotonic() just before exec

    @classmethod
    def start(cls, module: str, kubeconfig: Path, namespace: str, log: Path, launcher: tuple[str, ...] = ()) -> Self:
        """Starts `python -m MODULE`, or `python -m LAUNCHER... MODULE` where a launcher is given."""
        environment = os.environ | {
            "KUBECONFIG": str(kubeconfig),
            "SLIPWAY_NAMESPACES": namespace,
            "SLIPWAY_METRICS_PORT": str(METRICS_PORT),
            "SLIPWAY_LOG_FORMAT": "json",
            "SLIPWAY_TRITON_IMAGE": "slipway.dev/triton:bench",
            "SLIPWAY_AGENT_IMAGE": "slipway.dev/agent:bench",
            "PYTHONPATH": os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH", ""), "operator", "."])),
        }
        with log.open("ab") as out:
            started = time.monotonic()
            process = subprocess.Popen(
                [sys.executable, "-m", *launcher, module], env=environment, stdout=out, stderr=subprocess.STDOUT
            )
        return cls(process, log, started)

    @property
    def pid(self) -> int:
        return self._process.pid

    def assert_is_alive(self) -> None:
        if self._process.poll() is not None:
            tail = "\n".join(self._log.read_text(errors="replace").splitlines()[-15:])
            raise OperatorError(f"the operator ended with {self._process.returncode}; the end of {self._log}:\n{tail}")

    async def read_metrics(self) -> OperatorMetrics | None:
        """Returns None while nothing listens yet."""
        self.assert_is_alive()
        try:
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session,
                session.get(f"http://127.0.0.1:{METRICS_PORT}/metrics") as response,
            ):
                text = await response.text()
        except (aiohttp.ClientConnectionError, TimeoutError):
            return None
        totals: dict[str, float] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                totals[sample.name] = totals.get(sample.name, 0.0) + sample.value
        return OperatorMetrics(
            queue_depth=totals.get("slipway_queue_depth"),
            model_deployments=totals.get("slipway_modeldeployments"),
            writes=totals.get("slipway_api_writes_total"),
            passes=totals.get("slipway_pass_seconds_count"),
        )

    async def wait_until_idle(self, model_deployments: int, timeout_seconds: float) -> float:
        """Waits until the operator knows so many ModelDeployments and its queue is empty; returns monotonic time.

        It has passed over each of them at least once by then, where it counts its passes.
        """
        deadline = time.monotonic() + timeout_seconds
        metrics = None
        while time.monotonic() < deadline:
            metrics = await self.read_metrics()
            if (
                metrics is not None
                and (metrics.queue_depth or 0) == 0
                and (metrics.model_deployments is None or metrics.model_deployments >= model_deployments)
                and (metrics.passes is None or metrics.passes >= model_deployments)
            ):
                return time.monotonic()
            await asyncio.sleep(0.1)
        raise OperatorError(
            f"the operator is not idle with {model_deployments} ModelDeployments "
            f"after {timeout_seconds:.0f} s: {metrics}"
        )

    def memory(self) -> Memory:
        fields = {}
        for line in Path(f"/proc/{self._process.pid}/status").read_text().splitlines():
            key, _, value = line.partition(":")
            if value.endswith("kB"):
                fields[key] = int(value.split()[0]) / 1024
        return Memory(resident=fields["VmRSS"], resident_peak=fields["VmHWM"], anonymous=fields["RssAnon"])

    def cpu_seconds(self) -> float:
        """User and system time of all its threads so far."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS_PER_SECOND

    async def stop(self, timeout_seconds: float = 20) -> float:
        """Ends the process as Kubernetes would, by SIGTERM and then SIGKILL; returns the seconds it took."""
        began = time.monotonic()
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                await asyncio.to_thread(self._process.wait, timeout_seconds)
            if self._process.poll() is None:
                self._process.kill()
                self._process.wait()
        return time.monotonic() - began
