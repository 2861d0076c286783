"""The log lines of what changed between two reports, and of a fetch that goes on."""

from dataclasses import dataclass

from slipway_agent.fetching.pipeline import Job
from slipway_agent.model.ledger import describe_bytes
from slipway_agent.plan.world import Fetching
from slipway_agent.reporting.log import Log
from slipway_agent.reporting.report import Report, VersionReport
from slipway_agent.sources.base import Progress
from slipway_agent.sources.secrets import SecretStamp

PROGRESS_SECONDS, PROGRESS_SHARE = 5.0, 0.1


def log_changes(log: Log, before: Report, now: Report) -> None:
    earlier = {each.version: each for each in before.versions}
    for each in now.versions:
        known = earlier.pop(each.version, None)
        if known is None or (known.state, known.reason) != (each.state, each.reason):
            _log_version(log, known, each)
    for gone in earlier:
        log.info("version gone", version=gone)
    if now.is_serving != before.is_serving:
        log.info("pod is ready" if now.is_serving else "pod isn't ready", served=now.served)


def _log_version(log: Log, earlier: VersionReport | None, now: VersionReport) -> None:
    fields: dict[str, object] = {"version": now.version, "state": now.state.value}
    if earlier is not None:
        fields["before"] = earlier.state.value
    if not now.reason:
        log.info("version state", **fields)
    else:
        log.warning("version state", **fields, reason=now.reason, detail=now.message)


@dataclass(slots=True)
class FetchInHand:
    """The fetch that goes on, the Secret that it began with, and what the log last said of it."""

    job: Job
    progress: Progress
    secret: SecretStamp
    logged_at: float
    logged_share: float = 0.0

    def describe(self) -> Fetching:
        job, progress = self.job, self.progress
        fetched_bytes, total_bytes = progress.fetched_bytes, progress.total_bytes
        return Fetching(job.version, job.location, job.pin, fetched_bytes, total_bytes, public_keys=job.public_keys)

    def log_progress(self, log: Log, now: float) -> None:
        """A line every few seconds, or every tenth of the bytes."""
        done, total = self.progress.fetched_bytes, self.progress.total_bytes
        share = done / total if total else 0.0
        if now - self.logged_at < PROGRESS_SECONDS and share - self.logged_share < PROGRESS_SHARE:
            return
        if done in (0, total):
            return  # begun and ended have lines of their own
        self.logged_at, self.logged_share = now, share
        percent = f"{share:.0%}" if total else "unknown"
        log.info("fetching", version=self.job.version, fetched=describe_bytes(done), percent=percent)
