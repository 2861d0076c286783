"""Which Secret a workload's pods take the key between agent and server from."""

from __future__ import annotations

import pytest

from slipway.model.revision import workload_template
from slipway.model.server_key import KEY_VARIABLE, asked_secret, key_from, secret_to_ask, with_secret
from tests.unit.specs import Json

THEIRS: Json = {"name": KEY_VARIABLE, "valueFrom": {"secretKeyRef": {"name": "theirs", "key": "k"}}}
AGED: Json = {"name": KEY_VARIABLE, "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}}


def template(agent: Json, server: Json | None = None) -> Json:
    spec = {
        "initContainers": [{"name": "agent", "env": [agent, {"name": "A", "value": "b"}]}],
        "containers": [{"name": "server", "env": [server or agent]}, {"name": "proxy"}],
        "volumes": [],
    }
    return {"metadata": {"labels": {}}, "spec": spec}


def test_a_workloads_template_asks_for_the_workloads_secret() -> None:
    kept = template(key_from("digits-aaa-key"))
    assert workload_template(kept, "digits", "aaa")["spec"] == kept["spec"]
    assert workload_template(kept, "digits", "bbb")["spec"] == template(key_from("digits-bbb-key"))["spec"]
    assert (
        workload_template(kept, "digits", "bbb", "digits-bbb-key-2")["spec"]
        == (template(key_from("digits-bbb-key-2"))["spec"])
    )


def test_a_secret_of_the_users_stays_theirs() -> None:
    assert asked_secret(template(THEIRS)) is None
    assert with_secret(template(THEIRS), "s") == template(THEIRS)
    assert with_secret(template(key_from("a"), THEIRS), "b") == template(key_from("b"), THEIRS)


def test_a_template_of_an_older_release_asks_for_none() -> None:
    assert asked_secret(template(AGED)) is None
    assert workload_template(template(AGED), "digits", "aaa")["spec"] == template(AGED)["spec"]


@pytest.mark.parametrize(
    ("live", "lost", "wanted"),
    [
        (None, set(), "d-w-key"),
        (key_from("d-w-key"), set(), "d-w-key"),
        (key_from("d-w-key"), {"d-w-key-2", "d-v-key"}, "d-w-key"),
        (key_from("d-w-key"), {"d-w-key"}, "d-w-key-2"),
        (key_from("d-w-key-2"), {"d-w-key"}, "d-w-key-2"),
        (key_from("d-w-key-9"), {"d-w-key-9"}, "d-w-key-10"),
        (key_from("theirs"), {"theirs"}, "d-w-key"),
        (key_from("d-w-key-02"), set(), "d-w-key"),
        (key_from("d-w-key-2\n"), set(), "d-w-key"),
        (AGED, {"d-w-key"}, "d-w-key"),
    ],
)
def test_a_workload_asks_for_what_it_asks_until_that_is_lost(live: Json | None, lost: set[str], wanted: str) -> None:
    assert secret_to_ask("d", "w", template(live) if live else None, lost) == wanted
