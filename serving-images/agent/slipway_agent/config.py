"""agent.json, the operator's orders to the agent: parsed once, at the edge, into frozen values.

Invariant: a Config that exists is consistent (`served` is in `load`, every path is relative and stays inside).
Imports nothing of the agent but `model`: the `Section` that is passed
reads a server's own section.
"""

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol
from urllib.parse import urljoin, urlsplit

from slipway_agent.model.errors import Reason, SpecError
from slipway_agent.model.golden import Golden, MalformedError, Tolerance, read_requests
from slipway_agent.model.limits import DEFAULT_LIMITS, ENTRIES, Limits
from slipway_agent.model.probe import Question

SCHEMA = 1
_MODEL_NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9._-]{0,251}[A-Za-z0-9_])?")
_CANONICAL_VERSION = re.compile(r"[1-9][0-9]{0,9}")
LARGEST_VERSION = 2_147_483_647
"""The API's own bound (v1alpha1's Version): a larger number could be listed and served, but no spec could name it."""
VERSION_NAME = f"a whole number from 1 to {LARGEST_VERSION}, without leading 0"
_NAMED_PLACE = re.compile(r" \([0-9a-f]{16}\)$")
_SHA256 = re.compile(r"[0-9a-f]{64}")
DEFAULT_POLL_SECONDS = 60.0
TURN_FIELDS = ("served", "load", "labels", "golden", "probe", "drainSeconds", "held")
"""What `turn` says instead, for the pods whose turn it is."""
FETCHED_SCHEMES = ("https", "s3", "oci")  # what needs no mount; sources/ knows how


def parse_version(name: str) -> int | None:
    """The version a folder's or key's name means; None for `v1`, `01`, `0`, `20240115120000` and anything else."""
    version = int(name) if _CANONICAL_VERSION.fullmatch(name) else None
    return version if version is not None and version <= LARGEST_VERSION else None


def key_name(pem: str) -> str:
    """What a public key is called in ledgers and reports: the SHA-256 of its text, without what surrounds it."""
    return hashlib.sha256(pem.strip().encode()).hexdigest()


def show_url(url: str) -> str:
    """A URL for logs and status: without password and query, which may be what opens it (a presigned URL)."""
    before, question, _ = url.partition("?")
    scheme, separator, rest = before.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}{separator}{host.rpartition('@')[2]}{slash}{path}" + ("?…" if question else "")


def name_place(location: str) -> str:
    """A location for what is written where the server, or whoever shares a volume, can read it: what opens a URL only
    as a digest, so that another one is another place.

    https://host/a.onnx stays; https://host/a.onnx?sig=x is "https://host/a.onnx?… (0a1b…)", and stays that.
    """
    shown = show_url(location)
    if shown == location or _NAMED_PLACE.search(location):
        return location
    return f"{shown} ({hashlib.sha256(location.encode(errors='surrogateescape')).hexdigest()[:16]})"


@dataclass(frozen=True, slots=True)
class Source:
    """Where versions come from. `uri` is what the user wrote and is what messages say; `path` is the mount, if any.

    `credentials`: a folder with one file per key of the Secret `secret_name`; it may be missing or empty.
    `cache`: a mounted folder that the replicas share. `endpoint`, `region` and `path_style` are S3's, None: unsaid.
    `limits`: how large one version may be. `public_keys`: PEM; what none of them signed isn't published. Empty: nothing
    is verified. All fields are the file's.
    """

    uri: str
    path: str | None
    versions: Mapping[int, str] = field(default_factory=dict)
    allow_redirects: bool = False
    ca_file: str | None = None
    credentials: str | None = None
    secret_name: str | None = None
    endpoint: str | None = None
    region: str | None = None
    path_style: bool | None = None
    cache: str | None = None
    poll_seconds: float = DEFAULT_POLL_SECONDS
    limits: Limits = DEFAULT_LIMITS
    public_keys: tuple[str, ...] = ()

    @property
    def scheme(self) -> str:
        return self.uri.partition("://")[0]

    def location(self, version: int) -> str:
        """Where one version lives, in the user's words. Two versions' bytes differ only if this or the pin does."""
        mapped = self.versions.get(version)
        entry = mapped if mapped is not None else str(version)
        if self.path is None and self.scheme == "https":
            base = self.uri if self.uri.endswith("/") else self.uri + "/"
            try:
                return urljoin(base, entry)
            except ValueError:  # no URL at all, which parsing the configuration refuses
                return entry
        if self.path is None and "://" in entry:
            return entry
        if self.path is None and self.scheme == "oci":
            # a tag (v3), a digest (sha256:…), or another repository below this one (other:v3)
            if entry.startswith("sha256:"):
                entry = f"@{entry}"
            separator = "" if entry.startswith("@") else ("/" if ":" in entry or "/" in entry else ":")
            return f"{self.uri.rstrip('/')}{separator}{entry}"
        return f"{self.uri.rstrip('/')}/{entry}"


