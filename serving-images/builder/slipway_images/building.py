"""Builds what is missing: one build at a time on a machine, each archive whole or not there."""

from __future__ import annotations

import fcntl
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from slipway_images.engines import Buildah, Docker, Log, engine, say
from slipway_images.images import Image, archive, archive_folder, partial, reference
from slipway_images.machine import machine_secrets

KEEP_ARCHIVE_SECONDS = 1800


@contextmanager
def only_one_build() -> Iterator[None]:
    """Waits for another build on this machine; afterwards its images are there and need no building."""
    archive_folder().mkdir(parents=True, exist_ok=True)
    with (archive_folder() / "build.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("images", "another build is running; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def build(images: Sequence[Image]) -> None:
    """Build the missing archives of `images`."""
    missing = [image for image in images if not archive(image).exists()]
    if missing:
        with only_one_build(), tempfile.TemporaryDirectory(prefix="slipway-build-") as folder:
            builder = engine()
            secrets = machine_secrets(Path(folder))
            try:
                for image in missing:
                    if not archive(image).exists():
                        build_one(image, builder, secrets)
            finally:
                builder.close()
    for image in images:
        say(image.name, f"{reference(image)}  {megabytes(archive(image))}{'' if image in missing else '  (was there)'}")


def build_one(image: Image, builder: Docker | Buildah, secrets: dict[str, Path]) -> None:
    start = time.monotonic()
    partial(image).unlink(missing_ok=True)
    try:
        builder.build(image, secrets, Log(image.name))
        partial(image).rename(archive(image))
    finally:
        partial(image).unlink(missing_ok=True)
    say(image.name, f"built in {time.monotonic() - start:.0f} s")
    for other in archive_folder().glob(f"{image.name}-????????????.tar"):
        # a young one may be another checkout's, which is about to load it
        if other != archive(image) and time.time() - other.stat().st_mtime > KEEP_ARCHIVE_SECONDS:
            other.unlink()


def megabytes(path: Path) -> str:
    return f"{path.stat().st_size / 1e6:.0f} MB"
