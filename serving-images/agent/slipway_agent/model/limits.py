"""How large what strangers packed may become: the limits, their defaults, and the words for those that are met.

The one place of defaults. Each limit that a model of someone's may really need to pass has one field that raises it;
what no model needs (a header of megabytes, names that no file system takes) has none, and its message says what to do.
Imports nothing of the agent but `model`. Pure.
"""

from dataclasses import dataclass

from slipway_agent.model.errors import Reason, SpecError
from slipway_agent.model.ledger import describe_bytes

UNPACKED_FLOOR_BYTES, UNPACKED_RATIO = 1 << 30, 20
"""Weights shrink to a third at best, text and pruned weights to a tenth; a bomb to a thousandth. What is small by
itself is let pass up to a size that every node has to spare for a minute."""
ENTRIES = 50_000  # a model has thousands of files at most; an image with a system below it some ten thousands
LAYERS = 1_000  # images have at most 127; an artifact has one for each of its files
HEADER_BYTES = 1 << 20  # of one tar entry: names, extended attributes, the map of a sparse file's holes
UNPACKED_FIELD, ENTRIES_FIELD = "spec.storage.limits.unpackedSize", "spec.storage.limits.entries"
VOLUME_FIELD = "spec.storage.sizeLimit"


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one source's versions, as agent.json says them. `unpacked_bytes` None: by the packed size.

    `volume_bytes`: the sizeLimit that the pod's models volume has, over which a kubelet evicts the pod; None: none.
    """

    unpacked_bytes: int | None = None
    entries: int = ENTRIES
    volume_bytes: int | None = None

    def unpacked(self, packed_bytes: int) -> int:
        """What so many packed bytes may unpack to: 3 MB to 1 GiB, 500 MB to 10 GB; the field's word wins."""
        if self.unpacked_bytes is not None:
            return self.unpacked_bytes
        return max(UNPACKED_FLOOR_BYTES, UNPACKED_RATIO * packed_bytes)


DEFAULT_LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class Room:
    """What the models volume can still take. `limit_bytes`: the sizeLimit, where that is what leaves so little."""

    free_bytes: int
    limit_bytes: int | None = None

    def lacking(self, what: str, wanted: str) -> SpecError:
        """The refusal of something that doesn't fit. `wanted`: how large it is, in words."""
        if self.limit_bytes is None:
            where, remedy = f"has {describe_bytes(self.free_bytes)} free", "Free some on the node"
        else:
            where = f"has {describe_bytes(self.free_bytes)} left of {VOLUME_FIELD} ({describe_bytes(self.limit_bytes)})"
            remedy = "Raise it"
        message = f"{what} needs {wanted} and the pod's model volume {where}. {remedy}, or load fewer versions"
        return SpecError(Reason.DISK_FULL, message)


class Budget:
    """What is left of the limits while one archive or image is unpacked.

    where: its place, for messages; what: the same as one says it of its size.
    """

    def __init__(self, where: str, what: str, packed_bytes: int, limits: Limits, room: Room) -> None:
        self._where = where
        self._what = what
        self._packed_bytes = packed_bytes
        self._limits = limits
        self._room = room
        self.claimed_bytes = 0
        self._entries = 0

    @property
    def allowed_bytes(self) -> int:
        return min(self._limits.unpacked(self._packed_bytes), self._room.free_bytes)

    def claim(self, count_bytes: int, is_all: bool = False) -> None:
        """Before so many bytes are written. is_all: there will be no more, so that a message can say the sum."""
        self.claimed_bytes += count_bytes
        words = f"{'' if is_all else 'at least '}{describe_bytes(self.claimed_bytes)}"
        allowed = self._limits.unpacked(self._packed_bytes)
        if self.claimed_bytes > allowed:
            why = (
                f"{UNPACKED_FIELD} is {describe_bytes(allowed)}. Raise it if that is meant"
                if self._limits.unpacked_bytes is not None
                else f"{describe_bytes(self._packed_bytes)} may become {describe_bytes(allowed)}: {UNPACKED_RATIO} "
                f"times as much, and always {describe_bytes(UNPACKED_FLOOR_BYTES)}. If it is meant to be that large, "
                f"set {UNPACKED_FIELD}"
            )
            raise SpecError(Reason.UNSUPPORTED_ARCHIVE, f"{self._where} unpacks to {words}, and {why}")
        if self.claimed_bytes > self._room.free_bytes:
            raise self._room.lacking(f"{self._what}, unpacked,", words)

    def count(self, entries: int = 1) -> None:
        """Entries that are there, or folders that one of them brings along."""
        self._entries += entries
        if self._entries > self._limits.entries:
            raise self.too_many(f"more than {self._limits.entries}" if entries == 1 else str(self._entries))

    def too_many(self, entries: str) -> SpecError:
        return SpecError(
            Reason.UNSUPPORTED_ARCHIVE,
            f"{self._where} holds {entries} files and folders, and {self._limits.entries} may be unpacked. Raise "
            f"{ENTRIES_FIELD}, or give the model as fewer, larger files",
        )

    def refuse_directory(self, entries: int, directory_bytes: int) -> None:
        """What a zip says of its directory, before that is read into memory."""
        if entries > self._limits.entries:
            raise self.too_many(str(entries))
        if directory_bytes > self._limits.entries * DIRECTORY_ENTRY_BYTES:
            raise SpecError(
                Reason.UNSUPPORTED_ARCHIVE,
                f"{self._where} has a directory of {describe_bytes(directory_bytes)} for {entries} entries; "
                f"{describe_bytes(self._limits.entries * DIRECTORY_ENTRY_BYTES)} are read. Pack it again, with shorter "
                f"names, or raise {ENTRIES_FIELD}",
            )


DIRECTORY_ENTRY_BYTES = 300  # of a zip's entry in its directory: 46, its name, dates and owner; on average


def refuse_layers(count: int, where: str) -> None:
    """SpecError for an image or artifact with more layers than any tool makes."""
    if count > LAYERS:
        raise SpecError(
            Reason.UNSUPPORTED_ARCHIVE,
            f"{where} has {count} layers, and {LAYERS} are pulled at most. Push the model with fewer, larger layers",
        )
