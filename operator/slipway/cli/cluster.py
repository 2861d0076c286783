"""The API server, as the commands ask it: `World`, answered by the official kubernetes client.

Invariant: every way in which a cluster can't be reached or refuses ends as one line of a CommandError, never as one of
the client's own exceptions; nothing is written but one annotation.
Facts (of the client, 37): without `retries` urllib3 tries four times and logs each; a kubeconfig's exec plugin that
fails raises ConfigException or leaves the request without a token.
Must not import: kopf, the operator's own client. The only module of the CLI that imports kubernetes.
"""

from __future__ import annotations

import json
import logging
import os
import ssl
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import urllib3
from kubernetes import config
from kubernetes.client import ApiClient, Configuration
from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import HTTPError, MaxRetryError

from slipway.api.v1alpha1 import GROUP, PLURAL, VERSION
from slipway.cli.client import Answer, Json, Request, Target
from slipway.cli.errors import CommandError, Exit, failed

TIMEOUT_SECONDS = 15
FIELD_MANAGER = "slipway-cli"
MODELS = f"/apis/{GROUP}/{VERSION}"
MODEL_LABEL = f"{GROUP}/model"
NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


class _Heard(logging.Handler):
    """What the client logs of a login that fails, where it raises nothing."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.words: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Remember it; print nothing."""
        self.words.append(record.getMessage())


def connect(target: Target) -> Cluster:
    """The cluster of the kubeconfig, or the one that this pod runs in where there is no kubeconfig."""
    # What the client logs on the way to an error would be lines beside ours.
    logging.getLogger("urllib3").setLevel(logging.CRITICAL)
    logging.getLogger("kubernetes").setLevel(logging.CRITICAL)
    warnings.simplefilter("ignore")  # of TLS that the kubeconfig itself says not to verify
    settings = Configuration()
    heard = _Heard()
    logging.getLogger().addHandler(heard)  # and it stays: a login that runs again in mid-watch is logged there, too
    namespace = _load(settings, target)
    if heard.words:
        message = f"the kubeconfig's login fails: {heard.words[-1]}; what does kubectl get mdep say?"
        raise CommandError(Exit.NO_CLUSTER, message)
    settings.retries = urllib3.Retry(0, redirect=False)
    return Cluster(ApiClient(settings), target.namespace or namespace, target)


def _load(settings: Configuration, target: Target) -> str:
    """Fill the settings; returns the namespace that they name."""
    try:
        config.load_kube_config(  # type: ignore[no-untyped-call]  # not typed
            config_file=target.kubeconfig,
            context=target.context,
            client_configuration=settings,
            persist_config=False,
        )
        contexts, active = config.list_kube_config_contexts(target.kubeconfig)  # type: ignore[no-untyped-call]
        mine: Mapping[str, Any] = next((each for each in contexts if each["name"] == target.context), active)
        return str((mine.get("context") or {}).get("namespace") or "default")
    except config.ConfigException as error:
        if target.kubeconfig is None and target.context is None and _load_from_pod(settings):
            return NAMESPACE_FILE.read_text().strip()
        raise CommandError(Exit.NO_CLUSTER, _no_settings(target, error)) from None
    except OSError as error:
        message = f"the kubeconfig can't be read: {error.strerror}: {error.filename}; name another with --kubeconfig"
        raise CommandError(Exit.NO_CLUSTER, message) from None
    except Exception as error:  # a broken kubeconfig breaks the client's loader in many ways
        message = f"the kubeconfig can't be used ({type(error).__name__}: {error}); try kubectl config view"
        raise CommandError(Exit.NO_CLUSTER, message) from None


def _load_from_pod(settings: Configuration) -> bool:
    try:
        config.load_incluster_config(client_configuration=settings)  # type: ignore[no-untyped-call]
    except config.ConfigException:
        return False
    return True


def _no_settings(target: Target, error: Exception) -> str:
    if target.context is not None and "context" in str(error).lower():
        return f"there is no context {target.context!r} in the kubeconfig; kubectl config get-contexts lists them"
    where = target.kubeconfig or os.environ.get("KUBECONFIG") or "~/.kube/config"
    return f"no cluster to talk to: {where} names none ({error}); set KUBECONFIG, or name a file with --kubeconfig"