@dataclass(frozen=True, slots=True)
class Memory:
    """What the server's container may use, and how many times a version's bytes on disk it takes there."""

    limit_bytes: int
    factor: float


@dataclass(frozen=True, slots=True)
class Config:
    """`served` None: nothing is named yet (`load` is empty); the agent lists its source, reports and waits.

    `settings` is what the server's own section says, as that server's driver parsed it. `labels` may name versions
    that aren't loaded. `warmup`: request bodies, in the server's own form. `golden`: what the served version is asked
    before it counts as ready; None: nothing. `drain_seconds`: a pod that serves something else leaves the Service, and
    waits as long, before it loads the served version; None: it loads beside. `is_held`: a pod whose served version is
    ready stays out of the Service all the same, until the operator has judged that. `question`: what the served version
    is asked now and then; None: nothing. `is_out`: a pod whose server answers that with errors is to leave the Service.
    Sixteen fields: they are the file's own, as they stand for this pod.
    """

    generation: str
    runtime: str
    model: str
    source: Source
    served: int | None
    load: tuple[int, ...]
    sha256: Mapping[int, str] = field(default_factory=dict)
    settings: object = None
    labels: Mapping[str, int] = field(default_factory=dict)
    memory: Memory | None = None
    warmup: tuple[object, ...] = ()
    golden: Golden | None = None
    drain_seconds: float | None = None
    is_held: bool = False
    question: Question | None = None
    is_out: bool = False


class Section(Protocol):
    """How one server's section of agent.json is read; `servers.by_runtime.Kind` is one."""

    @property
    def section(self) -> str: ...

    @property
    def parse(self) -> "Callable[[Fields], object]": ...


def parse_config(text: str, runtimes: Mapping[str, Section], pod: str = "") -> Config:
    """Read agent.json for one of `runtimes`, as it stands for that pod: what `turn` says is for the pods that it names.

    SpecError(ConfigInvalid) names the field, what it holds and must hold.
    """
    try:
        raw = json.loads(text)
    except ValueError as cause:
        raise _invalid(f"it is not JSON: {cause}") from cause
    fields = _take_turn(Fields("agent.json", raw), pod)
    schema = fields.whole("schema")
    if schema != SCHEMA:
        raise _invalid(
            f"schema is {schema}, this agent reads {SCHEMA}: operator and agent image are of different releases"
        )
    runtime = fields.text("runtime")
    if runtime not in runtimes:
        raise _invalid(f"runtime is {runtime!r}, this agent knows {', '.join(runtimes)}")
    model = fields.text("model")
    if not _MODEL_NAME.fullmatch(model):
        raise _invalid(f"model is {model!r}: a name has letters, digits, '-', '_' and '.' only")
    served = fields.version_or_none("served")
    load = tuple(sorted(set(fields.versions("load"))))
    if served is None and load:
        raise _invalid(f"served is null and load names {', '.join(map(str, load))}: one of them must be served")
    if served is not None and served not in load:
        raise _invalid(f"served is {served}, which load does not name ({', '.join(map(str, load)) or 'it is empty'})")
    section = runtimes[runtime]
    labels = fields.below("labels")
    golden = _parse_golden(fields.below("golden")) if fields.raw.get("golden") is not None else None
    return Config(
        generation=fields.text("generation"),
        runtime=runtime,
        model=model,
        source=_parse_source(fields.below("source", is_required=True)),
        served=served,
        load=load,
        sha256=_parse_pins(fields.below("sha256")),
        settings=section.parse(fields.below(section.section)),
        labels={label: labels.version(label) for label in labels.raw},
        memory=_parse_memory(fields.below("memory")) if fields.raw.get("memory") is not None else None,
        warmup=fields.values("warmup"),
        golden=golden,
        drain_seconds=None
        if fields.raw.get("drainSeconds") is None
        else fields.number("drainSeconds", 0.0, at_least=0),
        is_held=fields.flag("held"),
        question=_parse_question(fields, golden),
        is_out=fields.raw.get("out") is not None and pod in fields.texts("out"),
    )


