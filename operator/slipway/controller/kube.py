"""The only API client: list, read, apply, delete, patch status, post events.

Objects are written by server-side apply with field manager `slipway`; the object and its status are separate applies.
Every mutating request goes through `_write`, which counts it. Answers are returned as they are, for the cache.
Invariant: no object that another owns is ever written: `create` writes only what does not exist, `apply` only the
object whose uid the caller has seen.
Must not import: kopf. Must not decide anything.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

import aiohttp
from kubernetes.aio import config
from kubernetes.aio.client import Configuration
from kubernetes.aio.client.rest import RESTClientObject
from yarl import URL

from slipway.api.v1alpha1 import GROUP, KIND, PLURAL, VERSION
from slipway.controller import metrics
from slipway.model.names import FIELD_MANAGER

Json = dict[str, Any]

TIMEOUT_SECONDS = 30
JSON = "application/json"
APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"
METADATA_ONLY = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io"
LIST_CHUNK = 50
UNUSABLE = re.compile(r"failed to (create typed patch object|convert new object)")
"""How a server-side apply says, with status 500, that it can't read the manifest: a list has an item twice, a field is
of another type (k8s.io/apimachinery/pkg/util/managedfields, 1.36). It would say so again."""
PATHS: Mapping[str, tuple[str, str]] = {
    KIND: (f"/apis/{GROUP}/{VERSION}", PLURAL),
    "Deployment": ("/apis/apps/v1", "deployments"),
    "ControllerRevision": ("/apis/apps/v1", "controllerrevisions"),
    "Service": ("/api/v1", "services"),
    "ConfigMap": ("/api/v1", "configmaps"),
    "Pod": ("/api/v1", "pods"),
    "PodDisruptionBudget": ("/apis/policy/v1", "poddisruptionbudgets"),
    "NetworkPolicy": ("/apis/networking.k8s.io/v1", "networkpolicies"),
    "Secret": ("/api/v1", "secrets"),
    "Event": ("/api/v1", "events"),
}


class ClusterError(Exception):
    """A request that failed. Not `TransientError` means: the same request will fail again."""

    def __init__(self, what: str, status: int, message: str) -> None:
        super().__init__(f"{what}: {status}: {message}")
        self.status = status
        self.message = message


class TransientError(ClusterError):
    """The API server did not answer, is overloaded, or someone else wrote at the same time: try again."""


@dataclass(frozen=True, slots=True)
class _Request:
    """path: with its query. content_type: of the body; accept: of the answer."""

    method: str
    path: str
    body: Json | None = field(default=None, repr=False)
    content_type: str = JSON
    accept: str = JSON


class Cluster:
    """A connection to the API server."""

    def __init__(self, session: aiohttp.ClientSession, settings: Configuration) -> None:
        self._session = session
        self._settings = settings

    @classmethod
    async def connect(cls, connections: int) -> Cluster:
        """Use the pod's service account, or KUBECONFIG outside a cluster. Raises ConfigException with neither."""
        settings = Configuration()
        try:
            config.load_incluster_config(client_configuration=settings)  # type: ignore[no-untyped-call]  # not typed
        except config.ConfigException:
            await config.load_kube_config(client_configuration=settings)  # type: ignore[no-untyped-call]  # not typed
        # Not the client's own session: it trusts the environment, which sends every request through a thread twice
        # (netrc, proxies): a third of the CPU time of a write, and at each hop a wait for the interpreter's lock.
        tls = RESTClientObject(settings).ssl_context
        connector = aiohttp.TCPConnector(limit=connections, ssl=tls, keepalive_timeout=60)
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
        return cls(aiohttp.ClientSession(connector=connector, timeout=timeout), settings)

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()

    async def list_all(self, kind: str, namespace: str | None, selector: str) -> AsyncIterator[Json]:
        """All objects of a kind with that label selector (empty: all), in chunks so that memory stays flat."""
        query = {"limit": str(LIST_CHUNK), "labelSelector": selector}
        while True:
            page = await self._read(kind, f"{_path(kind, namespace)}?{urlencode(query)}")
            for item in page.get("items") or []:
                yield item
            following = (page.get("metadata") or {}).get("continue")
            if not following:
                return
            query["continue"] = following

    async def list_generations(self, namespace: str | None) -> dict[tuple[str, str], int]:
        """Namespace and name → generation of every ModelDeployment, from the API server's own cache."""
        accept = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"
        page = await self._read(KIND, f"{_path(KIND, namespace)}?resourceVersion=0", accept)
        found = {}
        for item in page.get("items") or []:
            meta = item["metadata"]
            if "deletionTimestamp" not in meta:
                found[meta["namespace"], meta["name"]] = int(meta.get("generation", 0))
        return found

    async def read(self, kind: str, namespace: str, name: str) -> Json | None:
        """One object as the API server's cache has it, or None when there is none."""
        try:
            return await self._read(kind, f"{_path(kind, namespace, name)}?resourceVersion=0")
        except ClusterError as error:
            if error.status == 404:
                return None
            raise

    async def create(self, manifest: Json) -> Json | None:
        """Server-side apply of an object that must not exist yet. None: one of that name does, and is left untouched.

        A resourceVersion that no object has makes the API server refuse the apply with a conflict when the object
        exists, and create it when not: one request, no race. (Seen on 1.36; e2e holds it on whatever it runs on.)
        """
        try:
            return await self._apply(manifest, {"resourceVersion": "1"})
        except TransientError as error:
            if error.status == 409:
                return None
            raise

    async def create_secret(self, manifest: Json) -> bool:
        """Create a Secret that we may not read. False: one of that name exists, and nothing is written.

        Whether it exists is what a dry run tells, to whom may create it: so an operator that is ended after every write
        finds its way, and one whose next write is refused doesn't write this one again and again.
        A plain create, since server-side apply would need the right to patch. What it holds is in no answer, and in no
        error: an admission webhook may quote what it refuses.
        """
        unsaid = {**manifest, "stringData": dict.fromkeys(manifest["stringData"], "")}
        path = f"{_path('Secret', manifest['metadata']['namespace'])}?fieldManager={FIELD_MANAGER}"
        asking = _Request("POST", f"{path}&dryRun=All", unsaid, accept=METADATA_ONLY)
        name = manifest["metadata"]["name"]
        try:
            metrics.READS.labels("Secret").inc()
            await self._send(f"ask for Secret {name}", asking)
            await self._write("Secret", "create", _Request("POST", path, manifest, accept=METADATA_ONLY))
        except ClusterError as error:
            if error.status == 409 and "already exists" in error.message:  # a quota's counter may be in conflict, too
                return False
            # Without the error that it comes from: that one has the words as they were.
            words = _without_values(error.message, manifest)
            raise type(error)(f"create Secret {name}", error.status, words) from None
        return True

    async def apply(self, manifest: Json, uid: str) -> Json:
        """Server-side apply to exactly this object; fields that others set to something else are taken back.

        The answer of both is the manifest with the metadata that the API server gave it: all that a pass compares.
        """
        return await self._apply(manifest, {"uid": uid})

    async def _apply(self, manifest: Json, precondition: Json) -> Json:
        kind, meta = manifest["kind"], manifest["metadata"]
        path = f"{_path(kind, meta['namespace'], meta['name'])}?fieldManager={FIELD_MANAGER}&force=true"
        wanted = {**manifest, "metadata": {**meta, **precondition}}
        answer = await self._write(kind, "apply", _Request("PATCH", path, wanted, APPLY, METADATA_ONLY))
        return {**manifest, "metadata": answer["metadata"]}

    async def apply_status(self, namespace: str, name: str, uid: str, status: Json) -> Json:
        """Server-side apply of a ModelDeployment's status. The uid keeps it off a namesake made anew."""
        manifest = {
            "apiVersion": f"{GROUP}/{VERSION}",
            "kind": KIND,
            "metadata": {"name": name, "namespace": namespace, "uid": uid},
            "status": status,
        }
        path = f"{_path(KIND, namespace, name)}/status?fieldManager={FIELD_MANAGER}&force=true"
        return await self._write(KIND, "status", _Request("PATCH", path, manifest, APPLY))

    async def delete(self, kind: str, namespace: str, name: str, uid: str) -> None:
        """Delete exactly this object; its dependents follow. That it is gone already is fine."""
        body = {"preconditions": {"uid": uid}, "propagationPolicy": "Background"}
        try:
            await self._write(kind, "delete", _Request("DELETE", _path(kind, namespace, name), body))
        except ClusterError as error:
            if error.status not in (404, 409):
                raise

    async def annotate_pod(self, namespace: str, name: str, annotation: str, value: str) -> Json | None:
        """Set one annotation of a pod, which makes its kubelet refresh the pod's volumes at once. None: it is gone."""
        body = {"metadata": {"annotations": {annotation: value}}}
        path = f"{_path('Pod', namespace, name)}?fieldManager={FIELD_MANAGER}"
        try:
            return await self._write("Pod", "annotate", _Request("PATCH", path, body, MERGE))
        except ClusterError as error:
            if error.status == 404:
                return None
            raise

    async def post_event(self, namespace: str, event: Json) -> None:
        """Post a Kubernetes event. Losing one is no error."""
        try:
            await self._write("Event", "create", _Request("POST", _path("Event", namespace), event))
        except ClusterError:
            return

    async def _read(self, kind: str, path: str, accept: str = JSON) -> Json:
        metrics.READS.labels(kind).inc()
        return await self._send(f"read {kind}", _Request("GET", path, accept=accept))

    async def _write(self, kind: str, verb: str, request: _Request) -> Json:
        metrics.WRITES.labels(kind, verb).inc()
        name = ((request.body or {}).get("metadata") or {}).get("name", "")
        return await self._send(f"{verb} {kind} {name}".rstrip(), request)

    async def _send(self, what: str, request: _Request) -> Json:
        """The answer. what: the request in words, for errors. Raises TransientError, ClusterError."""
        headers = {"Accept": request.accept, "Content-Type": request.content_type, "User-Agent": "slipway"}
        if token := await self._settings.get_api_key_with_prefix("BearerToken"):
            headers["Authorization"] = token
        url = URL(self._settings.host + request.path, encoded=True)
        content = None if request.body is None else json.dumps(request.body).encode()
        try:
            async with self._session.request(
                request.method,
                url,
                headers=headers,
                data=content,
                proxy=self._settings.proxy,
                server_hostname=self._settings.tls_server_name,
            ) as response:
                data = await response.read()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            metrics.FAILED_REQUESTS.labels("none").inc()
            raise TransientError(what, 0, f"the API server does not answer: {error}") from error
        if response.status < 300:
            answer: Json = json.loads(data)
            return answer
        metrics.FAILED_REQUESTS.labels(str(response.status)).inc()
        raise _error(what, response.status, data)


def _path(kind: str, namespace: str | None, name: str | None = None) -> str:
    prefix, plural = PATHS[kind]
    place = f"/namespaces/{namespace}" if namespace else ""
    return f"{prefix}{place}/{plural}" + (f"/{name}" if name else "")


def _without_values(words: str, secret: Json) -> str:
    """Words without what the Secret holds, in plain or as the API server writes it; cut off in it, too."""
    for value in secret["stringData"].values():
        for form in (value, base64.b64encode(value.encode()).decode().rstrip("=")):
            words = words.replace(form, "…")
            cut = next((length for length in range(len(form), 3, -1) if words.endswith(form[:length])), 0)
            words = words[: len(words) - cut]
    return words


def _error(what: str, status: int, data: bytes) -> ClusterError:
    try:
        message = str(json.loads(data)["message"])
    except (ValueError, KeyError, TypeError):
        message = data[:500].decode(errors="replace")
    is_transient = status in (408, 409, 429) or (status >= 500 and not UNUSABLE.search(message))
    return (TransientError if is_transient else ClusterError)(what, status, message)
