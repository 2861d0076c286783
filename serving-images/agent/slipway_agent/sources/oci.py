"""Images and artifacts of an OCI registry, pulled by the agent (distribution spec 1.1, pull only).

    model.versions: {"3": "v3", "4": "sha256:…", "5": "other:v5"}

A thin client of its own: the three requests of a pull are shorter than the care that oras-py needs around it (it checks
no digest, resumes nothing and reads 8 KiB at a time). Invariant: no byte is used whose digest isn't the manifest's, and
no manifest whose digest isn't what was asked for. Blobs may be redirected to another host, as most registries do:
what comes is known by its digest, and no credential goes there.
"""

import hashlib
import json
import platform
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import requests

from slipway_agent.config import Source, show_url
from slipway_agent.model.errors import Reason, SpecError, TransientError, UnchangedError
from slipway_agent.model.limits import refuse_layers
from slipway_agent.model.untrusted_json import parse_json
from slipway_agent.sources.base import Fetched, Progress
from slipway_agent.sources.http_exchange import (
    READ_SECONDS,
    BodyLimit,
    Exchange,
    Session,
    digest_beginning,
    encode_basic,
    explain_connection,
    read_small,
    retry_after_seconds,
    store_body,
)
from slipway_agent.sources.secrets import name_secret, read_secret, refuse_secret
from slipway_agent.volume.digest import digest_path
from slipway_agent.volume.models_volume import RESUMED_FOLDER, ensure_room, explain_disk
from slipway_agent.volume.safe_open import Tree
from slipway_agent.volume.unpacking import LayerFile, Unpacking, unpack_layers

MANIFEST_BYTES = 4 << 20  # what registries must accept at least, and the largest one that is read
TOKEN_BYTES = 1 << 20
_INDEX_TYPES = ("application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json")
_MANIFEST_TYPES = ("application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json")
_EMPTY_TYPE = "application/vnd.oci.empty.v1+json"
# where a layer of one file says its name: ORAS, CNCF ModelPack
_NAME_ANNOTATIONS = ("org.opencontainers.image.title", "org.cncf.model.filepath")
_UNPACK_ANNOTATION = "io.deis.oras.content.unpack"  # ORAS: the file is a folder that was packed
_TAR_TYPE = re.compile(r"[.+](tar|tar\+gzip|tar\.gzip|tar\+zstd)$")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_REPOSITORY = re.compile(r"[a-z0-9]+([._-]+[a-z0-9]+)*(/[a-z0-9]+([._-]+[a-z0-9]+)*)*")
_TAG = re.compile(r"\w[\w.-]{0,127}", re.ASCII)
_CHALLENGE = re.compile(r'(\w+)="([^"]*)"')
_DOCKER_CONFIG = ".dockerconfigjson"
_EXPECTED_KEYS = f"{_DOCKER_CONFIG}, or username and password"
_HUB = {"docker.io": "registry-1.docker.io", "index.docker.io": "registry-1.docker.io"}
_MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}


@dataclass(frozen=True, slots=True)
class Reference:
    """Where a version is: `name` is a tag or a digest."""

    host: str
    repository: str
    name: str

    @property
    def words(self) -> str:
        """For messages."""
        separator = "@" if self.name.startswith("sha256:") else ":"
        return f"oci://{self.host}/{self.repository}{separator}{self.name}"


@dataclass(frozen=True, slots=True)
class _Layer:
    media_type: str
    digest: str
    size_bytes: int
    file_name: str | None  # None: a tar
    is_packed: bool


@dataclass(frozen=True, slots=True)
class _Manifest:
    digest: str
    layers: tuple[_Layer, ...]


