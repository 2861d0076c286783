"""What the loop's inbox takes: each piece of work that ended on another thread, and the signal to stop."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from slipway_agent.fetching.pipeline import Job
from slipway_agent.model.errors import AgentError, CancelledError, TransientError, UnchangedError
from slipway_agent.model.ledger import Published
from slipway_agent.model.signature import Signature
from slipway_agent.plan.discovery import ListError
from slipway_agent.plan.transitions import LoadEnded
from slipway_agent.servers.base import Server
from slipway_agent.sources.base import ModelSource, Progress
from slipway_agent.sources.secrets import SecretStamp

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


WorkEnded: TypeAlias = FetchEnded | LoadEnded | Listed | SignatureRead
Event: TypeAlias = WorkEnded | Stop
