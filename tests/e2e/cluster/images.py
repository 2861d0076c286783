"""Image archives: what they are called, and the one image the node can't do without, the sandbox's `pause`.

Must not know how a cluster imports an archive.
"""

import hashlib
import io
import json
import tarfile
from pathlib import Path

from .commands import run_checked
from .errors import ClusterError
from .layout import GO_MODULES, cache_folder

PAUSE_NAME = "slipway.dev/pause"
_REFERENCE_ANNOTATIONS = ("io.containerd.image.name", "org.opencontainers.image.ref.name")


def list_archive_references(archive: Path) -> tuple[str, ...]:
    """The full references an OCI or docker archive says it holds, such as slipway.dev/agent:1f2e3d4c5b6a.

    Raises ClusterError where the file is no such archive.
    """
    try:
        with tarfile.open(archive) as content:
            for member in content:
                name = member.name.removeprefix("./")
                if name in {"index.json", "manifest.json"} and (file := content.extractfile(member)) is not None:
                    return parse_references(name, file.read())
    except (OSError, tarfile.TarError, ValueError) as broken:
        raise ClusterError(
            f"reading the image archive {archive}", str(broken), "build it again: make images"
        ) from broken
    raise ClusterError(
        f"reading the image archive {archive}",
        "it has neither index.json nor manifest.json",
        "give an archive made by `buildah push … oci-archive:FILE:NAME` or `docker save`",
    )


def parse_references(file: str, text: bytes) -> tuple[str, ...]:
    """The references in an OCI archive's index.json or a docker archive's manifest.json."""
    content = json.loads(text)
    if file == "manifest.json":
        return tuple(tag for image in content for tag in image.get("RepoTags") or ())
    annotations = [manifest.get("annotations", {}) for manifest in content.get("manifests", ())]
    return tuple(
        next(found[key] for key in _REFERENCE_ANNOTATIONS if key in found)
        for found in annotations
        if any(key in found for key in _REFERENCE_ANNOTATIONS)
    )


def build_pause_archive() -> tuple[str, Path]:
    """Compiles `pause` and packs it as an image; its reference and its archive, both named by the source's digest."""
    source = GO_MODULES / "pause" / "pause.c"
    digest = hashlib.sha256(source.read_bytes()).hexdigest()[:12]
    reference = f"{PAUSE_NAME}:{digest}"
    archive = cache_folder() / "images" / f"pause-{digest}.tar"
    if archive.exists():
        return reference, archive
    archive.parent.mkdir(parents=True, exist_ok=True)
    program = archive.with_suffix(".program")
    run_checked(
        ["gcc", "-static", "-Os", "-s", "-o", str(program), str(source)],
        "compiling the pods' pause program",
        "install a C compiler with static libc: make deps",
    )
    scratch = archive.with_suffix(".new")
    layer = pack({"pause": (program.read_bytes(), 0o755)})
    scratch.write_bytes(pack_image(reference, layer, {"Entrypoint": ["/pause"], "User": "65535:65535"}))
    scratch.rename(archive)
    program.unlink()
    return reference, archive


def pack_image(reference: str, layer: bytes, settings: dict[str, object]) -> bytes:
    """A docker archive of one layer (a tar); `settings` as in an image's config, such as Entrypoint and User."""
    config = {
        "architecture": _architecture(),
        "os": "linux",
        "config": settings,
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [reference], "Layers": ["layer.tar"]}]
    return pack(
        {
            "manifest.json": (json.dumps(manifest).encode(), 0o644),
            "config.json": (json.dumps(config).encode(), 0o644),
            "layer.tar": (layer, 0o644),
        }
    )


def pack(files: dict[str, tuple[bytes, int]], links: dict[str, str] | None = None) -> bytes:
    """A tar of files (name → content and mode) and symbolic links (name → target), the same bytes every time."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as content:
        for name, (text, mode) in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(text), mode
            content.addfile(member, io.BytesIO(text))
        for name, target in (links or {}).items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, target
            content.addfile(member)
    return packed.getvalue()


def _architecture() -> str:
    return run_checked(["go", "env", "GOARCH"], "asking Go for the architecture", cwd="/").strip()
