"""What runs on the loop's other threads, and the events that tell the loop of its end.

Each piece of work catches its own errors and returns one event. It neither reads nor changes the loop's state.
"""

import errno
import os
import queue
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from slipway_agent.fetching.pipeline import Job, fetch_version
from slipway_agent.model.errors import AgentError, CancelledError, Reason, SpecError, TransientError, UnchangedError
from slipway_agent.model.ledger import Published
from slipway_agent.model.probe import Question
from slipway_agent.model.server_state import LoadOutcome
from slipway_agent.model.signature import Signature
from slipway_agent.plan.discovery import ListError
from slipway_agent.plan.probe import PATIENCE_SECONDS, ProbeEnded
from slipway_agent.plan.transitions import LoadEnded
from slipway_agent.plan.world import World
from slipway_agent.servers.base import Server
from slipway_agent.servers.wrappers.golden import read_file
from slipway_agent.sources.base import ModelSource, Progress
from slipway_agent.sources.secrets import SecretStamp
from slipway_agent.volume.models_volume import ModelVolume

FetchOutcome: TypeAlias = Published | AgentError | UnchangedError | CancelledError
ListOutcome: TypeAlias = Mapping[int, str | None] | ListError
SignatureOutcome: TypeAlias = Signature | TransientError | None


@dataclass(frozen=True, slots=True)
class FetchEnded:
    job: Job
    progress: Progress
    seconds: float
    outcome: FetchOutcome


@dataclass(frozen=True, slots=True)
class Listed:
    """What the source answered; `secret` is the Secret that it was asked with."""

    source: ModelSource
    secret: SecretStamp
    outcome: ListOutcome


@dataclass(frozen=True, slots=True)
class SignatureRead:
    """What the server answered about a version's inputs and outputs, when it had the bytes of that digest."""

    server: Server
    version: int
    digest: str | None
    outcome: SignatureOutcome


@dataclass(frozen=True, slots=True)
class Stop:
    signal: str


WorkEnded: TypeAlias = FetchEnded | LoadEnded | Listed | SignatureRead | ProbeEnded
Event: TypeAlias = WorkEnded | Stop


class Worker:
    """A thread that does one thing at a time.

    Not a ThreadPoolExecutor: that one is joined at exit, and a read from a dead NFS server would hold up SIGTERM.
    """

    def __init__(self, name: str) -> None:
        self._work: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def submit(self, work: Callable[[], None]) -> None:
        """Queue work, which must catch its own errors."""
        self._work.put(work)

    def _run(self) -> None:
        while True:
            self._work.get()()


def fetch_now(job: Job, progress: Progress, source: ModelSource, volume: ModelVolume, server: Server) -> FetchEnded:
    began = time.monotonic()
    outcome: FetchOutcome
    try:
        outcome = fetch_version(job, source, volume, server, progress)
    except (AgentError, UnchangedError, CancelledError) as ending:
        outcome = ending
    except Exception as defect:
        outcome = TransientError(
            f"version {job.version} ({job.place}) can't be fetched: {name_defect(defect)}; it is tried again. If it "
            "stays, report this line"
        )
    return FetchEnded(job, progress, time.monotonic() - began, outcome)


def load_now(server: Server, versions: frozenset[int], world: World) -> LoadEnded:
    """`world`: as it was when the load was decided."""
    began = time.monotonic()
    outcome: LoadOutcome | AgentError
    try:
        outcome = server.load(versions)
    except Exception as cause:
        outcome = explain_write(cause)
    seconds = time.monotonic() - began
    return LoadEnded(
        asked=versions,
        ready_before=world.server.ready,
        published_before=world.published,
        config=world.config,
        seconds=seconds,
        outcome=outcome,
    )


def list_now(source: ModelSource, secret: SecretStamp) -> Listed:
    outcome: ListOutcome
    try:
        outcome = source.list_versions()
    except AgentError as error:
        outcome = ListError(error.reason, error.message)
    except Exception as defect:
        words = f"the source can't be listed: {name_defect(defect)}; it is tried again"
        outcome = ListError(Reason.SOURCE_UNAVAILABLE, words)
    return Listed(source, secret, outcome)


def read_signature_now(server: Server, version: int, digest: str | None) -> SignatureRead:
    outcome: SignatureOutcome
    try:
        outcome = server.signature(version)
    except TransientError as cause:
        outcome = cause
    except Exception as defect:
        outcome = TransientError(name_defect(defect))
    return SignatureRead(server, version, digest, outcome)


def probe_now(server: Server, volume: ModelVolume, version: int, question: Question) -> ProbeEnded:
    """What the version answers to its own request. What can't be asked says nothing."""
    began = time.monotonic()
    try:
        request = question.request if question.file is None else read_file(volume, version, question.file)[0].request
        answer = server.ask(version, request, PATIENCE_SECONDS)
    except Exception:  # a golden file that went, or a defect: neither is the server's
        return ProbeEnded(version, began, None)
    return ProbeEnded(version, began, answer.status, answer.words or "")


def explain_write(cause: Exception) -> AgentError:
    """Why a server's configuration couldn't be written, or a load couldn't be tried."""
    if isinstance(cause, AgentError):
        return cause
    if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
        message = "the server's configuration can't be written: the pod's model volume is full. Free some on the node"
        return SpecError(Reason.DISK_FULL, message)
    return TransientError(f"the server can't be configured: {name_defect(cause)}; it is tried again")


def name_defect(defect: BaseException) -> str:
    where = locate(defect)
    return f"{where['error']} at {where['at']}"


def locate(defect: BaseException) -> dict[str, str]:
    """One line for what would be a traceback: the error and the innermost place of ours."""
    frames = traceback.extract_tb(defect.__traceback__)
    ours = [frame for frame in frames if "slipway_agent" in frame.filename] or list(frames)
    at = f"{os.path.basename(ours[-1].filename)}:{ours[-1].lineno}" if ours else "unknown"
    return {"error": f"{type(defect).__name__}: {defect}", "at": at}
