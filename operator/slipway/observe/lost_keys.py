"""Pods that wait for the Secret with the key between agent and server: the operator may not look whether it is there.

A container whose Secret isn't there is not created, and its pod says so. Right after the Secret was made a kubelet may
say so, too, for a moment: its API server has it later than the one that took it.
Invariant: only what a pod says in so many words, of a Secret that is its workload's.
Must not import: decide, render, report, controller. Pure.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta

from slipway.model.names import MODEL_LABEL, REVISION_LABEL
from slipway.model.revision import Json
from slipway.model.server_key import KEY_FIELD, is_secret_of
from slipway.model.workload import Trouble
from slipway.observe.pod_object import PodObject, read_pod_object

LATE_SECONDS = 15
"""A kubelet that couldn't create a container tries again after ten seconds."""

GONE = re.compile(r'secret "([^"/]+)" not found')
"""A kubelet's words of a variable's Secret (pkg/kubelet, 1.36)."""

EMPTY = re.compile(rf"couldn't find key {KEY_FIELD} in Secret [^/\s]+/(\S+)")
"""Its words of a Secret that somebody else made under that name (pkg/kubelet, 1.36)."""


def missed_key(pod: PodObject, labels: Json) -> str | None:
    """The Secret of its workload that a container of the pod waits for; None: none does. labels: the pod's."""
    for container in pod.containers:
        waiting = (container.get("state") or {}).get("waiting") or {}
        if waiting.get("reason") != "CreateContainerConfigError":
            continue
        words = str(waiting.get("message") or "")
        found = GONE.search(words) or EMPTY.search(words)
        if found and is_secret_of(found[1], labels.get(MODEL_LABEL, ""), labels.get(REVISION_LABEL, "")):
            return found[1]
    return None


def said_at(pod: PodObject) -> datetime | None:
    """From when on a pod that waits for its key waits in vain; None: at once."""
    since = pod.holds_since("PodReadyToStartContainers") or pod.holds_since("PodScheduled")
    return since + timedelta(seconds=LATE_SECONDS) if since is not None else None


def lost_key(body: Json, now: datetime | None) -> str | None:
    """The Secret that a pod waits for in vain; None: it doesn't, or it is too soon to say so."""
    pod, meta = read_pod_object(body), body["metadata"]
    secret = missed_key(pod, meta.get("labels") or {})
    if secret is None or now is None or "deletionTimestamp" in meta:
        return None
    late_from = said_at(pod)
    return secret if late_from is None or now >= late_from else None


def key_trouble(pod: PodObject, labels: Json) -> Trouble | None:
    """That a container of the pod waits for its key; None: none does. labels: the pod's."""
    secret = missed_key(pod, labels)
    if secret is None:
        return None
    return Trouble(
        "KeyLost",
        f"pod {pod.name} waits for Secret {secret} with the key between agent and server: it isn't there, or lacks "
        f"{KEY_FIELD}. Another one is made, and the workload's pods are replaced one by one, since agent and server of "
        "a pod must have the same. Where no node has room for one pod more, delete this one. If somebody deletes these "
        "Secrets, stop that",
        needs_person=False,
    )
