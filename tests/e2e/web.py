"""An https server with a certificate of a private CA, in a namespace of the tests (tests/e2e/images/web)."""

from __future__ import annotations

import base64
import subprocess
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.e2e.install import image_references, load_images
from tests.e2e.kube import Manifest
from tests.e2e.stage import Stage, is_ready

NAME = "web"
PORT = 8443


@dataclass(frozen=True, slots=True)
class Web:
    """The running server. `files` are its bytes by name, below URL/models/; URL/redirect/models/NAME redirects there.

    ca_config_map: the ConfigMap of the CA, key ca.crt, for spec.storage.caBundle.
    """

    stage: Stage
    url: str
    files: dict[str, bytes]
    ca_config_map: str = "web-ca"

    @classmethod
    def started(cls, stage: Stage, files: dict[str, bytes]) -> Web:
        """Makes the certificates and the server, and waits until it runs."""
        load_images(("test-web",))
        host = f"{NAME}.{stage.namespace}.svc"
        ca, certificate, key = make_certificates(host)
        web = cls(stage, f"https://{host}:{PORT}", files)
        stage.given_files("web-files", files)
        stage.given_object(
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": web.ca_config_map},
                "data": {"ca.crt": ca.decode()},
            }
        )
        stage.given_object(
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {"name": "web-tls"},
                "type": "kubernetes.io/tls",
                "data": {
                    "tls.crt": base64.b64encode(certificate).decode(),
                    "tls.key": base64.b64encode(key).decode(),
                },
            }
        )
        stage.given_object(
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": {"name": NAME},
                "spec": {"selector": {"app": NAME}, "ports": [{"port": PORT}]},
            }
        )
        stage.given_object(_pod())
        stage.kube.wait(
            "Pod", NAME, stage.namespace, "the web server is ready", lambda pod: True if pod and is_ready(pod) else None
        )
        return web


def _pod() -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": NAME, "labels": {"app": NAME}},
        "spec": {
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 1,
            "securityContext": {"runAsNonRoot": True, "runAsUser": 65532, "runAsGroup": 65532, "fsGroup": 65532},
            "containers": [
                {
                    "name": "nginx",
                    "image": image_references()["test-web"],
                    "imagePullPolicy": "IfNotPresent",
                    "readinessProbe": {
                        "httpGet": {"path": "/healthz", "port": PORT, "scheme": "HTTPS"},
                        "periodSeconds": 1,
                    },
                    "securityContext": {
                        "readOnlyRootFilesystem": True,
                        "allowPrivilegeEscalation": False,
                        "capabilities": {"drop": ["ALL"]},
                    },
                    "volumeMounts": [
                        {"name": "tls", "mountPath": "/etc/web/tls"},
                        {"name": "files", "mountPath": "/srv/web/models"},
                        {"name": "tmp", "mountPath": "/tmp"},
                    ],
                }
            ],
            "volumes": [
                {"name": "tls", "secret": {"secretName": "web-tls"}},
                {"name": "files", "configMap": {"name": "web-files"}},
                {"name": "tmp", "emptyDir": {}},
            ],
        },
    }


def make_certificates(host: str) -> tuple[bytes, bytes, bytes]:
    """A CA's certificate, and a certificate with its key for that host, PEM, by openssl."""
    with TemporaryDirectory() as folder:
        here = Path(folder)

        def openssl(*arguments: str) -> None:
            subprocess.run(["openssl", *arguments], cwd=here, check=True, capture_output=True)

        curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        openssl(
            "req", "-x509", *curve, "-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=slipway e2e", "-days", "2",
            "-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign",
        )  # fmt: skip
        openssl("req", *curve, "-keyout", "web.key", "-out", "web.csr", "-subj", f"/CN={host}")
        (here / "san").write_text(f"subjectAltName=DNS:{host}\nextendedKeyUsage=serverAuth\n")
        openssl(
            "x509", "-req", "-in", "web.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial",
            "-days", "2", "-extfile", "san", "-out", "web.crt",
        )  # fmt: skip
        return tuple((here / name).read_bytes() for name in ("ca.crt", "web.crt", "web.key"))  # type: ignore[return-value]
