"""The operator serves the namespaces that its chart names: one, several or all, with rights in no other."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Sequence

import pytest

from tests.e2e.install import NAMESPACE, Operator, install_operator
from tests.e2e.kube import Kube, kubectl
from tests.e2e.stage import Served, Stage, conditions


@pytest.fixture
def watching(operator: Operator) -> Iterator[Callable[[Sequence[str]], None]]:
    """Lets the operator watch these namespaces; afterwards it watches all again."""
    yield install_operator
    install_operator()


@pytest.fixture
def places(kube: Kube, watching: object) -> Iterator[list[str]]:
    """Three namespaces with one ModelDeployment `digits` each, scaled to zero, made while no operator runs for them."""
    names = [f"e2e-place-{letter}-{secrets.token_hex(3)}" for letter in "abc"]
    for name in names:
        kube.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {"e2e": "slipway"}}})
    yield names
    for name in names:
        kube.delete("Namespace", name)


def given(kube: Kube, places: list[str]) -> list[Served]:
    return [Stage(kube, place).given("digits", "pvc://models/digits", 1, replicas=0) for place in places]


def is_untouched(served: Served) -> bool:
    return conditions(served.stored()) == [] and served.children() == []


@pytest.mark.alone  # replaces the operator
def test_one_several_and_all_namespaces(
    kube: Kube, places: list[str], watching: Callable[[Sequence[str]], None]
) -> None:
    watching(places[:1])
    first, second, third = given(kube, places)
    first.then("Ready", "False", "ScaledToZero")
    account = f"system:serviceaccount:{NAMESPACE}:slipway"
    allowed = {
        place: kubectl("auth", "can-i", "patch", "deployments.apps", "-n", place, "--as", account).out.strip()
        for place in places
    }
    assert allowed == {places[0]: "yes", places[1]: "no", places[2]: "no"}

    with_secrets = {
        verb: kubectl("auth", "can-i", verb, "secrets", "-n", places[0], "--as", account).out.strip()
        for verb in ("create", "get", "list", "watch", "patch", "update", "delete")
    }
    assert with_secrets == dict.fromkeys(with_secrets, "no") | {"create": "yes"}

    watching(places[:2])
    second.then("Ready", "False", "ScaledToZero")
    assert is_untouched(third)

    watching([])
    third.then("Ready", "False", "ScaledToZero")
