"""The Kubernetes API as the tests see it: plain manifests in and out, and waits that watch.

Invariant: a wait returns as soon as the API server says so, and ends with what was seen last when it doesn't; nothing
here sleeps or polls.
Must not import: anything of Slipway; the tests see the product from outside only.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import requests
import yaml
from kubernetes import client, config

Manifest = dict[str, Any]
Found = TypeVar("Found")

PATHS = {
    # kind: (path before the namespace, plural, namespaced)
    "Namespace": ("/api/v1", "namespaces", False),
    "Node": ("/api/v1", "nodes", False),
    "PersistentVolume": ("/api/v1", "persistentvolumes", False),
    "Pod": ("/api/v1", "pods", True),
    "Service": ("/api/v1", "services", True),
    "Endpoints": ("/api/v1", "endpoints", True),
    "ConfigMap": ("/api/v1", "configmaps", True),
    "Secret": ("/api/v1", "secrets", True),
    "Event": ("/api/v1", "events", True),
    "PersistentVolumeClaim": ("/api/v1", "persistentvolumeclaims", True),
    "ResourceQuota": ("/api/v1", "resourcequotas", True),
    "ServiceAccount": ("/api/v1", "serviceaccounts", True),
    "Deployment": ("/apis/apps/v1", "deployments", True),
    "ReplicaSet": ("/apis/apps/v1", "replicasets", True),
    "ControllerRevision": ("/apis/apps/v1", "controllerrevisions", True),
    "PodDisruptionBudget": ("/apis/policy/v1", "poddisruptionbudgets", True),
    "NetworkPolicy": ("/apis/networking.k8s.io/v1", "networkpolicies", True),
    "EndpointSlice": ("/apis/discovery.k8s.io/v1", "endpointslices", True),
    "StorageClass": ("/apis/storage.k8s.io/v1", "storageclasses", False),
    "CustomResourceDefinition": ("/apis/apiextensions.k8s.io/v1", "customresourcedefinitions", False),
    "ModelDeployment": ("/apis/slipway.dev/v1alpha1", "modeldeployments", True),
}

CHILDREN = ("Deployment", "Service", "ConfigMap", "ControllerRevision", "PodDisruptionBudget", "NetworkPolicy")
"""The kinds that the operator writes for a ModelDeployment."""

FIELD_MANAGER = "e2e-user"


class RefusedError(Exception):
    """The API server said no: `status` is the HTTP status, `message` its words."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status
        self.message = message


class TimedOutError(AssertionError):
    """What was waited for did not come; the message says what was seen last."""


@dataclass(frozen=True, slots=True)
class Ran:
    """A command that ended: its exit status and both outputs."""

    status: int
    out: str
    err: str


