"""What the benches on the cluster share: the operator installed, a namespace of their own, figures as they come."""

from __future__ import annotations

import contextlib
import secrets
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from tests.bench.serving.figures import Figure, render_table
from tests.e2e.generator import LoadError
from tests.e2e.install import InstallError, install_operator, load_images
from tests.e2e.kube import Kube, RefusedError, TimedOutError
from tests.e2e.stage import Stage, describe
from tests.e2e.store import StoreError

FAILURES = (InstallError, LoadError, RefusedError, TimedOutError, StoreError, AssertionError, OSError)


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def is_installed(images: Sequence[str]) -> bool:
    """Installs the working tree's operator by its chart; says why where that can't be."""
    try:
        load_images(images)
        install_operator()
    except InstallError as error:
        print(f"Can't measure: {error}", file=sys.stderr)
        return False
    return True


@contextmanager
def new_stage(kube: Kube, name: str, *, keeps: bool) -> Iterator[Stage]:
    """A namespace of its own; described when the block fails."""
    namespace = f"bench-{name.lower()}-{secrets.token_hex(2)}"
    kube.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
    try:
        yield Stage(kube, namespace)
    except (TimedOutError, AssertionError):
        print(describe(kube, namespace), file=sys.stderr)
        raise
    finally:
        if not keeps:
            with contextlib.suppress(OSError):  # a cluster that has ended says so where it was needed
                kube.delete("Namespace", namespace)


class Report:
    """Figures as they come, each said at once, all in a table at the end."""

    def __init__(self) -> None:
        self._figures: list[Figure] = []
        self.has_failed = False

    def take(self, what: str, figures: Iterable[Figure]) -> None:
        """A part that can't be measured to its end leaves what it had, and is told."""
        try:
            for figure in figures:
                self._figures.append(figure)
                say("  ".join(cell for cell in figure.cells() if cell))
        except FAILURES as error:
            print(f"{what}: could not be measured to the end: {error}", file=sys.stderr)
            self.has_failed = True

    def end(self) -> int:
        """Prints the table; returns the exit code."""
        if self._figures:
            print(f"\n{render_table(self._figures)}")
        return 1 if self.has_failed else 0
