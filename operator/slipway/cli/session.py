"""What every command has at hand: a cluster, a terminal, and how this person types commands.

Must not import: kubernetes; `cluster.py` is imported when a cluster is asked for the first time, because that takes
longer than everything else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from slipway.cli.client import Json, Target, World
from slipway.cli.errors import CommandError, not_found
from slipway.cli.resolve import Hint, no_such_model, plain_name, what_next
from slipway.cli.terminal import Terminal, open_terminal
from slipway.cli.view import View


@dataclass(frozen=True, slots=True)
class Session:
    """One command under way. typed: `slipway` or `kubectl slipway`, as it was called."""

    world: World
    target: Target
    terminal: Terminal
    typed: str

    def model(self, typed_name: str) -> Json:
        """The ModelDeployment of that name. Raises CommandError(NOT_FOUND) with the nearest names."""
        name = plain_name(typed_name)
        if not name:
            raise no_such_model(name, self.world.namespace, self._names_here(), (), self.target.flags)
        body = self.world.read_model(name)
        if body is None:
            here = self._names_here()
            self.refuse_unknown_namespace(here)
            elsewhere = () if name in here else self._namespaces_of(name)
            raise no_such_model(name, self.world.namespace, here, elsewhere, self.target.flags)
        return body

    def refuse_unknown_namespace(self, here: Sequence[object]) -> None:
        """Raise CommandError(NOT_FOUND) where nothing is found in a namespace because there is no such namespace."""
        if not here and self.world.has_namespace() is False:
            raise not_found(f"there is no namespace {self.world.namespace}; kubectl get namespaces lists them")

    def quiet(self) -> Session:
        """The same session, printing nothing."""
        return replace(self, terminal=replace(self.terminal, is_silent=True))

    def hints(self, view: View) -> tuple[Hint, ...]:
        """What to type next, with the flags that were typed now."""
        return tuple(Hint(hint.words + self.target.flags, hint.effect) for hint in what_next(view))

    def _names_here(self) -> Sequence[str]:
        return _names(self.world, everywhere=False)

    def _namespaces_of(self, name: str) -> Sequence[str]:
        try:
            found = self.world.list_models(everywhere=True)
        except CommandError:  # one who may not look everywhere gets the names of this namespace
            return ()
        return [each["metadata"]["namespace"] for each in found if each["metadata"]["name"] == name]


def _names(world: World, *, everywhere: bool) -> Sequence[str]:
    try:
        return [str(each["metadata"]["name"]) for each in world.list_models(everywhere=everywhere)]
    except CommandError:
        return ()


def open_session(target: Target, typed: str) -> Session:
    """A session with the cluster that the flags name. typed: as Session has it."""
    from slipway.cli import cluster  # see above

    return Session(cluster.connect(target), target, open_terminal(), typed)