class Kube:
    """One cluster, reached with the KUBECONFIG of the environment."""

    def __init__(self) -> None:
        settings = client.Configuration()
        config.load_kube_config(client_configuration=settings)  # type: ignore[no-untyped-call]
        self._host = settings.host.rstrip("/")
        self._http = requests.Session()
        self._http.trust_env = False
        self._http.verify = settings.ssl_ca_cert or bool(settings.verify_ssl)
        if settings.cert_file and settings.key_file:
            self._http.cert = (settings.cert_file, settings.key_file)
        token = settings.auth_settings().get("BearerToken")
        if token is not None:
            self._http.headers["authorization"] = str(token["value"])

    def request(self, method: str, path: str, **options: Any) -> requests.Response:
        """One request to the API server. Raises RefusedError for any answer from 400 on."""
        answer = self._http.request(method, self._host + path, timeout=(10, 120), **options)
        if answer.status_code >= 400:
            try:
                message = str(answer.json().get("message", answer.text))
            except ValueError:
                message = answer.text
            raise RefusedError(answer.status_code, message)
        return answer

    def get(self, kind: str, name: str, namespace: str | None = None, subresource: str = "") -> Manifest | None:
        """The object, or None."""
        try:
            found: Manifest = self.request("GET", _path(kind, namespace, name) + subresource).json()
        except RefusedError as refusal:
            if refusal.status == 404:
                return None
            raise
        return found

    def list_(self, kind: str, namespace: str | None = None, labels: str = "", fields: str = "") -> list[Manifest]:
        """All objects of the kind, in the namespace or everywhere."""
        answer = self.request("GET", _path(kind, namespace), params=_selectors(labels, fields)).json()
        # items of a list carry no kind; the tests' messages want it
        return [{"kind": kind} | item for item in answer["items"]]

    def create(self, manifest: Manifest) -> Manifest:
        """POST. Raises RefusedError(409) when it exists."""
        path = _path(manifest["kind"], manifest["metadata"].get("namespace"))
        created: Manifest = self.request("POST", path, json=manifest, params={"fieldValidation": "Strict"}).json()
        return created

    def apply(self, manifest: Manifest, force: bool = True, manager: str = FIELD_MANAGER) -> Manifest:
        """Server-side apply, unknown fields refused, as a person's kubectl does."""
        metadata = manifest["metadata"]
        applied: Manifest = self.request(
            "PATCH",
            _path(manifest["kind"], metadata.get("namespace"), metadata["name"]),
            data=json.dumps(manifest),
            headers={"content-type": "application/apply-patch+yaml"},
            params={"fieldManager": manager, "force": str(force).lower(), "fieldValidation": "Strict"},
        ).json()
        return applied

    def patch(
        self, kind: str, name: str, namespace: str | None, change: Manifest | list[Manifest], subresource: str = ""
    ) -> Manifest:
        """A merge patch (a mapping) or a JSON patch (a list)."""
        content = "application/json-patch+json" if isinstance(change, list) else "application/merge-patch+json"
        patched: Manifest = self.request(
            "PATCH",
            _path(kind, namespace, name) + subresource,
            data=json.dumps(change),
            headers={"content-type": content},
            params={"fieldManager": FIELD_MANAGER},
        ).json()
        return patched

    def delete(self, kind: str, name: str, namespace: str | None = None, grace_seconds: int | None = None) -> None:
        """Asks for the deletion; children go in the background. What is gone already is fine."""
        options: Manifest = {"propagationPolicy": "Background"}
        if grace_seconds is not None:
            options["gracePeriodSeconds"] = grace_seconds
        try:
            self.request("DELETE", _path(kind, namespace, name), json=options)
        except RefusedError as refusal:
            if refusal.status != 404:
                raise

    def wait(
        self,
        kind: str,
        name: str,
        namespace: str | None,
        what: str,
        check: Callable[[Manifest | None], Found | None],
        seconds: float = 120,
    ) -> Found:
        """The first value of `check` that isn't None, given the object (None while there is none) at each change."""
        last: Manifest | None = None
        for last in self._states(kind, name, namespace, seconds):
            found = check(last)
            if found is not None:
                return found
        place = f"{kind} {namespace or ''}/{name}"
        raise TimedOutError(f"{what}: not within {seconds:.0f} s. {place} was last:\n{outline(last)}")

    def wait_gone(self, kind: str, name: str, namespace: str | None, seconds: float = 60) -> None:
        """Returns when the object doesn't exist."""
        self.wait(kind, name, namespace, "gone", lambda found: True if found is None else None, seconds)

    def wait_list(
        self,
        kind: str,
        namespace: str | None,
        what: str,
        check: Callable[[list[Manifest]], Found | None],
        labels: str = "",
        seconds: float = 60,
    ) -> Found:
        """The first value of `check` that isn't None, given all matching objects at each change."""
        objects: dict[str, Manifest] = {}
        for objects in self._sets(kind, namespace, {"labelSelector": labels}, seconds):
            found = check(list(objects.values()))
            if found is not None:
                return found
        seen = "\n".join(outline(item) for item in objects.values()) or "none"
        raise TimedOutError(f"{what}: not within {seconds:.0f} s. {kind}s in {namespace} ({labels}) were last:\n{seen}")

    def writes_during(self, kinds: tuple[str, ...], namespace: str, seconds: float) -> list[str]:
        """What changed in the namespace during so many seconds: the first kind is watched, the others compared."""
        before = self._versions(kinds, namespace)
        first = kinds[0]
        start = self.request("GET", _path(first, namespace)).json()["metadata"]["resourceVersion"]
        for _ in self._watch(first, namespace, {}, start, seconds):
            pass
        after = self._versions(kinds, namespace)
        return sorted(
            f"{kind} {name}: {before.get((kind, name))} -> {after.get((kind, name))}"
            for kind, name in before.keys() | after.keys()
            if before.get((kind, name)) != after.get((kind, name))
        )

    def _versions(self, kinds: tuple[str, ...], namespace: str) -> dict[tuple[str, str], str]:
        return {
            (kind, item["metadata"]["name"]): item["metadata"]["resourceVersion"]
            for kind in kinds
            for item in self.list_(kind, namespace)
        }

    def _states(self, kind: str, name: str, namespace: str | None, seconds: float) -> Iterator[Manifest | None]:
        for objects in self._sets(kind, namespace, {"fieldSelector": f"metadata.name={name}"}, seconds):
            yield next(iter(objects.values()), None)

    def _sets(
        self, kind: str, namespace: str | None, selector: dict[str, str], seconds: float
    ) -> Iterator[dict[str, Manifest]]:
        """The matching objects by uid, now and after each change, until the time is over."""
        deadline = time.monotonic() + seconds
        while True:
            listed = self.request("GET", _path(kind, namespace), params=selector).json()
            objects = {item["metadata"]["uid"]: {"kind": kind} | item for item in listed["items"]}
            yield objects
            left = deadline - time.monotonic()
            if left <= 0:
                return
            for event in self._watch(kind, namespace, selector, listed["metadata"]["resourceVersion"], left):
                match event["type"]:
                    case "ADDED" | "MODIFIED":
                        objects[event["object"]["metadata"]["uid"]] = event["object"]
                    case "DELETED":
                        objects.pop(event["object"]["metadata"]["uid"], None)
                    case "ERROR":
                        break  # the watch is too old: list again
                yield objects

    def _watch(
        self, kind: str, namespace: str | None, selector: dict[str, str], start: str, seconds: float
    ) -> Iterator[Manifest]:
        whole_seconds = max(1, round(seconds))
        answer = self._http.get(
            self._host + _path(kind, namespace),
            params=selector | {"watch": "true", "resourceVersion": start, "timeoutSeconds": str(whole_seconds)},
            stream=True,
            timeout=(10, whole_seconds + 10),
        )
        with answer:
            for line in answer.iter_lines(chunk_size=None):
                if line:
                    yield json.loads(line)


