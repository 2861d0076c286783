"""The commands: their names, options and help; what they do is in the modules that they call.

Invariant: nothing but one line on stderr and an exit code of `endings` comes of a mistake, whatever it is.
Must not import: kubernetes, or anything that does; `slipway --help` is to be there at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from slipway import __version__
from slipway.cli.errors import CommandError, Exit, failed, misused

if TYPE_CHECKING:
    from slipway.cli.client import Target

TRACE_VARIABLE = "SLIPWAY_TRACE"


class OneLine(TyperGroup):
    """A group of commands whose mistakes end in one line and an exit code."""

    def main(self, args: Any = None, *, standalone_mode: bool = True, **options: Any) -> Any:  # type: ignore[override]
        """Run a command. In standalone mode, as in a terminal, the process ends with its exit code."""
        code = self._ended(args, **options)
        if standalone_mode:
            sys.exit(code)
        return code

    def _ended(self, args: Any, **options: Any) -> int:
        try:
            result = super().main(args, standalone_mode=False, **options)
        except CommandError as error:
            _complain(error.message)
            return error.code
        except KeyboardInterrupt:
            return Exit.INTERRUPTED
        except Exception as error:
            if os.environ.get(TRACE_VARIABLE):
                raise
            return _unexpected(error)
        sys.stdout.flush()
        return result if isinstance(result, int) else Exit.DONE


def _unexpected(error: Exception) -> int:
    tell = getattr(error, "format_message", None)
    if tell is None:  # not typer's, for what was typed
        words = f"{type(error).__name__}: {error}"
        _complain(f"this should not have happened: {words}; {TRACE_VARIABLE}=1 shows where, please report it")
        return Exit.FAILED
    context = getattr(error, "ctx", None)
    path = getattr(context, "command_path", None) or "slipway"
    message = str(tell()).rstrip(".")
    _complain(f"{message[:1].lower()}{message[1:]}; {path} --help tells more")
    return Exit.USAGE


def _complain(message: str) -> None:
    from slipway.cli.terminal import complain

    complain(" ".join(message.split()))


app = typer.Typer(
    cls=OneLine,
    rich_markup_mode="rich",
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


class Form(StrEnum):
    """What scripts read."""

    JSON = "json"
    YAML = "yaml"


class Whom(StrEnum):
    """Who answers a prediction."""

    SERVICE = "service"
    STABLE = "stable"
    CANARY = "canary"
    BOTH = "both"


Name = Annotated[str, typer.Argument(metavar="NAME", help="The ModelDeployment; mdep/NAME is fine too.")]
Namespace = Annotated[str | None, typer.Option("--namespace", "-n", metavar="NS", help="As in kubectl.")]
Context = Annotated[str | None, typer.Option("--context", metavar="NAME", help="As in kubectl.")]
Kubeconfig = Annotated[str | None, typer.Option("--kubeconfig", metavar="FILE", help="As in kubectl.")]
Output = Annotated[Form | None, typer.Option("--output", "-o", help="Print this instead, for scripts.")]
Waits = Annotated[bool, typer.Option("--wait/--no-wait", help="Wait for what the operator says to it.")]
Timeout = Annotated[str, typer.Option("--timeout", metavar="SPAN", help="How long at most: 90s, 10m, 1h30m.")]


@app.callback(invoke_without_command=True)
def slipway(
    context: typer.Context,
    namespace: Namespace = None,
    kube_context: Context = None,
    kubeconfig: Kubeconfig = None,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """See and steer how new versions of a model take over.

    Exit codes: 0 done, 1 refused or failed, 2 mistyped, 3 not found, 4 timed out, 5 no cluster or no permission.
    """
    context.obj = (namespace, kube_context, kubeconfig)
    if version:
        typer.echo(f"slipway {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def _target(context: typer.Context, namespace: str | None, named: str | None, kubeconfig: str | None) -> Target:
    """The flags, whether they stood before the command or after it."""
    from slipway.cli.client import Target

    before = context.obj or (None, None, None)
    return Target(namespace or before[0], named or before[1], kubeconfig or before[2])


def how_typed() -> str:
    """How this command was called, for hints that can be typed as they stand."""
    called = os.path.basename(sys.argv[0] if sys.argv else "")
    return "kubectl slipway" if called.startswith("kubectl") else "slipway"


# --- looking ---


@app.command(rich_help_panel="Look")
def status(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Without it: a list of all.")] = None,
    everywhere: Annotated[bool, typer.Option("--all-namespaces", "-A", help="A list over all namespaces.")] = False,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="A live picture, until Ctrl-C.")] = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="Until the rollout has ended: exit 0 promoted, 1 taken back.")
    ] = False,
    timeout: Annotated[str | None, typer.Option("--timeout", metavar="SPAN", help="With --wait; then exit 4.")] = None,
    output: Output = None,
    namespace: Namespace = None,
    kube_context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Show how far a rollout is, and what to type next."""
    from slipway.cli.resolve import parse_span
    from slipway.cli.session import open_session
    from slipway.cli.show import show_list, show_status

    if name is not None and everywhere:
        raise misused("-A lists all namespaces, and NAME is one ModelDeployment: leave one of them out")
    if name is None and (wait or timeout is not None):
        raise misused("--wait and --timeout need the NAME of one ModelDeployment")
    if output is not None and watch:
        raise misused("--watch draws a picture; -o prints once, or with --wait when the rollout has ended")
    if timeout is not None and not (wait or watch):
        raise misused("--timeout goes with --wait")
    seconds = None if timeout is None else parse_span(timeout)
    session = open_session(_target(context, namespace, kube_context, kubeconfig), how_typed())
    if name is None:
        show_list(session, output, everywhere=everywhere, watches=watch)
    else:
        show_status(session, name, output, watches=watch, waits=wait, timeout_seconds=seconds)


