"""What an archive or an image layer may try, each as a file of our own making, through the agent's own pipeline.

zip and tar.gz come as a version in a mounted folder and go through `fetch_version`; layers through `unpack_layers`,
which is what a pulled image comes to. Each trick is made by a function that writes the packed file as a stream: the
process that makes it is the one whose memory is measured.
"""

from __future__ import annotations

import gzip
import io
import os
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from slipway_agent.config import Config, Source
from slipway_agent.fetching.pipeline import Job, fetch_version, open_source
from slipway_agent.model.errors import Reason, SpecError
from slipway_agent.model.limits import DEFAULT_LIMITS
from slipway_agent.servers.triton.config import TritonSpec
from slipway_agent.servers.triton.driver import TritonServer
from slipway_agent.sources.base import Progress
from slipway_agent.volume.models_volume import ModelVolume
from slipway_agent.volume.unpacking import LayerFile, Unpacking, unpack_layers
from tests.isolation.attack import Attack

Pieces = Iterable[bytes]
WORDS = (Reason.UNSAFE_PATH, Reason.UNSUPPORTED_ARCHIVE, Reason.DISK_FULL, Reason.NO_MODEL_FILE)
MIB, GIB = 1 << 20, 1 << 30
URI = "pvc://models/digits"


# what counts as contained


def try_archive(kind: str, write: Callable[[Path], None], folder: Path, may_pass: bool) -> str | None:
    """Fetch a version that is such an archive, as an agent does. None where it was contained."""
    source, models = folder / "source", folder / "models"
    source.mkdir()
    (folder / "beside").write_text("untouched")
    packed = source / ("3.zip" if kind == "zip" else "3.tar.gz")
    write(packed)
    volume = ModelVolume(models, "digits")
    server = TritonServer(volume, TritonSpec(), 3, None)
    config = Config("g", "Triton", "digits", Source(URI, str(source), {3: packed.name}), 3, (3,))
    job = Job(3, config.source.location(3), None)
    before = _see(folder)
    try:
        fetch_version(job, open_source(config, server), volume, server, Progress())
        ending = None if may_pass else "it was published"
    except SpecError as refusal:
        ending = _judge_words(refusal)
        if refusal.fingerprint is None:
            ending = "the same bytes are fetched again for ever"
    except Exception as defect:
        ending = f"it is tried again for ever: {type(defect).__name__}: {defect}"
    if any((models / ".staging").iterdir()):
        ending = ending or "something is left in staging"
    return ending or _judge_world(folder, models, before)


def try_layers(write: Callable[[Path], list[LayerFile]], folder: Path, may_pass: bool) -> str | None:
    """Apply such layers. None where it was contained."""
    (folder / "beside").write_text("untouched")
    staging = folder / "models" / ".staging" / "3"
    staging.mkdir(parents=True)
    packed = folder / "models" / "download"
    packed.mkdir()
    layers = write(packed)
    before = _see(folder)
    where = "oci://registry/digits:v3"
    try:
        unpack_layers(layers, staging / "content", Unpacking(where, where, DEFAULT_LIMITS, lambda: None))
        ending = None if may_pass else "it was unpacked"
    except SpecError as refusal:
        ending = _judge_words(refusal)
    except Exception as defect:
        ending = f"it is tried again for ever: {type(defect).__name__}: {defect}"
    if [entry.name for entry in staging.iterdir()] not in ([], ["content"]):
        ending = ending or "something is beside the target"
    return ending or _judge_world(folder, folder / "models", before)


def _judge_words(refusal: SpecError) -> str | None:
    message = refusal.message
    if refusal.reason not in WORDS or not (message.startswith((URI, "oci://", "version 3")) and message.isprintable()):
        return f"it is refused without the right words: {refusal.reason.value} {message[:200]!r}"
    return f"its refusal has {len(message)} characters" if len(message) > 1000 else None


@dataclass(frozen=True, slots=True)
class _Seen:
    """outside: path → inode and size of what is beside the folder. children: of this process."""

    outside: dict[str, tuple[int, int]]
    children: set[int]


def _see(folder: Path) -> _Seen:
    return _Seen(_seen_outside(folder), _children())


