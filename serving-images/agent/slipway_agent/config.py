"""agent.json, the operator's word to the agent: parsed once, at the edge, into frozen values.

Invariant: a Config that exists is consistent (`served` is in `load`, every path is relative and stays inside).
Imports nothing of the agent but `failures`.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urljoin, urlsplit

from slipway_agent.failures import Reason, SpecError

SCHEMA = 1
_MODEL_NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9._-]{0,251}[A-Za-z0-9_])?")
_CANONICAL_VERSION = re.compile(r"[1-9][0-9]{0,17}")  # fits the int64 that servers keep a version in
_SHA256 = re.compile(r"[0-9a-f]{64}")
RUNTIMES = ("Triton",)


def parse_version(name: str) -> int | None:
    """The version a folder's or key's name stands for; None for `v1`, `01`, `0` and anything else."""
    return int(name) if _CANONICAL_VERSION.fullmatch(name) else None


def show_url(url: str) -> str:
    """A URL for logs and status: without password and query, which may be what opens it (a presigned URL)."""
    before, question, _ = url.partition("?")
    scheme, separator, rest = before.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}{separator}{host.rpartition('@')[2]}{slash}{path}" + ("?…" if question else "")


@dataclass(frozen=True, slots=True)
class Source:
    """Where versions come from. `uri` is what the user wrote and is what messages say; `path` is the mount, if any."""

    uri: str
    path: str | None
    versions: Mapping[int, str] = field(default_factory=dict)
    allow_redirects: bool = False
    ca_file: str | None = None

    def location(self, version: int) -> str:
        """Where one version lives, in the user's words. Two versions' bytes differ only if this or the pin does."""
        mapped = self.versions.get(version)
        if self.path is None:
            base = self.uri if self.uri.endswith("/") else self.uri + "/"
            try:
                return urljoin(base, mapped or str(version))
            except ValueError:  # no URL at all, which parsing the configuration refuses
                return mapped or str(version)
        return f"{self.uri.rstrip('/')}/{mapped if mapped is not None else version}"


@dataclass(frozen=True, slots=True)
class TritonSpec:
    """What the user's spec says about Triton's model configuration. None: say nothing, what is there stays."""

    http_port: int = 8000
    max_batch_size: int | None = None
    max_queue_delay_microseconds: int | None = None
    preferred_batch_sizes: tuple[int, ...] = ()
    instance_count: int | None = None
    gpu: bool = False


@dataclass(frozen=True, slots=True)
class Config:
    generation: str
    runtime: str
    model: str
    source: Source
    served: int
    load: tuple[int, ...]
    sha256: Mapping[int, str] = field(default_factory=dict)
    triton: TritonSpec = field(default_factory=TritonSpec)


def parse_config(text: str) -> Config:
    """Read agent.json. SpecError(ConfigInvalid) names the field, what it holds and what it must hold."""
    try:
        raw = json.loads(text)
    except ValueError as cause:
        raise _invalid(f"it is not JSON: {cause}") from cause
    fields = _Fields("agent.json", raw)
    schema = fields.whole("schema")
    if schema != SCHEMA:
        raise _invalid(f"schema is {schema}, this agent reads {SCHEMA}: agent image and operator differ in age")
    runtime = fields.text("runtime")
    if runtime not in RUNTIMES:
        raise _invalid(f"runtime is {runtime!r}, this agent knows {', '.join(RUNTIMES)}")
    model = fields.text("model")
    if not _MODEL_NAME.fullmatch(model):
        raise _invalid(f"model is {model!r}: a name has letters, digits, '-', '_' and '.' only")
    served = fields.whole("served", at_least=1)
    load = tuple(sorted(set(fields.wholes("load", at_least=1))))
    if served not in load:
        raise _invalid(f"served is {served}, which load does not name ({', '.join(map(str, load)) or 'it is empty'})")
    return Config(
        generation=fields.text("generation"),
        runtime=runtime,
        model=model,
        source=_parse_source(fields.below("source", is_required=True)),
        served=served,
        load=load,
        sha256=_parse_pins(fields.below("sha256")),
        triton=_parse_triton(fields.below("triton")),
    )


def _parse_source(fields: "_Fields") -> Source:
    uri = fields.text("uri")
    path = fields.text_or_none("path")
    mapped = fields.below("versions")
    versions = {mapped.version(key): mapped.text(key) for key in mapped.raw}
    if path is None:
        if not _is_https(uri):
            raise _invalid(f"source.uri is {show_url(uri)!r}: without a path only https:// can be fetched")
        source = Source(uri, None, versions, fields.flag("allowRedirects"), fields.text_or_none("caFile"))
        for version in versions:
            where = source.location(version)
            if not _is_https(where):
                raise _invalid(f"source.versions[{version}] is {show_url(where)!r}: only https:// URLs are fetched")
        return source
    for version, relative in versions.items():
        parts = relative.split("/")
        if relative.startswith("/") or ".." in parts or "\0" in relative:
            raise _invalid(f"source.versions[{version}] is {relative!r}: write a path below {uri}, without '..'")
    return Source(uri, path, versions, fields.flag("allowRedirects"), fields.text_or_none("caFile"))


def _is_https(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme == "https" and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _parse_pins(fields: "_Fields") -> dict[int, str]:
    pins = {fields.version(key): fields.text(key).lower() for key in fields.raw}
    for version, pin in pins.items():
        if not _SHA256.fullmatch(pin):
            raise _invalid(f"sha256[{version}] is {pin!r}: a digest has 64 hexadecimal digits")
    return pins


def _parse_triton(fields: "_Fields") -> TritonSpec:
    return TritonSpec(
        http_port=fields.whole("httpPort", at_least=1, default=8000),
        max_batch_size=fields.whole_or_none("maxBatchSize"),
        max_queue_delay_microseconds=fields.whole_or_none("maxQueueDelayMicroseconds"),
        preferred_batch_sizes=fields.wholes("preferredBatchSizes", at_least=1, default=()),
        instance_count=fields.whole_or_none("instanceCount", at_least=1),
        gpu=fields.flag("gpu"),
    )


def _invalid(what: str) -> SpecError:
    return SpecError(
        Reason.CONFIG_INVALID,
        f"agent.json can't be used: {what}. The operator writes this file; a person's hand in the ConfigMap is undone "
        "by it, anything else is a defect to report",
    )


class _Fields:
    """One JSON object, read field by field; every complaint names the field's full path."""

    def __init__(self, where: str, raw: object) -> None:
        if not isinstance(raw, dict):
            raise _invalid(f"{where} must be an object, and is {_kind(raw)}")
        self.raw: dict[str, object] = raw
        self._where = "" if where == "agent.json" else f"{where}."

    def _take(self, name: str, kind: str, default: object = ...) -> object:
        value = self.raw.get(name)
        if value is not None:
            return value
        if default is ...:
            raise _invalid(f"{self._where}{name} is missing; it must be {kind}")
        return default

    def text(self, name: str) -> str:
        value = self._take(name, "a text")
        if not isinstance(value, str) or not value:
            raise _invalid(f"{self._where}{name} must be a text, and is {_kind(value)}")
        return value

    def text_or_none(self, name: str) -> str | None:
        return None if self.raw.get(name) is None else self.text(name)

    def flag(self, name: str) -> bool:
        value = self._take(name, "true or false", default=False)
        if not isinstance(value, bool):
            raise _invalid(f"{self._where}{name} must be true or false, and is {_kind(value)}")
        return value

    def whole(self, name: str, at_least: int = 0, default: int | None = None) -> int:
        value = self._take(name, "a whole number", default=... if default is None else default)
        return self._checked(name, value, at_least)

    def whole_or_none(self, name: str, at_least: int = 0) -> int | None:
        return None if self.raw.get(name) is None else self.whole(name, at_least)

    def wholes(self, name: str, at_least: int, default: tuple[int, ...] | None = None) -> tuple[int, ...]:
        values = self._take(name, "a list of whole numbers", default=... if default is None else list(default))
        if not isinstance(values, list):
            raise _invalid(f"{self._where}{name} must be a list of whole numbers, and is {_kind(values)}")
        return tuple(self._checked(f"{name}[{position}]", value, at_least) for position, value in enumerate(values))

    def below(self, name: str, is_required: bool = False) -> "_Fields":
        return _Fields(f"{self._where}{name}", self._take(name, "an object", default=... if is_required else {}))

    def version(self, key: str) -> int:
        version = parse_version(key)
        if version is None:
            what = "a version is a whole number from 1, without leading 0"
            raise _invalid(f"{self._where[:-1]} has the key {key!r}; {what}")
        return version

    def _checked(self, name: str, value: object, at_least: int) -> int:
        if not isinstance(value, int) or isinstance(value, bool):
            raise _invalid(f"{self._where}{name} must be a whole number, and is {_kind(value)}")
        if not at_least <= value < 2**63:
            raise _invalid(f"{self._where}{name} is {value}; it must be at least {at_least}")
        return value


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "a boolean", int: "a number", float: "a number"}
    return "null" if value is None else f"{names.get(type(value), 'something else')} ({json.dumps(value)[:60]})"
