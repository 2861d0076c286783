"""The commands: names, options and help. What a command does is in the module that it calls.

Invariant: every mistake ends in one line on stderr and an exit code of `errors`.
Must not import: kubernetes, or anything that imports it, so that `slipway --help` prints at once; each command imports
what it needs when it runs.
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
from slipway.cli.ascii_locale import is_ascii_locale
from slipway.cli.errors import CommandError, Exit, failed, misused

if TYPE_CHECKING:
    from slipway.cli.client import ClusterFlags

TRACE_VARIABLE = "SLIPWAY_TRACE"


class OneLine(TyperGroup):
    """A group of commands in which every error ends as one line and an exit code."""

    def main(self, args: Any = None, *, standalone_mode: bool = True, **options: Any) -> Any:  # type: ignore[override]
        """Run a command; in standalone mode, as in a terminal, exit with its code."""
        code = self._exit_code(args, **options)
        if standalone_mode:
            sys.exit(code)
        return code

    def _exit_code(self, args: Any, **options: Any) -> int:
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
    format_message = getattr(error, "format_message", None)
    if format_message is None:  # not one of typer's errors about the command line
        words = f"{type(error).__name__}: {error}"
        _complain(f"this is a bug in slipway: {words}; {TRACE_VARIABLE}=1 shows where, please report it")
        return Exit.FAILED
    command = getattr(getattr(error, "ctx", None), "command_path", None) or "slipway"
    message = str(format_message()).rstrip(".")
    stop = "" if message.endswith("?") else ";"
    _complain(f"{message[:1].lower()}{message[1:]}{stop} see {command} --help")
    return Exit.USAGE


def _complain(message: str) -> None:
    from slipway.cli.terminal import complain

    complain(" ".join(message.split()))


app = typer.Typer(
    cls=OneLine,
    rich_markup_mode=None if is_ascii_locale(os.environ) else "rich",
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


class Format(StrEnum):
    """The documents for scripts."""

    JSON = "json"
    YAML = "yaml"


class To(StrEnum):
    """Who gets a prediction's request."""

    SERVICE = "service"
    STABLE = "stable"
    CANARY = "canary"
    BOTH = "both"


Name = Annotated[str, typer.Argument(metavar="NAME", help="The ModelDeployment; mdep/NAME works, too.")]
Namespace = Annotated[str | None, typer.Option("--namespace", "-n", metavar="NS", help="As in kubectl.")]
Context = Annotated[str | None, typer.Option("--context", metavar="NAME", help="As in kubectl.")]
Kubeconfig = Annotated[str | None, typer.Option("--kubeconfig", metavar="FILE", help="As in kubectl.")]
Output = Annotated[Format | None, typer.Option("--output", "-o", help="Print a document for scripts instead.")]
Waits = Annotated[bool, typer.Option("--wait/--no-wait", help="Wait for the operator's answer.")]
Timeout = Annotated[str, typer.Option("--timeout", metavar="SPAN", help="The longest wait: 90s, 10m, 1h30m.")]


Flags = tuple[str | None, str | None, str | None]
"""Namespace, context and kubeconfig, as typed after the command."""


