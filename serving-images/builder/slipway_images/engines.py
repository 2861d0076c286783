"""Who builds: docker where an engine answers, else buildah, each with the log of what it did.

Invariant: nothing is installed on the machine; what is missing is named with the command that installs it.
"""

from __future__ import annotations

import functools
import json
import os
import shlex
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from slipway_images.images import (
    BASE_LEFTOVERS,
    BASE_PACKAGES,
    DOCKER_BASE,
    SUITE,
    BuildError,
    Image,
    archive_folder,
    base_recipe,
    partial,
    reference,
)
from slipway_images.machine import debian_sources, output_of

HELD_PREFIX = "slipway-root-"
LOG_TAIL_LINES = 15
HEARTBEAT_SECONDS = 15
KEEP_STAGES_SECONDS = 2 * 86_400


class Log:
    """One image's log file; the terminal hears of it every few seconds and, on failure, sees its tail."""

    def __init__(self, image_name: str) -> None:
        self.path = archive_folder() / "logs" / f"{image_name}.log"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text("")
        self._name = image_name

    def run(self, command: Sequence[str], what: str) -> None:
        """Run `command` with its output in the log. Raises BuildError with the log's tail."""
        finished = threading.Event()
        heartbeat = threading.Thread(target=self._report, args=(what, finished), daemon=True)
        with self.path.open("a") as output:
            print(f"$ {shlex.join(command)}", file=output, flush=True)
            heartbeat.start()
            try:
                code = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output).returncode
            finally:
                finished.set()
                heartbeat.join()
        if code != 0:
            tail = "\n".join(f"    {line}" for line in self._lines()[-LOG_TAIL_LINES:])
            raise BuildError(f"{self._name}: {what} failed (exit status {code}); the whole log: {self.path}\n{tail}")

    def _report(self, what: str, finished: threading.Event) -> None:
        start = time.monotonic()
        while not finished.wait(HEARTBEAT_SECONDS):
            last = next((line for line in reversed(self._lines()) if line.strip()), "")
            say(self._name, f"{what}, {time.monotonic() - start:.0f} s: {last.strip()[:100]}")

    def _lines(self) -> list[str]:
        return self.path.read_text(errors="replace").splitlines()


def say(name: str, message: str) -> None:
    print(f"{name:<11} {message}", flush=True)


def contexts_of(image: Image) -> list[str]:
    """The options that hand an image's programs to its build; compiles them where they aren't there yet."""
    return ["--build-context", f"programs={image.programs.compiled()}"] if image.programs else []


class Docker:
    """Builds with a Docker engine; its own cache keeps the layers."""

    name = "docker"

    def build(self, image: Image, secrets: dict[str, Path], log: Log) -> None:
        say(image.name, f"building the {image.docker_flavor} flavour with docker (log: {log.path})")
        command = ["docker", "build", "--progress", "plain", "--tag", reference(image)]
        command += ["--build-arg", f"FLAVOR={image.docker_flavor}", "--build-arg", f"BASE={DOCKER_BASE}"]
        for name, path in secrets.items():
            if name != "apt.list":  # the official bases name their own package sources
                command += ["--secret", f"id={name},src={path}"]
        command += contexts_of(image)
        log.run([*command, str(image.context)], "build")
        log.run(["docker", "save", "--output", str(partial(image)), reference(image)], "save")

    def close(self) -> None:
        """Nothing is left behind."""


