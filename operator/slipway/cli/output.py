"""`-o json` and `-o yaml`: the documents that scripts read. docs/cli.md describes every field.

Invariant: a field's name and meaning stay; new ones may come. Times are RFC 3339 in UTC, ages are not there: they are
the reader's to compute. What is absent is null, so that a script can ask for every field.
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
from slipway.cli.history import Entry
from slipway.cli.resolve import Hint
from slipway.cli.view import View

Json = dict[str, Any]


def status_document(view: View, hints: Sequence[Hint], typed: str) -> Json:
    """What `status NAME` shows."""
    document: Json = plain(view)
    document["outcome"] = {True: "promoted", False: "failed", None: "running"}[view.outcome]
    document["waitsForPerson"] = view.waits_for_person
    document["next"] = [f"{typed} {hint.words}" for hint in hints]
    del document["isCurrent"]
    return document


def list_document(views: Sequence[View]) -> Json:
    """What `status` shows: each as `status NAME` does, without what to type next."""
    items = [status_document(view, (), "") for view in views]
    for item in items:
        del item["next"]
    return {"items": items}


def history_document(name: str, namespace: str, entries: Sequence[Entry]) -> Json:
    """What `history` shows, the newest first."""
    return {"name": name, "namespace": namespace, "revisions": [plain(entry) for entry in entries]}


def plain(value: Any) -> Any:
    """Dataclasses and models as JSON values, names in camel case."""
    if isinstance(value, BaseModel):
        return {to_camel(name): plain(getattr(value, name)) for name in type(value).model_fields}
    if is_dataclass(value) and not isinstance(value, type):
        return {to_camel(field.name): plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%dT%H:%M:%SZ")
    return value


def written(document: Json, form: str) -> str:
    """As `json` or `yaml`, with a line end."""
    if form == "json":
        return json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    return as_yaml(document)
