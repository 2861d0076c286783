"""Splits by routers of our own: every weight is had exactly, at any number of replicas.

Pure.
"""

from __future__ import annotations

import math

from slipway.decide.weights.provider import Provider, Reached

PROVIDER = Provider(
    has_routers=True,
    is_exact=True,
    reach=lambda weight, replicas: Reached(math.ceil(replicas * weight / 100), weight),
    explain=lambda weights, replicas: "",
    refusals=lambda spec: (),
    in_force=lambda standing: standing.by_router,
)
