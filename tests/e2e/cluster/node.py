"""containerd, kubelet, kube-proxy, CoreDNS and the volumes' provisioner: command lines and configuration files.

Pure: builds descriptions from paths; starts and reads nothing.
"""

import json
from collections.abc import Mapping
from pathlib import Path

from .certificates import COREDNS, KUBELET, PROXY, VOLUMES
from .daemons import SYSTEM_PATH, Daemon
from .layout import CLUSTER_DOMAIN, DNS_SERVICE_ADDRESS, NODE_ADDRESS, NODE_NAME, POD_RANGE, ClusterFolders
from .namespaces import in_network, in_node

CONTAINERD_NAME = "containerd"
KUBELET_NAME = "kubelet"
COREDNS_NAME = "coredns"
DNS_READY_PORT = 8181
ADDRESS_LEASES = "cni-leases"  # below the state folder: which pod has which address
STORAGE_CLASS = "standard"  # the name kind uses, too
PROVISIONER = "slipway.dev/host-path"


def node(
    folders: ClusterFolders, binaries: Mapping[str, Path], cgroup_root: str, pause_image: str
) -> tuple[Daemon, ...]:
    """In the order they need one another; containerd is first."""
    return (
        _containerd(folders, binaries, pause_image),
        _kubelet(folders, binaries, cgroup_root),
        _proxy(folders, binaries),
        _coredns(folders, binaries),
        _volumes(folders, binaries),
    )