@app.callback(invoke_without_command=True)
def slipway(
    context: typer.Context,
    *,
    namespace: Namespace = None,
    kube_context: Context = None,
    kubeconfig: Kubeconfig = None,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """See and steer the rollout of a model's new versions.

    Exit codes: 0 done, 1 refused or failed, 2 mistyped, 3 not found, 4 timed out, 5 no cluster or no permission.
    """
    context.obj = (namespace, kube_context, kubeconfig)
    if version:
        typer.echo(f"slipway {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def _flags(context: typer.Context, after: Flags) -> ClusterFlags:
    """The flags, which may stand before the command or after it."""
    from slipway.cli.client import ClusterFlags

    before: Flags = context.obj or (None, None, None)
    return ClusterFlags(*(late or early for late, early in zip(after, before, strict=True)))


def program_name() -> str:
    """`slipway` or `kubectl slipway`, as it was called, for hints that a person can paste."""
    called = os.path.basename(sys.argv[0] if sys.argv else "")
    return "kubectl slipway" if called.startswith("kubectl") else "slipway"


# --- look ---


@app.command(rich_help_panel="Look")
def status(
    context: typer.Context,
    *,
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Without it: a list.")] = None,
    everywhere: Annotated[bool, typer.Option("--all-namespaces", "-A", help="List all namespaces.")] = False,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Redraw each second, until Ctrl-C.")] = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait for the end of the rollout: exit 0 promoted, 1 not.")
    ] = False,
    timeout: Annotated[
        str | None, typer.Option("--timeout", metavar="SPAN", help="The longest --wait; then exit 4.")
    ] = None,
    output: Output = None,
    namespace: Namespace = None,
    kube_context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Show a rollout, and the commands that may come next."""
    from slipway.cli.resolve import parse_span
    from slipway.cli.session import open_session
    from slipway.cli.show import show_list, show_status

    if name is not None and everywhere:
        raise misused("-A lists all namespaces, NAME shows one ModelDeployment: leave one of them out")
    if name is None and (wait or timeout is not None):
        raise misused("--wait and --timeout need the NAME of one ModelDeployment")
    if output is not None and watch:
        raise misused("--watch draws a picture, -o prints a document: leave one of them out")
    if timeout is not None and not (wait or watch):
        raise misused("--timeout goes with --wait")
    seconds = None if timeout is None else parse_span(timeout)
    session = open_session(_flags(context, (namespace, kube_context, kubeconfig)), program_name())
    if name is None:
        show_list(session, output, everywhere=everywhere, watches=watch)
    else:
        show_status(session, name, output, watches=watch, waits=wait, timeout_seconds=seconds)


@app.command(rich_help_panel="Look")
def history(
    context: typer.Context,
    *,
    name: Name,
    output: Output = None,
    namespace: Namespace = None,
    kube_context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """List the revisions: what each changed, and what became of it."""
    from slipway.cli.session import open_session
    from slipway.cli.show import show_history

    show_history(open_session(_flags(context, (namespace, kube_context, kubeconfig)), program_name()), name, output)


@app.command(rich_help_panel="Look")
def diff(
    context: typer.Context,
    *,
    name: Name,
    before: Annotated[str | None, typer.Argument(metavar="REV", help="Alone: compared with stable.")] = None,
    after: Annotated[str | None, typer.Argument(metavar="REV", help="Compared with the first.")] = None,
    output: Output = None,
    namespace: Namespace = None,
    kube_context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Show what differs between two revisions.

    Without REV: between stable and the canary, or the spec where there is no canary.

    REV: a hash, the beginning of one, a version number, stable, canary or previous.
    """
    from slipway.cli.session import open_session
    from slipway.cli.show import show_difference

    session = open_session(_flags(context, (namespace, kube_context, kubeconfig)), program_name())
    show_difference(session, name, before, after, output)


@app.command(rich_help_panel="Look")
def digest(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="A model file, or the folder of a version.")],
    output: Output = None,
) -> None:
    """Print the sha256 of a model, for spec.model.sha256.

    Needs no cluster.
    """
    from slipway.cli.digest import digest_of
    from slipway.cli.output import serialized

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
        typer.echo(serialized({"digests": digests}, output), nl=False)


