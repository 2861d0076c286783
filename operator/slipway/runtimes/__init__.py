"""What each model server needs, as pure functions: one module a server, found by its name in the spec.

A new server is one module and one entry in RUNTIMES.
"""

from __future__ import annotations

from slipway.runtimes import triton
from slipway.runtimes.server import Port, ServerRuntime

RUNTIMES: dict[str, ServerRuntime] = {"Triton": triton.TRITON}

__all__ = ["RUNTIMES", "Port", "ServerRuntime"]
