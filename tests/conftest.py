"""Properties are searched as long as it takes: on a busy machine a slow example is no finding."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile("slipway", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("slipway")
