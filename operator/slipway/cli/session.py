"""What a command works with: a client of the cluster, a terminal, and the flags and program name for hints.

Must not import: kubernetes; `cluster.py` is imported when a session opens, because that takes longer than all the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from slipway.cli.client import Client, ClusterFlags, Json
from slipway.cli.errors import CommandError, not_found
from slipway.cli.resolve import Hint, model_name, next_commands, no_such_model
from slipway.cli.terminal import Terminal, open_terminal
from slipway.cli.view import View


@dataclass(frozen=True, slots=True)
class Session:
    """One command under way. program: `slipway` or `kubectl slipway`, as it was called."""

    client: Client
    flags: ClusterFlags
    terminal: Terminal
    program: str

    def model(self, typed_name: str) -> Json:
        """The ModelDeployment of that name. Raises CommandError(NOT_FOUND) with the nearest names."""
        name = model_name(typed_name)
        if not name:
            raise no_such_model(name, self.client.namespace, self._names_here(), (), self.flags.as_typed)
        body = self.client.read_model(name)
        if body is None:
            here = self._names_here()
            self.refuse_unknown_namespace(here)
            elsewhere = () if name in here else self._namespaces_of(name)
            raise no_such_model(name, self.client.namespace, here, elsewhere, self.flags.as_typed)
        return body

    def refuse_unknown_namespace(self, here: Sequence[object]) -> None:
        """Raise CommandError(NOT_FOUND) when nothing was found `here` because the namespace does not exist."""
        if not here and self.client.has_namespace() is False:
            raise not_found(f"there is no namespace {self.client.namespace}; kubectl get namespaces lists them")

    def quiet(self) -> Session:
        """The same session, printing nothing."""
        return replace(self, terminal=replace(self.terminal, is_silent=True))

    def hints(self, view: View) -> tuple[Hint, ...]:
        """The commands that may come next, with this command's flags."""
        return tuple(Hint(hint.words + self.flags.as_typed, hint.effect) for hint in next_commands(view))

    def _names_here(self) -> Sequence[str]:
        try:
            return [str(each["metadata"]["name"]) for each in self.client.list_models()]
        except CommandError:
            return ()

    def _namespaces_of(self, name: str) -> Sequence[str]:
        try:
            found = self.client.list_models(everywhere=True)
        except CommandError:  # without the permission, this namespace's names must do
            return ()
        return [each["metadata"]["namespace"] for each in found if each["metadata"]["name"] == name]


def open_session(flags: ClusterFlags, program: str) -> Session:
    """A session with the cluster that the flags name. program: as in Session."""
    from slipway.cli import cluster  # late, see the module

    return Session(cluster.connect(flags), flags, open_terminal(), program)