@app.command(rich_help_panel="Look")
def predict(
    context: typer.Context,
    *,
    name: Name,
    file: Annotated[str, typer.Option("--file", "-f", metavar="FILE", help="The request's body; - is stdin.")],
    to: Annotated[To, typer.Option("--to", help="Who gets the request; both: stable and canary.")] = To.SERVICE,
    header: Annotated[
        list[str] | None, typer.Option("--header", "-H", metavar="NAME:VALUE", help="Another header; may be repeated.")
    ] = None,
    timeout: Timeout = "60s",
    output: Output = None,
    namespace: Namespace = None,
    kube_context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Send a prediction to one revision, or compare two answers.

    The request goes through the API server to a pod of the revision. Exit 0: every answer is a 2xx.
    """
    from slipway.cli.predict import predict, read_request
    from slipway.cli.resolve import parse_span
    from slipway.cli.session import open_session

    request = read_request(file, header or [], parse_span(timeout))
    session = open_session(_flags(context, (namespace, kube_context, kubeconfig)), program_name())
    predict(session, name, to, request, output)


# --- steer ---


def _steer(
    context: typer.Context,
    verb: str,
    name: str,
    flags: Flags,
    *,
    wait: bool,
    timeout: str,
    output: Format | None,
    to: str | None = None,
) -> None:
    from slipway.cli.resolve import parse_span
    from slipway.cli.session import open_session
    from slipway.cli.steer import steer

    seconds = parse_span(timeout)
    session = open_session(_flags(context, flags), program_name())
    steer(session, verb, name, output, to=to, waits=wait, timeout_seconds=seconds)


STEERING = {
    "promote": "Send the canary to 100 percent now; in bake, end the bake.",
    "pause": "Hold the canary at its weight.",
    "resume": "Continue a paused canary, or end its pause step.",
    "skip": "Go to the next step now; a pause by hand stays in force there.",
    "abort": "Take the canary back; in bake, go back to the warm revision.\n\n"
    "The revision is rejected: only retry, or another spec, tries it again.",
    "retry": "Try a rejected revision again.",
}
"""The commands whose only argument is a name."""


def _steering(verb: str) -> Callable[..., None]:
    def steer(
        context: typer.Context,
        *,
        name: Name,
        wait: Waits = True,
        timeout: Timeout = "30s",
        output: Output = None,
        namespace: Namespace = None,
        kube_context: Context = None,
        kubeconfig: Kubeconfig = None,
    ) -> None:
        flags = (namespace, kube_context, kubeconfig)
        _steer(context, verb, name, flags, wait=wait, timeout=timeout, output=output)

    return steer


for _verb, _help in STEERING.items():
    app.command(_verb, help=_help, rich_help_panel="Steer")(_steering(_verb))


@app.command(rich_help_panel="Steer")
def refresh(
    context: typer.Context,
    *,
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="The ModelDeployment; or --all.")] = None,
    every: Annotated[bool, typer.Option("--all", help="All of the namespace that have something to refresh.")] = False,
    everywhere: Annotated[bool, typer.Option("--all-namespaces", "-A", help="With --all: of all namespaces.")] = False,
    at_once: Annotated[int, typer.Option("--at-once", metavar="N", min=1, help="With --all: so many at a time.")] = 1,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be refreshed, and why.")] = False,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until all pods are replaced.")] = True,
    timeout: Annotated[
        str, typer.Option("--timeout", metavar="SPAN", help="The longest wait for each: 90s, 10m, 1h30m.")
    ] = "30m",
    namespace: Namespace = None,
    kube_context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Replace pods, one by one, by such with today's agent and images.

    The revision stays the same, and no request is lost. abort goes back while it goes on.

    --all takes one after the other, and stops at the first whose new pods don't come up.
    """
    from slipway.cli.refresh import refresh_all, refresh_one
    from slipway.cli.resolve import parse_span
    from slipway.cli.session import open_session

    if (name is None) != every:
        raise misused("name one ModelDeployment, or all with --all")
    if not every and (everywhere or at_once != 1):
        raise misused("-A and --at-once go with --all")
    if every and not wait:
        raise misused("--all waits for each before it begins the next; --at-once says for how many together")
    seconds = parse_span(timeout)
    session = open_session(_flags(context, (namespace, kube_context, kubeconfig)), program_name())
    if name is not None:
        refresh_one(session, name, waits=wait, timeout_seconds=seconds, is_dry=dry_run)
    else:
        refresh_all(session, everywhere=everywhere, at_once=at_once, timeout_seconds=seconds, is_dry=dry_run)


@app.command(rich_help_panel="Steer")
def rollback(
    context: typer.Context,
    *,
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
    """Serve an earlier revision; the spec stays unchanged.

    It serves until the spec names another, a newer version is found, or retry goes back to the spec's revision.
    """
    flags = (namespace, kube_context, kubeconfig)
    _steer(context, "rollback", name, flags, wait=wait, timeout=timeout, output=output, to=to)
