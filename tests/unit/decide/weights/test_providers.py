"""What holds of everyone who splits requests: the laws that rollouts and status rely on."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipway.api.v1alpha1 import SpecError, Traffic
from slipway.decide.weights import PROVIDERS, provider_of
from slipway.decide.weights.provider import Provider, Standing
from slipway.model.signals import InForce
from tests.unit.specs import deployment

STABLE, CANARY = "aaaaaaaaaa", "bbbbbbbbbb"
NAMES = sorted(PROVIDERS)
READY = st.dictionaries(st.sampled_from((STABLE, CANARY)), st.integers(0, 20))
SAID = st.sampled_from((None, InForce({STABLE: 95, CANARY: 5}, {STABLE: 2, CANARY: 1})))


@pytest.mark.parametrize("name", Traffic.model_json_schema()["properties"]["provider"]["enum"])
def test_a_provider_that_a_spec_names_is_there_or_is_refused(name: str) -> None:
    asked = {"traffic": {"provider": name}}
    if name in PROVIDERS:
        assert provider_of(deployment(asked).spec) is PROVIDERS[name]
        return
    with pytest.raises(SpecError, match="not implemented in this release"):
        deployment(asked)


def test_without_a_word_of_it_routers_split() -> None:
    assert provider_of(deployment().spec) is PROVIDERS["Router"]


@pytest.mark.parametrize("name", NAMES)
@given(weight=st.integers(0, 100), replicas=st.integers(0, 50))
def test_what_comes_of_a_weight_is_a_weight_and_an_exact_one_needs_no_explanation(
    name: str, weight: int, replicas: int
) -> None:
    provider: Provider = PROVIDERS[name]
    reached = provider.reach(weight, replicas)
    assert 0 <= reached.weight_percent <= 100
    assert 0 <= reached.pods <= replicas
    assert provider.reach(100, replicas).weight_percent == 100
    if provider.is_exact:
        assert reached.weight_percent == weight
        assert provider.explain([weight], replicas) == ""


@pytest.mark.parametrize("name", NAMES)
@given(selected=st.sampled_from((None, STABLE, CANARY)), ready=READY, said=SAID)
def test_what_is_in_force_sums_to_100_or_nobody_can_say(
    name: str, selected: str | None, ready: dict[str, int], said: InForce | None
) -> None:
    found = PROVIDERS[name].in_force(Standing(selected, ready, said))
    assert found is None or sum(found.weights.values()) == 100
