"""The commands of people: build, tags, archives, values."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence

from slipway_images.building import build
from slipway_images.images import IMAGES, BuildError, Image, archive, reference


def chosen_images(names: Sequence[str], images: Sequence[Image]) -> list[Image]:
    """Those of the given names, all where none is given. Raises BuildError."""
    known = {image.name: image for image in images}
    for name in names:
        if name not in known:
            raise BuildError(f"no image is called {name!r}; there are: {', '.join(known)}")
    return [known[name] for name in names] or list(images)


def chart_values(named: Mapping[str, Image]) -> dict[str, object]:
    """Values for charts/slipway: the images of this tree instead of released ones, by the chart's names."""
    images = {}
    for name, image in named.items():
        repository, _, tag = reference(image).rpartition(":")
        images[name] = {"repository": repository, "tag": tag, "digest": ""}
    return {"images": images}


def in_words(command: Callable[[], int]) -> int:
    """The command's exit status; an error that a person can act on is one message and a 1."""
    try:
        return command()
    except BuildError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130


def run(arguments: Sequence[str], program: str, images: Sequence[Image], in_chart: Mapping[str, Image]) -> int:
    """The command line of `program` over these images; in_chart: the chart's name → image. Raises BuildError."""
    parser = argparse.ArgumentParser(prog=program, description="Build the project's container images.")
    commands = parser.add_subparsers(dest="command", required=True)
    for command, text in (
        ("build", "build what is missing"),
        ("tags", "print JSON: image name → reference"),
        ("archives", "print JSON: image name → path of its archive"),
    ):
        commands.add_parser(command, help=text).add_argument(
            "names", nargs="*", metavar="NAME", help=f"one of {', '.join(image.name for image in images)}; default: all"
        )
    commands.add_parser("values", help="print JSON: values for charts/slipway that name these images")
    options = parser.parse_args(arguments)
    chosen = chosen_images(getattr(options, "names", ()), images)
    match options.command:
        case "build":
            build(chosen)
        case "tags":
            print(json.dumps({image.name: reference(image) for image in chosen}, indent=2))
        case "archives":
            print(json.dumps({image.name: str(archive(image)) for image in chosen}, indent=2))
        case "values":
            print(json.dumps(chart_values(in_chart), indent=2))
    return 0


def main(arguments: Sequence[str]) -> int:
    return in_words(lambda: run(arguments, "serving-images/build", IMAGES, {image.name: image for image in IMAGES}))