@app.command(rich_help_panel="Look")
def history(
    context: typer.Context,
    name: Name,
    output: Output = None,
    namespace: Namespace = None,
    kube_context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """List the revisions: what each changed, what became of it."""
    from slipway.cli.session import open_session
    from slipway.cli.show import show_history

    show_history(open_session(_target(context, namespace, kube_context, kubeconfig), how_typed()), name, output)


@app.command(rich_help_panel="Look")
def diff(
    context: typer.Context,
    name: Name,
    before: Annotated[str | None, typer.Argument(metavar="REV", help="Alone: against stable.")] = None,
    after: Annotated[str | None, typer.Argument(metavar="REV", help="Against the first.")] = None,
    output: Output = None,
    namespace: Namespace = None,
    kube_context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Show what differs between two revisions.

    Without REV: between stable and what takes over, or the spec.

    REV: a hash, the beginning of one, a version number, stable, canary or previous.
    """
    from slipway.cli.session import open_session
    from slipway.cli.show import show_difference

    session = open_session(_target(context, namespace, kube_context, kubeconfig), how_typed())
    show_difference(session, name, before, after, output)


@app.command(rich_help_panel="Look")
def digest(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="A model's file, or the folder of a version.")],
    output: Output = None,
) -> None:
    """Print the sha256 of a model, as spec.model.sha256 pins it.

    Needs no cluster.
    """
    from slipway.cli.digest import digest_of
    from slipway.cli.output import written

    digests = []
    for path in paths:
        try:
            found = digest_of(path)
        except FileNotFoundError as error:
            raise CommandError(Exit.NOT_FOUND, f"there is no {error.filename or path}") from None
        except OSError as error:
            raise failed(f"{error.filename or path} can't be read: {error.strerror}") from None
        digests.append({"path": str(path), "sha256": found})
        if output is None:
            typer.echo(found if len(paths) == 1 else f"{found}  {path}")
    if output is not None:
        typer.echo(written({"digests": digests}, output), nl=False)


@app.command(rich_help_panel="Look")
def predict(
    context: typer.Context,
    name: Name,
    file: Annotated[str, typer.Option("--file", "-f", metavar="FILE", help="The request's body; - is stdin.")],
    to: Annotated[Whom, typer.Option("--to", help="Who is asked; both: stable and canary, compared.")] = Whom.SERVICE,
    header: Annotated[
        list[str] | None, typer.Option("--header", "-H", metavar="NAME:VALUE", help="More headers; may be repeated.")
    ] = None,
    timeout: Timeout = "60s",
    output: Output = None,
    namespace: Namespace = None,
    kube_context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Ask for a prediction: one revision, or two and compare.

    Goes through the API server to a pod of the revision; exit 0 when every answer is a success.
    """
    from slipway.cli.predict import predict, read_body, read_headers
    from slipway.cli.resolve import parse_span
    from slipway.cli.session import open_session

    body, headers = read_body(file), read_headers(header or [])
    seconds = parse_span(timeout)
    session = open_session(_target(context, namespace, kube_context, kubeconfig), how_typed())
    predict(session, name, to, body, headers, seconds, output)


# --- steering ---


def _steer(
    context: typer.Context,
    verb: str,
    name: str,
    wait: bool,
    timeout: str,
    output: Form | None,
    flags: tuple[str | None, str | None, str | None],
    to: str | None = None,
) -> None:
    from slipway.cli.resolve import parse_span
    from slipway.cli.session import open_session
    from slipway.cli.steer import steer

    seconds = parse_span(timeout)
    session = open_session(_target(context, *flags), how_typed())
    steer(session, verb, name, output, to=to, waits=wait, timeout_seconds=seconds)


STEERING = {
    "promote": "Send the canary to 100 percent now; in bake, end the bake.",
    "pause": "Hold the canary at the weight that it has.",
    "resume": "Go on with a canary that a person or its steps paused.",
    "skip": "End the canary's current step now, and begin the next one.",
    "abort": "Take the canary back; in bake, go back to what is warm.\n\n"
    "The revision is rejected then: it is not tried again by itself.",
    "retry": "Try a rejected revision again.",
}
"""The commands that need nothing but a name."""


def _steering(verb: str) -> Callable[..., None]:
    def steer(
        context: typer.Context,
        name: Name,
        wait: Waits = True,
        timeout: Timeout = "30s",
        output: Output = None,
        namespace: Namespace = None,
        kube_context: Context = None,
        kubeconfig: Kubeconfig = None,
    ) -> None:
        _steer(context, verb, name, wait, timeout, output, (namespace, kube_context, kubeconfig))

    return steer


for _verb, _help in STEERING.items():
    app.command(_verb, help=_help, rich_help_panel="Steer")(_steering(_verb))


@app.command(rich_help_panel="Steer")
def rollback(
    context: typer.Context,
    name: Name,
    to: Annotated[
        str | None,
        typer.Option("--to", metavar="REV", help="A hash, its beginning, or a version. Default: the one before."),
    ] = None,
    wait: Waits = True,
    timeout: Timeout = "30s",
    output: Output = None,
    namespace: Namespace = None,
    kube_context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Serve an earlier revision until the spec names another.

    The spec is not changed.
    """
    _steer(context, "rollback", name, wait, timeout, output, (namespace, kube_context, kubeconfig), to)
