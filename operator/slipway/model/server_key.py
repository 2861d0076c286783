"""The key between a pod's agent and its server: which Secret a workload's pods take it from.

    template of the revision            the workload's Deployment          its Secret
    SLIPWAY_SERVER_KEY from a Secret →  from the one of the workload   →   NAME-WORKLOAD-key-1f3ab, …-key-1f3ab-2, …

Agent and server read it when their containers start, each on its own. So a Secret's name has to mean one value: while a
Deployment asks for one that is gone, it is not made again under its name, or a container that starts anew would have
another key than its neighbour. The next name changes the pods' template, and the Deployment replaces them one by one.
Five digits stand for the ModelDeployment's uid: what is left of a deleted namesake is about to be collected, and must
not be taken for ours.

Which Secret that is stands in the Deployment alone. While it asks for one, that has been made: so a pass knows without
the right to read Secrets, and writes nothing where all is well. Templates of older releases take the pod's UID for a
key: they ask for no Secret, and get none.

Invariant: no value is known here, only names.
Must not import: anything but `model.names`. Pure.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterator
from typing import Any

from slipway.model.names import child_name

Json = dict[str, Any]

KEY_VARIABLE = "SLIPWAY_SERVER_KEY"
"""In agent and server: what the agent shows where an API of the server is the agent's alone."""

KEY_FIELD = "slipway-server-key"
"""The key of the Secret's one field. By it a reference is told from one of the user's own to a Secret of theirs."""

CONTAINER_LISTS = ("initContainers", "containers")

SUFFIX = re.compile(r"-key-[0-9a-f]{5}(-[1-9]\d{0,8})?")


def first_secret(name: str, uid: str, workload: str) -> str:
    """The Secret that a workload begins with. name, uid: the ModelDeployment's."""
    return f"{child_name(name, workload)}-key-{hashlib.sha256(uid.encode()).hexdigest()[:5]}"


def next_secret(secret: str) -> str:
    """The one after that: another name, since another value.

    >>> next_secret("digits-abc-key-1f3ab"), next_secret("digits-abc-key-1f3ab-2")
    ('digits-abc-key-1f3ab-2', 'digits-abc-key-1f3ab-3')
    """
    first, _, rest = secret.rpartition("-key-")
    mark, _, number = rest.partition("-")
    return f"{first}-key-{mark}-{int(number or 1) + 1}"


def secret_to_ask(first: str, name: str, workload: str, live: Json | None, lost: Collection[str]) -> str:
    """The Secret that a workload's pods are to take their key from.

    first: `first_secret`. live: the pod template of its Deployment; None: it has none yet. lost: Secrets that pods wait
    for in vain.
    """
    asked = asked_secret(live) if live is not None else None
    if asked is None or not is_secret_of(asked, name, workload):
        return first  # a name that isn't ours is somebody's change, which is put back
    return next_secret(asked) if asked in lost else asked


def is_secret_of(secret: str, name: str, workload: str) -> bool:
    """Whether a Secret is called like one of a workload's."""
    start = child_name(name, workload)
    return secret.startswith(start) and SUFFIX.fullmatch(secret.removeprefix(start)) is not None


def key_from(secret: str) -> Json:
    """The variable of a container, from that Secret."""
    return {"name": KEY_VARIABLE, "valueFrom": {"secretKeyRef": {"name": secret, "key": KEY_FIELD}}}


def asked_secret(template: Json) -> str | None:
    """The Secret that a pod template takes the key from; None: from none, or from one of the user's own."""
    return next((str(variable["valueFrom"]["secretKeyRef"].get("name")) for variable in _keys(template)), None)


def with_secret(template: Json, secret: str) -> Json:
    """A pod template that takes the key from this Secret, if it takes it from one of ours."""
    if asked_secret(template) is None:
        return template
    spec = template["spec"]
    lists = {part: [_renamed(each, secret) for each in spec[part]] for part in CONTAINER_LISTS if part in spec}
    return template | {"spec": spec | lists}


def _renamed(container: Json, secret: str) -> Json:
    if not any(map(_is_key, container.get("env") or ())):
        return container
    return container | {"env": [key_from(secret) if _is_key(variable) else variable for variable in container["env"]]}


def _keys(template: Json) -> Iterator[Json]:
    spec = template.get("spec") or {}
    for part in CONTAINER_LISTS:
        for container in spec.get(part) or ():
            yield from filter(_is_key, container.get("env") or ())


def _is_key(variable: Json) -> bool:
    reference = (variable.get("valueFrom") or {}).get("secretKeyRef") or {}
    return variable.get("name") == KEY_VARIABLE and reference.get("key") == KEY_FIELD
