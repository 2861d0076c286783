"""A person's command: written as an annotation, and waited for until the operator has said what became of it.

Invariant: one annotation is all that is ever written; the spec stays whoever's it is.
Must not import: kubernetes.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from slipway.api.status import CommandStatus, read_status
from slipway.cli import clock
from slipway.cli.client import Json, World
from slipway.cli.errors import CommandError, Exit, failed, not_found
from slipway.cli.terminal import complain

COMMAND_ANNOTATION = "slipway.dev/command"
FIRST_LOOK_SECONDS = 0.1
LONGEST_LOOK_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Order:
    """A command to a ModelDeployment."""

    name: str
    verb: str
    revision: str
    id: str

    @property
    def text(self) -> str:
        """As the annotation holds it."""
        return f"{self.verb}/{self.revision}/{self.id}"


def new_order(name: str, verb: str, revision: str) -> Order:
    """An order with an id of its own: two people who say the same are two commands."""
    return Order(name, verb, revision, f"{clock.now():%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}")


def give(world: World, order: Order, body: Json) -> None:
    """Write the annotation. Says so when it takes the place of one that was not read yet."""
    waiting = _unread(body)
    if waiting:
        complain(f"note: {waiting!r} was not read by the operator yet; {order.verb} takes its place")
    world.annotate(order.name, COMMAND_ANNOTATION, order.text)


def _unread(body: Json) -> str | None:
    text = _written(body)
    last = read_status(body.get("status")).last_command
    read_id = last.id if last is not None else None
    return text if text and text.rpartition("/")[2] != read_id else None


def _written(body: Json) -> str:
    return str(((body.get("metadata") or {}).get("annotations") or {}).get(COMMAND_ANNOTATION, ""))


def wait(world: World, order: Order, timeout_seconds: float) -> CommandStatus:
    """What the operator said to it. Raises CommandError when it does not say anything in time."""
    began = clock.seconds()
    pause = FIRST_LOOK_SECONDS
    while True:
        body = world.read_model(order.name)
        if body is None:
            raise not_found(f"ModelDeployment {order.name} was deleted before the operator read the command")
        last = read_status(body.get("status")).last_command
        if last is not None and last.id == order.id:
            return last
        if (now_there := _written(body)) != order.text:
            raise failed(f"{now_there or 'nothing'!r} stands in the command's place before the operator read it")
        left = began + timeout_seconds - clock.seconds()
        if left <= 0:
            raise CommandError(
                Exit.TIMED_OUT,
                f"the operator has not read the command within {timeout_seconds:g} s; is it running? It will be "
                f"carried out when it is, unless you take it away: kubectl -n {world.namespace} annotate mdep "
                f"{order.name} {COMMAND_ANNOTATION}-",
            )
        clock.sleep(min(pause, left))
        pause = min(pause * 1.5, LONGEST_LOOK_SECONDS)