class OciSource:
    def __init__(self, source: Source, read_seconds: float = READ_SECONDS) -> None:
        self._source = source
        self._read_seconds = read_seconds
        self._tokens: dict[tuple[str, str | None], str] = {}

    def list_versions(self) -> Mapping[int, str | None]:
        """The manifests' digests as stamps; None for a tag that isn't there."""
        found: dict[int, str | None] = {}
        with Session() as session:
            for version in sorted(self._source.versions):
                reference = self._reference(version)
                registry = self._registry(session, reference)
                try:
                    found[version] = registry.head_manifest(reference)
                except SpecError as refusal:
                    if refusal.reason is not Reason.VERSION_NOT_FOUND:
                        raise
                    found[version] = None
        return found

    def model_folder(self) -> Tree | None:
        return None

    def fetch(
        self, version: int, staging: Path, progress: Progress, refused: str | None, known: str | None = None
    ) -> Fetched:
        reference = self._reference(version)
        where = self._source.location(version)
        with Session() as session:
            registry = self._registry(session, reference)
            manifest = registry.read_manifest(reference)
            if refused is not None and refused == manifest.digest:
                raise UnchangedError
            refuse_layers(len(manifest.layers), show_url(where))
            try:
                paths = _pull(registry, reference, manifest, staging, progress)
                unpacking = Unpacking(show_url(where), show_url(where), self._source.limits, progress.check)
                folder = _compose(manifest, paths, staging / "content", unpacking)
                return Fetched(folder, digest_path(folder), str(version), manifest.digest)
            except requests.RequestException as cause:  # explained where it arises; this is the disk's
                raise explain_connection(cause, registry.base, self._source.ca_file) from cause
            except OSError as cause:
                raise explain_disk(cause, show_url(where)) from cause

    def _registry(self, session: Session, reference: Reference) -> "_Registry":
        exchange = Exchange(session, self._source.ca_file, self._read_seconds)
        return _Registry(exchange, self._source, reference.host, self._tokens)

    def _reference(self, version: int) -> Reference:
        if version not in self._source.versions:
            known = ", ".join(map(str, sorted(self._source.versions))) or "none"
            raise SpecError(
                Reason.VERSION_NOT_FOUND,
                f"version {version} has no tag: model.versions must name one for each version of an oci:// model (it "
                f"names {known})",
            )
        return parse_reference(self._source.location(version))


def parse_reference(location: str) -> Reference:
    """oci://host:5000/team/digits:v3 is (host:5000, team/digits, v3); a digest after @ wins over a tag.

    SpecError(SourceNotFound) for anything else.
    """
    host, _, path = location.removeprefix("oci://").partition("/")
    path, _, digest = path.partition("@")
    folder, slash, last = path.rpartition("/")
    last, _, tag = last.partition(":")
    repository = f"{folder}{slash}{last}"
    if host in _HUB and "/" not in repository:
        repository = f"library/{repository}"
    is_named = _DIGEST.fullmatch(digest) if digest else _TAG.fullmatch(tag)
    if not host or not _REPOSITORY.fullmatch(repository) or not is_named:
        raise SpecError(
            Reason.SOURCE_NOT_FOUND,
            f"{show_url(location)} names no image: write oci://REGISTRY/REPOSITORY, in lower case, as model.uri, and a "
            "tag or a digest (sha256:…) for each version in model.versions",
        )
    return Reference(host, repository, digest or tag)


