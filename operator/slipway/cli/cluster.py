"""The API server: `Client` over HTTP, with what the official kubernetes client reads in a kubeconfig.

Of that client only its reading of a kubeconfig is used (contexts, tokens, certificates, exec plugins, proxies); the
requests are urllib3's. The client's own `call_api` parses and writes anew every JSON body, which would change what
`predict` sends, and lengthen the time that it measures.
Invariant: whatever keeps a cluster from answering ends as a CommandError of one line, never as an exception of one of
the two libraries; nothing is written but one annotation.
Facts (of the kubernetes client, 37): an exec plugin that fails raises ConfigException, or logs an error to the root
logger and leaves the settings without a token.
Must not import: kopf, the operator's own client. The only module of the CLI that imports kubernetes.
"""

from __future__ import annotations

import copy
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
from kubernetes.client import Configuration
from kubernetes.client.exceptions import ApiException
from kubernetes.client.rest import should_bypass_proxies
from urllib3.exceptions import HTTPError, MaxRetryError

from slipway import __version__
from slipway.api.v1alpha1 import GROUP, PLURAL, VERSION
from slipway.cli.client import ClusterFlags, Json, Request, Response
from slipway.cli.errors import CommandError, Exit, failed

TIMEOUT_SECONDS = 15
FIELD_MANAGER = "slipway-cli"
MODELS = f"/apis/{GROUP}/{VERSION}"
MODEL_LABEL = f"{GROUP}/model"
NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


class _LoginErrors(logging.Handler):
    """Keeps what the kubernetes client logs about a failed login, where it raises nothing."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the message; print nothing."""
        self.messages.append(record.getMessage())


def connect(flags: ClusterFlags) -> Cluster:
    """The cluster of the kubeconfig; without a kubeconfig, the cluster that this pod runs in."""
    # Whatever the libraries log on the way to an error would be lines beside ours.
    logging.getLogger("urllib3").setLevel(logging.CRITICAL)
    logging.getLogger("kubernetes").setLevel(logging.CRITICAL)
    warnings.simplefilter("ignore")  # urllib3's, about a kubeconfig with insecure-skip-tls-verify
    settings = Configuration()
    errors = _LoginErrors()
    logging.getLogger().addHandler(errors)  # for good: a login that is repeated in mid-watch logs there, too
    namespace = _load(settings, flags)
    if errors.messages:
        raise _login_fails(errors.messages[-1])
    return Cluster(settings, flags.namespace or namespace)


def _login_fails(reason: object) -> CommandError:
    message = f"the login of the kubeconfig fails: {reason}; what does kubectl get mdep say?"
    return CommandError(Exit.NO_CLUSTER, message)


def _connections(settings: Configuration) -> urllib3.PoolManager:
    """Connections with the TLS and the proxy of the settings. No request is repeated."""
    options: dict[str, Any] = {
        "cert_reqs": ssl.CERT_REQUIRED if settings.verify_ssl else ssl.CERT_NONE,
        "ca_certs": settings.ssl_ca_cert,
        "cert_file": settings.cert_file,
        "key_file": settings.key_file,
        "retries": urllib3.Retry(0, redirect=False),  # by default urllib3 tries four times, and logs each
    }
    if settings.tls_server_name:
        options["server_hostname"] = settings.tls_server_name
    if not settings.proxy or should_bypass_proxies(settings.host, settings.no_proxy or ""):
        return urllib3.PoolManager(**options)
    if settings.proxy.startswith("socks"):
        from urllib3.contrib.socks import SOCKSProxyManager  # needs PySocks

        return SOCKSProxyManager(settings.proxy, **options)
    return urllib3.ProxyManager(settings.proxy, **options)


