"""Why an image could not be pulled, from a kubelet's words: what counts against the image, and what is a wait.

A wait (`ImagePullDelayed`, in `room.ROOM`) says nothing of the image: the registry or the way to it is at fault. Only
what the registry says of the image counts against it (`ImagePullFailed`). First row that fits:

    the kubelet's words                                                                   counts as  needs a person
    InvalidImageName, ErrImageNeverPull, SignatureValidationFailed                        fault      yes
    429, 5xx, a time-out, a cut connection, a temporary failure of DNS                    wait       no: it passes
    connection refused, no such host, no route, an untrusted certificate                  wait       yes: which host?
    not found, manifest unknown, denied, unauthorized, forbidden, none for the platform   fault      yes
    anything else (a node's full disk), and a back-off that names no cause                wait       yes

Kubelets from 1.32 on repeat the cause in the back-off (`Back-off pulling image "x": ErrImagePull: …`). Older ones name
it for the moment of each attempt only, and a pod's object keeps nothing of that; so a back-off without a cause is no
proof against the image. It is Degraded at once, and no deadline counts: better late than rejected for nothing.

Words of containerd 1.7 and 2, of CRI-O, and of kubelets 1.29 to 1.36.
Must not import: decide, render, report, controller. Pure.
"""

from __future__ import annotations

import re

from slipway.model.revision import Json
from slipway.model.workload import Trouble
from slipway.observe.pod_object import PodObject
from slipway.observe.quoting import first_line

OF_THE_NAME = ("InvalidImageName", "ErrImageNeverPull", "SignatureValidationFailed")
FAILED = (*OF_THE_NAME, "ErrImagePull", "ImagePullBackOff", "ImageInspectError", "RegistryUnavailable")
"""A kubelet's reasons of a container whose image isn't there."""

PASSES = re.compile(
    r"\b429\b|too ?many ?requests|rate limit|\b5\d\d (?:internal|bad|service|gateway)|status(?: code)?:?\s+5\d\d\b"
    r"|time-?out|timed out|deadline exceeded|context canceled|connection reset|broken pipe|\bEOF\b"
    r"|temporary failure in name resolution|server misbehaving|try again",
    re.IGNORECASE,
)
UNREACHABLE = re.compile(
    r"connection refused|no such host|no route to host|network is unreachable|x509:|tls: |proxyconnect"
    r"|server gave HTTP response",
    re.IGNORECASE,
)
OF_THE_IMAGE = re.compile(
    r"not found|manifest unknown|name unknown|does not exist|denied|unauthorized|forbidden|authentication required"
    r"|no basic auth|authorization failed|\b40[134]\b|no match(?:ing manifest)? for (?:platform|linux)"
    r"|invalid reference|unsupported (?:media ?type|manifest)|NotFound",
    re.IGNORECASE,
)
"""What a registry says of an image that it has not, or not for this node."""
OF_THE_NODE = re.compile(r"content digest|executable file not found|no space left", re.IGNORECASE)
NOT_SAID = re.compile(r'https?://\S+|"[^"]*"')
"""Addresses and names: an image that is called `not-found` isn't so for its name."""


def pull_trouble(pod: PodObject, container: Json, waiting: Json) -> Trouble | None:
    """Why the image of a container can't be pulled; None: it waits for something else."""
    reason = waiting.get("reason")
    if reason not in FAILED:
        return None
    words = first_line(waiting.get("message") or str(reason))
    what = f"pod {pod.name}: {pod.where} can't pull image {container.get('image')!r} of container {container['name']}"
    said = NOT_SAID.sub("", words)
    if reason not in OF_THE_NAME and PASSES.search(said):
        return Trouble(
            "ImagePullDelayed", f"{what} yet, and tries again: {words}. The registry is at fault", needs_person=False
        )
    if reason == "RegistryUnavailable" or (reason not in OF_THE_NAME and UNREACHABLE.search(said)):
        return Trouble(
            "ImagePullDelayed",
            f"{what} yet, and tries again: {words}. The registry can't be reached from there; see whether the image's "
            "name has the right host, and whether the node may reach it",
        )
    if reason in OF_THE_NAME or (OF_THE_IMAGE.search(said) and not OF_THE_NODE.search(said)):
        return Trouble(
            "ImagePullFailed",
            f"{what}: {words}. Correct the image's name, or spec.podTemplate.spec.imagePullSecrets",
        )
    return Trouble(
        "ImagePullDelayed",
        f"{what} yet, and tries again: {words}. See why: kubectl describe pod {pod.name}. It may be the image's name, "
        "spec.podTemplate.spec.imagePullSecrets, or the node",
    )
