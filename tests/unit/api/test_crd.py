"""The CustomResourceDefinition: generated, committed, structural, and small enough for kubectl apply."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from pydantic import BaseModel
from pydantic.alias_generators import to_camel
from pydantic.fields import FieldInfo

from slipway.api.crd import HEADER, render
from slipway.api.rules import RULES
from slipway.api.status import FORMER_NAMES
from slipway.api.v1alpha1 import REVISION_FIELDS, Golden, ModelDeploymentSpec, Step, VersionPolicy
from tests.unit.specs import SMALLEST

Json = dict[str, Any]

ROOT = Path(__file__).resolve().parents[3]
COMMITTED = [
    ROOT / "crds" / "slipway.dev_modeldeployments.yaml",
    ROOT / "charts" / "slipway" / "files" / "modeldeployments.crd.yaml",
]
MAX_ANNOTATION_BYTES = 262_144
VERSION = render()["spec"]["versions"][0]
SCHEMA: Json = VERSION["schema"]["openAPIV3Schema"]
SPEC: Json = SCHEMA["properties"]["spec"]


def nodes(schema: Json, path: str = "") -> Iterator[tuple[str, Json]]:
    """Every schema below this one, with its path."""
    yield path, schema
    for name, child in schema.get("properties", {}).items():
        yield from nodes(child, f"{path}.{name}")
    for part in ("items", "additionalProperties"):
        if isinstance(schema.get(part), dict):
            yield from nodes(schema[part], f"{path}[]")


@pytest.mark.parametrize("file", COMMITTED, ids=lambda file: file.parent.name)
def test_what_is_committed_is_what_is_generated(file: Path) -> None:
    text = file.read_text()
    assert text.startswith(HEADER), "run: make crds"
    assert yaml.safe_load(text) == render(), "run: make crds"


def test_it_fits_into_the_annotation_of_kubectl_apply() -> None:
    assert len(json.dumps(render())) < MAX_ANNOTATION_BYTES * 3 // 4


def test_it_is_structural() -> None:
    for path, node in nodes(SCHEMA):
        assert "$ref" not in node, path
        assert "$defs" not in node, path
        any_of = ("type", "x-kubernetes-int-or-string", "x-kubernetes-preserve-unknown-fields")
        assert any(node.get(key) for key in any_of), path
        assert node.get("type") != "null", path
        assert not (node.get("properties") and node.get("additionalProperties")), path
        assert isinstance(node.get("exclusiveMinimum", True), bool), path
        if "anyOf" in node:
            assert node["x-kubernetes-int-or-string"] is True, path


def test_every_field_of_ours_is_described_for_kubectl_explain() -> None:
    for path, node in nodes(SPEC):
        if path.startswith((".podTemplate.", ".runtime.env[]")) or path.endswith("[]") or not path:
            continue
        assert node.get("description") or node.get("x-kubernetes-int-or-string"), path


ONE_OF = {
    (VersionPolicy, ("latest", "specific", "all")),
    (Step, ("weight", "pause")),
    (Golden, ("requests", "config_map", "file")),
}
"""A person has to choose one of them: nothing is taken for one that is left out."""


def optional_fields(model: type[BaseModel], schema: Json, path: str) -> Iterator[tuple[str, FieldInfo, str]]:
    """Each field that may be left out, below this model too: its path, the field, what kubectl explain says."""
    chosen = {name for kind, names in ONE_OF if kind is model for name in names}
    for name, field in model.model_fields.items():
        child = schema["properties"][to_camel(name)]
        where = f"{path}.{to_camel(name)}"
        if not field.is_required() and name not in chosen:
            yield where, field, child.get("description", "")
        for part in {field.annotation, *get_args(field.annotation)}:
            if isinstance(part, type) and issubclass(part, BaseModel):
                yield from optional_fields(part, child.get("items", child), where)


def test_every_field_that_may_be_left_out_says_its_default_for_kubectl_explain() -> None:
    fields = list(optional_fields(ModelDeploymentSpec, SPEC, "spec"))
    assert len(fields) > 50
    for path, field, said in fields:
        default = field.get_default(call_default_factory=True, validated_data={})
        if isinstance(default, bool | int | float | str):
            words = default if isinstance(default, str) else json.dumps(default)
            assert said.endswith(f" Default: {words}."), path
            assert said.count("efault") == 1, path
        else:
            assert re.search(r"\b[Dd]efault( with strategy Canary)?: |\bAbsent: ", said), path


def test_every_text_and_list_of_ours_is_bounded() -> None:
    for path, node in nodes(SPEC):
        if path.startswith((".podTemplate", ".runtime.env[]")):
            continue
        if node.get("type") == "string":
            assert node.get("maxLength") or node.get("enum") or node.get("pattern"), path
        if node.get("type") == "array":
            assert node.get("maxItems"), path


def test_every_rule_stands_where_it_says() -> None:
    for rule in RULES:
        target = SPEC
        for part in filter(None, rule.path.split(".")):
            target = target["properties"][part.removesuffix("[]")]
            target = target["items"] if part.endswith("[]") else target
        assert {"rule": rule.cel, "message": rule.message} in target["x-kubernetes-validations"]


def test_required_is_only_what_cannot_be_guessed() -> None:
    assert set(SPEC["required"]) == {"runtime", "model"} == set(SMALLEST)
    assert SPEC["properties"]["model"]["required"] == ["uri"]
    assert SPEC["properties"]["runtime"]["required"] == ["name"]
    assert "required" not in SPEC["properties"]["podTemplate"]["properties"]["spec"]


def test_defaults_are_what_the_operator_takes_for_absent() -> None:
    """Or an object would mean another thing with this CRD than without."""

    def defaults(schema: Json) -> Json:
        found = {}
        for name, child in schema.get("properties", {}).items():
            if "default" in child:
                found[name] = child["default"]
        return found

    read = ModelDeploymentSpec.model_validate(SMALLEST)
    written = read.model_dump(mode="json", by_alias=True)
    assert defaults(SPEC) == {name: written[name] for name in defaults(SPEC)}
    rollout = SPEC["properties"]["rollout"]
    assert defaults(rollout) == {name: written["rollout"][name] for name in defaults(rollout)}


def test_what_makes_a_revision_has_no_default() -> None:
    """The API server would write it into every object: an operator with another one would take it for a choice."""
    for name, inner in REVISION_FIELDS.items():
        part = SPEC["properties"][to_camel(name)]
        for own in [part] if inner is True else [part["properties"][to_camel(each)] for each in inner]:
            assert [path for path, node in nodes(own) if "default" in node] == []


def test_columns_read_what_status_writes() -> None:
    for column in VERSION["additionalPrinterColumns"]:
        node = SCHEMA
        path = column["jsonPath"].removeprefix(".").split(".")
        if path[0] == "metadata":
            continue
        for part in path:
            node = node["properties"][part]
        assert node["type"] == column["type"], column


def test_subresources() -> None:
    assert VERSION["subresources"]["status"] == {}
    scale = VERSION["subresources"]["scale"]
    assert scale["specReplicasPath"] == ".spec.replicas"
    assert SPEC["properties"]["replicas"]["type"] == "integer"
    for path in ("statusReplicasPath", "labelSelectorPath"):
        assert scale[path].removeprefix(".status.") in SCHEMA["properties"]["status"]["properties"]


def test_the_api_server_keeps_what_the_release_before_wrote_until_it_is_read() -> None:
    """A field that the schema doesn't name is dropped before an operator could read it under its new name."""
    status = str(render()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"])
    assert [name for name in FORMER_NAMES if f"'{name}':" not in status] == []
