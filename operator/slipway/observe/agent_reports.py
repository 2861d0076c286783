"""What an agent says: GET /status, schema 1 (serving-images/agent/README.md).

Any two neighbouring releases work together: the operator reads what it knows of an answer, and goes by the abilities
that an agent names, not by its release. One that names none is known by what its answer holds (`_abilities_of_old`). An
agent, the other way, does what it knows of agent.json: a key that it doesn't know changes nothing for it.
Invariant: an answer that can't be read is none; what an older agent doesn't say is absent.
Must not import: decide, render, report, controller. Pure.
"""

from __future__ import annotations

import re
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

RELEASE = re.compile(r"([0-9]{1,9})\.([0-9]{1,9})\.([0-9]{1,9})")

AGENT_FLOOR = "0.1.0"
"""The oldest release of an agent that this operator vouches for: the first that tells its release. It is raised when a
defect in agents is mended that pods must not keep. Older ones go on working; their pods are named."""

TURN, SIGNATURES, OUT, QUESTION, VERIFY = "turn", "signatures", "out", "question", "verify"
"""What agents may be able to: go over in turn (leave the Service, hold), tell signatures, leave the Service when their
server fails, ask their server now and then, tell a signed version from another one."""


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
    signatures: loaded version → what it takes and gives; None: the server doesn't tell. Of an agent that can tell them,
    one that is missing is about to come. golden: how the golden requests went.
    wants_traffic: whether the pod may get requests, as far as its agent goes; None: it doesn't say.
    probe: how its own server answers it; None: it doesn't ask.
    release: the agent's; empty: it is too old to say. abilities: what it can do, words of its own.
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
    golden: GoldenReport | None = None
    wants_traffic: bool | None = None
    probe: ProbeReport | None = None
    release: str = ""
    abilities: frozenset[str] = frozenset()

    @property
    def is_below_floor(self) -> bool:
        """Whether this operator doesn't vouch for the agent any more."""
        return _release_order(self.release) < _release_order(AGENT_FLOOR)

    def version(self, number: int) -> VersionReport | None:
        """What it says of that version."""
        return next((report for report in self.versions if report.version == number), None)


def read_report(answer: Any) -> AgentReport | None:
    """An agent's answer to GET /status, or None when it can't be read."""
    try:
        signatures = read_signatures(answer)
        release, abilities = _read_agent(answer)
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
            golden=read_golden(answer),
            wants_traffic=bool(answer["traffic"]) if "traffic" in answer else None,
            probe=_read_probe(answer.get("probe")),
            release=release,
            abilities=abilities,
        )
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError):
        return None


def _read_agent(answer: Any) -> tuple[str, frozenset[str]]:
    """The agent's release and abilities, as it says; of one that doesn't say, as its answer shows."""
    agent = answer.get("agent")
    if not isinstance(agent, dict) or not isinstance(agent.get("abilities"), list):
        return "", _abilities_of_old(answer)
    return str(agent.get("release") or "")[:64], frozenset(str(each)[:64] for each in agent["abilities"])


def _abilities_of_old(answer: Any) -> frozenset[str]:
    """What agents from before they said so can do, by the keys of their answers."""
    takes_turns, tells_signatures = "traffic" in answer, answer.get("signatures") is not None
    shown = {TURN: takes_turns, SIGNATURES: tells_signatures, OUT: "probe" in answer, QUESTION: "probe" in answer}
    return frozenset(ability for ability, is_shown in shown.items() if is_shown)


def _release_order(release: str) -> tuple[int, ...]:
    """For comparing releases: 0.2.0rc1 counts as 0.2.0; none, or what can't be read, as older than any.

    >>> _release_order("0.10.0") > _release_order("0.9.3"), _release_order("") < _release_order("0.1.0")
    (True, True)
    """
    found = RELEASE.match(release)
    return tuple(int(part) for part in found.groups()) if found else ()


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