class Cluster:
    """One API server, and the namespace that is meant."""

    def __init__(self, client: ApiClient, namespace: str, target: Target) -> None:
        self._client = client
        self._namespace = namespace
        self._target = target

    @property
    def namespace(self) -> str:
        """Of the flags, else of the kubeconfig's context, else `default`."""
        return self._namespace

    def read_model(self, name: str) -> Json | None:
        """The ModelDeployment; None: there is none of that name."""
        status, body = self._get(self._models(name))
        if status == 404 and _says_not_found(body):
            return None
        return self._checked(status, body, "get", "modeldeployments")

    def list_models(self, *, everywhere: bool = False) -> list[Json]:
        """Those of the namespace, or of all namespaces."""
        path = f"{MODELS}/{PLURAL}" if everywhere else self._models()
        return self._listed(path, "modeldeployments", everywhere=everywhere)

    def list_revisions(self, name: str) -> list[Json]:
        """The ControllerRevisions of a ModelDeployment."""
        query = urlencode({"labelSelector": f"{MODEL_LABEL}={name}"})
        path = f"/apis/apps/v1/namespaces/{quote(self._namespace)}/controllerrevisions?{query}"
        return self._listed(path, "controllerrevisions")

    def list_pods(self, selector: str) -> list[Json]:
        """Pods with these labels."""
        path = f"/api/v1/namespaces/{quote(self._namespace)}/pods?{urlencode({'labelSelector': selector})}"
        return self._listed(path, "pods")

    def has_namespace(self) -> bool | None:
        """Whether the namespace exists; None: can't tell."""
        status, _ = self._get(f"/api/v1/namespaces/{quote(self._namespace)}")
        return {200: True, 404: False}.get(status)

    def annotate(self, name: str, key: str, value: str) -> Json:
        """Write one annotation of a ModelDeployment, and nothing else of it."""
        change = json.dumps({"metadata": {"annotations": {key: value}}}).encode()
        status, body, _ = self._send(
            "PATCH",
            f"{self._models(name)}?{urlencode({'fieldManager': FIELD_MANAGER})}",
            change,
            {"Content-Type": "application/merge-patch+json"},
            TIMEOUT_SECONDS,
        )
        return self._checked(status, body, "patch", "modeldeployments")

    def ask(self, kind: str, name: str, port: str, request: Request) -> Answer:
        """Send a request to a port of a pod or Service, through the API server's proxy."""
        path = f"/api/v1/namespaces/{quote(self._namespace)}/{kind}/{quote(name)}:{port}/proxy{request.path}"
        method = "GET" if request.body is None else "POST"
        began = time.perf_counter()
        status, body, headers = self._send(method, path, request.body, request.headers, request.timeout_seconds)
        milliseconds = (time.perf_counter() - began) * 1000
        words = _status_message(body)
        if status in (401, 403) and words:  # the API server's own; a model's has another form
            self._checked(status, body, "get" if request.body is None else "create", f"{kind}/proxy")
        if status == 404 and words:
            raise failed(f"{kind.removesuffix('s')} {name} can't be reached: {words}")
        if status >= 500 and (trouble := _unreachable(body)):
            raise failed(f"{kind.removesuffix('s')} {name} did not answer on port {port}: {trouble}")
        return Answer(status, body, milliseconds, headers)

    # --- requests ---

    def _models(self, name: str | None = None) -> str:
        path = f"{MODELS}/namespaces/{quote(self._namespace)}/{PLURAL}"
        return path if name is None else f"{path}/{quote(name, safe='')}"

    def _get(self, path: str) -> tuple[int, bytes]:
        status, body, _ = self._send("GET", path, None, {"Accept": "application/json"}, TIMEOUT_SECONDS)
        return status, body

    def _listed(self, path: str, kind: str, *, everywhere: bool = False) -> list[Json]:
        status, body = self._get(path)
        return list(self._checked(status, body, "list", kind, everywhere=everywhere).get("items") or [])

    def _send(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str], timeout_seconds: float
    ) -> tuple[int, bytes, Mapping[str, str]]:
        """One request, never repeated: its status, body and headers."""
        host = self._client.configuration.host
        try:
            _, url, signed, _, _ = self._client.param_serialize(
                method, path, header_params=dict(headers), auth_settings=["BearerToken"]
            )
            # The client's own request() would encode a body that is bytes already; its pool has TLS and proxy set up.
            answer = self._client.rest_client.pool_manager.request(
                method,
                url,
                body=body,
                headers=signed,
                timeout=urllib3.Timeout(connect=min(5.0, timeout_seconds), read=timeout_seconds),
                redirect=False,
            )
        except config.ConfigException as error:
            raise CommandError(Exit.NO_CLUSTER, f"the kubeconfig's credentials can't be had: {error}") from None
        except (HTTPError, ApiException, OSError) as error:
            raise CommandError(Exit.NO_CLUSTER, f"no answer from {host}: {_why(error)}", may_pass=True) from None
        except ValueError as error:
            raise CommandError(Exit.NO_CLUSTER, f"{host} can't be asked: {error}; try kubectl config view") from None
        return answer.status, answer.data, answer.headers

    def _checked(self, status: int, body: bytes, verb: str, kind: str, *, everywhere: bool = False) -> Json:
        """The answer's JSON. Raises CommandError for everything but a success."""
        if status < 400:
            try:
                found = json.loads(body)
            except ValueError:
                found = None
            if isinstance(found, dict):
                return found
            host = self._client.configuration.host
            message = f"{host} answers, but not as an API server; is it the right one? Look at kubectl config view"
            raise CommandError(Exit.NO_CLUSTER, message)
        words = _status_message(body)
        match status:
            case 401:
                message = "the cluster does not know you: log in again; kubectl get mdep says the same"
            case 403:
                where = "in all namespaces" if everywhere else f"in namespace {self._namespace}"
                message = f"you may not {verb} {kind} {where}; ask who runs the cluster for a role that allows it"
                if words:
                    message += f" ({words})"
            case 404 if kind == "modeldeployments" and not _says_not_found(body):
                message = (
                    "this cluster has no ModelDeployments: install Slipway in it (helm install slipway "
                    "charts/slipway), or name another cluster with --context"
                )
            case 404 if kind == "modeldeployments":
                raise CommandError(Exit.NOT_FOUND, words or "it is gone")
            case 409 | 422:
                raise failed(f"the API server refuses it: {words}")
            case _:
                message = f"the API server answers {status} to {verb} {kind}: {words or 'nothing more'}; try again"
        raise CommandError(Exit.NO_CLUSTER, message, may_pass=status == 429 or status >= 500)


