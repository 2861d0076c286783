"""Who else manages a field that we write."""

from __future__ import annotations

from typing import Any

import pytest

from slipway.observe.field_managers import Path, managers_of

Json = dict[str, Any]

REPLICAS: Path = ("spec", "replicas")


def managed(**managers: Any) -> Json:
    """An object whose fields these managers have, as FieldsV1."""
    entries = [{"manager": manager, "fieldsV1": fields} for manager, fields in managers.items()]
    return {"metadata": {"managedFields": entries}}


@pytest.mark.parametrize(
    ("live", "found"),
    [
        (managed(edit={"f:spec": {"f:replicas": {}}}), ("edit",)),
        (managed(b={"f:spec": {"f:replicas": {}}}, a={"f:spec": {"f:replicas": {}}}), ("a", "b")),
        (managed(slipway={"f:spec": {"f:replicas": {}}}), ()),
        (managed(edit={"f:spec": {"f:paused": {}}}), ()),
        (managed(edit={"f:spec": {}}), ()),
        (managed(edit={"f:spec": "x"}), ()),
        (managed(edit=None), ()),
        ({"metadata": {"managedFields": None}}, ()),
        ({"metadata": {}}, ()),
    ],
)
def test_the_managers_of_a_field_but_for_ourselves(live: Json, found: tuple[str, ...]) -> None:
    assert managers_of([("data",), REPLICAS], live) == found


def test_who_manages_a_part_of_a_list_manages_it() -> None:
    part: Json = {"f:spec": {"f:containers": {'k:{"name":"server"}': {"f:image": {}}}}}
    assert managers_of([("spec", "containers")], managed(helm=part)) == ("helm",)