class _Registry:
    """One registry's pull endpoints, and how it wants to be asked."""

    def __init__(
        self,
        exchange: Exchange,
        source: Source,
        host: str,
        tokens: dict[tuple[str, str | None], str],
    ) -> None:
        self._exchange = exchange
        self._source = source
        self._tokens = tokens
        self._host = host
        self._login = _read_login(source, host if source.endpoint is None else urlsplit(source.endpoint).netloc)
        self.base = _base_url(source, host)

    def head_manifest(self, reference: Reference) -> str:
        """The digest that a tag names now."""
        if _DIGEST.fullmatch(reference.name):
            return self.read_manifest(reference).digest
        with self._ask("HEAD", reference, f"manifests/{reference.name}", _accept()) as response:
            self._refuse_status(response, reference)
            digest = response.headers.get("Docker-Content-Digest", "")
        return digest if _DIGEST.fullmatch(digest) else self._read_json(reference, reference.name)[0]

    def read_manifest(self, reference: Reference) -> _Manifest:
        """The manifest for this machine. Its digest is that of what the tag names, an index where it is one."""
        digest, raw = self._read_json(reference, reference.name)
        manifest = raw
        if raw.get("mediaType") in _INDEX_TYPES or "manifests" in raw:
            chosen = _choose_platform(raw, show_url(reference.words))
            manifest = self._read_json(reference, chosen)[1]
        return _Manifest(digest, _parse_layers(manifest, reference.words))

    def read_blob(self, reference: Reference, layer: _Layer, path: Path, progress: Progress) -> None:
        """The blob in a file that an earlier attempt may have begun; verified. OSError of the disk."""
        begun_bytes = min(path.stat().st_size, layer.size_bytes) if path.is_file() else 0
        if begun_bytes < layer.size_bytes or layer.size_bytes == 0:
            headers = {"Range": f"bytes={begun_bytes}-"} if begun_bytes else {}
            with self._ask("GET", reference, f"blobs/{layer.digest}", headers) as response:
                if response.status_code == 416:
                    path.unlink(missing_ok=True)
                self._refuse_status(response, reference, f"its blob {layer.digest[:19]}…")
                if response.status_code != 206:
                    begun_bytes = 0
                limit = BodyLimit(layer.size_bytes, self._refuse_blob(layer, reference))
                try:
                    digest, stored_bytes = store_body(response, self.base, path, begun_bytes, progress, limit=limit)
                except TransientError as failure:
                    if failure is limit.refusal:
                        path.unlink(missing_ok=True)
                    raise
            if stored_bytes < layer.size_bytes:
                raise TransientError(
                    f"{self._host} sent {stored_bytes} of {layer.size_bytes} bytes of {reference.words}; it "
                    "goes on from there"
                )
        else:
            with path.open("rb") as file:
                digest = digest_beginning(file, begun_bytes).hexdigest()
        if f"sha256:{digest}" != layer.digest:
            path.unlink(missing_ok=True)
            raise self._refuse_blob(layer, reference)

    def _refuse_blob(self, layer: _Layer, reference: Reference) -> TransientError:
        return TransientError(
            f"{self._host} sent other bytes than {layer.digest} ({layer.size_bytes} bytes) for {reference.words}; "
            "it is tried again"
        )

    def _read_json(self, reference: Reference, name: str) -> tuple[str, dict[str, Any]]:
        """A manifest or index with its verified digest."""
        with self._ask("GET", reference, f"manifests/{name}", _accept()) as response:
            self._refuse_status(response, reference)
            content = read_small(response, self.base, MANIFEST_BYTES, f"the manifest of {reference.words}")
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        if _DIGEST.fullmatch(name) and digest != name:
            raise TransientError(f"{self._host} sent other bytes than {name} for {reference.words}; tried again")
        try:
            raw = parse_json(content)
        except ValueError:
            raw = None
        if not isinstance(raw, dict):
            raise SpecError(
                Reason.UNSUPPORTED_ARCHIVE,
                f"{reference.words} has no manifest that can be read. Push it as an OCI image or artifact",
            )
        return digest, raw

    def _ask(self, method: str, reference: Reference, path: str, headers: Mapping[str, str]) -> requests.Response:
        """The final answer, its body unread. A challenge is answered once; blobs' redirects are followed."""
        url = f"{self.base}/v2/{reference.repository}/{path}"
        response = self._send(method, url, headers, self._tokens.get((reference.repository, self._login)))
        if response.status_code == 401:
            challenge = response.headers.get("WWW-Authenticate", "")
            response.close()
            authorization = self._answer_challenge(challenge, reference)
            if authorization is not None:
                self._tokens[(reference.repository, self._login)] = authorization
                response = self._send(method, url, headers, authorization)
            else:
                response = self._send(method, url, headers, None)
        return response

    def _send(self, method: str, url: str, headers: Mapping[str, str], authorization: str | None) -> requests.Response:
        return self._exchange.ask(method, url, headers, authorization, self._judge_redirect)

    def _judge_redirect(self, here: str, target: str, host: str) -> None:
        allowed = ("https", "http") if self.base.startswith("http://") else ("https",)
        if urlsplit(target).scheme not in allowed:
            raise SpecError(
                Reason.REDIRECT_REFUSED, f"{self._host} redirects to {host} without https, which is refused"
            )

    def _answer_challenge(self, challenge: str, reference: Reference) -> str | None:
        """What WWW-Authenticate asks for: the password, or a token from the realm; None where there is neither."""
        kind, _, rest = challenge.partition(" ")
        if kind.lower() == "basic":
            return self._login
        asked = dict(_CHALLENGE.findall(rest))
        realm = asked.get("realm", "")
        if kind.lower() != "bearer" or not realm:
            return self._login
        if not _may_have_password(realm, self.base):
            raise SpecError(
                Reason.ACCESS_DENIED,
                f"{self._host} wants a token from {show_url(realm)[:200]}, without https; that is refused. Have the "
                "registry name a realm with https",
            )
        query = {"scope": asked.get("scope") or f"repository:{reference.repository}:pull"}
        if "service" in asked:
            query["service"] = asked["service"]
        separator = "&" if "?" in realm else "?"
        with self._send("GET", f"{realm}{separator}{urlencode(query)}", {}, self._login) as response:
            self._refuse_status(response, reference, "a token for it")
            try:
                answer = parse_json(read_small(response, realm, TOKEN_BYTES, "a token"))
                token = answer.get("token") or answer.get("access_token")
            except (ValueError, AttributeError):
                token = None
        if not token:
            raise TransientError(f"{urlsplit(realm).netloc} gave no token for {reference.words}; tried again")
        return f"Bearer {token}"

    def _refuse_status(self, response: requests.Response, reference: Reference, what: str = "it") -> None:
        status = response.status_code
        if status in (200, 206):
            return
        said = f"{self._host} answered {status} {response.reason or ''}".rstrip() + f" when {reference.words} was "
        said += "asked for" if what == "it" else f"pulled ({what})"
        if status == 404:
            raise SpecError(
                Reason.VERSION_NOT_FOUND, f"{said}: it isn't there. Correct its entry in model.versions, or push it"
            )
        if status in (401, 403):
            self._tokens.pop((reference.repository, self._login), None)
            who = "without credentials" if self._login is None else f"with {name_secret(self._source)}"
            way_out = "name a Secret in storage.secretRef" if self._login is None else "check the Secret"
            raise SpecError(
                Reason.ACCESS_DENIED,
                f"{said}, {who}: {way_out} ({_EXPECTED_KEYS}), or whether the repository exists: registries hide "
                "repositories from those who may not read them",
            )
        if status in (408, 416, 425, 429) or status >= 500:
            raise TransientError(f"{said}; it is tried again", retry_after_seconds(response))
        raise SpecError(
            Reason.ACCESS_DENIED, f"{said}: the registry refuses it. Check the reference and its permissions"
        )