def _load(settings: Configuration, flags: ClusterFlags) -> str:
    """Fill the settings; returns the namespace of the kubeconfig's context, or of this pod."""
    try:
        config.load_kube_config(  # type: ignore[no-untyped-call]  # not typed
            config_file=flags.kubeconfig,
            context=flags.context,
            client_configuration=settings,
            persist_config=False,
        )
        contexts, active = config.list_kube_config_contexts(flags.kubeconfig)  # type: ignore[no-untyped-call]
        mine: Mapping[str, Any] = next((each for each in contexts if each["name"] == flags.context), active)
        return str((mine.get("context") or {}).get("namespace") or "default")
    except config.ConfigException as error:
        if flags.kubeconfig is None and flags.context is None and _load_from_pod(settings):
            return NAMESPACE_FILE.read_text().strip()
        raise CommandError(Exit.NO_CLUSTER, _no_settings(flags, error)) from None
    except OSError as error:
        message = f"the kubeconfig can't be read: {error.strerror}: {error.filename}; name another with --kubeconfig"
        raise CommandError(Exit.NO_CLUSTER, message) from None
    except Exception as error:  # the client's loader has no error of its own for a broken kubeconfig
        message = f"the kubeconfig can't be used ({type(error).__name__}: {error}); try kubectl config view"
        raise CommandError(Exit.NO_CLUSTER, message) from None


def _load_from_pod(settings: Configuration) -> bool:
    try:
        config.load_incluster_config(client_configuration=settings)  # type: ignore[no-untyped-call]
    except config.ConfigException:
        return False
    return True


def _no_settings(flags: ClusterFlags, error: Exception) -> str:
    if flags.context is not None and "context" in str(error).lower():
        return f"there is no context {flags.context!r} in the kubeconfig; kubectl config get-contexts lists them"
    where = flags.kubeconfig or os.environ.get("KUBECONFIG") or "~/.kube/config"
    if any(Path(each).expanduser().exists() for each in where.split(os.pathsep)):
        why = f"{where} names none ({error})"
    else:
        why = f"there is no file {where}"
    return f"no cluster to talk to: {why}; set KUBECONFIG, or name a file with --kubeconfig"


class Cluster:
    """One API server, and the namespace that all requests use."""

    def __init__(self, settings: Configuration, namespace: str) -> None:
        """Connect to nothing yet. Raises CommandError where the settings name no usable server or proxy."""
        self._settings = settings
        self._namespace = namespace
        try:
            self._connections = _connections(settings)
        except (HTTPError, ImportError, ValueError) as error:  # a proxy of an unknown kind
            message = f"the proxy {settings.proxy} can't be used: {error}; try kubectl config view"
            raise CommandError(Exit.NO_CLUSTER, message) from None

    @property
    def namespace(self) -> str:
        """Of the flags, else of the kubeconfig's context, else `default`."""
        return self._namespace

    def within(self, namespace: str) -> Cluster:
        """The same cluster, and another namespace; the connections are shared."""
        other = copy.copy(self)
        other._namespace = namespace
        return other

    def read_model(self, name: str) -> Json | None:
        """The ModelDeployment; None: there is none of that name."""
        status, body = self._get(self._models(name))
        if status == 404 and _says_not_found(body):
            return None
        return self._checked(status, body, "get", "modeldeployments")

    def list_models(self, *, everywhere: bool = False) -> list[Json]:
        """The ModelDeployments of the namespace, or of all namespaces."""
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
        """Whether the namespace exists; None: this user may not know."""
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

    def send(self, kind: str, name: str, port: str, request: Request) -> Response:
        """Send a request to a port of a pod or Service, through the API server's proxy."""
        path = f"/api/v1/namespaces/{quote(self._namespace)}/{kind}/{quote(name)}:{port}/proxy{request.path}"
        method = "GET" if request.body is None else "POST"
        began = time.perf_counter()
        status, body, headers = self._send(method, path, request.body, request.headers, request.timeout_seconds)
        milliseconds = (time.perf_counter() - began) * 1000
        words = _status_message(body)
        if status in (401, 403) and words:  # from the API server; a model's own 403 is no metav1.Status
            self._checked(status, body, "get" if request.body is None else "create", f"{kind}/proxy")
        if status == 404 and words:
            raise failed(f"{kind.removesuffix('s')} {name} can't be reached: {words}")
        if status >= 500 and (trouble := _unreachable(body)):
            raise failed(f"{kind.removesuffix('s')} {name} did not answer on port {port}: {trouble}")
        return Response(status, body, milliseconds, headers)

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
        host = self._settings.host
        signed = urllib3.HTTPHeaderDict({"User-Agent": f"slipway/{__version__}"})
        signed.update(headers)
        try:
            # Logs in again where the token has expired. Read per request: a watch may last longer than a token.
            token = self._settings.get_api_key_with_prefix("BearerToken", alias="authorization")
            if token:
                signed["authorization"] = token
            response = self._connections.request(
                method,
                f"{host}{path}",
                body=body,
                headers=signed,
                timeout=urllib3.Timeout(connect=min(5.0, timeout_seconds), read=timeout_seconds),
                redirect=False,
            )
        except config.ConfigException as error:
            raise _login_fails(error) from None
        except (HTTPError, ApiException, OSError) as error:
            raise CommandError(Exit.NO_CLUSTER, f"no answer from {host}: {_why(error)}", may_pass=True) from None
        except ValueError as error:
            message = f"no request can be sent to {host}: {error}; try kubectl config view"
            raise CommandError(Exit.NO_CLUSTER, message) from None
        return response.status, response.data, response.headers

    def _checked(self, status: int, body: bytes, verb: str, kind: str, *, everywhere: bool = False) -> Json:
        """The response's JSON. Raises CommandError for all but a success."""
        if status < 400:
            try:
                found = json.loads(body)
            except ValueError:
                found = None
            if isinstance(found, dict):
                return found
            host = self._settings.host
            message = f"{host} answers, but not as an API server; is it the right one? Look at kubectl config view"
            raise CommandError(Exit.NO_CLUSTER, message)
        words = _status_message(body)
        match status:
            case 401:
                message = "the cluster does not know you: log in again; kubectl get mdep fails, too"
            case 403:
                where = "in all namespaces" if everywhere else f"in namespace {self._namespace}"
                message = f"you may not {verb} {kind} {where}; ask the cluster's owner for a role that allows it"
                if words:
                    message += f" ({words})"
            case 404 if kind == "modeldeployments" and not _says_not_found(body):
                message = (
                    "this cluster has no ModelDeployments: install Slipway in it (helm install slipway "
                    "charts/slipway), or name another cluster with --context"
                )
            case 404 if kind == "modeldeployments":
                raise CommandError(Exit.NOT_FOUND, words or "the ModelDeployment is gone")
            case 409 | 422:
                raise failed(f"the API server refuses the {verb}: {words}")
            case _:
                message = f"the API server answers {status} to {verb} {kind}: {words or 'without a reason'}; try again"
        raise CommandError(Exit.NO_CLUSTER, message, may_pass=status == 429 or status >= 500)