def _take_turn(fields: "Fields", pod: str) -> "Fields":
    """The fields as they are for that pod. A pod that isn't named in `turn` goes on as if there were none."""
    if fields.raw.get("turn") is None:
        return fields
    turn = fields.below("turn")
    if pod not in turn.texts("pods"):
        return fields
    return Fields("agent.json", fields.raw | {name: turn.raw.get(name) for name in TURN_FIELDS})


def parse_recorded(text: str) -> Mapping[int, str]:
    """recorded.json: the digests that this model's versions had before. What can't be read says nothing.

    {"3": "AB…"} is {3: "ab…"}; {"v3": "ab…"} is {}.
    """
    try:
        raw = json.loads(text)
    except ValueError:
        return {}
    found = (
        {parse_version(key): value.lower() for key, value in raw.items() if isinstance(value, str)}
        if isinstance(raw, dict)
        else {}
    )
    return {version: digest for version, digest in found.items() if version is not None and _SHA256.fullmatch(digest)}


def _parse_source(fields: "Fields") -> Source:
    uri = fields.text("uri")
    path = fields.text_or_none("path")
    mapped = fields.below("versions")
    source = Source(
        uri=uri,
        path=path,
        versions={mapped.version_key(key): mapped.text(key) for key in mapped.raw},
        allow_redirects=fields.flag("allowRedirects"),
        ca_file=fields.text_or_none("caFile"),
        credentials=fields.text_or_none("credentials"),
        secret_name=fields.text_or_none("secretName"),
        endpoint=fields.text_or_none("endpoint"),
        region=fields.text_or_none("region"),
        path_style=fields.flag_or_none("pathStyle"),
        cache=fields.text_or_none("cache"),
        poll_seconds=fields.number("pollSeconds", above=0.0, default=DEFAULT_POLL_SECONDS),
        limits=_parse_limits(fields.below("limits")),
        public_keys=_parse_keys(fields.below("verify")) if fields.raw.get("verify") is not None else (),
    )
    if path is not None or source.scheme != "https":
        if path is None and (source.scheme not in FETCHED_SCHEMES or not _has_host(uri)):
            schemes = ", ".join(f"{scheme}://" for scheme in FETCHED_SCHEMES)
            raise _invalid(f"source.uri is {show_url(uri)!r}: without a path only {schemes} can be fetched")
        for version, entry in source.versions.items():
            if entry.startswith("/") or ".." in entry.split("/") or "\0" in entry:
                raise _invalid(f"source.versions[{version}] is {entry!r}: write a path below {uri}, without '..'")
        return source
    if not _is_https(uri):
        raise _invalid(f"source.uri is {show_url(uri)!r}: it is no URL with a host")
    for version in source.versions:
        where = source.location(version)
        if not _is_https(where):
            raise _invalid(f"source.versions[{version}] is {show_url(where)!r}: only https:// URLs are fetched")
    return source


def _parse_limits(fields: "Fields") -> Limits:
    return Limits(
        unpacked_bytes=fields.whole_or_none("unpackedBytes", at_least=1),
        entries=fields.whole("entries", at_least=1, default=ENTRIES),
        volume_bytes=fields.whole_or_none("volumeBytes", at_least=1),
    )


def _has_host(url: str) -> bool:
    return bool(url.partition("://")[2].partition("/")[0])


def _parse_memory(fields: "Fields") -> Memory:
    return Memory(fields.whole("limitBytes", at_least=1), fields.number("factor", above=0.0, default=1.0))


def _parse_golden(fields: "Fields") -> Golden:
    raw, file = fields.raw.get("requests") or None, fields.text_or_none("file")
    if (raw is None) == (file is None):
        raise _invalid(f"golden must have requests or a file, and has {'both' if file is not None else 'neither'}")
    if file is not None and (file.startswith("/") or ".." in file.split("/") or "\0" in file):
        raise _invalid(f"golden.file is {file!r}: write a path below the version's own folder, without '..'")
    tolerance, default = fields.below("tolerance"), Tolerance()
    try:
        requests = () if raw is None else read_requests(raw, "golden.requests")
    except MalformedError as cause:
        raise _invalid(str(cause)) from cause
    return Golden(
        requests,
        file,
        Tolerance(
            tolerance.number("absolute", at_least=0.0, default=default.absolute),
            tolerance.number("relative", at_least=0.0, default=default.relative),
        ),
    )


def _parse_question(fields: "Fields", golden: Golden | None) -> Question | None:
    """A golden request that the served version passes or has passed, else a warm-up request."""
    if golden is not None:
        return Question(file=golden.file) if golden.file is not None else Question(golden.requests[0].request)
    if fields.raw.get("probe") is not None:
        kept = fields.below("probe")
        return Question(kept.raw.get("request"), kept.text_or_none("file"))
    warmup = fields.values("warmup")
    return Question(warmup[0]) if warmup else None


