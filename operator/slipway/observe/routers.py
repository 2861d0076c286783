"""The routers as one value: their pods, what each says, what they say together, and what they were sent.

Invariant: the weights in force are those that every ready router answers, never those that it was sent.
Must not import: decide, render, report, controller. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from slipway.model.names import ROUTED_ANNOTATION
from slipway.model.revision import Json
from slipway.model.signals import InForce
from slipway.model.workload import Trouble
from slipway.observe.pods import deployment_trouble
from slipway.observe.router_reports import RouterPod, RouterReport, in_force, read_sent_weights


@dataclass(frozen=True, slots=True)
class ObservedRouters:
    """A ModelDeployment's routers; without a pod where there are none.

    reports: pod uid → what it says. in_force: what all ready ones say; None: they don't all say, or not the same.
    generation, sent_weights: of their ConfigMap as it stands; sent_weights: workload → percent.
    trouble: what keeps one of them from being there: they are what requests can't be split without.
    """

    pods: tuple[RouterPod, ...] = ()
    reports: Mapping[str, RouterReport] = field(default_factory=dict)
    in_force: InForce | None = None
    generation: str | None = None
    sent_weights: Mapping[str, int] = field(default_factory=dict)
    trouble: Trouble | None = None


def observe_routers(
    pods: Iterable[RouterPod],
    reports: Mapping[str, RouterReport],
    deployment: Json | None,
    config_map: Json | None,
) -> ObservedRouters:
    """The routers. deployment, config_map: theirs, as they stand; None where there is none."""
    is_wanted = deployment is not None and not deployment["metadata"].get("deletionTimestamp")
    if not is_wanted:
        # The garbage collector has not come to the pods yet.
        pods = [replace(pod, is_ending=True) for pod in pods]
    pods = tuple(pods)
    annotations = ((config_map or {}).get("metadata") or {}).get("annotations") or {}
    generation = annotations.get(ROUTED_ANNOTATION)
    return ObservedRouters(
        pods=pods,
        reports=reports,
        in_force=_in_force(pods, reports, generation),
        generation=generation,
        sent_weights=read_sent_weights(config_map) if config_map is not None else {},
        trouble=_trouble(deployment, pods) if deployment is not None and is_wanted else None,
    )


FIELDS: Mapping[str, str] = {
    r"spec\.resources": "spec.traffic.router.resources",
    r"spec\.replicas": "spec.traffic.router.replicas",
    r"spec\.podTemplate(?!\.spec\.imagePullSecrets)": "spec.traffic.router",
}
"""What the messages about model pods call it → where it stands for routers. Their pull secrets are the model pods'."""


def _trouble(deployment: Json, pods: Iterable[RouterPod]) -> Trouble | None:
    """What is said of model pods, in the routers' own fields."""
    found = deployment_trouble(deployment, [pod for pod in pods if not pod.is_ending])
    if found is None:
        return None
    message = found.message
    for field_name, own in FIELDS.items():
        message = re.sub(field_name, own, message)
    return replace(found, message=f"routers: {message}")


def _in_force(pods: Iterable[RouterPod], reports: Mapping[str, RouterReport], generation: str | None) -> InForce | None:
    """How requests are split now; where a router doesn't have `generation` yet, that is not the latest."""
    staying = [pod for pod in pods if not pod.is_ending]
    ready = [pod for pod in staying if pod.is_ready]
    found = in_force([reports[pod.uid] for pod in ready if pod.uid in reports], len(ready))
    if found is None:
        return None
    # One that is about to be ready counts too: it may have mounted what was there before.
    running = [reports.get(pod.uid) for pod in staying if pod.is_ready or pod.ip is not None]
    ending = [reports[pod.uid] for pod in pods if pod.is_ending and pod.uid in reports]
    return replace(
        found,
        is_latest=all(report is not None and report.generation == generation for report in running),
        lingering=frozenset(name for report in ending for name, weight in report.weights.items() if weight),
    )
