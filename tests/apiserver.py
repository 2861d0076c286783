"""The tests' own view of a Kubernetes API server: what the crash tests and the benchmark read and write with.

It shares nothing with the operator's client, so that a fault there can't hide itself here. Paths come from one small
table of kinds; every request that fails raises `RequestError` with the server's own words.
Invariant: must not import slipway.
"""

import asyncio
import base64
import json
import ssl
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp
import yaml

Manifest = dict[str, Any]

# kind → (API prefix, plural). Only kinds that the tests touch.
KINDS: Mapping[str, tuple[str, str]] = {
    "ConfigMap": ("/api/v1", "configmaps"),
    "Event": ("/api/v1", "events"),
    "Namespace": ("/api/v1", "namespaces"),
    "PersistentVolumeClaim": ("/api/v1", "persistentvolumeclaims"),
    "Pod": ("/api/v1", "pods"),
    "Secret": ("/api/v1", "secrets"),
    "Service": ("/api/v1", "services"),
    "ServiceAccount": ("/api/v1", "serviceaccounts"),
    "ControllerRevision": ("/apis/apps/v1", "controllerrevisions"),
    "Deployment": ("/apis/apps/v1", "deployments"),
    "ReplicaSet": ("/apis/apps/v1", "replicasets"),
    "HorizontalPodAutoscaler": ("/apis/autoscaling/v2", "horizontalpodautoscalers"),
    "PodDisruptionBudget": ("/apis/policy/v1", "poddisruptionbudgets"),
    "NetworkPolicy": ("/apis/networking.k8s.io/v1", "networkpolicies"),
    "ClusterRoleBinding": ("/apis/rbac.authorization.k8s.io/v1", "clusterrolebindings"),
    "CustomResourceDefinition": ("/apis/apiextensions.k8s.io/v1", "customresourcedefinitions"),
    "ModelDeployment": ("/apis/slipway.dev/v1alpha1", "modeldeployments"),
}
CLUSTER_SCOPED = frozenset({"Namespace", "ClusterRoleBinding", "CustomResourceDefinition"})
# What an operator may make for a ModelDeployment: the kinds compared and counted.
CHILD_KINDS = (
    "ConfigMap",
    "Secret",
    "Service",
    "ServiceAccount",
    "ControllerRevision",
    "Deployment",
    "HorizontalPodAutoscaler",
    "PodDisruptionBudget",
    "NetworkPolicy",
    "PersistentVolumeClaim",
)

APPLY_PATCH = "application/apply-patch+yaml"  # JSON is YAML, so a JSON body is sent
MERGE_PATCH = "application/merge-patch+json"
METADATA_ONLY = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
METADATA_ONLY_EVENTS = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"


class RequestError(Exception):
    """The API server refused, or lost, a request."""

    def __init__(self, method: str, path: str, status: int, message: str) -> None:
        super().__init__(f"{method} {path}: {status}: {message}")
        self.status = status


def path_of(kind: str, namespace: str = "", name: str = "", subresource: str = "") -> str:
    """The URL path of a collection, an object or its subresource; no namespace means all of them."""
    prefix, plural = KINDS[kind]
    parts = [prefix]
    if namespace and kind not in CLUSTER_SCOPED:
        parts += ["namespaces", namespace]
    parts.append(plural)
    parts += [part for part in (name, subresource) if part]
    return "/".join(parts)


@dataclass(frozen=True, slots=True)
class Access:
    """Where the API server is and who we are to it."""

    server: str
    context: ssl.SSLContext
    token: str | None


