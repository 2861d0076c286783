"""The benchmark's ModelDeployments, and the operator's writes for one of them re-named for all the others.

Names and uids have one width, so that re-naming is a replacement of text and changes no length: what the bare loop
sends for number 00417 is byte for byte what the operator would send for it.
Invariant: pure but for reading the recording; must not import slipway.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tests.apiserver import KINDS, Manifest

NAMESPACE = "bench"
Child = tuple[str, str]  # (kind, name)


def name_of(index: int) -> str:
    return f"bench-{index:05d}"


def model_deployment(index: int) -> Manifest:
    """A ModelDeployment as a team would write it: a version, a claim, resources, batching.

    Only its name is its own, so that all have one revision hash and re-naming is enough.
    """
    return {
        "apiVersion": "slipway.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": name_of(index), "namespace": NAMESPACE},
        "spec": {
            "runtime": {"name": "Triton"},
            "model": {"uri": "pvc://models/digits", "version": 1},
            "replicas": 1,
            "resources": {"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"memory": "512Mi"}},
            "batching": {"maxBatchSize": 32, "maxDelayMicroseconds": 2000},
        },
    }


@dataclass(frozen=True, slots=True)
class RecordedWrite:
    """One mutating request of the operator, as it went out."""

    method: str
    path: str  # with its query
    content_type: str
    body: str

    @property
    def subresource(self) -> str:
        """The subresource's name, or nothing: `status`, `scale`."""
        tail = self.path.partition("?")[0].partition("/namespaces/")[2].split("/")
        return tail[3] if len(tail) > 3 else ""

    @property
    def target(self) -> Child | None:
        """(kind, name) of the object applied or created; None for a collection, a deletion, or an unknown kind."""
        match = re.fullmatch(
            r"(/apis?/[^?]+?)/namespaces/[^/?]+/(?P<plural>[^/?]+)/(?P<name>[^/?]+)(/[^?]+)?",
            self.path.partition("?")[0],
        )
        if match is None or self.method == "DELETE":
            return None
        for kind, address in KINDS.items():
            if address == (match[1], match["plural"]):
                return kind, match["name"]
        return None

    def renamed(self, name: str, uid: str, new_name: str, new_uid: str) -> "RecordedWrite":
        """The same write for another ModelDeployment."""

        def rename(text: str) -> str:
            return text.replace(name, new_name).replace(uid, new_uid)

        return RecordedWrite(self.method, rename(self.path), self.content_type, rename(self.body))


def new_recording(folder: Path) -> Path:
    """The recording's file, with nothing of an earlier run in it."""
    file = folder / "recording.jsonl"
    file.write_text("")
    return file


def read_recording(file: Path) -> list[RecordedWrite]:
    """The writes so far; a line that is still being written is left for the next reading."""
    text = file.read_text()
    text = text[: text.rfind("\n") + 1]
    return [RecordedWrite(**json.loads(line)) for line in text.splitlines()]


def settled_writes(recording: Iterable[RecordedWrite]) -> list[RecordedWrite]:
    """The last write to each object and subresource, children before the ModelDeployment's own status.

    Events are left out: they belong to no desired state.
    """
    last: dict[str, RecordedWrite] = {}
    for write in recording:
        if write.target is not None and write.target[0] != "Event":
            last[write.path.partition("?")[0]] = write
    return sorted(last.values(), key=lambda write: write.subresource == "status")


def children_of(writes: Iterable[RecordedWrite]) -> list[Child]:
    """The objects the operator makes for one ModelDeployment."""
    return sorted({w.target for w in writes if w.target is not None and w.target[0] != "ModelDeployment"})
