"""Why something is not ready, in words for a person: of pods, containers and Deployments, as Kubernetes tells it.

What is a wait, and what counts against the revision: the tables of `room` and `image_pulls`.
Invariant: every message says what, where and what to do next; what must not come and go with a retry does not.
Must not import: decide, render, report, controller. Pure.
"""

from __future__ import annotations

from slipway.model.revision import Json
from slipway.model.workload import Trouble
from slipway.observe.agent_reports import AgentReport
from slipway.observe.image_pulls import pull_trouble
from slipway.observe.pod_object import PodObject
from slipway.observe.quoting import first_line, last_words
from slipway.observe.room import scheduling_trouble

MANY_RESTARTS = 3
OUT_OF_MEMORY = "OOMKilled"
NOT_CREATED = ("CreateContainerConfigError", "CreateContainerError", "RunContainerError")


def pod_trouble(pod: PodObject, report: AgentReport | None) -> Trouble | None:
    """What keeps a pod from being ready, the earliest step first: node, image, container, agent, server."""
    if unscheduled := scheduling_trouble(pod):
        return unscheduled
    for container in pod.containers:
        waiting = (container.get("state") or {}).get("waiting") or {}
        if unpulled := pull_trouble(pod, container, waiting):
            return unpulled
        if waiting.get("reason") in NOT_CREATED:
            return Trouble(
                "ContainerFailed",
                f"pod {pod.name}: container {container['name']} can't start: "
                f"{first_line(waiting.get('message') or waiting['reason'])}. Create what is missing, or correct "
                "spec.podTemplate",
            )
    ended = next((found for each in pod.containers if (found := _ends_again_and_again(pod, each, report))), None)
    said = report.trouble if report is not None else None
    # An agent sees a server that was ended for want of memory as one that couldn't load.
    is_explained = ended is not None and ended.reason == "OutOfMemory" and (said is None or said.reason == "LoadFailed")
    return ended if is_explained else said or ended


def _ends_again_and_again(pod: PodObject, container: Json, report: AgentReport | None) -> Trouble | None:
    """Of a container that can't run: it ended for want of memory, or often."""
    state, count = container.get("state") or {}, container.get("restartCount") or 0
    name = container["name"]
    last = state.get("terminated") or (container.get("lastState") or {}).get("terminated") or {}
    if last.get("reason") == OUT_OF_MEMORY:
        times = f"{count} times, last" if count > 1 else "once"
        return Trouble(
            "OutOfMemory",
            f"pod {pod.name}: container {name} was ended by its node {times} for want of memory: "
            f"{_shortage(pod.limits.get(name), report if name == 'server' else None)}. Raise "
            f"{'spec.resources.limits.memory' if name == 'server' else 'the memory limit of that container'}",
        )
    is_waiting = (state.get("waiting") or {}).get("reason") == "CrashLoopBackOff"
    # Between two ends the container runs for a moment: its message must not come and go.
    if not is_waiting and count < MANY_RESTARTS:
        return None
    return Trouble(
        "CrashLoop",
        f"pod {pod.name}: container {name} ended {count} times, last with exit code {last.get('exitCode')} "
        f"({why_ended(last)}). Read its log: kubectl logs {pod.name} -c {name} --previous",
    )


def _shortage(limit: str | None, report: AgentReport | None) -> str:
    """The limit, and what is known of the need: what the versions have on disk, which a server needs at least."""
    sizes = [version.size_bytes or 0 for version in report.versions] if report is not None else []
    need = f", and the versions to load have {sum(sizes) / 2**30:.2f} GiB on disk" if any(sizes) else ""
    return f"it may use {limit}{need}" if limit else f"it has no limit of its own, so the node had no more{need}"


def why_ended(terminated: Json) -> str:
    """Kubernetes' reason, where it says more than that there was an error (OOMKilled), and the last words."""
    reason = str(terminated.get("reason") or "")
    words = last_words(str(terminated.get("message") or ""))
    if reason == OUT_OF_MEMORY:
        reason = "OOMKilled, so it needs more than its memory limit: raise spec.resources.limits.memory"
    parts = [reason if reason != "Error" or not words else "", words]
    return ": ".join(part for part in parts if part) or "no message"
