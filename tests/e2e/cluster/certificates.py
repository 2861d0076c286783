"""Client and server certificates by openssl, and the kubeconfig of each component: no static tokens.

Invariant: a key is never rewritten while its certificate is in use; what exists is kept.
"""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .commands import run_checked
from .layout import API_PORT, API_SERVICE_ADDRESS, CLUSTER_DOMAIN, NODE_ADDRESS, NODE_NAME, ClusterFolders

_VALID_DAYS = "3650"  # a throw-away cluster: nobody renews anything

# Our own, because the host's openssl.cnf may add extensions that collide with ours.
_OPENSSL_CONFIG = "[req]\ndistinguished_name = name\n[name]\n"


@dataclass(frozen=True, slots=True)
class Identity:
    """A certificate's subject. `group` becomes the Kubernetes group, `user` the user."""

    file: str
    user: str
    group: str | None = None
    authority: str = "ca"
    hosts: tuple[str, ...] = ()  # empty: a client certificate

    @property
    def subject(self) -> str:
        return f"/O={self.group}/CN={self.user}" if self.group else f"/CN={self.user}"


_API_HOSTS = (
    "DNS:kubernetes",
    "DNS:kubernetes.default",
    "DNS:kubernetes.default.svc",
    f"DNS:kubernetes.default.svc.{CLUSTER_DOMAIN}",
    "DNS:localhost",
    "IP:127.0.0.1",
    f"IP:{NODE_ADDRESS}",
    f"IP:{API_SERVICE_ADDRESS}",
)

ADMIN = Identity("admin", "kubernetes-admin", "system:masters")
CONTROLLER_MANAGER = Identity("controller-manager", "system:kube-controller-manager")
SCHEDULER = Identity("scheduler", "system:kube-scheduler")
KUBELET = Identity("kubelet", f"system:node:{NODE_NAME}", "system:nodes")
PROXY = Identity("proxy", "system:kube-proxy")
COREDNS = Identity("coredns", "slipway:coredns")
VOLUMES = Identity("volumes", "slipway:volumes")
API_SERVER = Identity("apiserver", "kube-apiserver", hosts=_API_HOSTS)
API_SERVER_TO_KUBELET = Identity("apiserver-kubelet", "kube-apiserver-kubelet-client", "system:masters")
KUBELET_SERVER = Identity("kubelet-server", NODE_NAME, hosts=(f"IP:{NODE_ADDRESS}", f"DNS:{NODE_NAME}"))
FRONT_PROXY = Identity("front-proxy", "front-proxy-client", authority="front-proxy-ca")

WITH_KUBECONFIG = (ADMIN, CONTROLLER_MANAGER, SCHEDULER, KUBELET, PROXY, COREDNS, VOLUMES)
_LEAVES = (*WITH_KUBECONFIG, API_SERVER, API_SERVER_TO_KUBELET, KUBELET_SERVER, FRONT_PROXY)


def write_certificates(folders: ClusterFolders) -> None:
    """Writes what is missing: two authorities, the service account key, every leaf, every kubeconfig."""
    pki = folders.pki
    pki.mkdir(parents=True, exist_ok=True, mode=0o700)
    pki.chmod(0o700)
    config = pki / "openssl.cnf"
    config.write_text(_OPENSSL_CONFIG)
    for authority in ("ca", "front-proxy-ca"):
        if not (pki / f"{authority}.crt").exists():
            _issue(
                pki,
                authority,
                f"/CN=slipway-{authority}",
                ["basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign,cRLSign,digitalSignature"],
                None,
            )
    if not (pki / "sa.pub").exists():
        key = pki / "sa.key"
        run_checked(
            ["openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", str(key)],
            "making the service account key",
        )
        run_checked(
            ["openssl", "pkey", "-in", str(key), "-pubout", "-out", str(pki / "sa.pub")],
            "making the service account key",
        )
    for identity in _LEAVES:
        if not (pki / f"{identity.file}.crt").exists():
            extensions = ["basicConstraints=critical,CA:FALSE", "keyUsage=critical,digitalSignature"]
            if identity.hosts:
                extensions += ["extendedKeyUsage=serverAuth", f"subjectAltName={','.join(identity.hosts)}"]
            else:
                extensions += ["extendedKeyUsage=clientAuth"]
            _issue(pki, identity.file, identity.subject, extensions, identity.authority)
    for identity in WITH_KUBECONFIG:
        path = folders.kubeconfig(identity.file)
        if not path.exists():
            path.touch(mode=0o600)
            path.write_text(_kubeconfig(pki, identity))


def _issue(pki: Path, file: str, subject: str, extensions: Sequence[str], authority: str | None) -> None:
    """One key and its certificate, self-signed where `authority` is None; the certificate gets its name last."""
    command = ["openssl", "req", "-x509", "-config", str(pki / "openssl.cnf"), "-sha256", "-days", _VALID_DAYS]
    command += ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc"]
    command += ["-keyout", str(pki / f"{file}.key"), "-out", str(pki / f"{file}.crt.new"), "-subj", subject]
    if authority is not None:
        command += ["-CA", str(pki / f"{authority}.crt"), "-CAkey", str(pki / f"{authority}.key")]
    for extension in extensions:
        command += ["-addext", extension]
    run_checked(command, f"making the certificate {file}", "OpenSSL 3.0 or newer is needed: make deps")
    (pki / f"{file}.crt.new").rename(pki / f"{file}.crt")


def _kubeconfig(pki: Path, identity: Identity) -> str:
    """A kubeconfig that stands on its own: keys and certificates are inside. JSON-free YAML, written by hand."""

    def inside(name: str) -> str:
        return base64.b64encode((pki / name).read_bytes()).decode()

    return f"""apiVersion: v1
kind: Config
clusters:
- name: slipway
  cluster:
    server: https://{NODE_ADDRESS}:{API_PORT}
    certificate-authority-data: {inside("ca.crt")}
users:
- name: {identity.file}
  user:
    client-certificate-data: {inside(f"{identity.file}.crt")}
    client-key-data: {inside(f"{identity.file}.key")}
contexts:
- name: slipway
  context: {{cluster: slipway, user: {identity.file}}}
current-context: slipway
"""
