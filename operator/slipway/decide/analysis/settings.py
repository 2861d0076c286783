"""By which settings a deployment's rollouts are judged, or why nobody judges them: the one place that says so.

    spec.rollout.analysis   somebody counts   what holds
    written, mode Off       either            nobody judges
    written                 yes               as written
    written                 no                refused where the spec is read (`decide.weights`)
    absent                  yes               mode Enforce, onInconclusive Hold
    absent                  no                nobody judges

Who is judged is never decided elsewhere. Where nobody judges, status says so in words, and why.
Must not import: anything that does I/O. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from slipway.api import ModelDeployment
from slipway.api.v1alpha1 import Analysis
from slipway.decide.steps import wants_split
from slipway.decide.weights import provider_of

UNWRITTEN = Analysis(mode="Enforce", on_inconclusive="Hold")
"""Of steps without `spec.rollout.analysis`. Nobody chose a deadline for evidence, so what lacks it is held, not taken
back."""
INSTEAD = "steps advance by gates, readiness, restarts and hold time"


@dataclass(frozen=True, slots=True)
class Judging:
    """How rollouts are judged.

    settings: by which; None: nobody judges. message: what a person who wrote no settings, or none that judge, must
    know; empty where the spec says it, and where no requests are split.
    """

    settings: Analysis | None = None
    message: str = ""

    @property
    def is_enforced(self) -> bool:
        """Whether the verdict decides."""
        return self.settings is not None and self.settings.mode == "Enforce"

    @property
    def holds_on_inconclusive(self) -> bool:
        """Whether a step that lacks evidence is held for as long as it takes."""
        return self.settings is not None and self.settings.on_inconclusive == "Hold"


NOBODY = Judging()
"""No requests are split."""


def judging_of(deployment: ModelDeployment, servers: Iterable[str] = ()) -> Judging:
    """How this deployment's rollouts are judged. servers: those that other revisions with requests run on."""
    if not wants_split(deployment):
        return NOBODY
    written, spec = deployment.spec.rollout.analysis, deployment.spec
    if written is not None and written.mode == "Off":
        return Judging(message=f"nobody judges this rollout: spec.rollout.analysis.mode is Off; {INSTEAD}")
    if written is not None:
        return Judging(written)
    provider = provider_of(spec)
    reasons = (provider.uncounted(server) for server in dict.fromkeys((spec.runtime.name, *servers)))
    if why := next(filter(None, reasons), ""):
        return Judging(
            message=f"nobody judges this rollout: {why}; {INSTEAD}. Write spec.traffic.provider: Router, which counts "
            "for every server"
        )
    return Judging(
        UNWRITTEN,
        "spec.rollout.analysis is not written, so it is judged with mode Enforce and onInconclusive Hold; "
        'analysis: {mode: "Off"} lets steps go by time',
    )
