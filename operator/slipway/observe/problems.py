"""Why something is not ready, in words for a person: of pods, containers and Deployments, as Kubernetes tells it.

Invariant: every message says what, where and what to do next; what must not come and go with a retry does not.
Must not import: decide, render, report, controller. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from slipway.model.revision import Json
from slipway.model.workload import Trouble
from slipway.observe.agent_reports import AgentReport

MANY_RESTARTS = 3


def pod_trouble(
    name: str, conditions: Mapping[str, Json], containers: list[Json], report: AgentReport | None
) -> Trouble | None:
    """What keeps a pod from being ready, the earliest step first: node, image, container, agent, server.

    conditions: type → condition of the pod. containers: their statuses, init containers included.
    """
    scheduled = conditions.get("PodScheduled", {})
    if scheduled.get("status") == "False":
        return _unschedulable(name, scheduled)
    for container in containers:
        waiting = (container.get("state") or {}).get("waiting") or {}
        if waiting.get("reason") in ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"):
            return Trouble(
                "ImagePullFailed",
                f"pod {name}: the node can't pull image {container.get('image')!r} of container {container['name']}: "
                f"{first_line(waiting.get('message') or waiting['reason'])}. Correct the image's name, or "
                "spec.podTemplate.spec.imagePullSecrets",
            )
        if waiting.get("reason") in ("CreateContainerConfigError", "CreateContainerError", "RunContainerError"):
            return Trouble(
                "ContainerFailed",
                f"pod {name}: container {container['name']} can't start: "
                f"{first_line(waiting.get('message') or waiting['reason'])}. Create what is missing, or correct "
                "spec.podTemplate",
            )
    if report is not None and report.trouble is not None:
        return report.trouble
    for container in containers:
        state, count = container.get("state") or {}, container.get("restartCount") or 0
        is_waiting = (state.get("waiting") or {}).get("reason") == "CrashLoopBackOff"
        # Between two ends the container runs for a moment: its message must not come and go.
        if is_waiting or count >= MANY_RESTARTS:
            last = state.get("terminated") or (container.get("lastState") or {}).get("terminated") or {}
            return Trouble(
                "CrashLoop",
                f"pod {name}: container {container['name']} ended {count} times, last with "
                f"exit code {last.get('exitCode')} ({why_ended(last)}). Read its log: kubectl logs {name} -c "
                f"{container['name']} --previous",
            )
    return None


def _unschedulable(name: str, scheduled: Json) -> Trouble:
    """PodScheduled=False in words. Kubernetes' own: `0/3 nodes are available: 1 Insufficient cpu, 3 Insufficient …`."""
    message = re.split(
        r"[.,]? (?:no new claims to deallocate, |still not schedulable, )?preemption:",
        str(scheduled.get("message") or ""),
    )[0].strip()
    if claim := re.search(r'persistentvolumeclaim "([^"]+)" not found', message):
        return Trouble(
            "ClaimNotFound",
            f"pod {name} waits for PersistentVolumeClaim {claim[1]}, which does not exist in this namespace. Create "
            "it, or correct spec.model.uri or the volumes of spec.podTemplate",
        )
    total = message.partition("/")[2].partition(" ")[0]
    lacking = [
        f"{resource.rstrip('.')} is missing on {count} of {total} nodes"
        for count, resource in re.findall(r"\b(\d+) Insufficient ([^\s,]+)", message)
    ]
    if lacking:
        what = "; ".join(lacking)
        return Trouble(
            "Unschedulable",
            f"pod {name} finds no node: {what}. Free some, add a node that has it, or ask for less in spec.resources "
            f"({message})",
        )
    return Trouble("Unschedulable", f"pod {name} finds no node: {message or 'no reason given'}", needs_person=True)


def why_ended(terminated: Json) -> str:
    """Kubernetes' reason, where it says more than that there was an error (OOMKilled), and the last words."""
    reason = str(terminated.get("reason") or "")
    words = _last_words(str(terminated.get("message") or ""))
    parts = [reason if reason != "Error" or not words else "", words]
    return ": ".join(part for part in parts if part) or "no message"


def _last_words(text: str) -> str:
    """Of a program's last lines, the one that says why it ended: the last that is no line of a stack."""
    lines = [line for line in text.strip().splitlines() if line.strip()]
    own = [line for line in lines if not line.startswith((" ", "\t", "at "))] or lines or [""]
    return own[-1][:1000]


def first_line(text: str) -> str:
    """As a message quotes it, 1,000 characters at most."""
    return text.strip().partition("\n")[0][:1000]
