"""etcd, API server, controller-manager and scheduler: their command lines, nothing else.

Pure: builds descriptions from paths; starts and reads nothing.
"""

from collections.abc import Mapping
from pathlib import Path

from .certificates import CONTROLLER_MANAGER, SCHEDULER
from .daemons import Daemon
from .layout import API_PORT, NODE_ADDRESS, POD_RANGE, SERVICE_RANGE, ClusterFolders
from .namespaces import in_network

ETCD_NAME = "etcd"
API_SERVER_NAME = "apiserver"

_AUDIT_POLICY = """apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: Metadata
"""


OF_ENDPOINTS = ("endpoints-controller", "endpointslice-controller", "endpointslice-mirroring-controller")


def audit_log(folders: ClusterFolders) -> Path:
    return folders.logs / "audit.log"


def control_plane(
    folders: ClusterFolders,
    binaries: Mapping[str, Path],
    is_audited: bool,
    controller_rate: int | None,
    has_played_pods: bool,
) -> tuple[Daemon, ...]:
    """In the order they need one another.

    controller_rate: None is Kubernetes' own, 20 requests a second. has_played_pods: of pods that have no node, those of
    endpoints try to make some, again and again, with an event each time; and the scheduler, where there is no node at
    all, marks each as not scheduled every 11 seconds, whatever a test has marked it as.
    """
    pki = folders.pki
    inside = tuple(in_network(folders))
    kube = str(binaries["kube"])
    etcd = Daemon(
        ETCD_NAME,
        (
            str(binaries["etcd"]),
            f"--data-dir={folders.state / 'etcd'}",
            "--listen-client-urls=http://127.0.0.1:2379",  # in a network namespace that only root can enter
            "--advertise-client-urls=http://127.0.0.1:2379",
            "--listen-peer-urls=http://127.0.0.1:2380",
            "--unsafe-no-fsync",  # survives kill -9, not a power cut: right for a cluster that `clean` throws away
            "--log-level=warn",
        ),
        inside,
    )
    files: dict[Path, str] = {}
    audit: tuple[str, ...] = ()
    if is_audited:
        policy = folders.config / "audit-policy.yaml"
        files[policy] = _AUDIT_POLICY
        audit = (f"--audit-policy-file={policy}", f"--audit-log-path={audit_log(folders)}", "--audit-log-maxsize=0")
    api_server = Daemon(
        API_SERVER_NAME,
        (
            kube,
            "kube-apiserver",
            "--etcd-servers=http://127.0.0.1:2379",
            f"--service-cluster-ip-range={SERVICE_RANGE}",
            f"--bind-address={NODE_ADDRESS}",
            f"--advertise-address={NODE_ADDRESS}",
            f"--secure-port={API_PORT}",
            f"--client-ca-file={pki / 'ca.crt'}",
            f"--tls-cert-file={pki / 'apiserver.crt'}",
            f"--tls-private-key-file={pki / 'apiserver.key'}",
            f"--service-account-key-file={pki / 'sa.pub'}",
            f"--service-account-signing-key-file={pki / 'sa.key'}",
            "--service-account-issuer=https://kubernetes.default.svc",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--allow-privileged=true",
            "--kubelet-preferred-address-types=InternalIP",  # the node's name resolves nowhere
            f"--kubelet-certificate-authority={pki / 'ca.crt'}",
            f"--kubelet-client-certificate={pki / 'apiserver-kubelet.crt'}",
            f"--kubelet-client-key={pki / 'apiserver-kubelet.key'}",
            f"--requestheader-client-ca-file={pki / 'front-proxy-ca.crt'}",
            "--requestheader-allowed-names=front-proxy-client",
            "--requestheader-extra-headers-prefix=X-Remote-Extra-",
            "--requestheader-group-headers=X-Remote-Group",
            "--requestheader-username-headers=X-Remote-User",
            f"--proxy-client-cert-file={pki / 'front-proxy.crt'}",
            f"--proxy-client-key-file={pki / 'front-proxy.key'}",
            *audit,
        ),
        inside,
        files,
    )
    rate: tuple[str, ...] = ()
    if controller_rate is not None:
        rate = (f"--kube-api-qps={controller_rate}", f"--kube-api-burst={2 * controller_rate}")
    controllers = ",".join(("*", *(f"-{name}" for name in OF_ENDPOINTS))) if has_played_pods else "*"
    controller_manager = Daemon(
        "controller-manager",
        (
            kube,
            "kube-controller-manager",
            f"--kubeconfig={folders.kubeconfig(CONTROLLER_MANAGER.file)}",
            f"--service-account-private-key-file={pki / 'sa.key'}",
            f"--root-ca-file={pki / 'ca.crt'}",
            f"--cluster-signing-cert-file={pki / 'ca.crt'}",
            f"--cluster-signing-key-file={pki / 'ca.key'}",
            f"--cluster-cidr={POD_RANGE}",
            "--bind-address=127.0.0.1",
            "--use-service-account-credentials",
            "--leader-elect=false",
            f"--controllers={controllers}",
            *rate,
        ),
        inside,
    )
    scheduler = Daemon(
        "scheduler",
        (
            kube,
            "kube-scheduler",
            f"--kubeconfig={folders.kubeconfig(SCHEDULER.file)}",
            "--bind-address=127.0.0.1",
            "--leader-elect=false",
        ),
        inside,
    )
    return (etcd, api_server, controller_manager, *(() if has_played_pods else (scheduler,)))
