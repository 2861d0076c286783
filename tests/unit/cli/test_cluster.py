"""The one module that speaks to an API server, against a server on loopback that answers as one does."""

from __future__ import annotations

import base64
import json
import ssl
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import trustme
import yaml

from slipway.cli import cluster
from slipway.cli.client import ClusterFlags, Request
from slipway.cli.cluster import Cluster
from slipway.cli.errors import CommandError, Exit

Json = dict[str, Any]


def refusal(code: int, reason: str, message: str, **details: str) -> Json:
    """A metav1.Status."""
    status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "message": message}
    return status | {"code": code, "details": details}


@dataclass
class Played:
    """An API server that gives the same answer to everything, and keeps the requests."""

    status: int = 200
    body: bytes = b"{}"
    content_type: str = "application/json"
    requests: list[tuple[str, str, dict[str, str], bytes]] = field(default_factory=list)

    def says(self, status: int, body: Json | bytes) -> None:
        self.status = status
        self.body = body if isinstance(body, bytes) else json.dumps(body).encode()


@pytest.fixture
def server() -> Iterator[tuple[Played, str]]:
    with serve() as served:
        yield served


@contextmanager
def serve(tls: ssl.SSLContext | None = None) -> Iterator[tuple[Played, str]]:
    """The API server, and its URL."""
    played = Played()

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            length = int(self.headers.get("content-length") or 0)
            sent = self.rfile.read(length)
            played.requests.append((self.command, self.path, dict(self.headers), sent))
            self.send_response(played.status)
            self.send_header("content-type", played.content_type)
            self.send_header("content-length", str(len(played.body)))
            self.end_headers()
            self.wfile.write(played.body)

        do_GET = do_POST = do_PATCH = answer  # noqa: N815 — as http.server calls them

        def log_message(self, format: str, *args: object) -> None:
            pass

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if tls is not None:
        listening.socket = tls.wrap_socket(listening.socket, server_side=True)
    thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield played, f"{'https' if tls else 'http'}://127.0.0.1:{listening.server_address[1]}"
    finally:
        listening.shutdown()
        listening.server_close()
        thread.join()


def kubeconfig(folder: Path, host: str, user: Json | None = None, more: Json | None = None) -> str:
    """Two contexts, of which the first is current and names a namespace. more: about its cluster."""
    path = folder / "config"
    path.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "here",
                "clusters": [{"name": "one", "cluster": {"server": host} | (more or {})}],
                "users": [{"name": "me", "user": user or {"token": "secret"}}],
                "contexts": [
                    {"name": "here", "context": {"cluster": "one", "user": "me", "namespace": "team-a"}},
                    {"name": "there", "context": {"cluster": "one", "user": "me"}},
                ],
            }
        )
    )
    return str(path)


