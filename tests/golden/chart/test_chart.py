"""What the Helm chart renders, against files that people can read in a review.

The CRD is left out of them: it is generated, and compared with its source elsewhere. `default.yaml` is whole, the
others hold what differs from it, in the form that tests/golden/difference.py describes.
Written anew by: pytest tests/golden/chart --update-golden
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from slipway.controller.settings import read_settings
from tests.e2e.cluster.binaries import HELM, cache_key, go_version
from tests.e2e.cluster.errors import ClusterError
from tests.e2e.cluster.layout import cache_folder
from tests.golden.difference import check

ROOT = Path(__file__).resolve().parents[3]
CHART = ROOT / "charts" / "slipway"
DEFAULT = Path(__file__).parent / "default.yaml"
KUBERNETES = "1.36.3"  # helm renders without a cluster here, so it is told which version to assume

Manifest = dict[str, Any]
Compare = Callable[[Sequence[Manifest], str], None]


def find_helm() -> str:
    """helm on PATH, or the one that the cluster's build left in the cache."""
    if on_path := shutil.which("helm"):
        return on_path
    try:
        built = cache_folder() / "binaries" / f"{HELM.name}-{cache_key(HELM, go_version())}" / "helm"
    except ClusterError as error:
        pytest.skip(f"no helm on PATH, and none built: {error}")
    if not built.exists():
        pytest.skip("no helm on PATH, and none built; `make cluster-up` builds one")
    return str(built)


def helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([find_helm(), *arguments], capture_output=True, text=True, check=False)


def rendered(*arguments: str) -> list[Manifest]:
    """The chart's objects. Fails with helm's own words."""
    done = helm(
        "template", "slipway", str(CHART), "--namespace", "slipway-system", "--kube-version", KUBERNETES, *arguments
    )
    assert done.returncode == 0, done.stderr
    return [manifest for manifest in yaml.safe_load_all(done.stdout) if manifest]


def of_kind(manifests: Sequence[Manifest], kind: str) -> list[Manifest]:
    return [manifest for manifest in manifests if manifest["kind"] == kind]


@pytest.fixture
def compare(request: pytest.FixtureRequest) -> Compare:
    """Objects against tests/golden/chart/NAME, the CRD left out."""

    def compare(manifests: Sequence[Manifest], name: str) -> None:
        kept = [manifest for manifest in manifests if manifest["kind"] != "CustomResourceDefinition"]
        text = yaml.safe_dump_all(kept, sort_keys=False, width=120)
        golden = Path(__file__).parent / name
        update = request.config.getoption("--update-golden", default=False)
        check(text, golden, None if golden == DEFAULT else DEFAULT, update=update)

    return compare


def test_default_values_render_as_written(compare: Compare) -> None:
    compare(rendered(), "default.yaml")


def test_watched_namespaces_get_a_role_each_and_no_cluster_role(compare: Compare) -> None:
    manifests = rendered("--set", "watchNamespaces={team-a,team-b}", "--set", "rbac.aggregateToUserRoles=false")
    compare(manifests, "watch-namespaces.diff")
    assert not of_kind(manifests, "ClusterRole")
    assert not of_kind(manifests, "ClusterRoleBinding")


def test_everything_optional_renders_as_written(compare: Compare) -> None:
    digest = f"sha256:{'0' * 64}"
    values = {
        "images": {"operator": {"digest": digest}, "triton": {"repository": "slipway.dev/triton", "tag": "abc"}},
        "imagePullSecrets": [{"name": "registry"}],
        "crds": {"install": False},
        "logFormat": "console",
        "priorityClassName": "system-cluster-critical",
        "nodeSelector": {"kubernetes.io/os": "linux"},
        "tolerations": [{"key": "infra", "operator": "Exists"}],
        "affinity": {"podAntiAffinity": {}},
        "podAnnotations": {"example.org/a": "b"},
        "podLabels": {"example.org/team": "ml"},
        "serviceAccount": {"name": "ours", "annotations": {"example.org/role": "r"}},
        "metrics": {"serviceMonitor": {"create": True, "labels": {"release": "prometheus"}}},
        "networkPolicy": {
            "create": True,
            "metricsFrom": [{"namespaceSelector": {}}],
            "models": {"create": True, "from": [{"podSelector": {}}], "metricsFrom": [{"namespaceSelector": {}}]},
        },
    }
    compare(
        rendered("--set-json", ",".join(f"{key}={json.dumps(value)}" for key, value in values.items())),
        "everything.diff",
    )