def _pull(
    registry: _Registry, reference: Reference, manifest: _Manifest, staging: Path, progress: Progress
) -> Sequence[Path]:
    """The blobs of the layers, in files below staging. OSError of the disk."""
    downloads, note = staging / RESUMED_FOLDER, staging / "download.json"
    if _read_note(note) != manifest.digest:
        shutil.rmtree(downloads, ignore_errors=True)
        note.write_text(json.dumps({"manifest": manifest.digest}))
    downloads.mkdir(exist_ok=True)
    paths = [downloads / f"{position}.blob" for position in range(len(manifest.layers))]
    total_bytes = sum(layer.size_bytes for layer in manifest.layers)
    begun_bytes = sum(path.stat().st_size for path in paths if path.is_file())
    ensure_room(staging, total_bytes - begun_bytes, reference.words)
    progress.expect(total_bytes, begun_bytes)
    for layer, path in zip(manifest.layers, paths, strict=True):
        registry.read_blob(reference, layer, path, progress)
    return paths


def _compose(manifest: _Manifest, paths: Sequence[Path], content: Path, unpacking: Unpacking) -> Path:
    """What the layers make up: a folder. A SpecError of theirs stands as long as the tag leads to this manifest."""
    shutil.rmtree(content, ignore_errors=True)
    files = [
        LayerFile(path, None if layer.is_packed else layer.file_name)
        for layer, path in zip(manifest.layers, paths, strict=True)
    ]
    try:
        return unpack_layers(files, content, unpacking)
    except SpecError as refusal:
        judged = manifest.digest if refusal.reason is not Reason.DISK_FULL else None  # room may come by itself
        raise SpecError(refusal.reason, refusal.message, judged) from refusal


def _parse_layers(manifest: Mapping[str, Any], where: str) -> tuple[_Layer, ...]:
    """The manifest's layers. SpecError(UnsupportedArchive) for one that is neither a tar nor has a name."""
    found = []
    try:
        for raw in manifest.get("layers") or ():
            annotations = raw.get("annotations") or {}
            media_type, digest, size_bytes = str(raw["mediaType"]), str(raw["digest"]), int(raw["size"])
            if media_type == _EMPTY_TYPE:
                continue
            if not _DIGEST.fullmatch(digest) or size_bytes < 0:
                raise ValueError
            name = next((str(annotations[key]) for key in _NAME_ANNOTATIONS if key in annotations), None)
            is_tar = _TAR_TYPE.search(media_type) is not None
            is_packed = annotations.get(_UNPACK_ANNOTATION) == "true" or (is_tar and name is not None)
            if name is None and not is_tar:
                raise SpecError(
                    Reason.UNSUPPORTED_ARCHIVE,
                    f"{where} has a layer of type {media_type[:100]} without a name "
                    f"(annotation {_NAME_ANNOTATIONS[0]}). Push it with oras, or as an image",
                )
            found.append(_Layer(media_type, digest, size_bytes, name, is_packed))
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as cause:
        raise SpecError(
            Reason.UNSUPPORTED_ARCHIVE, f"{where} has a manifest that lists no blobs by sha256 and size. Push it again"
        ) from cause
    if not found:
        raise SpecError(
            Reason.NO_MODEL_FILE,
            f"{where} holds no layer ({manifest.get('mediaType') or 'a manifest of an unknown kind'}). Push the model "
            "as an OCI image or artifact",
        )
    return tuple(found)


