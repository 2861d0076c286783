"""Which form of cluster a machine gets, and what a person reads when it can't be."""

from pathlib import Path

import pytest

from tests.e2e.cluster.errors import ClusterError
from tests.e2e.cluster.existing import ExistingCluster
from tests.e2e.cluster.images import list_archive_references, pack, pack_image, parse_references
from tests.e2e.cluster.layout import ClusterFolders
from tests.e2e.cluster.provider import UpOptions, choose_form


@pytest.fixture
def machine(tmp_path: Path) -> dict[str, str]:
    return {"PATH": str(tmp_path)}


def put_docker(folder: str, monkeypatch: pytest.MonkeyPatch, exit_code: int) -> None:
    docker = Path(folder) / "docker"
    docker.write_text(f"#!/bin/sh\nexit {exit_code}\n")
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", folder)


def test_native_where_there_is_no_docker(machine: dict[str, str]) -> None:
    assert choose_form(machine) == "native"


def test_native_where_docker_is_installed_and_no_engine_answers(
    machine: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    put_docker(machine["PATH"], monkeypatch, exit_code=1)
    assert choose_form(machine) == "native"


def test_kind_where_a_docker_engine_answers(machine: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    put_docker(machine["PATH"], monkeypatch, exit_code=0)
    assert choose_form(machine) == "kind"


def test_the_persons_choice_wins(machine: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    put_docker(machine["PATH"], monkeypatch, exit_code=0)
    assert choose_form({**machine, "CLUSTER": "native"}) == "native"


def test_an_unknown_form_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ClusterError, match="CLUSTER=native, kind or existing"):
        choose_form({"CLUSTER": "minikube"})


def test_an_existing_cluster_is_never_made_fresh() -> None:
    with pytest.raises(ClusterError, match="used as it is"):
        ExistingCluster().up(UpOptions(is_fresh=True))


def test_images_for_an_existing_cluster_need_a_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLIPWAY_REGISTRY", raising=False)
    with pytest.raises(ClusterError, match="SLIPWAY_REGISTRY"):
        ExistingCluster().load([Path("image.tar")])


def test_named_clusters_share_no_path_and_no_namespace() -> None:
    first, second = ClusterFolders("native"), ClusterFolders("bench")
    assert (first.network_namespace, second.network_namespace) == ("slipway", "slipway-bench")
    assert first.state != second.state
    assert first.run != second.run


def test_sockets_keep_within_the_length_a_unix_socket_may_have() -> None:
    assert len(str(ClusterFolders("a-rather-long-name-for-a-cluster").containerd_socket)) < 100


def test_references_are_read_from_both_kinds_of_archive() -> None:
    oci = b'{"manifests": [{"annotations": {"org.opencontainers.image.ref.name": "slipway.dev/agent:1"}}, {}]}'
    docker = b'[{"RepoTags": ["slipway.dev/agent:1", "slipway.dev/agent:2"]}, {"RepoTags": null}]'
    assert parse_references("index.json", oci) == ("slipway.dev/agent:1",)
    assert parse_references("manifest.json", docker) == ("slipway.dev/agent:1", "slipway.dev/agent:2")


def test_a_packed_image_is_read_back_and_is_the_same_bytes_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.e2e.cluster.images._architecture", lambda: "amd64")
    layer = pack({"bin/program": (b"\x7fELF", 0o755)}, {"bin/sh": "program"})
    image = pack_image("slipway.dev/x:1", layer, {"Entrypoint": ["/bin/program"]})
    assert image == pack_image("slipway.dev/x:1", layer, {"Entrypoint": ["/bin/program"]})
    (tmp_path / "x.tar").write_bytes(image)
    assert list_archive_references(tmp_path / "x.tar") == ("slipway.dev/x:1",)


def test_a_file_that_is_no_archive_is_named_in_the_refusal(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_text("no tar")
    with pytest.raises(ClusterError, match=r"x\.tar"):
        list_archive_references(tmp_path / "x.tar")