class Buildah:
    """Builds without an engine or a daemon, in a storage of its own below the cache folder."""

    name = "buildah"

    def __init__(self) -> None:
        if not shutil.which("buildah"):
            raise BuildError("no Docker engine answers and buildah is missing: apt-get install buildah debootstrap")
        if os.geteuid() != 0:
            raise BuildError("buildah and debootstrap need root here; run it with sudo, or start a Docker engine")
        storage = archive_folder() / "storage"
        storage.mkdir(parents=True, exist_ok=True)
        self._storage = storage
        self.command = ["buildah", "--storage-driver", "overlay"]
        self.command += ["--root", str(storage / "root"), "--runroot", str(storage / "run")]

    def build(self, image: Image, secrets: dict[str, Path], log: Log) -> None:
        base = self._base()
        say(image.name, f"building the offline flavour with buildah (log: {log.path})")
        command = [*self.command, "bud", "--isolation", "chroot", "--layers", "--format", "oci"]
        command += ["--build-arg", "FLAVOR=offline", "--build-arg", f"BASE={base}", "--tag", reference(image)]
        for name, path in secrets.items():
            command += ["--secret", f"id={name},src={path}"]
        command += contexts_of(image)
        log.run([*command, "--file", str(image.context / "Dockerfile"), str(image.context)], "build")
        # zstd at its quickest: half of gzip's time; the files are small enough to keep beside buildah's own storage.
        target = f"oci-archive:{partial(image)}:{reference(image)}"
        compression = ["--compression-format", "zstd", "--compression-level", "1"]
        log.run([*self.command, "push", *compression, reference(image), target], "export")
        for other in (output_of([*self.command, "images", "--format", "{{.Name}}:{{.Tag}}"]) or "").split():
            if other.rpartition(":")[0] == f"slipway.dev/{image.name}" and other != reference(image):
                output_of([*self.command, "rmi", other])

    def close(self) -> None:
        """Leave no container and no mount behind: with one, the cache folder can't be removed."""
        self.remove([one for one in self._containers() if not is_held(one)])
        # Stages that no image stands on make the next build quick, and are gigabytes in a while.
        stages = json.loads(
            output_of([*self.command, "images", "--all", "--filter", "dangling=true", "--json"]) or "[]"
        )
        if old := [stage["id"] for stage in stages if time.time() - stage["created"] > KEEP_STAGES_SECONDS]:
            output_of([*self.command, "rmi", *old])
        output_of(["umount", str(self._storage / "root" / "overlay")])

    def _containers(self) -> list[str]:
        return (output_of([*self.command, "containers", "--format", "{{.ContainerName}}"]) or "").split()

    def remove(self, containers: Sequence[str]) -> None:
        """Unmounts containers and removes them; those that aren't there cost nothing."""
        for container in containers:
            output_of([*self.command, "umount", container])
            output_of([*self.command, "rm", container])

    @functools.cache  # noqa: B019 - one engine lives as long as the process
    def _base(self) -> str:
        """The base image in buildah's storage, made by debootstrap where it isn't there yet."""
        name = f"localhost/slipway-base:{base_recipe()}"
        if output_of([*self.command, "inspect", "--type", "image", name]) is not None:
            return name
        if not shutil.which("debootstrap"):
            raise BuildError("base: debootstrap is missing: apt-get install debootstrap")
        keyring = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
        if not keyring.exists():
            raise BuildError("base: Debian's archive keys are missing: apt-get install debian-archive-keyring")
        start = time.monotonic()
        log = Log("base")
        say("base", f"making a Debian {SUITE} with debootstrap, once for all images (log: {log.path})")
        with tempfile.TemporaryDirectory(dir=archive_folder(), prefix="base-") as scratch:
            rootfs = Path(scratch) / "rootfs"
            command = ["debootstrap", "--variant=minbase", f"--include={','.join(BASE_PACKAGES)}"]
            # Without a mirror debootstrap takes its own default.
            mirrors = [
                address for address, suite, component in debian_sources() if (suite, component) == (SUITE, "main")
            ]
            log.run([*command, f"--keyring={keyring}", SUITE, str(rootfs), *mirrors[:1]], "debootstrap")
            for leftover in BASE_LEFTOVERS:
                empty(rootfs / leftover)
            container = (output_of([*self.command, "from", "scratch"]) or "").strip()
            log.run([*self.command, "add", "--quiet", container, str(rootfs), "/"], "import")
            log.run([*self.command, "commit", "--quiet", "--rm", container, name], "import")
        say("base", f"made in {time.monotonic() - start:.0f} s")
        return name


def is_held(container: str) -> bool:
    """Whether a process that still runs works with it, which it says in the name: `slipway-root-<image>-<pid>`."""
    pid = container.rpartition("-")[2]
    return container.startswith(HELD_PREFIX) and Path("/proc", pid).exists()


def empty(path: Path) -> None:
    """Remove a file's content or a folder's, and keep the path: programs expect it."""
    if path.is_dir() and not path.is_symlink():
        for child in path.iterdir():
            if child.is_dir() and not child.is_symlink():
                shutil.rmtree(child)
            else:
                child.unlink()
    elif path.exists() or path.is_symlink():
        path.unlink()
        path.touch(mode=0o644)


def engine() -> Docker | Buildah:
    """SLIPWAY_ENGINE's choice, else docker where an engine answers, else buildah."""
    match os.environ.get("SLIPWAY_ENGINE", ""):
        case "docker":
            return Docker()
        case "buildah":
            return Buildah()
        case "":
            return Docker() if output_of(["docker", "version", "--format", "{{.Server.Version}}"]) else Buildah()
        case other:
            raise BuildError(f"SLIPWAY_ENGINE is {other!r}; write docker or buildah, or leave it out")