@pytest.fixture
def client(server: tuple[Played, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return cluster.connect(ClusterFlags(kubeconfig=kubeconfig(tmp_path, server[1])))


def test_the_namespace_is_the_flags_then_the_contexts_then_default(server: tuple[Played, str], tmp_path: Path) -> None:
    path = kubeconfig(tmp_path, server[1])
    assert cluster.connect(ClusterFlags(kubeconfig=path)).namespace == "team-a"
    assert cluster.connect(ClusterFlags(context="there", kubeconfig=path)).namespace == "default"
    assert cluster.connect(ClusterFlags("mine", "there", path)).namespace == "mine"


def test_only_one_annotation_is_written(server: tuple[Played, str], client: Cluster) -> None:
    client.annotate("digits", "slipway.dev/command", "abort/1/x")
    ((method, path, headers, sent),) = server[0].requests
    assert method == "PATCH"
    assert path == "/apis/slipway.dev/v1alpha1/namespaces/team-a/modeldeployments/digits?fieldManager=slipway-cli"
    assert headers["Content-Type"] == "application/merge-patch+json"
    assert headers["authorization"] == "Bearer secret"
    assert json.loads(sent) == {"metadata": {"annotations": {"slipway.dev/command": "abort/1/x"}}}


def test_an_object_that_is_missing_is_none(server: tuple[Played, str], client: Cluster) -> None:
    server[0].says(404, refusal(404, "NotFound", 'modeldeployments "digits" not found', name="digits"))
    assert client.read_model("digits") is None


@pytest.mark.parametrize(
    ("status", "body", "says"),
    [
        (404, b"404 page not found\n", "this cluster has no ModelDeployments: install Slipway in it"),
        (401, refusal(401, "Unauthorized", "Unauthorized"), "the cluster does not know you"),
        (403, refusal(403, "Forbidden", "no"), "you may not list modeldeployments in namespace team-a"),
        (500, refusal(500, "InternalError", "etcd is away"), "answers 500 to list modeldeployments: etcd is away"),
        (429, b"", "answers 429"),
        (200, b"<html>welcome</html>", "answers, but not as an API server"),
        (302, b"", "answers, but not as an API server"),
    ],
)
def test_what_the_api_server_says_becomes_one_line(
    server: tuple[Played, str], client: Cluster, status: int, body: Json | bytes, says: str
) -> None:
    server[0].says(status, body)
    with pytest.raises(CommandError) as caught:
        client.list_models()
    assert caught.value.code is Exit.NO_CLUSTER
    assert says in caught.value.message
    assert caught.value.may_pass == (status in (429, 500))
    assert len(server[0].requests) == 1, "no request is repeated"


def test_a_refused_write_is_no_matter_of_the_cluster(server: tuple[Played, str], client: Cluster) -> None:
    server[0].says(422, refusal(422, "Invalid", "metadata.annotations: too long"))
    with pytest.raises(CommandError) as caught:
        client.annotate("digits", "slipway.dev/command", "x")
    assert caught.value.code is Exit.FAILED


def test_a_request_reaches_a_pod_through_the_api_server(server: tuple[Played, str], client: Cluster) -> None:
    server[0].says(200, b'{"outputs": []}')
    request = Request("/v2/models/digits/infer", b'{"inputs": []}', {"Content-Type": "application/json"})
    answer = client.send("pods", "digits-1-x", "8000", request)
    ((method, path, headers, sent),) = server[0].requests
    assert (method, sent) == ("POST", b'{"inputs": []}')
    assert path == "/api/v1/namespaces/team-a/pods/digits-1-x:8000/proxy/v2/models/digits/infer"
    assert headers["Content-Type"] == "application/json"
    assert (answer.status, answer.body) == (200, b'{"outputs": []}')
    assert answer.milliseconds > 0


def test_an_error_of_the_models_own_is_an_answer(server: tuple[Played, str], client: Cluster) -> None:
    for status in (400, 404, 500, 503):
        server[0].says(status, b'{"error": "no such input"}')
        assert client.send("pods", "x", "8000", Request("/", b"{}")).status == status


@pytest.mark.parametrize(
    ("status", "body", "code", "says"),
    [
        (503, b"error trying to reach service: dial tcp 10.0.0.1:8000: connect: refused", Exit.FAILED, "dial tcp"),
        (503, refusal(503, "ServiceUnavailable", "no endpoints available"), Exit.FAILED, "no endpoints available"),
        (404, refusal(404, "NotFound", 'pods "x" not found', name="x"), Exit.FAILED, 'pods "x" not found'),
        (403, refusal(403, "Forbidden", "no"), Exit.NO_CLUSTER, "you may not create pods/proxy in namespace team-a"),
    ],
)
def test_a_pod_that_cant_be_reached_is_said(
    server: tuple[Played, str], client: Cluster, status: int, body: Json | bytes, code: Exit, says: str
) -> None:
    server[0].says(status, body)
    with pytest.raises(CommandError) as caught:
        client.send("pods", "x", "8000", Request("/", b"{}"))
    assert caught.value.code is code
    assert says in caught.value.message


def test_a_server_that_is_gone_is_said_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    client = cluster.connect(ClusterFlags(kubeconfig=kubeconfig(tmp_path, "http://127.0.0.1:1")))
    with pytest.raises(CommandError) as caught:
        client.list_models()
    assert caught.value.code is Exit.NO_CLUSTER
    assert caught.value.may_pass
    assert "no answer from http://127.0.0.1:1: connection refused" in caught.value.message


def test_names_cant_leave_their_place_in_a_path(server: tuple[Played, str], client: Cluster) -> None:
    server[0].says(404, refusal(404, "NotFound", "not found", name="x"))
    client.read_model("../../secrets/x?watch=1")
    assert server[0].requests[0][1].endswith("/modeldeployments/..%2F..%2Fsecrets%2Fx%3Fwatch%3D1")


# --- what a kubeconfig may hold ---


def data_of(blob: trustme.Blob) -> str:
    """As the fields of a kubeconfig hold it whose names end in -data."""
    return base64.b64encode(blob.bytes()).decode()


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def secured(authority: trustme.CA, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Played, str]]:
    """An API server that asks for a client's certificate, and whose own is for the name api.example."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("api.example").configure_cert(tls)
    authority.configure_trust(tls)
    tls.verify_mode = ssl.CERT_OPTIONAL
    with serve(tls) as served:
        yield served


def refused_with(path: str) -> str:
    with pytest.raises(CommandError) as caught:
        cluster.connect(ClusterFlags(kubeconfig=path)).list_models()
    assert caught.value.code is Exit.NO_CLUSTER
    return caught.value.message


def test_certificates_of_the_kubeconfig_are_used(
    secured: tuple[Played, str], authority: trustme.CA, tmp_path: Path
) -> None:
    mine, strange = authority.issue_cert("me@api.example"), trustme.CA().issue_cert("me@api.example")
    trust = {"certificate-authority-data": data_of(authority.cert_pem), "tls-server-name": "api.example"}

    def user(certificate: trustme.LeafCert) -> Json:
        return {
            "client-certificate-data": data_of(certificate.cert_chain_pems[0]),
            "client-key-data": data_of(certificate.private_key_pem),
        }

    trusted = kubeconfig(tmp_path, secured[1], user(mine), more=trust)
    assert cluster.connect(ClusterFlags(kubeconfig=trusted)).list_models() == []
    assert "authorization" not in secured[0].requests[0][2]
    assert "no answer" in refused_with(kubeconfig(tmp_path, secured[1], user(strange), more=trust))


def test_a_certificate_that_is_not_trusted_is_said(
    secured: tuple[Played, str], authority: trustme.CA, tmp_path: Path
) -> None:
    assert "its certificate is not trusted" in refused_with(kubeconfig(tmp_path, secured[1]))
    trust = {"certificate-authority-data": data_of(authority.cert_pem)}
    assert "its certificate is not trusted" in refused_with(kubeconfig(tmp_path, secured[1], more=trust))
    careless = kubeconfig(tmp_path, secured[1], more={"insecure-skip-tls-verify": True})
    assert cluster.connect(ClusterFlags(kubeconfig=careless)).list_models() == []


def test_a_kubeconfig_that_names_no_cluster_is_said(
    server: tuple[Played, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = kubeconfig(tmp_path, server[1])
    (tmp_path / "empty").write_text("")
    (tmp_path / "words").write_text("hello")
    assert "no cluster to talk to: there is no file /none;" in refused_with("/none")
    assert f"no cluster to talk to: {tmp_path}/empty names none" in refused_with(f"{tmp_path}/empty")
    assert "the kubeconfig can't be used" in refused_with(f"{tmp_path}/words")
    with pytest.raises(CommandError) as caught:
        cluster.connect(ClusterFlags(context="nowhere", kubeconfig=good))
    assert "there is no context 'nowhere' in the kubeconfig" in caught.value.message


def test_requests_go_through_the_proxy_of_the_kubeconfig(server: tuple[Played, str], tmp_path: Path) -> None:
    path = kubeconfig(tmp_path, "http://api.example", more={"proxy-url": server[1]})
    assert cluster.connect(ClusterFlags(kubeconfig=path)).list_models() == []
    assert server[0].requests[0][1].startswith("http://api.example/apis/slipway.dev/")


def test_a_proxy_of_an_unknown_kind_is_said(tmp_path: Path) -> None:
    path = kubeconfig(tmp_path, "http://api.example", more={"proxy-url": "gopher://127.0.0.1:1"})
    assert "the proxy gopher://127.0.0.1:1 can't be used" in refused_with(path)


def exec_plugin(folder: Path, program: str) -> Json:
    (folder / "login.py").write_text(program)
    return {
        "exec": {
            "apiVersion": "client.authentication.k8s.io/v1",
            "command": sys.executable,
            "args": [str(folder / "login.py")],
            "interactiveMode": "Never",
        }
    }


def test_an_exec_plugin_logs_in(server: tuple[Played, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    login = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "kind": "ExecCredential",
        "status": {"token": "of-the-plugin"},
    }
    path = kubeconfig(tmp_path, server[1], exec_plugin(tmp_path, f"print({json.dumps(json.dumps(login))})"))
    cluster.connect(ClusterFlags(kubeconfig=path)).list_models()
    assert server[0].requests[0][2]["authorization"] == "Bearer of-the-plugin"


def test_an_exec_plugin_that_fails_is_said(server: tuple[Played, str], tmp_path: Path) -> None:
    path = kubeconfig(tmp_path, server[1], exec_plugin(tmp_path, "raise SystemExit(7)"))
    assert "the login of the kubeconfig fails: exec: process returned 7" in refused_with(path)
    assert server[0].requests == []
