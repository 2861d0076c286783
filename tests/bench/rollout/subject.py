"""The one ModelDeployment that the rollout bench measures with, and its ways back to the beginning.

Invariant: when a measurement begins, GOOD serves alone behind routers that say so; whatever came before is over.
Must not import: anything of Slipway's product.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tests.e2e import models_spoiled
from tests.e2e.kube import Manifest
from tests.e2e.models import Digits
from tests.e2e.rollouts import SLOW_STEPS, UNJUDGED, status_of, then_quiet, then_routed
from tests.e2e.stage import SMALL, Served, Stage, config_map_volume, merged

GOOD, BETTER, FAILING, ALWAYS_FAILING = range(1, 5)
REPLICAS = 2
AT_ONCE = [{"weight": 100}]


@dataclass(slots=True)
class Subject:
    """The digits, deployed, with versions that are good, better and bad."""

    served: Served
    digits: Digits

    def rest(self) -> None:
        """Back to GOOD, alone, on REPLICAS pods; at once, as nothing is measured now."""
        base: Manifest = {
            "model": {"version": GOOD},
            "replicas": REPLICAS,
            "traffic": None,
            "rollout": rollout(AT_ONCE),
        }
        if (status_of(self.served).get("stable") or {}).get("version") == GOOD:
            base["rollout"] = rollout(SLOW_STEPS)
        self.served.when({"spec": base})
        then_quiet(self.served, GOOD, 120)
        self.served.when_spec(rollout=rollout(SLOW_STEPS)).then_ready()
        then_quiet(self.served, GOOD, 120)
        then_routed(self.served)

    def rolls(self, version: int, steps: Sequence[Manifest] = SLOW_STEPS, **changes: object) -> None:
        """The user applies another version, with those steps."""
        self.served.when_spec(model={"version": version}, rollout=rollout(steps, **changes))

    def routers(self) -> list[Manifest]:
        """Its router pods that aren't on their way out."""
        found = self.served.kube.list_("Pod", self.served.namespace, labels=self.router_labels)
        return [pod for pod in found if not pod["metadata"].get("deletionTimestamp")]

    @property
    def router_labels(self) -> str:
        return f"slipway.dev/model={self.served.name}.router"


def rollout(steps: Sequence[Manifest], **changes: object) -> Manifest:
    return {
        "steps": list(steps),
        "analysis": UNJUDGED,
        "gates": {"signature": "Ignore"},
        "bakeSeconds": 0,
        "progressDeadlineSeconds": 600,
    } | changes


def given(stage: Stage, digits: Digits) -> Subject:
    """GOOD, Ready."""
    files = {
        GOOD: digits.files[1],
        BETTER: digits.files[2],
        FAILING: models_spoiled.failing(digits.files[1]),
        ALWAYS_FAILING: models_spoiled.failing(digits.files[1], always=True),
    }
    stage.given_files("models", {f"digits-{number}": content for number, content in files.items()})
    volume = config_map_volume("models", {f"digits-{n}": f"digits/{n}/model.onnx" for n in files})
    served = stage.given(
        "digits",
        "volume://models/digits",
        GOOD,
        [volume],
        resources=merged(SMALL, {"limits": {"memory": "512Mi"}}),
        replicas=REPLICAS,
        rollout=rollout(SLOW_STEPS),
        runtime={"args": ["--exit-timeout-secs=6"]},
    )
    served.then_ready(180)
    return Subject(served, digits)
