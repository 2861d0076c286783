"""What a pod waits for that its revision didn't do wrong: a queue, a node, a claim, an image.

A trouble whose reason is in ROOM is a wait: it becomes `Workload.waits_for_room`, no deadline counts meanwhile, and
nothing is rejected for it. Every other trouble counts against the revision. "person": whether Degraded says it.

    what Kubernetes says                                        reason               counts as  person
    PodScheduled False, SchedulingGated (Kueue and others)      SchedulingGated      wait       no: a queue decides
    … `persistentvolumeclaim "x" not found`                     ClaimNotFound        wait       yes: to create it
    … `unbound immediate PersistentVolumeClaims`                ClaimNotBound        wait       no: a driver decides
    … anything else: resources, taints, affinity, no words      Unschedulable        wait       yes: to make room
    ReplicaFailure, `exceeded quota`                            QuotaExceeded        wait       yes
    ReplicaFailure, anything else                               PodsRefused          fault      yes
    no sandbox PREPARING_SECONDS after its node took it         VolumesNotReady      fault      yes
    a sandbox, no error, no container after PULLING_SECONDS     ImagePulling         wait       no
    an image's pull failed: `image_pulls` says which            ImagePullDelayed     wait       as it says
                                                                ImagePullFailed      fault      yes
    one pod can't serve what others of its workload serve       NodeCannotLoad       wait       yes: to look at the node

VolumesNotReady is a fault: its pods have nodes, and most often its configuration names a ConfigMap or Secret that isn't
there; a pod's object doesn't tell that from a volume that is slow to come.
Invariant: a message says since when, where Kubernetes tells, and doesn't change while time goes by.
Must not import: decide, render, report, controller. Pure.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta

from slipway.model.revision import Json
from slipway.model.workload import Trouble
from slipway.observe.pod_object import PodObject, changed_at, since_words

ROOM = frozenset(
    {
        "SchedulingGated",
        "Unschedulable",
        "ClaimNotFound",
        "ClaimNotBound",
        "QuotaExceeded",
        "ImagePulling",
        "ImagePullDelayed",
        "NodeCannotLoad",
    }
)
"""The reasons of waits. What is waited for is no fault of the revision's bytes, image or configuration."""

NODE_WANTED = frozenset({"Unschedulable", "SchedulingGated"})
"""Of these, the reasons that speak of a node: what others hold may be what is missing."""

PULLING = "ImagePulling"

PULLING_SECONDS = 10
"""Where the image is on the node, a container starts sooner. Later, its image is being pulled."""

UNBOUND = ("unbound immediate PersistentVolumeClaims", "didn't find available persistent volumes", "binding volumes")
CREATING = ("ContainerCreating", "PodInitializing")
"""A kubelet's reasons of a container that is about to be made. It has no other word for a pull."""


def scheduling_trouble(pod: PodObject) -> Trouble | None:
    """Why a pod has no node; None: it has one, or nobody has looked at it yet."""
    scheduled = pod.conditions.get("PodScheduled", {})
    if scheduled.get("status") != "False":
        return None
    since = since_words(changed_at(scheduled))
    if scheduled.get("reason") == "SchedulingGated":
        return Trouble(
            "SchedulingGated",
            f"pod {pod.name} may not be scheduled yet: a queue (Kueue, or another owner of spec.schedulingGates) holds "
            f"it back{since}. Look at the queue that admits the pods of this namespace",
            needs_person=False,
        )
    return _unscheduled(pod.name, scheduled, since)


def _unscheduled(name: str, scheduled: Json, since: str) -> Trouble:
    """PodScheduled=False in words. Kubernetes' own: `0/3 nodes are available: 1 Insufficient cpu, 3 Insufficient …`."""
    message = re.split(
        r"[.,]? (?:no new claims to deallocate, |still not schedulable, )?preemption:",
        str(scheduled.get("message") or ""),
    )[0].strip()
    if claim := re.search(r'persistentvolumeclaim "([^"]+)" not found', message):
        return Trouble(
            "ClaimNotFound",
            f"pod {name} waits for PersistentVolumeClaim {claim[1]}, which does not exist in this namespace{since}. "
            "Create it, or correct spec.model.uri or the volumes of spec.podTemplate",
        )
    if any(words in message for words in UNBOUND):
        return Trouble(
            "ClaimNotBound",
            f"pod {name} waits for a PersistentVolumeClaim that is not bound to a volume yet{since}. If it stays so, "
            f"look at the claim's StorageClass and events: kubectl describe pvc ({message})",
            needs_person=False,
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
            f"pod {name} finds no node: {what}{since}. Free some, add a node that has it, or ask for less in "
            f"spec.resources ({message})",
        )
    return Trouble("Unschedulable", f"pod {name} finds no node{since}: {message or 'no reason given'}")


def pull_under_way(pod: PodObject, now: datetime) -> tuple[Trouble | None, datetime | None]:
    """That an image is being pulled, and, while it is too soon to say so, when to look again.

    Kubelets say nothing of a pull that goes on: it is what keeps a container from being made once the pod's volumes
    and network are there and those before it have started.
    """
    waiting = _next_to_start(pod)
    if waiting is None or not pod.has_sandbox:
        return None, None
    if waiting in pod.main:  # with an init container that goes on, Initialized is when it started
        since = pod.holds_since("Initialized")
    else:
        since = pod.holds_since("PodReadyToStartContainers") or pod.holds_since("PodScheduled")
    if since is None:
        return None, None
    said_at = since + timedelta(seconds=PULLING_SECONDS)
    if now < said_at:
        return None, said_at
    return Trouble(
        PULLING,
        f"pod {pod.name}: {pod.where} is pulling image {waiting.get('image')!r} of container {waiting['name']}"
        f"{since_words(since)}",
        needs_person=False,
    ), None


def _next_to_start(pod: PodObject) -> Json | None:
    """The first container that isn't made yet, where nothing but its image keeps it from that."""
    statuses = pod.main
    if not pod.holds("Initialized"):
        statuses = pod.starting
        while statuses and "terminated" in (statuses[0].get("state") or {}):  # an init container that is through
            statuses = statuses[1:]
        statuses = statuses[:1]  # the one whose turn it is
    for status in statuses:
        waiting = (status.get("state") or {}).get("waiting") or {}
        if waiting.get("reason") in CREATING and not status.get("restartCount"):
            return status
    return None
