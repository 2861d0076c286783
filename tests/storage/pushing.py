"""Images and artifacts, pushed to a real registry the way oras, buildah and kit lay them out."""

import gzip
import hashlib
import io
import json
import tarfile
from dataclasses import dataclass, field
from typing import Any

import requests

from tests.storage.servers import Registry

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
TAR, TAR_GZIP = "application/vnd.oci.image.layer.v1.tar", "application/vnd.oci.image.layer.v1.tar+gzip"
EMPTY = {"mediaType": "application/vnd.oci.empty.v1+json", "digest": "", "size": 2}


@dataclass(frozen=True, slots=True)
class Pusher:
    registry: Registry

    def _session(self) -> requests.Session:
        session = requests.Session()
        session.trust_env = False
        if self.registry.user is not None and self.registry.password is not None:
            session.auth = (self.registry.user, self.registry.password)
        return session

    def blob(self, repository: str, content: bytes, media_type: str, **annotations: str) -> dict[str, Any]:
        """The descriptor of the pushed blob; annotations with dots for double underscores."""
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        with self._session() as session:
            begun = session.post(f"{self.registry.url}/v2/{repository}/blobs/uploads/", timeout=10)
            begun.raise_for_status()
            place = requests.compat.urljoin(self.registry.url, begun.headers["Location"])
            separator = "&" if "?" in place else "?"
            session.put(f"{place}{separator}digest={digest}", data=content, timeout=30).raise_for_status()
        named = {name.replace("__", "."): value for name, value in annotations.items()}
        return {"mediaType": media_type, "digest": digest, "size": len(content)} | (
            {"annotations": named} if named else {}
        )

    def manifest(self, repository: str, tag: str, content: dict[str, Any]) -> dict[str, Any]:
        body = json.dumps(content).encode()
        with self._session() as session:
            session.put(
                f"{self.registry.url}/v2/{repository}/manifests/{tag}",
                data=body,
                headers={"Content-Type": content["mediaType"]},
                timeout=10,
            ).raise_for_status()
        digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
        return {"mediaType": content["mediaType"], "digest": digest, "size": len(body)}

    def image(self, repository: str, tag: str, *layers: dict[str, Any], **fields: Any) -> dict[str, Any]:
        config = self.blob(repository, b"{}", "application/vnd.oci.image.config.v1+json")
        manifest = {"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": list(layers)}
        return self.manifest(repository, tag, manifest | fields)

    def layer(self, repository: str, entries: "Entries", is_gzip: bool = True) -> dict[str, Any]:
        packed = entries.tar()
        content, media_type = (gzip.compress(packed, 1), TAR_GZIP) if is_gzip else (packed, TAR)
        return self.blob(repository, content, media_type)

    def file(self, repository: str, name: str, content: bytes) -> dict[str, Any]:
        """As `oras push` names a file."""
        return self.blob(repository, content, "application/vnd.slipway.model", org__opencontainers__image__title=name)


@dataclass
class Entries:
    """What a layer's tar holds, in order."""

    members: list[tuple[tarfile.TarInfo, bytes]] = field(default_factory=list)

    def add_file(self, name: str, content: bytes = b"weights") -> "Entries":
        member = tarfile.TarInfo(name)
        member.size = len(content)
        self.members.append((member, content))
        return self

    def add(self, name: str, kind: bytes, target: str = "") -> "Entries":
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, target
        self.members.append((member, b""))
        return self

    def tar(self) -> bytes:
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as archive:
            for member, content in self.members:
                archive.addfile(member, io.BytesIO(content))
        return packed.getvalue()


def entries(**files: bytes) -> Entries:
    """Files by name, with dots for double underscores."""
    found = Entries()
    for name, content in files.items():
        found.add_file(name.replace("__", "."), content)
    return found
