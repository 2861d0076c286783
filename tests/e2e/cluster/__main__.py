"""The command line: `python3 -m tests.e2e.cluster build|up|down|clean|status|load|kubectl|exec|env`.

CLUSTER=native|kind|existing chooses the form. Errors a person can act on are printed without a traceback.
"""

import argparse
import os
import shlex
import sys
from pathlib import Path

from .errors import ClusterError
from .layout import DEFAULT_NAME
from .provider import ClusterProvider, UpOptions, choose_provider


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python3 -m tests.e2e.cluster", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    named = argparse.ArgumentParser(add_help=False)
    named.add_argument(
        "--name", default=DEFAULT_NAME, help="which native cluster; others than the first stand beside it"
    )
    verbs.add_parser("build", parents=[named], help="compile what the cluster needs, without starting it")
    up = verbs.add_parser("up", parents=[named], help="start the cluster, or whatever of it has ended")
    up.add_argument(
        "--control-plane-only", action="store_true", help="no node: no kubelet, no containers (native only)"
    )
    up.add_argument("--fresh", action="store_true", help="forget the state of a former cluster of that name first")
    up.add_argument(
        "--audit", action=argparse.BooleanOptionalAction, default=None, help="log every request (native only)"
    )
    up.add_argument(
        "--controller-rate", type=int, help="requests a second of each Kubernetes controller (default 20, native only)"
    )
    up.add_argument(
        "--played-pods",
        action="store_true",
        help="without scheduler and controllers of endpoints: a test says what pods are (native only)",
    )
    verbs.add_parser("down", parents=[named], help="stop it; images and state are kept")
    verbs.add_parser("clean", parents=[named], help="stop it and forget its state")
    verbs.add_parser("status", parents=[named], help="show what runs and how to look around")
    verbs.add_parser("env", parents=[named], help="print the variables that make kubectl and helm use it")
    load = verbs.add_parser("load", parents=[named], help="import image archives")
    load.add_argument("archive", nargs="+", type=Path)
    for verb, what in (("kubectl", "run kubectl on it"), ("exec", "run a command in its network")):
        command = verbs.add_parser(verb, parents=[named], help=what)
        command.add_argument("arguments", nargs="*")
    return parser


def parse(words: list[str]) -> argparse.Namespace:
    return _parser().parse_args(_set_apart(words))


def _set_apart(words: list[str]) -> list[str]:
    """With a `--` before another program's words: argparse takes a `-n` that comes first for one of ours."""
    match words:
        case [("kubectl" | "exec"), "--name", _, *foreign]:
            own = words[:3]
        case [("kubectl" | "exec"), name, *foreign] if name.startswith("--name="):
            own = words[:2]
        case [("kubectl" | "exec"), *foreign]:
            own = words[:1]
        case _:
            return words
    return words if foreign[:1] in (["--"], ["-h"], ["--help"]) else [*own, "--", *foreign]


def _become(provider: ClusterProvider, command: list[str]) -> None:
    """Replaces this process by the command, in the cluster's network and environment."""
    environment = {**os.environ, **provider.environment()}
    words = [*provider.inside(), *command]
    try:
        os.execvpe(words[0], words, environment)
    except FileNotFoundError as missing:
        raise ClusterError(f"running {words[0]}", "it is not installed", "make deps") from missing


def main() -> int:
    chosen = parse(sys.argv[1:])
    try:
        provider = choose_provider(chosen.name)
        match chosen.verb:
            case "build":
                provider.build()
            case "up":
                rate, played_pods = chosen.controller_rate, chosen.played_pods
                provider.up(UpOptions(chosen.control_plane_only, chosen.fresh, chosen.audit, rate, played_pods))
            case "down":
                provider.down()
            case "clean":
                provider.clean()
            case "status":
                print(provider.status())
            case "env":
                for name, value in provider.environment().items():
                    print(f"export {name}={shlex.quote(value)}")
            case "load":
                provider.load(chosen.archive)
            case "kubectl":
                _become(provider, ["kubectl", *chosen.arguments])
            case "exec":
                _become(provider, chosen.arguments or [os.environ.get("SHELL", "bash")])
    except ClusterError as refused:
        print(f"error: {refused}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
