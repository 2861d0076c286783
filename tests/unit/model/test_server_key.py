"""Which Secret a workload's pods take the key between agent and server from."""

from __future__ import annotations

import pytest

from slipway.model.revision import workload_template
from slipway.model.server_key import (
    KEY_VARIABLE,
    asked_secret,
    first_secret,
    is_secret_of,
    key_from,
    next_secret,
    secret_to_ask,
    with_secret,
)
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
    kept = template(key_from("first"))
    assert workload_template(kept, "digits", "bbb")["spec"] == kept["spec"]
    assert workload_template(kept, "digits", "bbb", "second")["spec"] == template(key_from("second"))["spec"]


def test_what_is_left_of_a_deleted_namesake_is_called_otherwise() -> None:
    ours, theirs = (first_secret("digits", uid, "aaa") for uid in ("one", "another"))
    assert ours != theirs
    assert all(is_secret_of(each, "digits", "aaa") for each in (ours, theirs, next_secret(ours)))
    assert not is_secret_of(ours, "digits", "bbb")


def test_a_secret_of_the_users_stays_theirs() -> None:
    assert asked_secret(template(THEIRS)) is None
    assert with_secret(template(THEIRS), "s") == template(THEIRS)
    assert with_secret(template(key_from("a"), THEIRS), "b") == template(key_from("b"), THEIRS)


def test_a_template_of_an_older_release_asks_for_none() -> None:
    assert asked_secret(template(AGED)) is None
    assert workload_template(template(AGED), "digits", "aaa")["spec"] == template(AGED)["spec"]


FIRST = "d-w-key-0a1b2"


@pytest.mark.parametrize(
    ("live", "lost", "wanted"),
    [
        (None, set(), FIRST),
        (FIRST, set(), FIRST),
        (FIRST, {f"{FIRST}-2", "d-v-key-0a1b2"}, FIRST),
        (FIRST, {FIRST}, f"{FIRST}-2"),
        (f"{FIRST}-2", {FIRST}, f"{FIRST}-2"),
        (f"{FIRST}-9", {f"{FIRST}-9"}, f"{FIRST}-10"),
        ("d-w-key-fffff", set(), "d-w-key-fffff"),
        ("theirs", {"theirs"}, FIRST),
        ("d-v-key-0a1b2", set(), FIRST),
        (f"{FIRST}-02", set(), FIRST),
        (f"{FIRST}-2\n", set(), FIRST),
    ],
)
def test_a_workload_asks_for_what_it_asks_until_that_is_lost(live: str | None, lost: set[str], wanted: str) -> None:
    assert secret_to_ask(FIRST, "d", "w", template(key_from(live)) if live else None, lost) == wanted


def test_a_live_template_of_an_older_release_asks_for_none_yet() -> None:
    assert secret_to_ask(FIRST, "d", "w", template(AGED), {FIRST}) == FIRST