def read_access(kubeconfig: Path) -> Access:
    """Reads the current context of a kubeconfig file; credentials may be a token or a client certificate."""
    config = yaml.safe_load(kubeconfig.read_text())
    context = next(c["context"] for c in config["contexts"] if c["name"] == config["current-context"])
    cluster = next(c["cluster"] for c in config["clusters"] if c["name"] == context["cluster"])
    user = next(u["user"] for u in config["users"] if u["name"] == context["user"])
    tls = ssl.create_default_context()
    if "certificate-authority-data" in cluster:
        tls.load_verify_locations(cadata=base64.b64decode(cluster["certificate-authority-data"]).decode())
    else:
        tls.load_verify_locations(cafile=kubeconfig.parent / cluster["certificate-authority"])
    if "client-certificate-data" in user:
        with tempfile.TemporaryDirectory() as folder:
            certificate, key = Path(folder, "certificate"), Path(folder, "key")
            certificate.write_bytes(base64.b64decode(user["client-certificate-data"]))
            key.write_bytes(base64.b64decode(user["client-key-data"]))
            tls.load_cert_chain(certificate, key)
    elif "client-certificate" in user:
        tls.load_cert_chain(kubeconfig.parent / user["client-certificate"], kubeconfig.parent / user["client-key"])
    return Access(server=cluster["server"], context=tls, token=user.get("token"))


def write_kubeconfig(path: Path, admin_kubeconfig: Path, token: str) -> None:
    """Writes a kubeconfig for the same cluster as the administrator's, with a token in place of its credentials."""
    config = yaml.safe_load(admin_kubeconfig.read_text())
    context = next(c["context"] for c in config["contexts"] if c["name"] == config["current-context"])
    cluster = next(c["cluster"] for c in config["clusters"] if c["name"] == context["cluster"])
    if "certificate-authority" in cluster:
        cluster["certificate-authority"] = str(admin_kubeconfig.parent / cluster["certificate-authority"])
    path.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "test",
                "clusters": [{"name": "test", "cluster": cluster}],
                "users": [{"name": "test", "user": {"token": token}}],
                "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
            }
        )
    )
    path.chmod(0o600)


def read_crds(folder: Path) -> list[Manifest]:
    """Reads every CustomResourceDefinition in a folder's YAML files."""
    documents = [d for file in sorted(folder.glob("*.yaml")) for d in yaml.safe_load_all(file.read_text())]
    return [d for d in documents if d and d.get("kind") == "CustomResourceDefinition"]


