"""One version from its source to the repository: fetch, verify, unpack, name, publish. Runs on the worker's thread.

Invariant: nothing reaches the repository whose digest wasn't computed from the bytes that arrived and, where the spec
pins one, compared. A refused version leaves nothing in staging; an interrupted one leaves what can be resumed.
"""

import os
import shutil
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from slipway_agent.config import Config, name_place, parse_version, show_url
from slipway_agent.fetching.cache import CachedSource
from slipway_agent.model.errors import Reason, SpecError
from slipway_agent.model.ledger import Published
from slipway_agent.servers.base import Say, Server, say_nothing
from slipway_agent.sources.base import Fetched, ModelSource, Progress
from slipway_agent.sources.by_scheme import open_scheme
from slipway_agent.volume.archive import archive_kind, unpack, unpacked_bytes
from slipway_agent.volume.models_volume import ModelVolume, ensure_room, explain_disk
from slipway_agent.volume.safe_open import UnsafeError, require_plain

_SINGLE_FILES = (".onnx", ".pt", ".plan", ".py")


@dataclass(frozen=True, slots=True)
class Job:
    """One version to fetch. `pin` is the digest it must have, `refused` the fingerprint of bytes refused before.

    `recorded`: the digest that this version had before, None where there is no record. A pin wins over it.
    """

    version: int
    location: str
    pin: str | None
    refused: str | None = None
    recorded: str | None = None

    @property
    def place(self) -> str:
        """The location, for messages."""
        return show_url(self.location)


def open_source(
    config: Config, server: Server, say: Say = say_nothing, kept: Callable[[], Collection[str]] = frozenset
) -> ModelSource:
    """Where the versions come from, through the cache where the spec names one.

    `say(message, **fields)` logs once what is wrong with a cache; `kept` are the digests that the cache must not lose.
    SpecError(ConfigInvalid) for a place that this agent can't fetch from.
    """
    source = open_scheme(config, server.holds_model)
    if config.source.cache is None:
        return source
    pins = frozenset(config.sha256.values())
    return CachedSource(source, config.source, say, lambda: pins | frozenset(kept()))


def fetch_version(job: Job, source: ModelSource, volume: ModelVolume, server: Server, progress: Progress) -> Published:
    """Publish one version. Raises SpecError, TransientError, UnchangedError or CancelledError."""
    staging = volume.staging(job.version)
    fetched: Fetched | None = None
    try:
        fetched = source.fetch(job.version, staging, progress, job.refused, job.pin or job.recorded)
        verify(fetched.sha256, job)
        folder = _arrange(fetched, staging, job, server, progress.check)
        require_plain(folder, f"version {job.version} at {job.place}")
        server.name_files(folder)
        origin = source.model_folder()
        if origin is None:
            volume.forget_model_files()
        else:
            volume.keep_model_files(origin)
        progress.check()
        size_bytes, replaced = volume.publish(job.version, folder)
    except SpecError as refusal:
        volume.drop_staging(job.version)
        known = refusal.fingerprint or (fetched.fingerprint if fetched is not None else None)
        raise SpecError(refusal.reason, refusal.message, known) from refusal
    except UnsafeError as cause:
        volume.drop_staging(job.version)
        reason = Reason.UNSUPPORTED_ARCHIVE if cause.is_too_much else Reason.UNSAFE_PATH
        raise SpecError(reason, cause.words, fetched.fingerprint if fetched else None) from cause
    except OSError as cause:
        volume.drop_staging(job.version)
        raise explain_disk(cause, f"version {job.version} ({job.place})", "unpacked") from cause
    volume.drop_staging(job.version)
    return Published(fetched.sha256, size_bytes, name_place(job.location), fetched.fingerprint, awaits_load=replaced)


def verify(sha256: str, job: Job) -> None:
    if job.pin is not None and sha256 != job.pin:
        raise SpecError(
            Reason.DIGEST_MISMATCH,
            f"version {job.version} at {job.place} has sha256 {sha256}, and the spec pins {job.pin}. It is not "
            "loaded. Put the right bytes there, or correct the pin in model.sha256",
        )

    if job.pin is None and job.recorded is not None and sha256 != job.recorded:
        raise SpecError(
            Reason.CONTENT_CHANGED,
            f"version {job.version} at {job.place} was recorded with sha256 {job.recorded}, and is found with {sha256}."
            " Other bytes under the same number are never served. Put the old bytes back, publish these under a new "
            f'number, or pin the new digest in model.sha256 ("{job.version}": {sha256})',
        )


def _arrange(fetched: Fetched, staging: Path, job: Job, server: Server, check: Callable[[], None]) -> Path:
    """The folder to publish: a copy as it is, an archive's content, or a folder around a single file."""
    folder = fetched.path
    if not folder.is_dir():
        folder = staging / "content"
        shutil.rmtree(folder, ignore_errors=True)
        with fetched.path.open("rb") as file:
            kind = archive_kind(fetched.name, file.read(4))
        suffix = next((each for each in _SINGLE_FILES if fetched.name.lower().endswith(each)), None)
        if kind is not None:
            wanted_bytes = unpacked_bytes(kind, fetched.path, job.place)
            ensure_room(staging, wanted_bytes or 0, f"version {job.version}, unpacked,")
            unpack(kind, fetched.path, folder, job.place, check)
            fetched.path.unlink()
        elif suffix is not None:
            folder.mkdir()
            os.rename(fetched.path, folder / f"model{suffix}")
        else:
            raise SpecError(
                Reason.UNSUPPORTED_ARCHIVE,
                f"{job.place} is neither a model file ({', '.join(_SINGLE_FILES)}) nor a .zip or .tar.gz. Pack the "
                "version's folder as one of these",
            )
    return _find_model(folder, job, server)


def _find_model(folder: Path, job: Job, server: Server) -> Path:
    """The folder that directly holds the model: people pack the folder itself, or a whole Triton model folder."""
    while not server.holds_model(folder):
        entries = sorted(folder.iterdir())
        versions = [entry for entry in entries if entry.is_dir() and parse_version(entry.name) is not None]
        config = folder / "config.pbtxt"
        if len(entries) == 1 and entries[0].is_dir():
            folder = entries[0]
        elif config.is_file() and len(versions) == 1 and server.holds_model(versions[0]):
            inner = versions[0]
            if not (inner / "config.pbtxt").exists():
                os.rename(config, inner / "config.pbtxt")
            folder = inner
        else:
            names = ", ".join(entry.name for entry in entries[:8]) or "nothing"
            raise SpecError(
                Reason.NO_MODEL_FILE,
                f"version {job.version} at {job.place} holds no model file; it holds {names}. Put one of "
                f"{server.accepted_files()} directly in it",
            )
    return folder
