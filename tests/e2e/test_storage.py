"""Models from an S3 server and a registry, with Secrets that come late, and a cache that replicas share."""

from __future__ import annotations

from typing import Any

import pytest

from tests.e2e import store
from tests.e2e.models import Digits
from tests.e2e.stage import Served, Stage, merged
from tests.e2e.stores import BUCKET, KEYS, Bucket, OciRegistry
from tests.storage.pushing import Entries

pytestmark = pytest.mark.usefixtures("operator")

SECRET_SECONDS = 200.0
"""A kubelet looks once a minute or so for a Secret that an optional volume waits for."""


@pytest.fixture(scope="module")
def bucket(module_stage: Stage, digits: Digits) -> Bucket:
    """An S3 server with versions 1 and 2 of the digits."""
    started = Bucket.started(module_stage)
    for version, content in digits.files.items():
        started.put(f"digits/{version}/model.onnx", content)
    return started


@pytest.fixture(scope="module")
def registry(module_stage: Stage, digits: Digits) -> OciRegistry:
    """A registry with a password: version 1 is an image, version 2 an artifact."""
    started = OciRegistry.started(module_stage)
    push = started.push
    push.image("digits", "v1", push.layer("digits", Entries().add_file("models/model.onnx", digits.files[1])))
    push.image("digits", "v2", push.file("digits", "model.onnx", digits.files[2]))
    return started


def from_bucket(bucket: Bucket, stage: Stage, name: str, version: int | None, **more: Any) -> Served:
    return stage.given(name, f"s3://{BUCKET}/digits", version, **merged({"storage": bucket.storage}, more))


def test_s3_serves_with_the_keys_of_a_secret(module_stage: Stage, bucket: Bucket, digits: Digits) -> None:
    served = from_bucket(bucket, module_stage, "s3-digits", 2, versionPolicy={"all": {}}).then_ready()
    served.then("VersionsReady", "True", says=["1", "2"])
    served.then_answers(digits, 2)


def test_a_version_that_isnt_in_the_store_is_named(module_stage: Stage, bucket: Bucket) -> None:
    served = from_bucket(bucket, module_stage, "s3-absent", 7)
    served.then("Ready", "False", "VersionNotFound", says=[f"s3://{BUCKET}/digits has no version 7", "it has 1, 2"])


def test_a_wrong_key_is_named_and_nothing_serving_is_lost(module_stage: Stage, bucket: Bucket, digits: Digits) -> None:
    module_stage.given_object(
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "wrong-keys"},
            "stringData": KEYS | {"AWS_SECRET_ACCESS_KEY": "mistyped"},
        }
    )
    served = from_bucket(bucket, module_stage, "s3-wrong", 2, storage={"secretRef": {"name": "wrong-keys"}})
    served.then("Ready", "False", "AccessDenied", says=["SignatureDoesNotMatch", "Secret wrong-keys"])
    served.when_spec(storage={"secretRef": bucket.storage["secretRef"]}).then_ready()
    served.then_answers(digits, 2)


def test_a_missing_secret_is_named_and_taken_up_when_it_comes(
    module_stage: Stage, bucket: Bucket, digits: Digits
) -> None:
    served = from_bucket(bucket, module_stage, "s3-late", 2, storage={"secretRef": {"name": "late-keys"}})
    served.then("Ready", "False", "AccessDenied", says=["Secret late-keys", "AWS_ACCESS_KEY_ID"])
    pods = [pod["metadata"]["uid"] for pod in served.pods()]
    module_stage.given_object(
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "late-keys"}, "stringData": KEYS}
    )
    served.then_ready(SECRET_SECONDS)
    served.then_answers(digits, 2)
    assert [pod["metadata"]["uid"] for pod in served.pods()] == pods, "the same pod took it up"


def test_replicas_with_a_cache_download_once(module_stage: Stage, bucket: Bucket, digits: Digits) -> None:
    bucket.put("shared/1/model.onnx", digits.files[1])
    store.claim(module_stage.kube, module_stage.namespace, "cache")
    served = module_stage.given(
        "s3-cached",
        f"s3://{BUCKET}/shared",
        1,
        replicas=2,
        storage=bucket.storage | {"cache": {"claimName": "cache"}},
    ).then_ready()
    served.then_pods("both replicas are ready", 2)
    served.then_answers(digits, 1)
    assert bucket.reads(module_stage, "shared/1/model.onnx") == 1


def test_a_registry_serves_images_and_artifacts(module_stage: Stage, registry: OciRegistry, digits: Digits) -> None:
    served = module_stage.given(
        "oci-digits",
        f"oci://{registry.host}/digits",
        2,
        model={"versions": {"1": "v1", "2": "v2"}},
        storage=registry.storage,
        versionPolicy={"all": {}},
    ).then_ready()
    served.then("VersionsReady", "True", says=["1", "2"])
    served.then_answers(digits, 2)


def test_a_tag_that_isnt_in_the_registry_is_named(module_stage: Stage, registry: OciRegistry) -> None:
    served = module_stage.given(
        "oci-absent",
        f"oci://{registry.host}/digits",
        3,
        model={"versions": {"3": "v3"}},
        storage=registry.storage,
    )
    served.then("Ready", "False", "VersionNotFound", says=[f"oci://{registry.host}/digits:v3", "404"])