def _is_https(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme == "https" and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _parse_keys(fields: "Fields") -> tuple[str, ...]:
    """At least one: where something is to be verified, no key must not come to mean that nothing is."""
    keys = fields.texts("keys")
    if not keys:
        raise _invalid("source.verify.keys is empty: nothing could be verified")
    return keys


def _parse_pins(fields: "Fields") -> dict[int, str]:
    pins = {fields.version_key(key): fields.text(key).lower() for key in fields.raw}
    for version, pin in pins.items():
        if not _SHA256.fullmatch(pin):
            raise _invalid(f"sha256[{version}] is {pin!r}: a digest has 64 hexadecimal digits")
    return pins


def _invalid(what: str) -> SpecError:
    return SpecError(
        Reason.CONFIG_INVALID,
        f"agent.json can't be used: {what}. The operator writes this file, and overwrites what a person changes "
        "in the ConfigMap. If no person did, please report this",
    )


class Fields:
    """One JSON object, read field by field; every complaint names the field's full path.

    For drivers too: a wrong value raises SpecError(ConfigInvalid), an absent one and null mean the default.
    """

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

    def flag_or_none(self, name: str) -> bool | None:
        return None if self.raw.get(name) is None else self.flag(name)

    def number(self, name: str, default: float, above: float = -math.inf, at_least: float = -math.inf) -> float:
        """A finite number, whole or not, within the bounds."""
        value = self._take(name, "a number", default=default)
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise _invalid(f"{self._where}{name} must be a number, and is {_kind(value)}")
        if not (value > above and value >= at_least and math.isfinite(value)):
            bound = f"more than {above:g}" if math.isfinite(above) else f"at least {at_least:g}"
            raise _invalid(f"{self._where}{name} is {value}; it must be {bound}")
        return float(value)

    def values(self, name: str) -> tuple[object, ...]:
        """A list of whatever it holds; empty when it is absent."""
        values = self._take(name, "a list", default=[])
        if not isinstance(values, list):
            raise _invalid(f"{self._where}{name} must be a list, and is {_kind(values)}")
        return tuple(values)

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of texts; empty when it is absent."""
        values = self.values(name)
        for position, value in enumerate(values):
            if not isinstance(value, str):
                raise _invalid(f"{self._where}{name}[{position}] must be a text, and is {_kind(value)}")
        return tuple(value for value in values if isinstance(value, str))

    def whole(self, name: str, at_least: int = 0, default: int | None = None) -> int:
        value = self._take(name, "a whole number", default=... if default is None else default)
        return self._checked(name, value, at_least)

    def whole_or_none(self, name: str, at_least: int = 0) -> int | None:
        return None if self.raw.get(name) is None else self.whole(name, at_least)

    def version(self, name: str) -> int:
        return self._checked(name, self._take(name, "a whole number"), 1, LARGEST_VERSION)

    def version_or_none(self, name: str) -> int | None:
        return None if self.raw.get(name) is None else self.version(name)

    def versions(self, name: str) -> tuple[int, ...]:
        values = self._take(name, "a list of whole numbers")
        if not isinstance(values, list):
            raise _invalid(f"{self._where}{name} must be a list of whole numbers, and is {_kind(values)}")
        return tuple(
            self._checked(f"{name}[{position}]", value, 1, LARGEST_VERSION) for position, value in enumerate(values)
        )

    def below(self, name: str, is_required: bool = False) -> "Fields":
        return Fields(f"{self._where}{name}", self._take(name, "an object", default=... if is_required else {}))

    def version_key(self, key: str) -> int:
        """The version that a key of this object means."""
        version = parse_version(key)
        if version is None:
            raise _invalid(f"{self._where[:-1]} has the key {key!r}; a version is {VERSION_NAME}")
        return version

    def _checked(self, name: str, value: object, at_least: int, at_most: int = 2**63 - 1) -> int:
        if not isinstance(value, int) or isinstance(value, bool):
            raise _invalid(f"{self._where}{name} must be a whole number, and is {_kind(value)}")
        if not at_least <= value <= at_most:
            bound = f"at least {at_least}" if value < at_least else f"at most {at_most}"
            raise _invalid(f"{self._where}{name} is {value}; it must be {bound}")
        return value


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "a boolean", int: "a number", float: "a number"}
    return "null" if value is None else f"{names.get(type(value), 'something else')} ({json.dumps(value)[:60]})"
