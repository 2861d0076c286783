"""`-o json` and `-o yaml`: the documents for scripts. docs/cli.md describes every field.

Invariant: a field keeps its name and meaning; new ones may come. Every field is always there, null where there is
nothing. Times are RFC 3339 in UTC; there are no ages, because a reader can compute them.
Pure.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from datetime import datetime
from typing import Any

from pydantic import BaseModel
from pydantic.alias_generators import to_camel

from slipway.cli.difference import as_yaml
from slipway.cli.history import KeptRevision
from slipway.cli.resolve import Hint
from slipway.cli.view import View

Json = dict[str, Any]


def status_document(view: View, hints: Sequence[Hint], program: str) -> Json:
    """`status NAME`. program: `slipway` or `kubectl slipway`."""
    document: Json = as_json(view)
    document["outcome"] = {True: "promoted", False: "failed", None: "running"}[view.outcome]
    document["waitsForPerson"] = view.waits_for_person
    document["next"] = [f"{program} {hint.words}" for hint in hints]
    del document["isCurrent"]
    return document


def list_document(views: Sequence[View]) -> Json:
    """`status`: each item as in `status NAME`, without `next`."""
    items = [status_document(view, (), "") for view in views]
    for item in items:
        del item["next"]
    return {"items": items}


def history_document(name: str, namespace: str, revisions: Sequence[KeptRevision]) -> Json:
    """`history`, the newest first."""
    return {"name": name, "namespace": namespace, "revisions": [as_json(each) for each in revisions]}


def as_json(value: Any) -> Any:
    """Dataclasses and models as JSON values, names in camel case."""
    if isinstance(value, BaseModel):
        return {to_camel(name): as_json(getattr(value, name)) for name in type(value).model_fields}
    if is_dataclass(value) and not isinstance(value, type):
        return {to_camel(field.name): as_json(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, dict):
        return {str(key): as_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(item) for item in value]
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%dT%H:%M:%SZ")
    return value


def serialized(document: Json, format: str) -> str:
    """The document as `json` or `yaml`, with a line end."""
    if format == "json":
        return json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    return as_yaml(document)