def _choose_platform(index: Mapping[str, Any], where: str) -> str:
    """The digest of the manifest for this machine's architecture, or of the only one."""
    wanted = _MACHINES.get(platform.machine(), platform.machine())
    entries = [each for each in index.get("manifests") or () if isinstance(each, dict)]
    entries = [each for each in entries if _DIGEST.fullmatch(str(each.get("digest")))]
    named = [(each.get("platform") or {}).get("architecture") for each in entries]
    chosen = next((each for each, name in zip(entries, named, strict=True) if name == wanted), None)
    if chosen is None:
        real = [each for each, name in zip(entries, named, strict=True) if name != "unknown"]  # attestations are
        if len(real) != 1:
            has = ", ".join(sorted({str(name) for name in named})) or "none"
            raise SpecError(
                Reason.UNSUPPORTED_ARCHIVE,
                f"{where} has no image for {wanted}; it has {has}. Push one, or name one image by its digest",
            )
        chosen = real[0]
    return str(chosen["digest"])


def _accept() -> Mapping[str, str]:
    return {"Accept": ", ".join((*_INDEX_TYPES, *_MANIFEST_TYPES))}


def _base_url(source: Source, host: str) -> str:
    """https, but for the spec's own endpoint and the loopback."""
    if source.endpoint is not None:
        return source.endpoint.rstrip("/")
    name = urlsplit(f"//{host}").hostname or ""
    scheme = "http" if name in ("localhost", "127.0.0.1", "::1") else "https"
    return f"{scheme}://{_HUB.get(host, host)}"


def _may_have_password(realm: str, base: str) -> bool:
    """Whether a token may be asked for there, with the password: by https, wherever the registry says (as docker and
    containerd do: that is how registries with a token service of their own work), else by http from the very host of a
    registry that the spec itself wrote with http."""
    try:
        asked, own = urlsplit(realm), urlsplit(base)
    except ValueError:
        return False
    if asked.scheme == "https":
        return bool(asked.hostname)
    return asked.scheme == "http" == own.scheme and asked.hostname == own.hostname


def _read_login(source: Source, host: str) -> str | None:
    """The Basic header that the Secret holds for the host that is asked: storage.endpoint's where there is one.

    None when the spec names no Secret.
    """
    found = read_secret(source)
    if found is None:
        return None
    if found.get("username") and found.get("password") is not None:
        return encode_basic(found["username"], found["password"])
    if not found.get(_DOCKER_CONFIG):
        raise refuse_secret(source, found, _EXPECTED_KEYS)
    try:
        entries = parse_json(found[_DOCKER_CONFIG])["auths"]
        names = [(re.sub(r"^https?://", "", name).partition("/")[0], entry) for name, entry in entries.items()]
        entry = next((entry for name, entry in names if name == host or _HUB.get(name) == _HUB.get(host, host)), None)
        if entry is not None and entry.get("auth"):
            return f"Basic {entry['auth']}"
        if entry is not None:
            return encode_basic(str(entry["username"]), str(entry["password"]))
    except (ValueError, KeyError, TypeError, AttributeError) as cause:
        raise SpecError(
            Reason.ACCESS_DENIED,
            f"{name_secret(source)}: its {_DOCKER_CONFIG} can't be read. Make it with kubectl create secret "
            "docker-registry",
        ) from cause
    raise SpecError(
        Reason.ACCESS_DENIED,
        f"{name_secret(source)} has no entry for {host} in its {_DOCKER_CONFIG} (it has "
        f"{', '.join(name for name, _ in names) or 'none'}). Add one",
    )


def _read_note(note: Path) -> str | None:
    try:
        return str(parse_json(note.read_text())["manifest"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
