"""One version from its source to the repository: fetch, verify, unpack, name, publish. Runs on the worker's thread.

Invariant: nothing reaches the repository whose digest wasn't computed from the bytes that arrived and, where the spec
pins one, compared. A refused version leaves nothing in staging; an interrupted one leaves what can be resumed.
"""

import os
import shutil
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path

from slipway_agent.config import Config, name_place, parse_version, show_url
from slipway_agent.fetching.cache import CachedSource
from slipway_agent.fetching.signed import refuse_unsigned_config, verify_signed
from slipway_agent.model.errors import Reason, SpecError
from slipway_agent.model.ledger import Published
from slipway_agent.model.limits import DEFAULT_LIMITS, Limits
from slipway_agent.servers.base import Say, Server, say_nothing
from slipway_agent.sources.base import Fetched, ModelSource, Progress
from slipway_agent.sources.by_scheme import open_scheme
from slipway_agent.volume.archive import archive_kind
from slipway_agent.volume.models_volume import CONFIG, ModelVolume, explain_disk
from slipway_agent.volume.safe_open import Tree, UnsafeError, require_plain
from slipway_agent.volume.unpacking import Unpacking, unpack_archive

_SINGLE_FILES = (".onnx", ".pt", ".plan", ".py")


@dataclass(frozen=True, slots=True)
class Job:
    """One version to fetch. `pin` is the digest it must have, `refused` the fingerprint of bytes refused before.

    `recorded`: the digest that this version had before, None where there is no record. A pin wins over it. `limits`: of
    what it unpacks to. `public_keys`: one of them must have signed it; none: nothing is verified. `standing`: what is
    published now.
    """

    version: int
    location: str
    pin: str | None
    refused: str | None = None
    recorded: str | None = None
    limits: Limits = DEFAULT_LIMITS
    public_keys: tuple[str, ...] = ()
    standing: Published | None = None

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
        unpacked = _unpack(fetched, staging, job, progress.check)
        require_plain(unpacked, f"version {job.version} at {job.place}")
        origin = source.model_folder()
        signed_by = _verify_signed(unpacked, origin, job, progress.check) if job.public_keys else None
        if (same := _find_same(fetched, job, volume)) is not None:
            volume.drop_staging(job.version)
            return replace(same, signed_by=signed_by, fingerprint=fetched.fingerprint)
        folder = _find_model(unpacked, job, server)
        server.name_files(folder, progress.check)
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
    place = name_place(job.location)
    return Published(fetched.sha256, size_bytes, place, fetched.fingerprint, awaits_load=replaced, signed_by=signed_by)


def _find_same(fetched: Fetched, job: Job, volume: ModelVolume) -> Published | None:
    """What is published, where these are its very bytes and were fetched to be verified alone: nothing is loaded again.

    None where a config.pbtxt from beside the version, which nobody signed, goes with it.
    """
    standing = job.standing
    if standing is None or not job.public_keys or volume.read_note(CONFIG) is not None:
        return None
    return standing if (standing.sha256, standing.location) == (fetched.sha256, name_place(job.location)) else None


def _verify_signed(unpacked: Path, origin: Tree | None, job: Job, check: Callable[[], None]) -> str:
    """The name of the key that signed this version. Before anything in it is renamed; SpecError, TransientError."""
    what = f"version {job.version} at {job.place}"
    if origin is not None:
        raise refuse_unsigned_config(what)
    return verify_signed(unpacked, job.public_keys, what, check)


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


def _unpack(fetched: Fetched, staging: Path, job: Job, check: Callable[[], None]) -> Path:
    """A folder: a copy as it is, an archive's content, or a folder around a single file."""
    folder = fetched.path
    if not folder.is_dir():
        folder = staging / "content"
        shutil.rmtree(folder, ignore_errors=True)
        with fetched.path.open("rb") as file:
            kind = archive_kind(fetched.name, file.read(4))
        suffix = next((each for each in _SINGLE_FILES if fetched.name.lower().endswith(each)), None)
        if kind is not None:
            unpacking = Unpacking(job.place, f"version {job.version}", job.limits, check)
            unpack_archive(kind, fetched.path, folder, unpacking)
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
    return folder


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