def _status_message(body: bytes) -> str:
    """The words of a metav1.Status; empty when the body is none."""
    try:
        found = json.loads(body)
    except ValueError:
        return ""
    is_status = isinstance(found, dict) and found.get("kind") == "Status" and found.get("apiVersion") == "v1"
    return str(found.get("message") or found.get("reason") or "") if is_status else ""


def _says_not_found(body: bytes) -> bool:
    """Whether the object is missing, rather than its kind: for that the API server answers a plain text."""
    try:
        found = json.loads(body)
    except ValueError:
        return False
    return isinstance(found, dict) and bool((found.get("details") or {}).get("name"))


def _unreachable(body: bytes) -> str:
    """Why the API server could not reach a pod; empty when the pod answered by itself."""
    text = body[:2000].decode(errors="replace").strip()
    if text.startswith("error trying to reach service: "):
        return text.removeprefix("error trying to reach service: ")
    return _status_message(body)


def _why(error: Exception) -> str:
    reason: object = error.reason if isinstance(error, MaxRetryError) else error
    text = str(reason)
    if "refused" in text.lower():  # first: for urllib3 this, too, is a kind of timeout
        return "connection refused; is the cluster up, and is it the right --context?"
    if isinstance(reason, urllib3.exceptions.SSLError | ssl.SSLError):
        return f"its certificate is not trusted ({text.rpartition(': ')[2] or text}); look at kubectl config view"
    if isinstance(reason, urllib3.exceptions.NameResolutionError):
        return "its name is not known here; is the network (VPN) up?"
    if isinstance(reason, urllib3.exceptions.ConnectTimeoutError | urllib3.exceptions.ReadTimeoutError):
        return "it takes too long; is the network (VPN) up?"
    if isinstance(reason, urllib3.exceptions.ProxyError):
        return f"the proxy of HTTPS_PROXY does not let it through ({text}); name the host in NO_PROXY"
    return text.rpartition(": ")[2] or type(reason).__name__
