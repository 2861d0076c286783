"""Given, when, then: what a user does in one namespace, and what they see.

    served = stage.given("digits", uri="volume://models/digits", version=1, volumes=[...])
    served.then("Ready", "True")
    served.when({"spec": {"model": {"version": 2}}})
    served.then("Promoted", "True")
    with served.asked() as ask: ...

Invariant: `then` speaks of the generation that was applied last, never of an older one.
Must not import: anything of Slipway; the tests see the product from outside only.
"""

from __future__ import annotations

import base64
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tests.e2e import reach
from tests.e2e.ask import Grpc, Rest, grpc_client, rest
from tests.e2e.kube import CHILDREN, Kube, Manifest, Ran, kubectl, outline
from tests.e2e.models import Digits

READY_SECONDS = float(os.environ.get("E2E_READY_SECONDS", "120"))
"""From applied to Ready, on two busy cores."""

SMALL: Manifest = {"requests": {"cpu": "20m", "memory": "128Mi"}, "limits": {"memory": "2Gi"}}
"""Enough for a test's model, and little enough that many fit on one small node."""


def merged(base: Any, change: Any) -> Any:
    """`base` with `change` in it, as a JSON merge patch: mappings merge, None deletes, anything else replaces."""
    if not isinstance(base, dict) or not isinstance(change, dict):
        return change
    out = dict(base)
    for key, value in change.items():
        if value is None:
            out.pop(key, None)
        elif isinstance(value, dict):
            out[key] = merged(out.get(key) or {}, value)
        else:
            out[key] = value
    return out


def config_map_volume(name: str, paths: dict[str, str], config_map: str | None = None) -> Manifest:
    """A volume with the ConfigMap's keys at paths: the quickest store there is."""
    items = [{"key": key, "path": path} for key, path in paths.items()]
    return {"name": name, "configMap": {"name": config_map or name, "items": items}}


def digits_volume(versions: Sequence[int] = (1, 2), name: str = "models") -> Manifest:
    """The volume that `given_digits` fills, with these versions in it: volume://NAME/digits."""
    return config_map_volume(name, {f"digits-{n}": f"digits/{n}/model.onnx" for n in versions}, "models")


@dataclass(frozen=True, slots=True)
class Asked:
    """Both ways to ask a served model."""

    rest: Rest
    grpc: Grpc
    address: reach.Address


@dataclass(slots=True)
class Served:
    """One ModelDeployment, and the manifest its user keeps."""

    kube: Kube
    manifest: Manifest

    @property
    def name(self) -> str:
        return str(self.manifest["metadata"]["name"])

    @property
    def namespace(self) -> str:
        return str(self.manifest["metadata"]["namespace"])

    @property
    def labels(self) -> str:
        """Label selector of everything that belongs to it."""
        return f"slipway.dev/model={self.name}"

    def when(self, change: Manifest) -> Served:
        """The user changes their YAML and applies it. Raises RefusedError, and then the kept YAML stays as it was."""
        manifest = merged(self.manifest, change)
        self.kube.apply(manifest)
        self.manifest = manifest
        return self

    def when_spec(self, **change: Any) -> Served:
        """The same, for fields of the spec."""
        return self.when({"spec": change})

    def then(
        self,
        condition: str,
        status: str,
        reason: str | None = None,
        says: Sequence[str] = (),
        seconds: float = READY_SECONDS,
    ) -> Manifest:
        """Waits for the condition, of the present generation, with that reason and those words in its message."""

        def holds(found: Manifest | None) -> Manifest | None:
            for one in conditions(found):
                assert found is not None
                is_current = one.get("observedGeneration") == found["metadata"]["generation"]
                if one["type"] == condition and one["status"] == status and is_current:
                    if reason is not None and one["reason"] != reason:
                        continue
                    if all(word in one["message"] for word in says):
                        return one
            return None

        what = f"{condition}={status}" + (f" {reason}" if reason else "") + (f" saying {list(says)}" if says else "")
        return self.kube.wait("ModelDeployment", self.name, self.namespace, what, holds, seconds)

    def then_ready(self, seconds: float = READY_SECONDS) -> Served:
        """Waits until the spec as applied serves: Ready, and nothing is on its way."""
        self.then("Ready", "True", seconds=seconds)
        self.then("Promoted", "True", seconds=seconds)
        return self

    def stored(self) -> Manifest:
        """The object as the API server has it."""
        found = self.kube.get("ModelDeployment", self.name, self.namespace)
        assert found is not None, f"ModelDeployment {self.namespace}/{self.name} is gone"
        return found

    def children(self, *kinds: str) -> list[Manifest]:
        """What the operator wrote for it, by ownerReference."""
        uid = self.stored()["metadata"]["uid"]
        return [
            item
            for kind in kinds or CHILDREN
            for item in self.kube.list_(kind, self.namespace)
            if any(owner["uid"] == uid for owner in item["metadata"].get("ownerReferences") or [])
        ]

    def pods(self) -> list[Manifest]:
        """Its pods that aren't on their way out."""
        found = self.kube.list_("Pod", self.namespace, labels=self.labels)
        return [pod for pod in found if not pod["metadata"].get("deletionTimestamp")]

    def then_pods(self, what: str, count: int, seconds: float = READY_SECONDS) -> list[Manifest]:
        """Waits until exactly so many pods are there and all of them ready."""

        def settled(pods: list[Manifest]) -> list[Manifest] | None:
            staying = [pod for pod in pods if not pod["metadata"].get("deletionTimestamp")]
            return staying if len(staying) == count and all(is_ready(pod) for pod in staying) else None

        return self.kube.wait_list("Pod", self.namespace, what, settled, labels=self.labels, seconds=seconds)

    def then_answers(self, digits: Digits, version: int, seconds: float = 15) -> None:
        """Waits until a new connection is answered as the trained version does.

        A promotion is known before every node has learned where the Service leads; a draining pod still answers.
        """

        def is_so() -> bool:
            with self.asked() as ask:
                answer = ask.rest.infer_json({"image": digits.images})["probabilities"]
            return np.allclose(answer, digits.probabilities(version), atol=1e-4)

        eventually(f"{self.name} answers as version {version}", is_so, seconds)

    @contextmanager
    def asked(self, model: str | None = None) -> Iterator[Asked]:
        """REST and gRPC of the Open Inference Protocol through the Service, as clients do."""
        with (
            reach.service(self.kube, self.name, self.namespace) as address,
            rest(address.http_url, model or self.name) as rest_side,
            grpc_client(address.grpc, model or self.name) as grpc_side,
        ):
            yield Asked(rest_side, grpc_side, address)


