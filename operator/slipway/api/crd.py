"""The CustomResourceDefinition, rendered from the models; `make crds` writes it.

Parts of a Pod (podTemplate, env) take their schema from the `kubernetes` package's models, without descriptions: with
them the CRD would not fit into the annotation that `kubectl apply` writes (256 KiB).
Imported by `make crds` and tests only, never by the operator.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from kubernetes.client import models as core
from pydantic import BaseModel
from pydantic.alias_generators import to_camel

from slipway.api.quantity import QUANTITY
from slipway.api.rules import RULES
from slipway.api.status import ModelDeploymentStatus
from slipway.api.v1alpha1 import (
    DNS_LABEL,
    GROUP,
    KIND,
    MAX_NAME_LENGTH,
    MAX_VERSION,
    PLURAL,
    REVISION_FIELDS,
    VERSION,
    ModelDeploymentSpec,
)

Schema = dict[str, Any]

INT_OR_STRING: Schema = {"x-kubernetes-int-or-string": True, "anyOf": [{"type": "integer"}, {"type": "string"}]}
QUANTITY_FIELDS = {"limits", "requests", "overhead", "size_limit", "divisor"}
OPTIONAL_IN_TEMPLATE = {("V1PodSpec", "containers")}
"""podTemplate names only what it adds: it need not have a container."""
TEMPLATE_METADATA = ("annotations", "labels")
"""Of a template's metadata the rest is the API server's, or would change whose pod it is."""


def render() -> Schema:
    """The whole CustomResourceDefinition."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{PLURAL}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": KIND,
                "listKind": f"{KIND}List",
                "plural": PLURAL,
                "singular": KIND.lower(),
                "shortNames": ["mdep"],
                "categories": ["all", "slipway"],
            },
            "versions": [_version()],
        },
    }


def _version() -> Schema:
    return {
        "name": VERSION,
        "served": True,
        "storage": True,
        "additionalPrinterColumns": [
            {"name": name, "type": kind, "jsonPath": path, "description": text} for name, kind, path, text in COLUMNS
        ],
        "subresources": {
            "status": {},
            "scale": {
                "specReplicasPath": ".spec.replicas",
                "statusReplicasPath": ".status.replicas",
                "labelSelectorPath": ".status.selector",
            },
        },
        "schema": {
            "openAPIV3Schema": {
                "type": "object",
                "description": "A model, served: the server, the version clients get, and how a new one takes over.",
                "required": ["spec"],
                "properties": {
                    "apiVersion": {"type": "string"},
                    "kind": {"type": "string"},
                    "metadata": {"type": "object"},
                    "spec": _spec(),
                    "status": _schema_of(ModelDeploymentStatus),
                },
                "x-kubernetes-validations": [
                    {
                        "rule": f"size(self.metadata.name) <= {MAX_NAME_LENGTH} && "
                        f"self.metadata.name.matches('{DNS_LABEL.replace('[a-z0-9](', '[a-z](', 1)}')",
                        "message": f"metadata.name must be a DNS-1035 label (it starts with a letter, has "
                        f"no dots) of at most {MAX_NAME_LENGTH} characters: Services are named after it",
                    }
                ],
            }
        },
    }


def _spec() -> Schema:
    """The spec's schema, each rule where it belongs."""
    spec = _schema_of(ModelDeploymentSpec)
    _name_defaults(spec)
    for hashed in _of_revisions(spec):
        _leave_defaults_out(hashed)
    for rule in RULES:
        target = spec
        for part in filter(None, rule.path.split(".")):
            target = target["properties"][part.removesuffix("[]")]
            if part.endswith("[]"):
                target = target["items"]
        target.setdefault("x-kubernetes-validations", []).append({"rule": rule.cel, "message": rule.message})
    return spec


COLUMNS = (
    ("Runtime", "string", ".status.runtime", "The model server of what clients get"),
    ("Version", "integer", ".status.version", "The version that clients get; before that, the one that starts"),
    ("Canary", "integer", ".status.canaryVersion", "The version that takes over from it"),
    ("Weight", "integer", ".status.canaryWeightPercent", "Percent of the requests to the canary"),
    ("Ready", "string", ".status.ready", "Ready pods of the wanted number"),
    ("Status", "string", ".status.phase", "The state in one word"),
    ("Age", "date", ".metadata.creationTimestamp", "Since when it exists"),
)


def _schema_of(model: type[BaseModel]) -> Schema:
    schema = model.model_json_schema(by_alias=True)
    return _structural(schema, schema.pop("$defs", {}))


