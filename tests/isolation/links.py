"""Attacks by whoever writes to a claim or a shared cache: links, FIFOs, sockets, devices, and names that change."""

import os
import shutil
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from slipway_agent.config import Source
from slipway_agent.fetching.cache import CachedSource
from slipway_agent.fetching.pipeline import Job, fetch_version
from slipway_agent.model.errors import AgentError
from slipway_agent.servers.base import say_nothing
from slipway_agent.servers.triton.config import TritonSpec
from slipway_agent.servers.triton.driver import TritonServer
from slipway_agent.sources.base import Progress
from slipway_agent.sources.mounted_folder import PathSource
from slipway_agent.volume.models_volume import ModelVolume
from tests.isolation.attack import Attack

MARK = "the agent's own secret"
URI = "pvc://models/digits"
PATIENCE_SECONDS = 20.0
ROUNDS = 400  # of a race


class Claim:
    """A claim with a good version 3, the agent's secret beside it, and a volume that the server reads."""

    def __init__(self, folder: Path) -> None:
        self.secret = folder / "secret"
        self.secret.write_text(MARK)
        self.mount = folder / "mount"
        self.root = self.mount / "digits"
        self.version = self.root / "3"
        self.version.mkdir(parents=True)
        (self.version / "model.onnx").write_bytes(b"weights")
        (folder / "outside" / "3").mkdir(parents=True)
        (folder / "outside" / "3" / "model.onnx").write_text(MARK)
        self.volume = ModelVolume(folder / "models", "digits")

    def source(self) -> PathSource:
        return PathSource(Source(URI, str(self.root), {}), 3, self.server().holds_model)

    def server(self) -> TritonServer:
        return TritonServer(self.volume, TritonSpec(), 3, None)

    def fetch(self) -> str | None:
        """What the user is told; None where the version was published."""
        source, said = self.source(), None
        try:
            source.list_versions()
            fetch_version(Job(3, f"{URI}/3", None), source, self.volume, self.server(), Progress())
        except AgentError as refusal:
            said = refusal.message
        return said

    def leaked(self) -> str | None:
        """What of the secret the server could read now."""
        for path in self.volume.repository.parent.parent.rglob("*"):
            if path.is_symlink():
                return f"the link {path.name} is on the server's volume"
            with suppress(OSError):
                if path.is_file() and (MARK in (said := path.read_text(errors="replace")) or "PATH=" in said):
                    return f"{path.name} on the server's volume holds what the agent alone may read"
        return None


def in_time(attempt: Callable[[], str | None]) -> str | None:
    """The attempt's own word, or that it waits for ever."""
    found: list[str | None] = []
    thread = threading.Thread(target=lambda: found.append(attempt()), daemon=True)
    thread.start()
    thread.join(PATIENCE_SECONDS)
    return found[0] if found else f"the agent waits for more than {PATIENCE_SECONDS:.0f} s, or its thread ended"


def refused(name: str, change: Callable[[Claim], None]) -> Attack:
    """Must not be published, must be told in one sentence that says what to do, and must not be waited on."""

    def attempt(folder: Path) -> str | None:
        claim = Claim(folder)
        change(claim)

        def fetch() -> str | None:
            said = claim.fetch()
            if said is None:
                return claim.leaked() or "it was published without a word"
            return claim.leaked() or (None if URI in said or "version 3" in said else f"it is told as: {said}")

        return in_time(fetch)

    return Attack("link", name, attempt)


def replaced(place: Path, make: Callable[[Path], None]) -> None:
    if place.is_dir():
        shutil.rmtree(place)
    else:
        place.unlink(missing_ok=True)
    make(place)


def link(target: str) -> Callable[[Path], None]:
    return lambda place: place.symlink_to(target)


def make_socket(place: Path) -> None:
    folder = os.open(place.parent, os.O_PATH)
    try:
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(f"/proc/self/fd/{folder}/{place.name}")
    finally:
        os.close(folder)


def multiply(claim: Claim) -> None:
    """2^40 paths without a ring."""
    for level in range(40):
        (claim.root / f"l{level}").mkdir()
        for side in ("a", "b"):
            (claim.root / f"l{level}" / side).symlink_to(f"../l{level + 1}")
    (claim.root / "l40").mkdir()
    (claim.version / "more").symlink_to("../l0")


def name_in_config(target: str) -> Callable[[Claim], None]:
    def change(claim: Claim) -> None:
        (claim.root / "config.pbtxt").write_text('output { label_filename: "labels.txt" }')
        (claim.root / "labels.txt").symlink_to(target)

    return change


FILES = [
    ("a file that links to /proc/self/environ", link("/proc/self/environ")),
    ("a file that links to the agent's secret by ../..", link("../../../secret")),
    ("a file that links there by a folder of the claim", link("../3/../../../secret")),
    ("a file that links to an open file of the agent", link("/proc/self/fd/0")),
    ("a file that links to /dev/zero", link("/dev/zero")),
    ("a file that is a FIFO", os.mkfifo),
    ("a file that is a socket", make_socket),
    ("a file that links to itself", link("model.onnx")),
    ("a file that links nowhere", link("nowhere")),
]