def _judge_world(folder: Path, models: Path, before: _Seen) -> str | None:
    now = _see(folder)
    if now.outside != before.outside:
        return "something outside the models volume is another"
    allowed_bytes = DEFAULT_LIMITS.unpacked(0)
    for here, folders, files in os.walk(models):
        for name in (*folders, *files):
            status = os.lstat(os.path.join(here, name))
            if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
                return f"{name!a} is a link or a device"
            if status.st_mode & 0o7000:
                return f"{name!a} has a set-user-ID or like bit"
            if "download" not in here and status.st_size > allowed_bytes:
                return f"{name!a} has {status.st_size} bytes"
    return "a process is left" if now.children - before.children else None


def _seen_outside(folder: Path) -> dict[str, tuple[int, int]]:
    found = {}
    for place in (folder, folder.parent):
        for path in place.iterdir():
            if path != folder:
                status = path.lstat()
                found[str(path)] = (status.st_ino, status.st_size if path.is_file() else 0)
    return found


def _children() -> set[int]:
    return {
        int(child)
        for task in Path("/proc/self/task").iterdir()
        for child in (task / "children").read_text().split()
        if Path(f"/proc/{child}").exists()
    }


# how the tricks are made


def header(name: str, size: int = 0, kind: bytes = tarfile.REGTYPE, link: str = "", mode: int = 0o644) -> bytes:
    """One block of a tar; a name that is too long for it must come before it."""
    member = tarfile.TarInfo(name)
    member.size, member.type, member.linkname, member.mode = size, kind, link, mode
    return member.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")


def entry(name: str, content: bytes = b"x", mode: int = 0o644) -> bytes:
    return header(name, len(content), mode=mode) + content + b"\0" * (-len(content) % 512)


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> bytes:
    return header(name, kind=kind, link=target)


def pax(fields: dict[str, bytes], kind: bytes = tarfile.XHDTYPE) -> bytes:
    """A PAX header that says this of the next entry."""
    records = b""
    for key, value in fields.items():
        rest = b" " + key.encode() + b"=" + value + b"\n"
        size = len(rest) + len(str(len(rest) + 4))
        while len(f"{size}".encode()) + len(rest) != size:
            size = len(f"{size}".encode()) + len(rest)
        records += f"{size}".encode() + rest
    return header("./PaxHeaders/x", len(records), kind) + records + b"\0" * (-len(records) % 512)


MODEL = entry("model.onnx", b"weights")
END = b"\0" * 1024


def zeros(count: int) -> Iterator[bytes]:
    block = b"\0" * MIB
    for _ in range(count // MIB):
        yield block
    yield b"\0" * (count % MIB)


def gz(pieces: Pieces) -> Callable[[Path], None]:
    """A tar.gz of these pieces, made when it is written."""

    def write(path: Path) -> None:
        with gzip.open(path, "wb", compresslevel=1) as packed:
            for piece in pieces:
                packed.write(piece)

    return write


def gz_of_zeros(beginning: bytes, count: int) -> Callable[[Path], None]:
    """The beginning and so many zeros, as members that are made once and written often: quick, and small on disk."""

    def write(path: Path) -> None:
        packer = zlib.compressobj(9, zlib.DEFLATED, 31)
        block = b"".join(packer.compress(piece) for piece in zeros(64 * MIB)) + packer.flush()
        with path.open("wb") as file:
            file.write(gzip.compress(beginning))
            for _ in range(count // (64 * MIB)):
                file.write(block)

    return write


def one_layer(write: Callable[[Path], None]) -> Callable[[Path], list[LayerFile]]:
    def make(folder: Path) -> list[LayerFile]:
        write(folder / "0.blob")
        return [LayerFile(folder / "0.blob", None)]

    return make


def plain_layers(*layers: Pieces, names: tuple[str | None, ...] = ()) -> Callable[[Path], list[LayerFile]]:
    def make(folder: Path) -> list[LayerFile]:
        found = []
        for number, pieces in enumerate(layers):
            path = folder / f"{number}.blob"
            with path.open("wb") as file:
                file.writelines(pieces)
            found.append(LayerFile(path, names[number] if number < len(names) else None))
        return found

    return make


def zip_of(*names: str, mode: int = 0, content: bytes = b"x", method: int = zipfile.ZIP_STORED) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", method) as archive:
        for name in ("model.onnx", *names):
            info = zipfile.ZipInfo("x")
            info.filename, info.external_attr, info.compress_type = name, mode << 16 if name in names else 0, method
            archive.writestr(info, content)
    return packed.getvalue()


def bytes_of(content: bytes) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_bytes(content)

    return write


def central(name: bytes, offset: int, sizes: tuple[int, int, int] = (0, 0, 0), method: int = 0) -> bytes:
    """An entry of a zip's directory. sizes: crc, packed, unpacked."""
    fixed = struct.pack("<4s6H3I5H2I", b"PK\1\2", 20, 20, 0, method, 0, 0, *sizes, len(name), 0, 0, 0, 0, 0, offset)
    return fixed + name


def local(name: bytes, sizes: tuple[int, int, int] = (0, 0, 0), method: int = 0) -> bytes:
    return struct.pack("<4s5H3I2H", b"PK\3\4", 20, 0, method, 0, 0, *sizes, len(name), 0) + name


def ending(entries: int, size: int, offset: int) -> bytes:
    """The end of a zip, with the zip64 records, which hold what doesn't fit."""
    far = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, entries, entries, size, offset)
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, offset + size, 1)
    few = min(entries, 0xFFFF)
    return far + locator + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, few, few, 0xFFFFFFFF, 0xFFFFFFFF, 0)