def _status_message(body: bytes) -> str:
    """The message of a metav1.Status; empty when the body is something else."""
    try:
        found = json.loads(body)
    except ValueError:
        return ""
    is_status = isinstance(found, dict) and found.get("kind") == "Status" and found.get("apiVersion") == "v1"
    return str(found.get("message") or found.get("reason") or "") if is_status else ""


def _says_not_found(body: bytes) -> bool:
    """Whether the object is missing. For a missing kind the API server sends plain text, not a Status with a name."""
    try:
        found = json.loads(body)
    except ValueError:
        return False
    return isinstance(found, dict) and bool((found.get("details") or {}).get("name"))


def _unreachable(body: bytes) -> str:
    """Why the API server could not reach a pod; empty when the response is the pod's own."""
    text = body[:2000].decode(errors="replace").strip()
    if text.startswith("error trying to reach service: "):
        return text.removeprefix("error trying to reach service: ")
    return _status_message(body)


def _why(error: Exception) -> str:
    reason: object = error.reason if isinstance(error, MaxRetryError) else error
    text = str(reason)
    if "refused" in text.lower():  # first: urllib3 counts this as a timeout, too
        return "connection refused; is the cluster up, and is it the right --context?"
    if isinstance(reason, urllib3.exceptions.SSLError | ssl.SSLError):
        return f"its certificate is not trusted ({text.rpartition(': ')[2] or text}); look at kubectl config view"
    if isinstance(reason, urllib3.exceptions.NameResolutionError):
        return "its name is not known here; is the network (VPN) up?"
    if isinstance(reason, urllib3.exceptions.ConnectTimeoutError | urllib3.exceptions.ReadTimeoutError):
        return "it takes too long; is the network (VPN) up?"
    if isinstance(reason, urllib3.exceptions.ProxyError):
        return f"the proxy does not connect to it ({text}); NO_PROXY names hosts that need no proxy"
    return text.rpartition(": ")[2] or type(reason).__name__