class ApiServer:
    """A session with the API server; `async with` opens and closes its connections."""

    def __init__(self, access: Access, connections: int = 32) -> None:
        self._access = access
        headers = {"User-Agent": "slipway-tests"}
        if access.token:
            headers["Authorization"] = f"Bearer {access.token}"
        self._session = aiohttp.ClientSession(
            base_url=access.server,
            headers=headers,
            connector=aiohttp.TCPConnector(limit=connections, ssl=access.context),
            timeout=aiohttp.ClientTimeout(total=120),
        )
        # Watches keep a connection each for as long as they last; beside the pool, or they would eat it up.
        self._watching = aiohttp.ClientSession(
            base_url=access.server,
            headers=headers,
            connector=aiohttp.TCPConnector(limit=0, ssl=access.context),
            timeout=aiohttp.ClientTimeout(total=None),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()
        await self._watching.close()
        await asyncio.sleep(0.1)  # TLS connections say goodbye after close() has returned

    async def request(
        self,
        method: str,
        path: str,
        body: Manifest | bytes | None = None,
        content_type: str = "application/json",
        accept: str = "application/json",
        params: Mapping[str, str] | None = None,
    ) -> Manifest:
        """Sends one request and returns the answer's object; raises RequestError for any status of 400 and above."""
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        headers = {"Content-Type": content_type, "Accept": accept}
        async with self._session.request(method, path, data=data, headers=headers, params=params) as response:
            answer = await response.read()
            if response.status >= 400:
                try:
                    message = str(json.loads(answer)["message"])
                except (ValueError, KeyError, TypeError):
                    message = answer[:300].decode(errors="replace")
                raise RequestError(method, path, response.status, message)
            parsed: Manifest = json.loads(answer) if answer[:1] == b"{" else {"text": answer.decode()}
            return parsed

    async def read(self, kind: str, namespace: str, name: str) -> Manifest | None:
        """Returns an object, or None where there is none of that name."""
        try:
            return await self.request("GET", path_of(kind, namespace, name))
        except RequestError as error:
            if error.status == 404:
                return None
            raise

    async def list_all(
        self, kind: str, namespace: str = "", *, selector: str = "", metadata_only: bool = False
    ) -> tuple[list[Manifest], str]:
        """Returns all objects of a kind and the resource version to watch from; pages of 500."""
        items: list[Manifest] = []
        params = {"limit": "500"}
        if selector:
            params["labelSelector"] = selector
        while True:
            page = await self.request(
                "GET",
                path_of(kind, namespace),
                params=params,
                accept=METADATA_ONLY if metadata_only else "application/json",
            )
            items += page["items"] or []  # null where metadata alone is asked for and there is none
            if not page["metadata"].get("continue"):
                return items, page["metadata"]["resourceVersion"]
            params["continue"] = page["metadata"]["continue"]

    async def watch(
        self, kind: str, namespace: str, resource_version: str, *, selector: str = "", metadata_only: bool = False
    ) -> AsyncIterator[tuple[str, Manifest]]:
        """Yields (event type, object) from a resource version on, until the server ends the watch."""
        params = {"watch": "true", "resourceVersion": resource_version}
        if selector:
            params["labelSelector"] = selector
        headers = {"Accept": METADATA_ONLY_EVENTS if metadata_only else "application/json"}
        async with self._watching.get(path_of(kind, namespace), params=params, headers=headers) as response:
            response.raise_for_status()
            rest = b""
            async for chunk in response.content.iter_any():
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    event = json.loads(line)
                    yield event["type"], event["object"]

    async def create(self, manifest: Manifest) -> Manifest:
        return await self.request(
            "POST", path_of(manifest["kind"], manifest["metadata"].get("namespace", "")), body=manifest
        )

    async def apply(self, manifest: Manifest, *, manager: str = "slipway-tests", subresource: str = "") -> Manifest:
        """Server-side apply, forced."""
        metadata = manifest["metadata"]
        return await self.request(
            "PATCH",
            path_of(manifest["kind"], metadata.get("namespace", ""), metadata["name"], subresource),
            body=manifest,
            content_type=APPLY_PATCH,
            params={"fieldManager": manager, "force": "true"},
        )

    async def merge(self, kind: str, namespace: str, name: str, change: Manifest, *, subresource: str = "") -> Manifest:
        return await self.request(
            "PATCH", path_of(kind, namespace, name, subresource), body=change, content_type=MERGE_PATCH
        )

    async def delete(self, kind: str, namespace: str, name: str) -> None:
        """Deletes an object in the background; one that is gone already is fine."""
        try:
            await self.request("DELETE", path_of(kind, namespace, name), params={"propagationPolicy": "Background"})
        except RequestError as error:
            if error.status != 404:
                raise

    async def install_crds(self, manifests: Sequence[Manifest]) -> None:
        """Applies CustomResourceDefinitions and waits until the API server serves them."""
        for manifest in manifests:
            await self.apply(manifest)
            spec = manifest["spec"]
            served = f"/apis/{spec['group']}/{spec['versions'][0]['name']}/{spec['names']['plural']}"
            for _ in range(100):
                try:
                    await self.request("GET", served, params={"limit": "1"})
                    break
                except RequestError as error:
                    if error.status != 404:
                        raise
                    await asyncio.sleep(0.1)
            else:
                raise RequestError("GET", served, 404, "the API server does not serve this CRD after 10 s")

    async def make_namespace(self, name: str) -> None:
        await self.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})

    async def make_account(self, namespace: str, name: str) -> str:
        """Makes a service account that may do everything and returns a token of it, good for a day.

        A service account, because that is what the operator is in a cluster: it passes through RBAC and through the
        API server's priority levels, from which an administrator is exempt.
        """
        await self.apply(
            {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"namespace": namespace, "name": name}}
        )
        await self.apply(
            {
                "apiVersion": "rbac.authorization.k8s.io/v1",
                "kind": "ClusterRoleBinding",
                "metadata": {"name": f"{namespace}-{name}"},
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
                "subjects": [{"kind": "ServiceAccount", "namespace": namespace, "name": name}],
            }
        )
        answer = await self.request(
            "POST",
            path_of("ServiceAccount", namespace, name, "token"),
            body={
                "apiVersion": "authentication.k8s.io/v1",
                "kind": "TokenRequest",
                "spec": {"expirationSeconds": 86400},
            },
        )
        return str(answer["status"]["token"])