def test_crd_is_the_generated_one_and_outlives_the_release() -> None:
    generated = yaml.safe_load((CHART / "files" / "modeldeployments.crd.yaml").read_text())
    (crd,) = of_kind(rendered(), "CustomResourceDefinition")
    assert crd["metadata"].pop("annotations") == {"helm.sh/resource-policy": "keep"}
    crd["metadata"].pop("labels")
    assert crd == generated


def test_crd_can_be_left_out() -> None:
    assert not of_kind(rendered("--set", "crds.install=false"), "CustomResourceDefinition")


def test_operator_runs_without_any_privilege() -> None:
    (deployment,) = of_kind(rendered(), "Deployment")
    pod = deployment["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in pod["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


@pytest.mark.parametrize("scope", ["cluster", "namespaces"])
def test_operator_may_create_secrets_and_do_nothing_else_with_them(scope: str) -> None:
    arguments = ("--set", "watchNamespaces={team-a,team-b}") if scope == "namespaces" else ()
    manifests = rendered(*arguments, "--set", "rbac.aggregateToUserRoles=false")
    roles = [*of_kind(manifests, "ClusterRole"), *of_kind(manifests, "Role")]
    assert len(roles) == (2 if scope == "namespaces" else 1)
    for role in roles:
        verbs = [rule["verbs"] for rule in role["rules"] if {"secrets", "*"} & set(rule["resources"])]
        assert verbs == [["create"]]


def test_operator_may_grant_no_right_and_enter_no_pod() -> None:
    (role,) = (one for one in of_kind(rendered(), "ClusterRole") if one["metadata"]["name"] == "slipway-system:slipway")
    resources = {(group, one) for rule in role["rules"] for group in rule["apiGroups"] for one in rule["resources"]}
    assert not {resource for _, resource in resources} & {"*", "serviceaccounts", "nodes", "pods/exec"}
    assert not {group for group, _ in resources} & {"*", "rbac.authorization.k8s.io"}
    assert not any("*" in rule["verbs"] for rule in role["rules"])


def test_model_pods_let_in_the_very_operator_that_is_installed() -> None:
    (deployment,) = of_kind(rendered("--set", "networkPolicy.models.create=true"), "Deployment")
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    settings = read_settings({each["name"]: each["value"] for each in container["env"]})
    assert settings.images.peers is not None
    [operator] = settings.images.peers.operator
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert operator["podSelector"]["matchLabels"] == deployment["spec"]["selector"]["matchLabels"]
    assert operator["podSelector"]["matchLabels"].items() <= labels.items()
    assert operator["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": "slipway-system"}
    assert (settings.images.peers.clients, settings.images.peers.metrics) == ((), ())


@pytest.mark.parametrize(
    ("value", "word"),
    [
        ("watchNamespace={a}", "watchNamespace"),
        ("images.operator.tagg=x", "tagg"),
        ("watchNamespaces={Not_A_Name}", "watchNamespaces"),
        ("images.triton.digest=sha256:12", "digest"),
        ("images.tensorflowServing.tag=x", "tensorflowServing"),
        ("images.torchserve.repository=", "repository"),
        ("logFormat=xml", "logFormat"),
        ("networkPolicy.apiServerPorts={0}", "apiServerPorts"),
        ("networkPolicy.models.enabled=true", "enabled"),
        ("networkPolicy.models.from[0].podselector.a=b", "podselector"),
    ],
)
def test_typos_in_values_are_refused(value: str, word: str) -> None:
    done = helm("template", "slipway", str(CHART), "--kube-version", KUBERNETES, "--set", value)
    assert done.returncode != 0
    assert word in done.stderr


def test_chart_passes_lint() -> None:
    done = helm("lint", "--strict", str(CHART), "--kube-version", KUBERNETES)
    assert done.returncode == 0, done.stdout + done.stderr
