"""What the e2e tests share: the installed operator, namespaces, long-lived models, and words when a test fails.

Run inside the cluster's network: `make e2e`, or `python -m tests.e2e.cluster exec PYTHON -m pytest tests/e2e`.
Models that tests only read are applied together and live as long as the session; each other test has a namespace of
its own, deleted without waiting.
Two workers of pytest-xdist share the cluster and its operator. Tests marked `alone` end, replace or count all that the
operator does, change what every pod may get, compare latencies, or put a load on of which nothing may be lost; they run
in a second pass, one by one.
"""

from __future__ import annotations

import fcntl
import re
import secrets
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e import store
from tests.e2e.install import InstallError, Operator, image_references, install_operator, load_images
from tests.e2e.kube import Kube
from tests.e2e.models import Digits, OnnxCase, onnx_cases, train_digits
from tests.e2e.stage import Served, Stage, describe, digits_volume

ONNX_CASES = (
    "test_Conv2d",
    "test_and_bcast3v1d",
    "test_max_float16",
    "test_scatternd",
    "test_split_variable_parts_1d_opset18",
    "test_squeezenet",
    "test_string_concat",
    "test_string_split_basic",
)


@pytest.fixture(scope="session")
def kube() -> Kube:
    """The cluster of KUBECONFIG."""
    return Kube()


@pytest.fixture(scope="session")
def operator(kube: Kube, request: pytest.FixtureRequest) -> Operator:
    """The operator of the working tree, installed by its chart, watching all namespaces.

    Each worker asks for it, one after the other: what is there already, helm leaves as it is.
    """
    with Path(tempfile.gettempdir(), "slipway-e2e-install.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            load_images(("operator", "agent", "triton", "router"))
            install_operator()
        except InstallError as error:
            request.session.shouldfail = "the product could not be installed"
            pytest.fail(f"the product could not be installed: {error}", pytrace=False)
    return Operator(kube)


@pytest.fixture(scope="session")
def needs_image() -> Callable[..., None]:
    """`needs_image("torchserve", "test-s3")`: those images into the cluster, unless they are there.

    Called by the modules that need them: the large ones take long to load, and most runs want some of them only.
    """

    def load(*names: str) -> None:
        try:
            load_images(names)
        except InstallError as error:
            pytest.fail(str(error), pytrace=False)

    return load


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Digits:
    """The example model, trained now."""
    return train_digits(tmp_path_factory.mktemp("models"))


def new_stage(kube: Kube, name: str) -> Stage:
    short = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40].strip("-")
    namespace = f"e2e-{short}-{secrets.token_hex(3)}"
    kube.create(
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace, "labels": {"e2e": "slipway"}}}
    )
    return Stage(kube, namespace)


@pytest.fixture
def stage(kube: Kube, request: pytest.FixtureRequest) -> Iterator[Stage]:
    """A namespace of the test's own."""
    made = new_stage(kube, request.node.name)
    yield made
    kube.delete("Namespace", made.namespace)


@pytest.fixture(scope="module")
def module_stage(kube: Kube, request: pytest.FixtureRequest) -> Iterator[Stage]:
    """A namespace that the tests of a module share."""
    made = new_stage(kube, Path(request.node.name).stem)
    yield made
    kube.delete("Namespace", made.namespace)


@pytest.fixture(scope="module")
def quiet_stage(kube: Kube, operator: Operator, request: pytest.FixtureRequest) -> Iterator[Stage]:
    """A namespace for tests that leave nothing behind in it."""
    made = new_stage(kube, f"{Path(request.node.name).stem}-quiet")
    yield made
    kube.delete("Namespace", made.namespace)


@pytest.fixture(scope="session")
def shared_stage(kube: Kube, operator: Operator) -> Iterator[Stage]:
    """The namespace of the models that tests only read."""
    made = new_stage(kube, "shared")
    yield made
    kube.delete("Namespace", made.namespace)


@pytest.fixture(scope="session")
def shared(shared_stage: Stage, digits: Digits, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Served]:
    """All models that tests only read, applied at once; nothing waits for them yet."""
    folder = tmp_path_factory.mktemp("claim")
    for number, content in digits.files.items():
        path = folder / "digits" / str(number) / "model.onnx"
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
    store.claim(shared_stage.kube, shared_stage.namespace, "models")
    store.upload(
        shared_stage.kube, shared_stage.namespace, "models", folder, image_references()["agent"], "IfNotPresent"
    )
    shared_stage.given_digits(digits)
    cases = onnx_cases()
    shared_stage.given_files("onnx-cases", {name: cases[name].file for name in ONNX_CASES})
    batching = {"maxBatchSize": 8, "maxDelayMicroseconds": 2000}
    served = {
        "digits": shared_stage.given("digits", "pvc://models/digits", 2, versionPolicy={"latest": {"count": 2}}),
        "batched": shared_stage.given("batched", "volume://models/digits", 2, [digits_volume()], batching=batching),
    }
    for name in ONNX_CASES:
        volume = {
            "name": "cases",
            "configMap": {"name": "onnx-cases", "items": [{"key": name, "path": "1/model.onnx"}]},
        }
        served[name] = shared_stage.given(onnx_name(name), "volume://cases/", 1, [volume])
    return served


def onnx_name(case: str) -> str:
    """The case's name as a ModelDeployment's."""
    return case.removeprefix("test_").lower().replace("_", "-")[:40]


@pytest.fixture(scope="session")
def digits_served(shared: dict[str, Served]) -> Served:
    """Versions 1 and 2 of the digits, 2 served, from a PersistentVolumeClaim."""
    shared["digits"].then_ready().then("VersionsReady", "True")
    return shared["digits"]


@pytest.fixture(scope="session")
def batched_digits(shared: dict[str, Served]) -> Served:
    """Version 2 of the digits, requests batched by 8."""
    return shared["batched"].then_ready()


@pytest.fixture(scope="module", params=ONNX_CASES)
def onnx_served(shared: dict[str, Served], request: pytest.FixtureRequest) -> tuple[OnnxCase, Served]:
    """One case of the onnx package, and the ModelDeployment that serves it."""
    name: str = request.param
    return onnx_cases()[name], shared[name].then_ready()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of the shared models come first, in one row, so that one worker alone applies them."""
    items.sort(key=lambda item: "shared" not in getattr(item, "fixturenames", ()))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """A failed test says what its namespaces looked like: conditions, events, pods, logs of agents and operator."""
    report: pytest.TestReport = yield  # type: ignore[assignment]
    if report.when in ("setup", "call") and report.failed:
        for kube, namespace in sorted(_namespaces(item), key=lambda pair: pair[1]):
            try:
                report.sections.append((f"namespace {namespace}", describe(kube, namespace)))
                report.sections.append((f"the operator on {namespace}", Operator(kube).log(namespace)))
            except Exception as error:  # the report of a failure must not hide it by another
                report.sections.append((f"namespace {namespace}", f"could not be described: {error!r}"))
    return report  # type: ignore[return-value]


def _namespaces(item: pytest.Item) -> set[tuple[Kube, str]]:
    used: dict[str, Any] = getattr(item, "funcargs", {})
    stages = [value for value in used.values() if isinstance(value, (Stage, Served))]
    stages += [value.stage for value in used.values() if hasattr(value, "stage")]
    stages += [value.served for value in used.values() if isinstance(getattr(value, "served", None), Served)]
    return {(stage.kube, stage.namespace) for stage in stages}