@dataclass(slots=True)
class Stage:
    """One namespace of a test."""

    kube: Kube
    namespace: str
    served: list[Served] = field(default_factory=list)

    def given_object(self, manifest: Manifest) -> Manifest:
        """Any object, in this namespace."""
        return self.kube.apply(merged(manifest, {"metadata": {"namespace": self.namespace}}))

    def given_files(self, name: str, files: dict[str, bytes]) -> None:
        """A ConfigMap with these files by key."""
        self.given_object(
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": name},
                "binaryData": {key: base64.b64encode(content).decode() for key, content in files.items()},
            }
        )

    def given_digits(self, digits: Digits, **more: bytes) -> None:
        """ConfigMap `models` with the trained digits: keys digits-1 and digits-2, and whatever else is wanted."""
        files = {f"digits-{number}": content for number, content in digits.files.items()}
        self.given_files("models", files | more)

    def given(
        self,
        name: str,
        uri: str,
        version: int | None,
        volumes: Sequence[Manifest] = (),
        model: Manifest | None = None,
        runtime: str | Manifest = "Triton",
        **spec: Any,
    ) -> Served:
        """A ModelDeployment, applied. `volumes` go into its podTemplate, `model` beside uri and version.

        version: None leaves it out, and the newest found is served. runtime: its name, or the field's content, whose
        name is Triton where it has none.
        """
        named = {"name": runtime} if isinstance(runtime, str) else {"name": "Triton"} | runtime
        wanted = {} if version is None else {"version": version}
        manifest: Manifest = {
            "apiVersion": "slipway.dev/v1alpha1",
            "kind": "ModelDeployment",
            "metadata": {"name": name, "namespace": self.namespace},
            "spec": {
                "runtime": named,
                "model": {"uri": uri} | wanted | (model or {}),
                "resources": SMALL,
            },
        }
        if volumes:
            manifest["spec"]["podTemplate"] = {"spec": {"volumes": list(volumes)}}
        served = Served(self.kube, merged(manifest, {"spec": spec}))
        self.kube.apply(served.manifest)
        self.served.append(served)
        return served

    def kubectl(self, *arguments: str, stdin: str | None = None, seconds: float = 60) -> Ran:
        """kubectl in this namespace."""
        return kubectl("--namespace", self.namespace, *arguments, stdin=stdin, seconds=seconds)


def eventually(what: str, is_so: Callable[[], bool], seconds: float = 15) -> None:
    """For what has no object to watch, such as a server's own answer: asks until it is so."""
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, f"{what}: not within {seconds:.0f} s"
        time.sleep(0.1)


def conditions(found: Manifest | None) -> list[Manifest]:
    """The conditions of an object, none when it has none."""
    return list(((found or {}).get("status") or {}).get("conditions") or [])


def is_ready(pod: Manifest) -> bool:
    """Whether the pod gets traffic."""
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions(pod))


def describe(kube: Kube, namespace: str) -> str:
    """All that helps to understand a failed test in a namespace: conditions, events, pods, their agents' logs."""
    parts = []
    for kind in ("ModelDeployment", "Deployment", "Pod"):
        parts += [outline(item) for item in kube.list_(kind, namespace)]
    events = sorted(kube.list_("Event", namespace), key=lambda item: str(item["metadata"]["creationTimestamp"]))
    parts.append("events:")
    parts += [
        f"  {event['involvedObject']['kind']}/{event['involvedObject'].get('name', '')} {event.get('reason')}: "
        f"{event.get('message')} (x{event.get('count') or 1})"
        for event in events[-40:]
    ]
    for pod in kube.list_("Pod", namespace):
        name = pod["metadata"]["name"]
        containers = [one["name"] for kind in ("initContainers", "containers") for one in pod["spec"].get(kind) or []]
        for container in containers:
            lines = 30 if container == "agent" else 15
            said = kubectl("-n", namespace, "logs", name, "-c", container, f"--tail={lines}", seconds=20)
            kept = [line for line in (said.out or said.err).splitlines() if not line.startswith(("|", "+"))]
            parts += [f"log of {name}/{container}:", *kept]
    return "\n".join(parts)
