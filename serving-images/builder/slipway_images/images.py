"""Which images there are, and what they are called: the tag of a reference is the hash of what goes into the image.

Invariant: an unchanged image has the same reference on every machine, a changed one another; nothing is written here.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]

# Files that don't reach an image, as every .dockerignore beside a Dockerfile says too.
IGNORED_NAMES = {"__pycache__", "README.md", ".dockerignore", ".mypy_cache", ".ruff_cache"}
IGNORED_SUFFIXES = {".pyc"}

SUITE = "bookworm"
# One base for all images, so that their layers are shared: Python, its venv module, and the library that Triton's
# Python stub links to.
BASE_PACKAGES = ("ca-certificates", "libpython3.11", "python3", "python3-venv")
# Left out of the base; nothing in a container reads them, and they are half of it.
BASE_LEFTOVERS = (
    "etc/apt/sources.list",
    "etc/hostname",
    "etc/machine-id",
    "etc/resolv.conf",
    "usr/share/doc",
    "usr/share/info",
    "usr/share/locale",
    "usr/share/man",
    "var/cache/apt",
    "var/cache/debconf",
    "var/lib/apt/lists",
    "var/log",
)
# The small Triton takes any glibc system with Python 3.11 as its BASE; with docker that is the same image
# which the others' official flavour names, and so is already there.
DOCKER_BASE = "python:3.11-slim-bookworm@sha256:a36c24f9cbdf4fd0f52d67f0823eeac19c2028c637cecc392d97f980d4fec56b"


class BuildError(Exception):
    """An image can't be built; the message says what, where and what to do next."""


@dataclass(frozen=True, slots=True)
class Programs:
    """Programs that a Dockerfile takes with COPY --from=programs.

    sources: the folder they are compiled from, part of the image's tag. compiled: makes them and returns their folder;
    raises BuildError.
    """

    sources: Path
    compiled: Callable[[], Path]


@dataclass(frozen=True, slots=True)
class Image:
    """One image: `slipway.dev/<name>`, built from the Dockerfile in `folder`, which is also its whole context.

    docker_flavor: which of the Dockerfile's flavours Docker builds; buildah builds `offline`.
    """

    name: str
    folder: str
    docker_flavor: str
    programs: Programs | None = None

    @property
    def context(self) -> Path:
        return ROOT / self.folder


IMAGES = (
    Image("operator", "operator", docker_flavor="official"),
    Image("agent", "serving-images/agent", docker_flavor="official"),
    # NVIDIA's own image is 16 GB: the charts name it for clusters with GPUs, a laptop builds the small one.
    Image("triton", "serving-images/triton", docker_flavor="offline"),
    Image("torchserve", "serving-images/torchserve", docker_flavor="official"),
    Image("onnxruntime", "serving-images/onnxruntime", docker_flavor="official"),
    Image("router", "serving-images/router", docker_flavor="official"),
)


def cache_folder() -> Path:
    """Where everything heavy lives, outside the tree."""
    if chosen := os.environ.get("SLIPWAY_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "slipway"


def archive_folder() -> Path:
    return cache_folder() / "images"


def files_of(folder: Path) -> list[Path]:
    """The files of a build context, sorted."""
    found = []
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if name not in IGNORED_NAMES)
        found += [
            Path(parent) / name
            for name in sorted(names)
            if name not in IGNORED_NAMES and Path(name).suffix not in IGNORED_SUFFIXES
        ]
    return found


@functools.cache
def base_recipe() -> str:
    """Hash of how the base is made; part of each image's tag."""
    recipe = json.dumps([SUITE, BASE_PACKAGES, BASE_LEFTOVERS, DOCKER_BASE])
    return hashlib.sha256(recipe.encode()).hexdigest()[:12]


@functools.cache
def reference(image: Image) -> str:
    """`slipway.dev/<name>:<hash>`, the hash over the base's recipe and the path, mode and content of each file."""
    digest = hashlib.sha256(f"{base_recipe()}\n{image.docker_flavor}\n".encode())
    files = files_of(image.context)
    if image.context / "Dockerfile" not in files:
        raise BuildError(f"{image.name}: {image.folder}/Dockerfile is missing; is this a whole checkout?")
    if image.programs:
        files += files_of(image.programs.sources)
    for file in files:
        content = hashlib.sha256(file.read_bytes()).hexdigest()
        is_executable = os.access(file, os.X_OK)
        place = file.relative_to(image.context) if file.is_relative_to(image.context) else file.relative_to(ROOT)
        digest.update(f"{place} {is_executable:d} {content}\n".encode())
    return f"slipway.dev/{image.name}:{digest.hexdigest()[:12]}"


def archive(image: Image) -> Path:
    return archive_folder() / f"{image.name}-{reference(image).rpartition(':')[2]}.tar"


def partial(image: Image) -> Path:
    """Where an archive is written before it is whole."""
    return archive(image).with_suffix(".partial")
