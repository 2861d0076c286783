"""What an agent says: GET /status, schema 1 (serving-images/agent/README.md).

Invariant: an answer that can't be read is none; what an older agent doesn't say is absent.
Must not import: decide, render, report, controller. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from slipway.api.v1alpha1 import MAX_VERSION
from slipway.model.signature import GoldenReport, Signature, read_golden, read_signatures
from slipway.model.workload import Trouble

REFUSALS = frozenset(
    {
        "LoadFailed",
        "WarmupFailed",
        "GoldenFailed",
        "GoldenUnreadable",
        "DigestMismatch",
        "ContentChanged",
        "NoModelFile",
        "ModelInvalid",
        "UnsupportedArchive",
        "UnsafePath",
        "NotSigned",
        "VerificationFailed",
    }
)
"""An agent's reasons that speak of the version's bytes: more of the same will not help."""

OF_GATES = frozenset({"GoldenFailed", "GoldenUnreadable"})
"""Of these, what a gate says: it holds for every pod, whatever others answer."""

OF_SIGNING = frozenset({"NotSigned", "VerificationFailed"})
"""Of these, what is true of the bytes and of the spec's keys in every pod, also beside pods that serve from before."""

PASSING = ("SourceUnavailable",)
"""An agent's reasons that waiting alone may end."""

LOADED = ("Available", "Unloading")


@dataclass(frozen=True, slots=True)
class VersionReport:
    """What an agent says of one version. size_bytes: of its files; None while unknown. signed_by: the name of the key
    that it was verified with; None: it wasn't, or not yet."""

    version: int
    state: str
    reason: str
    message: str
    sha256: str | None
    since: str | None = None
    size_bytes: int | None = None
    signed_by: str | None = None


@dataclass(frozen=True, slots=True)
class ProbeReport:
    """What an agent asked its own server, and how that answers.

    error: the last words, where it answers with server errors again and again; empty: it doesn't; None: that isn't
    known yet. asked, failed, refused: the requests since the date `since`; what the server counts has them in it.
    """

    version: int
    error: str | None
    asked: int
    failed: int
    refused: int
    since: str


@dataclass(frozen=True, slots=True)
class AgentReport:
    """What an agent says.

    found: version → stamp, a name for its bytes at the source; None where the source can't tell.
    listing_trouble: why the source can't be listed. serving: what an unversioned request gets.
    labels: one trouble for each label that can't stand where it should.
    signatures: loaded version → what it takes and gives; None: the server doesn't tell. tells_signatures: one that is
    missing is about to come; False: the agent is too old for that. golden: how the golden requests went.
    wants_traffic: whether the pod may get requests, as far as its agent goes; None: the agent is too old to take turns.
    probe: how its own server answers it; None: it doesn't ask. verifies: it can tell a signed version from another one;
    False: the agent is too old for that.
    Fourteen fields: they are the answer's own.
    """

    generation: str
    listed: tuple[int, ...]
    versions: tuple[VersionReport, ...]
    trouble: Trouble | None
    found: Mapping[int, str | None] = field(default_factory=dict)
    listing_trouble: Trouble | None = None
    serving: int | None = None
    labels: tuple[Trouble, ...] = ()
    signatures: Mapping[int, Signature | None] = field(default_factory=dict)
    tells_signatures: bool = False
    golden: GoldenReport | None = None
    wants_traffic: bool | None = None
    probe: ProbeReport | None = None
    verifies: bool = False

    def version(self, number: int) -> VersionReport | None:
        """What it says of that version."""
        return next((report for report in self.versions if report.version == number), None)


def read_report(answer: Any) -> AgentReport | None:
    """An agent's answer to GET /status, or None when it can't be read."""
    try:
        signatures = read_signatures(answer)
        return AgentReport(
            generation=str(answer["generation"]),
            listed=tuple(each for version in answer.get("listed") or () if (each := int(version)) <= MAX_VERSION),
            versions=tuple(
                VersionReport(
                    version=int(version["version"]),
                    state=str(version["state"]),
                    reason=str(version.get("reason") or "")[:64],
                    message=str(version.get("message") or "")[:2000],
                    sha256=str(version["sha256"])[:64] if version.get("sha256") else None,
                    since=str(version["since"])[:64] if version.get("since") else None,
                    size_bytes=int(version["bytes"]) if version.get("bytes") else None,
                    signed_by=str(version["signedBy"])[:64] if version.get("signedBy") else None,
                )
                for version in answer.get("versions") or ()
            ),
            trouble=_read_trouble(answer.get("error")),
            found=read_found(answer.get("found")),
            listing_trouble=_read_listing_trouble(answer.get("listError")),
            serving=_read_serving(answer),
            labels=tuple(trouble for each in answer.get("labels") or () if (trouble := _read_trouble(each))),
            signatures=signatures or {},
            tells_signatures=signatures is not None,
            golden=read_golden(answer),
            wants_traffic=bool(answer["traffic"]) if "traffic" in answer else None,
            probe=_read_probe(answer.get("probe")),
            verifies=bool(answer.get("verifies")),
        )
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError):
        return None


def _read_trouble(error: Any) -> Trouble | None:
    if not error:
        return None
    return Trouble(str(error["reason"])[:64], str(error["message"])[:2000], bool(error.get("permanent")))


def _read_probe(probe: Any) -> ProbeReport | None:
    if not probe:
        return None
    words, failing = str(probe.get("message") or "a server error without a word")[:500], probe["failing"]
    return ProbeReport(
        version=int(probe["version"]),
        error=None if failing is None else words if failing else "",
        asked=int(probe["asked"]),
        failed=int(probe["failed"]),
        refused=int(probe["refused"]),
        since=str(probe["since"])[:64],
    )


def _read_listing_trouble(error: Any) -> Trouble | None:
    """Agents don't say of it whether it stays: all but a store that doesn't answer does, until a person comes."""
    trouble = _read_trouble(error)
    return None if trouble is None else replace(trouble, needs_person=trouble.reason not in PASSING)


def _read_serving(answer: Any) -> int | None:
    """What an unversioned request gets: as the agent says, or, of one that is too old to say, the highest loaded."""
    if "serving" in answer:
        return None if answer["serving"] is None else int(answer["serving"])
    loaded = [int(version["version"]) for version in answer.get("versions") or () if version["state"] in LOADED]
    return max(loaded, default=None)


def read_found(found: Any) -> dict[int, str | None]:
    """Version → stamp, as agents list them. Raises ValueError, TypeError or AttributeError for anything else."""
    read = {int(version): None if stamp is None else str(stamp)[:128] for version, stamp in (found or {}).items()}
    return {version: stamp for version, stamp in read.items() if version <= MAX_VERSION}