def _containerd(folders: ClusterFolders, binaries: Mapping[str, Path], pause_image: str) -> Daemon:
    network = folders.config / "cni"
    config = folders.config / "containerd.toml"
    conflist = {
        "cniVersion": "1.0.0",
        "name": "pods",
        "plugins": [
            {
                # ptp routes every packet through the node. A bridge would let a pod's answer to its neighbour pass by
                # kube-proxy's address translation, unless the kernel has br_netfilter.
                "type": "ptp",
                "ipMasq": False,
                "ipam": {
                    "type": "host-local",
                    "dataDir": str(folders.state / ADDRESS_LEASES),
                    "ranges": [[{"subnet": POD_RANGE}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": True}},
        ],
    }
    text = f"""version = 3
root = "{folders.state / "containerd"}"
state = "{folders.run / "containerd" / "state"}"
[grpc]
  address = "{folders.containerd_socket}"
[plugins.'io.containerd.internal.v1.opt']
  path = "{folders.state / "containerd-opt"}"
[plugins.'io.containerd.nri.v1.nri']
  disable = true
[plugins.'io.containerd.cri.v1.images']
  snapshotter = "overlayfs"
  [plugins.'io.containerd.cri.v1.images'.pinned_images]
    sandbox = "{pause_image}"
[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
    runtime_type = 'io.containerd.runc.v2'
  [plugins.'io.containerd.cri.v1.runtime'.cni]
    bin_dirs = ["{binaries["loopback"].parent}"]
    conf_dir = "{network}"
"""
    programs = f"{binaries['containerd'].parent}:{binaries['runc'].parent}"
    return Daemon(
        CONTAINERD_NAME,
        (str(binaries["containerd"]), f"--config={config}", "--log-level=warn"),
        tuple(in_node(folders)),
        {config: text, network / "10-pods.conflist": json.dumps(conflist, indent=1) + "\n"},
        path=f"{programs}:{SYSTEM_PATH}",
    )


def _kubelet(folders: ClusterFolders, binaries: Mapping[str, Path], cgroup_root: str) -> Daemon:
    config = folders.config / "kubelet.yaml"
    pki = folders.pki
    text = f"""apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
failCgroupV1: false
failSwapOn: false
cgroupDriver: cgroupfs
cgroupRoot: {cgroup_root}
containerRuntimeEndpoint: unix://{folders.containerd_socket}
address: {NODE_ADDRESS}
healthzBindAddress: 127.0.0.1
readOnlyPort: 0
tlsCertFile: {pki / "kubelet-server.crt"}
tlsPrivateKeyFile: {pki / "kubelet-server.key"}
authentication:
  anonymous: {{enabled: false}}
  webhook: {{enabled: true}}
  x509: {{clientCAFile: {pki / "ca.crt"}}}
authorization: {{mode: Webhook}}
clusterDNS: [{DNS_SERVICE_ADDRESS}]
clusterDomain: {CLUSTER_DOMAIN}
resolvConf: ""
podLogsDir: {folders.logs / "pods"}
enforceNodeAllocatable: [pods]
imageGCHighThresholdPercent: 100
evictionHard: {{nodefs.available: "1%", imagefs.available: "1%"}}
"""
    return Daemon(
        KUBELET_NAME,
        (
            str(binaries["kube"]),
            "kubelet",
            f"--config={config}",
            f"--kubeconfig={folders.kubeconfig(KUBELET.file)}",
            f"--hostname-override={NODE_NAME}",
            f"--node-ip={NODE_ADDRESS}",
        ),
        tuple(in_node(folders)),
        {config: text},
    )


def _proxy(folders: ClusterFolders, binaries: Mapping[str, Path]) -> Daemon:
    config = folders.config / "proxy.yaml"
    text = f"""apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: iptables
clientConnection: {{kubeconfig: {folders.kubeconfig(PROXY.file)}}}
clusterCIDR: {POD_RANGE}
hostnameOverride: {NODE_NAME}
healthzBindAddress: 127.0.0.1:10256
conntrack: {{maxPerCore: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}}
"""
    return Daemon(
        "proxy", (str(binaries["kube"]), "kube-proxy", f"--config={config}"), tuple(in_network(folders)), {config: text}
    )


def _coredns(folders: ClusterFolders, binaries: Mapping[str, Path]) -> Daemon:
    """On the node, not in a pod: it needs no image, and answers before the first pod runs."""
    config = folders.config / "Corefile"
    text = f""".:53 {{
    bind {NODE_ADDRESS}
    errors
    health 127.0.0.1:8080
    ready 127.0.0.1:{DNS_READY_PORT}
    kubernetes {CLUSTER_DOMAIN} in-addr.arpa ip6.arpa {{
        kubeconfig {folders.kubeconfig(COREDNS.file)}
        pods insecure
        ttl 5
    }}
    cache 5
    loadbalance
}}
"""
    return Daemon(
        COREDNS_NAME, (str(binaries["coredns"]), "-conf", str(config)), tuple(in_network(folders)), {config: text}
    )


def _volumes(folders: ClusterFolders, binaries: Mapping[str, Path]) -> Daemon:
    return Daemon(
        "volumes",
        (
            str(binaries["kube"]),
            "volumes",
            f"--kubeconfig={folders.kubeconfig(VOLUMES.file)}",
            f"--folder={folders.volumes}",
            f"--node={NODE_NAME}",
        ),
        tuple(in_network(folders)),
    )


def addons() -> str:
    """The objects that make node programs part of the cluster: DNS Service, storage class, their rights."""
    reads_dns = [
        {"apiGroups": [""], "resources": ["endpoints", "services", "pods", "namespaces"], "verbs": ["list", "watch"]},
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
    ]
    gives_volumes = [
        {"apiGroups": [""], "resources": ["persistentvolumeclaims"], "verbs": ["list", "watch"]},
        {"apiGroups": [""], "resources": ["persistentvolumes"], "verbs": ["list", "watch", "create", "delete"]},
        {"apiGroups": ["storage.k8s.io"], "resources": ["storageclasses"], "verbs": ["list", "watch"]},
    ]
    ports = [{"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dns-tcp", "port": 53, "protocol": "TCP"}]
    objects: list[dict[str, object]] = []
    for user, rules in ((COREDNS.user, reads_dns), (VOLUMES.user, gives_volumes)):
        objects += [
            {
                "apiVersion": "rbac.authorization.k8s.io/v1",
                "kind": "ClusterRole",
                "metadata": {"name": user},
                "rules": rules,
            },
            {
                "apiVersion": "rbac.authorization.k8s.io/v1",
                "kind": "ClusterRoleBinding",
                "metadata": {"name": user},
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": user},
                "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}],
            },
        ]
    objects += [
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "kube-dns", "namespace": "kube-system"},
            "spec": {"clusterIP": DNS_SERVICE_ADDRESS, "ports": ports},
        },
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": "kube-dns-node",
                "namespace": "kube-system",
                "labels": {"kubernetes.io/service-name": "kube-dns"},
            },
            "addressType": "IPv4",
            "endpoints": [{"addresses": [NODE_ADDRESS], "conditions": {"ready": True}}],
            "ports": ports,
        },
        {
            "apiVersion": "storage.k8s.io/v1",
            "kind": "StorageClass",
            "metadata": {
                "name": STORAGE_CLASS,
                "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
            },
            "provisioner": PROVISIONER,
            "reclaimPolicy": "Delete",
            "volumeBindingMode": "WaitForFirstConsumer",
        },
    ]
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