def _path(kind: str, namespace: str | None = None, name: str | None = None) -> str:
    prefix, plural, namespaced = PATHS[kind]
    parts = [prefix]
    if namespaced and namespace is not None:
        parts += ["namespaces", namespace]
    parts.append(plural)
    if name is not None:
        parts.append(name)
    return "/".join(parts)


def _selectors(labels: str, fields: str) -> dict[str, str]:
    return {key: value for key, value in (("labelSelector", labels), ("fieldSelector", fields)) if value}


def outline(manifest: Manifest | None) -> str:
    """What a person wants to see of an object when a test fails: its name, its conditions, its containers' states."""
    if manifest is None:
        return "  (not there)"
    metadata, status = manifest["metadata"], manifest.get("status") or {}
    lines = [f"  {manifest.get('kind', '')} {metadata.get('namespace', '')}/{metadata['name']}"]
    if "generation" in metadata:
        lines[0] += f" generation {metadata['generation']}"
    if status.get("phase"):
        lines[0] += f" {status['phase']}"
    for condition in status.get("conditions") or []:
        lines.append(
            f"    {condition['type']}={condition['status']} {condition.get('reason', '')} "
            f"(generation {condition.get('observedGeneration', '-')}): {condition.get('message', '')}"
        )
    for container in [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]:
        lines.append(
            f"    {container['name']}: ready={container['ready']} restarts={container['restartCount']} "
            f"{json.dumps(container.get('state'))}"
        )
    return "\n".join(lines)


def kubectl(*arguments: str, stdin: str | bytes | None = None, seconds: float = 60) -> Ran:
    """Runs kubectl as a person would; the caller judges the exit status."""
    given = stdin.encode() if isinstance(stdin, str) else stdin
    done = subprocess.run(
        ["kubectl", *arguments], input=given, capture_output=True, timeout=seconds, env=os.environ, check=False
    )
    return Ran(done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"))


def to_yaml(manifest: Manifest) -> str:
    """The manifest as a person writes it."""
    return yaml.safe_dump(manifest, sort_keys=False)
