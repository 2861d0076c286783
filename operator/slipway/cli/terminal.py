"""Where commands print: a terminal with its width and colours, or a pipe.

In a pipe lines are not wrapped (unless COLUMNS says otherwise), have no colours and no trailing blanks.
Colours follow NO_COLOR and TERM=dumb; signs beyond ASCII need an encoding that has them, and no locale that says C:
Python writes UTF-8 even there.
Must not import: kubernetes.
"""

from __future__ import annotations

import io
import os
import sys
from dataclasses import dataclass

from rich.console import Console, RenderableType

from slipway.cli.ascii_locale import is_ascii_locale
from slipway.cli.picture import Canvas

PIPE_WIDTH = 10_000


@dataclass(frozen=True, slots=True)
class Terminal:
    """stdout, and what it can show. is_silent: write() prints nothing."""

    console: Console
    is_live: bool
    is_unicode: bool
    is_silent: bool = False

    def canvas(self) -> Canvas:
        """The width and the signs that a picture may use."""
        return Canvas(self.console.width, self.is_unicode)

    def fits(self, picture: RenderableType) -> bool:
        """Whether it fits on one screen, the cursor's line left free."""
        return len(self.console.render_lines(picture, pad=False)) < self.console.height

    def show(self, picture: RenderableType) -> None:
        """Print a picture."""
        if self.is_live:
            self.console.print(picture)
            return
        with self.console.capture() as captured:
            self.console.print(picture)
        self.write("".join(f"{line.rstrip()}\n" for line in captured.get().splitlines()))

    def write(self, text: str) -> None:
        """Print a text unchanged."""
        if not self.is_silent:
            self.console.file.write(text)
            self.console.file.flush()


def open_terminal() -> Terminal:
    """stdout, with its width and encoding now."""
    out = sys.stdout
    if isinstance(out, io.TextIOWrapper):
        out.reconfigure(errors="replace")  # a model's own words may hold what the terminal doesn't know
    is_terminal = out.isatty()
    width = None if is_terminal or os.environ.get("COLUMNS") else PIPE_WIDTH
    console = Console(file=out, width=width, highlight=False, markup=False, emoji=False)
    is_unicode = "utf" in (getattr(out, "encoding", None) or "").lower() and not is_ascii_locale(os.environ)
    return Terminal(console, console.is_terminal and not console.is_dumb_terminal, is_unicode)


def complain(message: str) -> None:
    """One line on stderr."""
    line = f"slipway: {message}\n"
    encoding = getattr(sys.stderr, "encoding", None) or "utf-8"
    sys.stderr.write(line.encode(encoding, "replace").decode(encoding))
    sys.stderr.flush()
