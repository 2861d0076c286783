"""Log lines in the real server's form, on stderr."""

from __future__ import annotations

import sys
from datetime import datetime


def say(level: str, where: str, message: str) -> None:
    """`level` is I, W or E."""
    stamp = datetime.now().strftime("%Y-%m-%d %H:%M:%S.%f")
    print(f"{stamp}: {level} tensorflow_serving/{where}.cc:1] {message}", file=sys.stderr, flush=True)
