"""Mistakes end in one line on stderr that says what to do, and in their exit code. Never in a traceback."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from slipway.cli.errors import CommandError, Exit
from tests.unit.cli.clusters import Cli, model

OPERATOR = Path(__file__).resolve().parents[3] / "operator"


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("promot", "digits"), 2, "no such command 'promot'. Did you mean 'promote'?"),
        (("promote",), 2, "missing argument 'NAME'"),
        (("status", "digits", "-o", "xml"), 2, "'xml' is not one of 'json', 'yaml'"),
        (("status", "digits", "-A"), 2, "leave one of them out"),
        (("status", "--wait"), 2, "need the NAME of one ModelDeployment"),
        (("status", "digits", "--watch", "-o", "json"), 2, "--watch draws a picture"),
        (("status", "digits", "--timeout", "5s"), 2, "--timeout goes with --wait"),
        (("status", "digits", "--wait", "--timeout", "5 minutes"), 2, "write it like 90s, 10m or 1h30m"),
        (("status", "pod/digits"), 2, "'pod/digits' is not a ModelDeployment"),
        (("status", "digts"), 3, "did you mean digits?"),
        (("status", "zebra"), 3, "there are digits, speech"),
        (("status", "vision"), 3, "but in team-b: add -n team-b"),
        (("pause", "digts", "-n", "team-b"), 3, "there is vision"),
        (("history", "x", "-n", "empty"), 3, "the namespace has none; slipway status -A lists all"),
        (("promote", "digits", "-n", "nowhere"), 3, "there is no namespace nowhere"),
        (("status", "-n", "nowhere"), 3, "there is no namespace nowhere"),
    ],
)
def test_a_mistake_is_answered_with_what_to_do(cli: Cli, words: tuple[str, ...], code: int, says: str) -> None:
    cli.cluster.models = [model("digits"), model("speech"), model("vision", "team-b")]
    shown = cli(*words)
    assert shown.exit_code == code
    assert shown.stdout == ""
    (line,) = shown.stderr.splitlines()
    assert line.startswith("slipway: ")
    assert says in line


def test_what_stands_in_the_way_of_the_cluster_is_passed_on(cli: Cli) -> None:
    cli.cluster.failing = CommandError(Exit.NO_CLUSTER, "no answer from https://192.0.2.1:\nconnection refused")
    shown = cli("status", "digits")
    assert shown.exit_code == 5
    assert shown.stderr == "slipway: no answer from https://192.0.2.1: connection refused\n"


def test_an_error_of_ours_is_one_line_too(cli: Cli) -> None:
    cli.cluster.failing = RuntimeError("a bug\nin two lines")
    shown = cli("status", "digits")
    assert shown.exit_code == 1
    assert shown.stderr == (
        "slipway: this is a bug in slipway: RuntimeError: a bug in two lines; SLIPWAY_TRACE=1 shows where, "
        "please report it\n"
    )


def test_ctrl_c_says_nothing(cli: Cli) -> None:
    cli.cluster.failing = KeyboardInterrupt()  # type: ignore[assignment]  # pytest's own would end the run
    shown = cli("status", "digits")
    assert shown.exit_code == 130
    assert shown.stderr == ""


def test_without_words_the_help_is_shown(cli: Cli) -> None:
    shown = cli()
    assert shown.exit_code == 0
    for command in ("status", "promote", "pause", "resume", "abort", "skip", "retry", "rollback", "history", "digest"):
        assert command in shown.stdout


def slipway(*words: str) -> subprocess.CompletedProcess[bytes]:
    code = "import sys; sys.argv[0] = 'slipway'; from slipway.cli.__main__ import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *words],
        capture_output=True,
        check=False,
        env={"PYTHONPATH": str(OPERATOR), "KUBECONFIG": "/none", "HOME": "/none", "LC_ALL": "C.UTF-8"},
    )


def test_help_imports_no_kubernetes() -> None:
    code = "import sys; from slipway.cli.app import app; app(['--help'], standalone_mode=False); print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, env={"PYTHONPATH": str(OPERATOR)}, check=True
    )
    loaded = done.stdout.decode().split()
    assert "typer" in loaded
    assert not {"kubernetes", "slipway.api", "slipway.model.revision", "yaml"} & set(loaded)


def test_without_the_extra_the_way_to_it_is_said() -> None:
    code = (
        "import importlib.util, sys\n"
        "found = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name: None if name in ('typer', 'rich') else found(name)\n"
        "from slipway.cli.__main__ import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, env={"PYTHONPATH": str(OPERATOR)}, check=False
    )
    assert done.returncode == 1
    assert done.stderr.decode() == "slipway: the commands need typer and rich: pip install 'slipway[cli]'\n"


def test_a_reader_that_stops_reading_is_no_error() -> None:
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {sys.executable} -m slipway.cli --help | true; echo ${{PIPESTATUS[0]}}"],
        capture_output=True,
        env={"PYTHONPATH": str(OPERATOR), "PATH": "/usr/bin:/bin"},
        check=False,
    )
    assert b"Traceback" not in done.stderr
    assert done.stderr == b""


@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_help_fits_80_columns_and_is_ascii_in_a_c_locale(locale: str) -> None:
    for words in ([], ["rollback"], ["status"], ["predict"]):
        done = subprocess.run(
            [sys.executable, "-m", "slipway.cli", *words, "--help"],
            capture_output=True,
            env={"PYTHONPATH": str(OPERATOR), "COLUMNS": "80", "LC_ALL": locale},
            check=False,
        )
        assert done.returncode == 0
        assert max(map(len, done.stdout.decode().splitlines())) <= 80
        assert done.stdout.isascii() == (locale == "C")


def test_words_that_the_terminal_does_not_know_are_replaced() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "slipway.cli", "status", "größe"],
        capture_output=True,
        env={"PYTHONPATH": str(OPERATOR), "KUBECONFIG": "/none", "HOME": "/none", "PYTHONIOENCODING": "ascii"},
        check=False,
    )
    assert done.returncode == 5
    assert b"Traceback" not in done.stderr