def zip_directory(count: int, said: int | None = None, name: bytes = b"x") -> Callable[[Path], None]:
    """A zip that is nothing but a directory. said: how many entries it says that it has."""

    def write(path: Path) -> None:
        block = central(name, 0) * 10_000
        with path.open("wb") as file:
            for _ in range(count // 10_000):
                file.write(block)
            size = len(block) * (count // 10_000)
            file.write(ending(count if said is None else said, size, 0))

    return write


def zip_overlap(count: int, kernel_bytes: int) -> Callable[[Path], None]:
    """Every entry is the same bytes (the first of Fifield's two bombs)."""

    def write(path: Path) -> None:
        packer = zlib.compressobj(9, zlib.DEFLATED, -15)
        content = b"\0" * kernel_bytes
        packed = packer.compress(content) + packer.flush()
        sizes = (zlib.crc32(content), len(packed), len(content))
        first = local(b"model.onnx", sizes, 8) + packed
        directory = b"".join(central(f"{n}.onnx".encode(), 0, sizes, 8) for n in range(count))
        path.write_bytes(first + directory + ending(count, len(directory), len(first)))

    return write


def zip_quoted(count: int, kernel_bytes: int) -> Callable[[Path], None]:
    """Each entry quotes the headers of those after it, and ends in the bytes that all share (Fifield's other bomb)."""

    def write(path: Path) -> None:
        packer = zlib.compressobj(9, zlib.DEFLATED, -15)
        content = b"\0" * kernel_bytes
        body = packer.compress(content) + packer.flush()
        directory, tail = [], body
        for number in reversed(range(count)):
            name = f"{number:04d}.onnx".encode()
            sizes = (zlib.crc32(content), len(tail), len(content))
            head = local(name, sizes, 8)
            directory.append((name, sizes, len(tail) + len(head)))
            content = head + content
            tail = struct.pack("<BHH", 0, len(head), ~len(head) & 0xFFFF) + head + tail
        body = tail[5:]
        records = b"".join(central(name, len(body) - size, sizes, 8) for name, sizes, size in directory)
        path.write_bytes(body + records + ending(count, len(records), len(body)))

    return write


def zip_changed(change: Callable[[bytes], bytes], method: int = zipfile.ZIP_DEFLATED) -> Callable[[Path], None]:
    return bytes_of(change(zip_of("labels.txt", content=b"weights" * 100, method=method)))


def patch_all(packed: bytes, *changes: tuple[bytes, int, bytes]) -> bytes:
    """Other bytes at a distance from each place where a record's signature stands."""
    changed = bytearray(packed)
    for signature, distance, content in changes:
        at = packed.find(signature)
        while at >= 0:
            changed[at + distance : at + distance + len(content)] = content
            at = packed.find(signature, at + 1)
    return bytes(changed)


LOCAL, CENTRAL = b"PK\3\4", b"PK\1\2"


def zip_zeros(count: int) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with (
            zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive,
            archive.open("model.onnx", "w", force_zip64=True) as content,
        ):
            for block in zeros(count):
                content.write(block)

    return write


def many_entries(count: int) -> Callable[[Path], None]:
    """Each one of no bytes; the first 100,000 have names of their own."""

    def write(path: Path) -> None:
        packer = zlib.compressobj(9, zlib.DEFLATED, 31)
        block = b"".join(packer.compress(header(f"{number}")) for number in range(100_000)) + packer.flush()
        with path.open("wb") as file:
            for _ in range(count // 100_000):
                file.write(block)

    return write


def deep(count: int) -> Iterator[bytes]:
    """Each entry brings 60 folders of its own."""
    for number in range(count):
        yield pax({"path": (f"{number}/" + "d/" * 60 + "f").encode()}) + header("x")
    yield MODEL + END


def sparse_1_0(real: int, sizes: bytes) -> bytes:
    fields = {"GNU.sparse.major": b"1", "GNU.sparse.minor": b"0", "GNU.sparse.name": b"model.onnx"}
    return pax(fields | {"GNU.sparse.realsize": str(real).encode()}) + entry("x", sizes) + END


def old_sparse(real: int, is_extended: bool = False) -> bytes:
    """GNU's own type S: one hole over everything."""
    block = bytearray(header("model.onnx", 0, tarfile.GNUTYPE_SPARSE))
    block[386 : 386 + 24] = b"00000000000\0" + b"00000000000\0"
    block[482] = int(is_extended)
    block[483 : 483 + 12] = b"\x80" + real.to_bytes(11, "big")
    block[148:156] = b" " * 8
    block[148:156] = f"{sum(block):06o}\0 ".encode()
    return bytes(block)


def sized(size: bytes) -> bytes:
    """An entry whose size field holds these twelve bytes."""
    block = bytearray(header("model.onnx"))
    block[124:136] = size
    block[148:156] = b" " * 8
    block[148:156] = f"{sum(block):06o}\0 ".encode()
    return bytes(block)


def chain(count: int) -> Iterator[bytes]:
    """Links that each lead to the next, the last to the model."""
    for number in range(count):
        yield link(f"l{number}", f"l{number + 1}" if number + 1 < count else "model.onnx")
    yield MODEL + END


def names_of_one(count: int, size: int) -> Iterator[bytes]:
    yield header("model.onnx", size)
    yield from zeros(size + -size % 512)
    for number in range(count):
        yield link(f"{number}", "model.onnx", tarfile.LNKTYPE)
    yield END


def global_headers(count: int) -> Iterator[bytes]:
    """Each says 100 other things of all entries that follow, 9 KiB each."""
    for number in range(count):
        yield pax({f"k{number}.{turn}": b"v" * 9000 for turn in range(100)}, tarfile.XGLTYPE) + header(f"{number}")
    yield MODEL + END


def empty_members(count: int) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with path.open("wb") as file:
            file.write(gzip.compress(MODEL))
            for _ in range(count // 10_000):
                file.write(gzip.compress(b"") * 10_000)

    return write


def endless_name(count: int) -> Callable[[Path], None]:
    """A gzip whose own file name doesn't end."""

    def write(path: Path) -> None:
        with path.open("wb") as file:
            file.write(b"\x1f\x8b\x08\x08" + b"\0" * 6)
            file.writelines(b"n" * MIB for _ in range(count // MIB))

    return write


def flipped(packed: bytes, seed: int) -> bytes:
    """Some bytes changed, at places that the seed says."""
    changed = bytearray(packed)
    for turn in range(1 + seed % 7):
        place = zlib.crc32(f"{seed}.{turn}".encode()) % len(changed)
        changed[place] ^= 1 << (seed + turn) % 8
    return bytes(changed)


def try_flipped(kind: str, folder: Path) -> str | None:
    whole = zip_of("a/b", content=b"weights" * 50, method=8) if kind == "zip" else gzip.compress(TARBALL)
    for seed in range(20):
        place = folder / str(seed)
        place.mkdir()
        if kind == "layer":
            found = try_layers(plain_layers([flipped(TARBALL, seed)]), place, may_pass=True)
        else:
            found = try_archive(kind, bytes_of(flipped(whole, seed)), place, may_pass=True)
        if found is not None:
            return f"{found} (seed {seed})"
    return None


TARBALL = MODEL + link("b", "model.onnx") + pax({"path": b"\xc3\xa9"}) + entry("c") + END
TURNED = "gnp\u202eexe.onnx"

# name → pieces of a tar; tried as a tar.gz and as a layer. Harmless: it may be unpacked, below its folder
REFUSED_TARS: dict[str, Callable[[], Pieces]] = {
    "a name leads out": lambda: [entry("../evil"), MODEL, END],
    "a name leads out by a folder": lambda: [entry("a/../../evil"), MODEL, END],
    "a PAX path leads out": lambda: [pax({"path": b"../../evil"}), entry("x"), MODEL, END],
    "a GNU long name leads out": lambda: [header("x", 8, b"L"), b"../evil\0".ljust(512, b"\0"), entry("x"), MODEL, END],
    "a link to /etc/passwd": lambda: [MODEL, link("l", "/etc/passwd"), END],
    "a link to /proc/self/environ": lambda: [MODEL, link("l", "/proc/self/environ"), END],
    "a link to the folder above": lambda: [MODEL, link("l", ".."), END],
    "a hard link to /etc/passwd": lambda: [MODEL, link("l", "/etc/passwd", tarfile.LNKTYPE), END],
    "a hard link that leads out": lambda: [MODEL, link("l", "../../beside", tarfile.LNKTYPE), END],
    "a ring of links": lambda: [MODEL, link("a", "b"), link("b", "a"), END],
    "a link to itself": lambda: [MODEL, link("a", "a"), END],
    "a character device": lambda: [MODEL, header("zero", kind=tarfile.CHRTYPE), END],
    "a block device": lambda: [MODEL, header("sda", kind=tarfile.BLKTYPE), END],
    "a pipe": lambda: [MODEL, header("pipe", kind=tarfile.FIFOTYPE), END],
    "control characters in a name": lambda: [MODEL, entry("a\x1b[2Jb"), END],
    "a line break in a name": lambda: [MODEL, entry("a\nReady=True"), END],
    "a name that turns the line": lambda: [MODEL, entry(TURNED), END],
    "a name of no UTF-8": lambda: [MODEL, entry("caf\udce9"), END],
    "a NUL in a PAX path": lambda: [MODEL, pax({"path": b"a\0b"}), entry("x"), END],
    "a name of 300 bytes": lambda: [MODEL, pax({"path": b"n" * 300}), entry("x"), END],
    "a path of 5,000 bytes": lambda: [MODEL, pax({"path": b"/".join([b"n" * 99] * 50)}), entry("x"), END],
    "2,000 folders deep": lambda: [MODEL, pax({"path": b"d/" * 2000 + b"f"}), entry("x"), END],
    "a name that the digest leaves out": lambda: [MODEL, entry("..data/evil.py"), END],
    "PAX: 8 EiB": lambda: [pax({"size": b"9223372036854775807"}), entry("model.onnx"), END],
    "size: 10 TiB": lambda: [sized(b"\x80" + (10 << 40).to_bytes(11, "big")), END],
    "size: below nothing": lambda: [MODEL, sized(b"\xff" * 12), END],
    "PAX: size below nothing": lambda: [MODEL, pax({"size": b"-1024"}), entry("a"), MODEL, END],
    "a GNU sparse file of 10 TiB": lambda: [old_sparse(10 << 40), END],
    "a PAX sparse file of 10 TiB": lambda: [sparse_1_0(10 << 40, b"1\n0\n0\n".ljust(512, b"\0"))],
    "a PAX sparse map without an end": lambda: [sparse_1_0(1, b"9999999999\n" + b"1\n" * 700_000)],
    "PAX headers in PAX headers": lambda: [pax({"a": b"b"}) * 50_000, MODEL, END],
}
HARMLESS_TARS: dict[str, Callable[[], Pieces]] = {
    "a link, and a file through it": lambda: [MODEL, link("d", "/tmp"), entry("d/evil"), END],
    "an absolute name": lambda: [entry("/evil"), MODEL, END],
    "backslashes": lambda: [entry("a\\..\\..\\evil"), MODEL, END],
    "a drive": lambda: [entry("C:evil"), MODEL, END],
    "set-user-ID": lambda: [MODEL, entry("sh", mode=0o6755), END],
    "one name twice": lambda: [MODEL, MODEL, END],
    "a file and a folder of one name": lambda: [MODEL, entry("a"), entry("a/b"), END],
    "a folder and a file of one name": lambda: [MODEL, entry("a/b"), entry("a"), END],
    "names that differ in case": lambda: [MODEL, entry("Model.onnx"), entry("MODEL.onnx"), END],
    "é composed and decomposed": lambda: [MODEL, entry("\u00e9"), entry("e\u0301"), END],
    "dots and blanks at the end": lambda: [MODEL, entry("a."), entry("a "), entry("a.."), END],
    "a chain of 300 links": lambda: chain(300),
    "no entry at all": lambda: [END],
    "nothing": list,
    "cut": lambda: [MODEL, header("big", 4096)],
    "a tar in a tar": lambda: [MODEL, entry("inner.tar.gz", gzip.compress(TARBALL)), END],
}
LARGE_TARS: dict[str, Callable[[Path], None]] = {
    "a PAX header of 600 MB": gz_of_zeros(header("x", 600 * MIB, tarfile.XHDTYPE), 640 * MIB),
    "a global PAX header of 600 MB": gz_of_zeros(header("x", 600 * MIB, tarfile.XGLTYPE), 640 * MIB),
    "a GNU long name of 600 MB": gz_of_zeros(header("x", 600 * MIB, tarfile.GNUTYPE_LONGNAME), 640 * MIB),
    "a GNU long link of 600 MB": gz_of_zeros(header("x", 600 * MIB, tarfile.GNUTYPE_LONGLINK), 640 * MIB),
    "a GNU sparse map of 600 MB": gz(
        [old_sparse(1, is_extended=True), *([(b"0" * 24 * 21 + b"\1".ljust(8, b"\0")) * 2048] * 600)]
    ),
    "3 MB to 3 GiB": gz_of_zeros(header("model.onnx", 3 * GIB), 3 * GIB + 64 * MIB),
    "10 million entries": many_entries(10_000_000),
    "2,000 entries with 60 folders each": lambda path: gz(deep(2_000))(path),
    "global PAX headers between entries": lambda path: gz(global_headers(400))(path),
    "50,001 entries": lambda path: gz([header(f"{number}") for number in range(50_001)])(path),
    "a chain of 20,000 links": lambda path: gz(chain(20_000))(path),
    "2,000 names of one file of 100 MB": lambda path: gz(names_of_one(2_000, 100 * MIB))(path),
}
LARGE_BUT_HARMLESS = {"a chain of 20,000 links"}

# layers alone
LAYERS: dict[str, tuple[Callable[[Path], list[LayerFile]], bool]] = {
    "a whiteout of the folder above": (plain_layers([MODEL, END], [header(".wh..."), END]), False),
    "a whiteout below a folder, of the one above": (
        plain_layers([entry("a/b"), END], [header("a/.wh..."), END]),
        False,
    ),
    "a whiteout of nothing": (plain_layers([MODEL, END], [header(".wh."), END]), False),
    "a whiteout through a link": (plain_layers([link("a", "/"), MODEL, END], [header("a/.wh.etc"), END]), True),
    "an opaque marker through a link": (plain_layers([link("a", "/"), MODEL], [header("a/.wh..wh..opq"), END]), True),
    "the whole root opaque": (plain_layers([MODEL, END], [header(".wh..wh..opq"), entry("a"), END]), True),
    "/models is a link": (plain_layers([link("models", "/etc"), entry("models/passwd"), END]), True),
    "a link becomes a folder": (plain_layers([link("a", "models/m"), entry("a/b"), entry("models/m"), END]), True),
    "a hard link to what it replaces": (
        plain_layers([entry("a/b"), link("a", "a/b", tarfile.LNKTYPE), END], [MODEL, END]),
        False,
    ),
    "a file's name leads out": (plain_layers([b"x"], names=("../evil",)), False),
    "a file's name is a whiteout": (plain_layers([MODEL, END], [b"x"], names=(None, ".wh..wh..opq")), True),
    "zstd": (plain_layers([b"\x28\xb5\x2f\xfd" + b"\0" * 100]), False),
    "1,001 layers": (plain_layers(*[[END]] * 1001), False),
}
LARGE_LAYERS: dict[str, tuple[Callable[[Path], list[LayerFile]], bool]] = {
    "10,000 opaque markers over 10,000 files": (
        plain_layers(
            (header(f"d/{number}") for number in range(10_000)),
            (header(f"d/{number}/.wh..wh..opq") for number in range(10_000)),
        ),
        True,
    ),
    "20,000 links and 20,000 files": (
        plain_layers([*(link(f"l{n}", "x") for n in range(20_000)), *(header(f"f{n}") for n in range(20_000)), END]),
        True,
    ),
}

# zips alone: (the file, whether it may be unpacked)
ZIPS: dict[str, tuple[Callable[[Path], None], bool]] = {
    "a name leads out": (bytes_of(zip_of("../evil")), False),
    "a name leads out by a folder": (bytes_of(zip_of("a/../../evil")), False),
    "an absolute name": (bytes_of(zip_of("/evil")), False),
    "backslashes": (bytes_of(zip_of("a\\..\\..\\evil")), False),
    "a drive": (bytes_of(zip_of("C:/evil")), False),
    "a link to /etc/passwd": (bytes_of(zip_of("l", mode=0o120777, content=b"/etc/passwd")), False),
    "a device": (bytes_of(zip_of("zero", mode=0o020666)), False),
    "a pipe": (bytes_of(zip_of("pipe", mode=0o010666)), False),
    "set-user-ID": (bytes_of(zip_of("sh", mode=0o106755)), True),
    "control characters in a name": (bytes_of(zip_of("a\x1b[2Jb")), False),
    "a name that turns the line": (bytes_of(zip_of(TURNED)), False),
    "a name of 300 bytes": (bytes_of(zip_of("n" * 300)), False),
    "a path of 5,000 bytes": (bytes_of(zip_of("/".join(["n" * 99] * 50))), False),
    "2,000 folders deep": (bytes_of(zip_of("d/" * 2000 + "f")), False),
    "a name that the digest leaves out": (bytes_of(zip_of("..data/evil.py")), False),
    "names that differ in case": (bytes_of(zip_of("Model.onnx", "MODEL.onnx")), True),
    "é composed and decomposed": (bytes_of(zip_of("\u00e9", "e\u0301")), True),
    "dots and blanks at the end": (bytes_of(zip_of("a.", "a ", "a..")), True),
    "a file and a folder of one name": (bytes_of(zip_of("a", "a/b")), False),
    "encrypted": (zip_changed(lambda packed: patch_all(packed, (LOCAL, 6, b"\1"), (CENTRAL, 8, b"\1"))), False),
    "a method that is unknown": (
        zip_changed(lambda packed: patch_all(packed, (LOCAL, 8, b"\x63"), (CENTRAL, 10, b"\x63"))),
        False,
    ),
    "fewer bytes than it says": (zip_changed(lambda packed: patch_all(packed, (CENTRAL, 24, b"\xff\xff\0\0"))), False),
    "more bytes than it says": (zip_changed(lambda packed: patch_all(packed, (CENTRAL, 24, b"\1\0\0\0"))), False),
    "LZMA with a dictionary of 4 GiB": (
        zip_changed(
            lambda packed: patch_all(packed, (b"labels.txt\x09", 11 + 4, b"\xff\xff\xff\xff")), zipfile.ZIP_LZMA
        ),
        False,
    ),
    "an offset before the beginning": (
        zip_changed(lambda packed: packed[:-6] + struct.pack("<L", 0xFFFFFF) + packed[-2:]),
        False,
    ),
    "a comment that is another end": (zip_changed(lambda packed: packed[:-2] + b"\x16\0" + packed[-22:]), True),
    "the same bytes in 20,000 entries": (zip_overlap(20_000, MIB), False),
    "the same bytes, quoted, in 1,000 entries": (zip_quoted(1_000, MIB), False),
    "50,010 entries": (zip_directory(60_000), False),
    "60,000 entries, said to be 1": (zip_directory(60_000, said=1), False),
    "nothing": (bytes_of(b""), False),
    "an end and nothing else": (bytes_of(b"PK\5\6" + b"\0" * 18), True),
    "a zip in a zip": (bytes_of(zip_of("inner.zip", content=zip_of())), True),
}
LARGE_ZIPS: dict[str, Callable[[Path], None]] = {
    "10 million entries": zip_directory(10_000_000),
    "10 million entries, said to be 1": zip_directory(10_000_000, said=1),
    "300,000 entries, said to be 1": zip_directory(300_000, said=1, name=b""),
    "3 MB to 3 GiB": zip_zeros(3 * GIB),
}

GZIPS: dict[str, tuple[Callable[[Path], None], bool]] = {
    "something after the end": (bytes_of(gzip.compress(TARBALL) + b"garbage" * 1000), True),
    "two members": (bytes_of(gzip.compress(MODEL) + gzip.compress(END)), True),
    "a cut end": (bytes_of(gzip.compress(MODEL + entry("b", os.urandom(9999)) + END)[:5000]), False),
    "no tar in it": (bytes_of(gzip.compress(b"no tar" * 1000)), False),
    "no gzip at all": (bytes_of(b""), False),
}
LARGE_GZIPS: dict[str, Callable[[Path], None]] = {
    "2 million empty members": empty_members(2_000_000),
    "a file name of 64 MB": endless_name(64 * MIB),
}


def _of_archive(kind: str, name: str, write: Callable[[Path], None], may_pass: bool) -> Attack:
    return Attack("archive", f"{kind}: {name}", lambda folder: try_archive(kind, write, folder, may_pass))


def _of_layers(name: str, write: Callable[[Path], list[LayerFile]], may_pass: bool) -> Attack:
    return Attack("archive", f"layer: {name}", lambda folder: try_layers(write, folder, may_pass))


# In a layer these lead nowhere: names are read from its root, and what lies beside the model isn't its matter.
PASSES_AS_LAYER = {"a link to the folder above"}


def _tars(tricks: dict[str, Callable[[], Pieces]], may_pass: bool) -> Iterator[Attack]:
    for name, pieces in tricks.items():
        yield _of_archive("tar.gz", name, lambda path, pieces=pieces: gz(pieces())(path), may_pass)  # type: ignore[misc]
        as_layer = one_layer(lambda path, pieces=pieces: gz(pieces())(path))  # type: ignore[misc]
        yield _of_layers(name, as_layer, may_pass or name in PASSES_AS_LAYER)


QUICK: list[Attack] = [
    *_tars(REFUSED_TARS, may_pass=False),
    *_tars(HARMLESS_TARS, may_pass=True),
    *(_of_archive("zip", name, write, may_pass) for name, (write, may_pass) in ZIPS.items()),
    *(_of_archive("tar.gz", name, write, may_pass) for name, (write, may_pass) in GZIPS.items()),
    *(_of_layers(name, write, may_pass) for name, (write, may_pass) in LAYERS.items()),
]
LARGE: list[Attack] = [
    *(_of_archive("tar.gz", name, write, name in LARGE_BUT_HARMLESS) for name, write in LARGE_TARS.items()),
    *(_of_layers(name, one_layer(write), name in LARGE_BUT_HARMLESS) for name, write in LARGE_TARS.items()),
    *(_of_layers(name, write, may_pass) for name, (write, may_pass) in LARGE_LAYERS.items()),
    *(_of_archive("zip", name, write, may_pass=False) for name, write in LARGE_ZIPS.items()),
    *(_of_archive("tar.gz", name, write, may_pass=True) for name, write in LARGE_GZIPS.items()),
    *(
        Attack("archive", f"{kind}: bytes changed by chance", lambda folder, kind=kind: try_flipped(kind, folder))  # type: ignore[misc]
        for kind in ("zip", "tar.gz", "layer")
    ),
]
ATTACKS: list[Attack] = QUICK + LARGE
