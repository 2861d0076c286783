"""The entry points `slipway` and `kubectl-slipway` (so that `kubectl slipway` works), and `python -m slipway.cli`."""

from __future__ import annotations

import sys
from importlib.util import find_spec


def main() -> None:
    """Run the command that was typed, and end with its exit code."""
    missing = [name for name in ("typer", "rich") if find_spec(name) is None]
    if missing:
        sys.exit(f"slipway: the commands need {' and '.join(missing)}: pip install 'slipway[cli]'")
    from slipway.cli.app import app, program_name

    app(prog_name=program_name())


if __name__ == "__main__":
    main()