def _structural(node: Schema, defs: dict[str, Schema]) -> Schema:
    """A pydantic JSON schema in the dialect of CRDs: no $ref, null or patternProperties, bounds as in OpenAPI 3.0."""
    if "x-slipway-core" in node:
        return _with_description(_core_field(node), node)
    if "x-slipway-open" in node:
        item: Schema = {"x-kubernetes-preserve-unknown-fields": True}
        if node["x-slipway-open"] != "any":
            item = {"type": "object"} | item
        if "maxItems" not in node:
            return _with_description(item, node)
        return _with_description({"type": "array", "items": item, "maxItems": node["maxItems"]}, node)
    out: Schema = {}
    if "$ref" in node:
        out = _structural(defs[node["$ref"].rpartition("/")[2]], defs)
    choices = [choice for choice in node.get("anyOf", []) if choice.get("type") != "null"]
    if node.get("x-kubernetes-int-or-string"):
        return INT_OR_STRING | {"pattern": node["pattern"], "maxLength": 32}
    if choices:
        out = _structural(choices[0], defs)
    for key, value in node.items():
        match key:
            case "properties":
                out["properties"] = {name: _structural(child, defs) for name, child in value.items()}
            case "items":
                out["items"] = _structural(value, defs)
            case "patternProperties":
                (pattern, child), *_ = value.items()
                out["additionalProperties"] = _structural(child, defs)
                out["x-kubernetes-validations"] = [
                    {
                        "rule": f"self.all(k, k.matches('{pattern}') && int(k) <= {MAX_VERSION})",
                        "message": f'keys are version numbers, as in "3", and at most {MAX_VERSION}',
                    }
                ]
            case "additionalProperties" if isinstance(value, dict):
                out["additionalProperties"] = _structural(value, defs)
            case "exclusiveMinimum" | "exclusiveMaximum":
                out[key.replace("exclusiveM", "m")] = value
                out[key] = True
            case "const":
                out["enum"] = [value]
            case "default" if value not in (None, {}, []):
                out["default"] = value
            case "type" | "description" | "enum" | "required" | "pattern" | "format":
                out[key] = value
            case "minimum" | "maximum" | "minLength" | "maxLength" | "minItems" | "maxItems" | "maxProperties":
                out[key] = value
    if out.get("type") == "object" and not out.get("properties") and "additionalProperties" not in out:
        out.pop("maxProperties", None)
    return out


def _of_revisions(spec: Schema) -> Iterator[Schema]:
    """The schemas of REVISION_FIELDS."""
    for name, inner in REVISION_FIELDS.items():
        part = spec["properties"][to_camel(name)]
        yield from [part] if inner is True else [part["properties"][to_camel(each)] for each in sorted(inner)]


def _name_defaults(schema: Schema) -> None:
    """Say each default in words: `kubectl explain` shows descriptions, and no defaults."""
    for node in _with_parts(schema):
        if (default := node.get("default")) is not None:
            said = default if isinstance(default, str) else json.dumps(default)
            node["description"] = f"{node.get('description', '')} Default: {said}.".lstrip()


def _leave_defaults_out(schema: Schema) -> None:
    """The operator knows them, and the descriptions name them."""
    for node in _with_parts(schema):
        node.pop("default", None)


def _with_parts(schema: Schema) -> Iterator[Schema]:
    """This schema and all below it."""
    yield schema
    for child in (*schema.get("properties", {}).values(), *([schema["items"]] if "items" in schema else [])):
        yield from _with_parts(child)


def _with_description(schema: Schema, node: Schema) -> Schema:
    return schema | {key: node[key] for key in ("description", "maxItems") if key in node}


def _core_field(node: Schema) -> Schema:
    model = _core_object(node["x-slipway-core"])
    return {"type": "array", "items": model} if node.get("type") == "array" else model


def _core_object(name: str) -> Schema:
    """The structural schema of a core/v1 type, from the kubernetes package's model of it."""
    model = getattr(core, name)
    out: Schema = {"type": "object", "properties": {}}
    required = []
    for field, kind in sorted(model.openapi_types.items()):
        if name == "V1ObjectMeta" and field not in TEMPLATE_METADATA:
            continue
        wire_name = model.attribute_map[field]
        out["properties"][wire_name] = _core_type(field, kind)
        info = model.model_fields.get(field) or model.model_fields[f"var{field}"]
        if info.is_required() and (name, field) not in OPTIONAL_IN_TEMPLATE:
            required.append(wire_name)
    if required:
        out["required"] = sorted(required)
    return out


def _core_type(field: str, kind: str) -> Schema:
    if inner := re.fullmatch(r"List\[(.+)\]", kind):
        return {"type": "array", "items": _core_type(field, inner[1])}
    if inner := re.fullmatch(r"Dict\[str, (.+)\]", kind):
        return {"type": "object", "additionalProperties": _core_type(field, inner[1])}
    if kind == "str" and field in QUANTITY_FIELDS:
        return INT_OR_STRING | {"pattern": QUANTITY}
    match kind:
        case "object":
            return dict(INT_OR_STRING)
        case "str":
            return {"type": "string"}
        case "int":
            return {"type": "integer"}
        case "bool":
            return {"type": "boolean"}
        case "float":
            return {"type": "number"}
        case "datetime":
            return {"type": "string", "format": "date-time"}
        case _:
            return _core_object(kind)


class _Plain(yaml.SafeDumper):
    """No anchors: some readers of CRDs don't know them."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


HEADER = "# Generated from operator/slipway/api by `make crds`. Do not edit.\n"


REPOSITORY = Path(__file__).parents[3]
PATHS = (
    REPOSITORY / f"crds/{GROUP}_{PLURAL}.yaml",
    REPOSITORY / f"charts/slipway/files/{PLURAL}.crd.yaml",
)


def text() -> str:
    """The committed form."""
    return HEADER + yaml.dump(render(), Dumper=_Plain, sort_keys=False, width=120)


def main() -> None:
    """Write the CRD where kubectl and where the chart find it."""
    for path in PATHS:
        path.write_text(text())


if __name__ == "__main__":
    main()
