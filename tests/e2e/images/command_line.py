"""The tests' images beside the product's, and root file systems of images for tests that run servers as processes."""

from __future__ import annotations

import functools
import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from slipway_images import command_line
from slipway_images.building import build, only_one_build
from slipway_images.engines import HELD_PREFIX, Buildah, engine
from slipway_images.images import IMAGES, BuildError, Image, Programs, reference
from slipway_images.machine import output_of
from tests.e2e.cluster.binaries import STORE_MODULES, ensure_binaries
from tests.e2e.cluster.errors import ClusterError
from tests.e2e.cluster.layout import GO_MODULES

PROGRAM = "tests/e2e/images/build"


def compiled(module: str) -> Path:
    """The folder of the module's static programs, compiled unless they are there. Raises BuildError."""
    try:
        programs = ensure_binaries([one for one in STORE_MODULES if one.name == module])
    except ClusterError as error:
        raise BuildError(f"{module}: {error}") from error
    return next(iter(programs.values())).parent


def programs_of(module: str) -> Programs:
    return Programs(GO_MODULES / module, functools.partial(compiled, module))


TENSORFLOW_SERVING = Image("test-tensorflow-serving", "tests/e2e/images/tensorflow-serving", docker_flavor="official")
TEST_IMAGES = (
    Image("test-web", "tests/e2e/images/web", docker_flavor="official"),
    Image("test-s3", "tests/e2e/images/s3", docker_flavor="official", programs=programs_of("versitygw")),
    Image("test-registry", "tests/e2e/images/registry", docker_flavor="official", programs=programs_of("registry")),
    Image("test-custom", "examples/custom", docker_flavor="official"),
    TENSORFLOW_SERVING,
)
ALL_IMAGES = (*IMAGES, *TEST_IMAGES)
# TensorFlow Serving can not be had from packages: tests put the stand-in where the chart names the official image.
IN_CHART = {image.name: image for image in IMAGES} | {"tensorflow-serving": TENSORFLOW_SERVING}


@contextmanager
def roots(builder: Buildah, images: Sequence[Image]) -> Iterator[dict[str, str]]:
    """Image name → where its root file system is mounted, a copy on write, for as long as the block lasts."""
    mounted: dict[str, str] = {}
    containers = []
    try:
        with only_one_build():
            for image in images:
                name = f"{HELD_PREFIX}{image.name}-{os.getpid()}"
                if output_of([*builder.command, "from", "--pull-never", "--name", name, reference(image)]) is None:
                    raise BuildError(f"{image.name} is not built: {PROGRAM} build {image.name}")
                containers.append(name)
                mounted[image.name] = (output_of([*builder.command, "mount", name]) or "").strip()
        yield mounted
    finally:
        with only_one_build():
            builder.remove(containers)
            builder.close()


def run_with_roots(names: Sequence[str], command: Sequence[str]) -> int:
    """The command's exit status. Raises BuildError."""
    images = command_line.chosen_images(names, ALL_IMAGES)
    if not names:
        raise BuildError("with-roots: name the images")
    if not command:
        raise BuildError("with-roots: name a command after --")
    builder = engine()
    if not isinstance(builder, Buildah):
        raise BuildError("with-roots mounts what buildah built, and here docker builds: SLIPWAY_ENGINE=buildah")
    build(images)
    with roots(builder, images) as mounted:
        variables = {f"SLIPWAY_ROOT_{name.upper().replace('-', '_')}": path for name, path in mounted.items()}
        return subprocess.run(command, env=os.environ | variables, check=False).returncode


def main(arguments: Sequence[str]) -> int:
    if arguments[:1] == ["with-roots"]:
        cut = arguments.index("--") if "--" in arguments else len(arguments)
        return command_line.in_words(lambda: run_with_roots(arguments[1:cut], arguments[cut + 1 :]))
    return command_line.in_words(lambda: command_line.run(arguments, PROGRAM, ALL_IMAGES, IN_CHART))