def race(folder: Path) -> str | None:
    """A name that is a file and a link to the secret by turns, as fast as it goes."""
    claim = Claim(folder)
    good, bad = folder / "good", folder / "bad"
    stop = threading.Event()

    def exchange() -> None:
        while not stop.is_set():
            with suppress(OSError):
                good.write_bytes(b"weights")
                os.replace(good, claim.version / "model.onnx")
                bad.unlink(missing_ok=True)
                bad.symlink_to(claim.secret)
                os.replace(bad, claim.version / "model.onnx")

    def fetch() -> str | None:
        for _ in range(ROUNDS):
            claim.fetch()
            if found := claim.leaked():
                return found
        return None

    thread = threading.Thread(target=exchange, daemon=True)
    thread.start()
    try:
        return fetch()
    finally:
        stop.set()
        thread.join()


def in_cache(name: str, change: Callable[[Path, str, Path], None]) -> Attack:
    """Must cost a fetch and nothing else: the version is published whole, and what is elsewhere stays as it was."""

    def attempt(folder: Path) -> str | None:
        claim, cache = Claim(folder), folder / "cache"
        (folder / "elsewhere" / "3").mkdir(parents=True)
        (folder / "elsewhere" / "3" / "model.onnx").write_bytes(b"another model")
        os.utime(folder / "elsewhere" / "3", (1, 1))

        def source() -> CachedSource:
            return CachedSource(claim.source(), Source(URI, None, cache=str(cache)), say_nothing, frozenset)

        (folder / "first").mkdir()
        known = source().fetch(3, folder / "first", Progress(), None).sha256
        change(cache, known, folder / "elsewhere")

        def fetch() -> str | None:
            try:
                job = Job(3, f"{URI}/3", None, recorded=known)
                fetch_version(job, source(), claim.volume, claim.server(), Progress())
            except AgentError as refusal:
                return f"it costs the version: {refusal.message}"
            left = [path.name for path in (folder / "elsewhere").rglob("*")]
            return claim.leaked() or (None if left == ["3", "model.onnx"] else "what is elsewhere was changed")

        return in_time(fetch)

    return Attack("link", f"cache: {name}", attempt)


def _entry(cache: Path, known: str) -> Path:
    return cache / "entries" / known


ATTACKS: list[Attack] = [
    *(
        refused(name, lambda claim, make=make: replaced(claim.version / "model.onnx", make))  # type: ignore[misc]
        for name, make in FILES
    ),
    refused("the version's folder as a link to /proc/self", lambda c: replaced(c.version, link("/proc/self"))),
    refused("the version's folder as a link out of the claim", lambda c: replaced(c.version, link("../../outside/3"))),
    refused("a folder in the version that leads out", lambda c: (c.version / "more").symlink_to("../../..")),
    refused("a folder in the version that holds itself", lambda c: (c.version / "more").symlink_to("..")),
    refused("the URI's folder as a link to /proc/self", lambda c: replaced(c.root, link("/proc/self"))),
    refused("the URI's folder as a link out of the claim", lambda c: replaced(c.root, link("../outside"))),
    refused("links that multiply to 2^40 paths", multiply),
    refused("folders 200 deep", lambda c: c.version.joinpath(*["d"] * 200).mkdir(parents=True)),
    refused(
        "config.pbtxt as a link to /proc/self/environ",
        lambda c: replaced(c.version / "config.pbtxt", link("/proc/self/environ")),
    ),
    refused("a link that config.pbtxt names", name_in_config("/proc/self/environ")),
    refused("a link that config.pbtxt names, to the secret", name_in_config("../../secret")),
    Attack("link", "a name that is a file and a link by turns", race),
    in_cache(
        "an entry's content as a link",
        lambda cache, known, elsewhere: replaced(_entry(cache, known) / "content", link(str(elsewhere / "3"))),
    ),
    in_cache(
        "an entry's file as a FIFO",
        lambda cache, known, elsewhere: replaced(_entry(cache, known) / "content" / "model.onnx", os.mkfifo),
    ),
    in_cache(
        "about.json as a FIFO", lambda cache, known, elsewhere: replaced(_entry(cache, known) / "about.json", os.mkfifo)
    ),
    in_cache(
        "about.json as a link to /dev/zero",
        lambda cache, known, elsewhere: replaced(_entry(cache, known) / "about.json", link("/dev/zero")),
    ),
    *(
        in_cache(
            f"{name} as a link elsewhere",
            lambda cache, known, elsewhere, name=name: replaced(  # type: ignore[misc]
                cache / name, link(str(elsewhere))
            ),
        )
        for name in ("entries", "places", "leases", "incoming")
    ),
]
