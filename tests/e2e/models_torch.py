"""`.mar` files, made by torch-model-archiver itself. No torch is needed: handlers are Python, and TorchScript is text.

A multiplier's answer tells which version gave it. The colour classifier is TorchScript behind TorchServe's own
`image_classifier`: which of six colours a picture has most of.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import subprocess
import sys
import types
import zipfile
import zlib
from pathlib import Path

MULTIPLIER = '''\
"""Multiplies by the factor that lies beside it. `sleep` makes an answer take that long, `exit` ends the worker."""
import json
import os
import time


class Multiplier:
    def initialize(self, context):
        with open(os.path.join(context.system_properties["model_dir"], "factor.txt")) as file:
            self.factor = float(file.read())

    def handle(self, data, context):
        rows = [row.get("body") or row.get("data") or row for row in data]
        rows = [json.loads(bytes(row)) if isinstance(row, (bytes, bytearray)) else row for row in rows]
        if any(row.get("exit") for row in rows):
            os._exit(1)
        time.sleep(max(row.get("sleep", 0) for row in rows))
        return [{"y": [self.factor * each for each in row["x"]], "batch": len(rows)} for row in rows]
'''

FAILING = MULTIPLIER.replace(
    "        time.sleep",
    """        if any(row["x"][0] > 50 for row in rows):
            raise ValueError("the multiplier of large numbers is not trained yet")
        time.sleep""",
)

BROKEN = """\
class Broken:
    def initialize(self, context):
        raise ValueError("the tokenizer's vocabulary is empty")

    def handle(self, data, context):
        return data
"""

COLOURS = ("red", "green", "blue", "cyan", "magenta", "yellow")
SCRIPT = """\
class Colour(Module):
  __parameters__ = []
  __buffers__ = []
  training : bool
  sharpness : float
  def forward(self: __torch__.Colour,
    image: Tensor) -> Tensor:
    strength = torch.mean(image, [2, 3])
    colours = torch.cat([strength, torch.neg(strength)], 1)
    return torch.mul(colours, self.sharpness)
"""


def archive(folder: Path, name: str, handler: str, *options: str, said: str = "1.0") -> Path:
    """`torch-model-archiver` as a person runs it: FOLDER/NAME.mar. `said`: the version in the manifest."""
    command = [
        sys.executable, "-m", "model_archiver.model_packaging",
        "--model-name", name, "--version", said, "--handler", handler, "--export-path", str(folder), "--force",
        *options,
    ]  # fmt: skip
    # it packs in TMPDIR/NAME, where two that pack one name at a time would take away each other's files
    environment = os.environ | {"PYTHONSAFEPATH": "1", "TMPDIR": str(folder / "packing")}
    (folder / "packing").mkdir(exist_ok=True)
    subprocess.run(command, check=True, capture_output=True, cwd=folder, env=environment)
    return folder / f"{name}.mar"


def multiplier(
    folder: Path,
    factor: float,
    said: str = "1.0",
    config: str | None = None,
    *options: str,
    handler: str = MULTIPLIER,
) -> Path:
    """A custom handler, its data beside it. `config`: the text of its model-config.yaml."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "handler.py").write_text(handler)
    (folder / "factor.txt").write_text(f"{factor}\n")
    if config is not None:
        (folder / "model-config.yaml").write_text(config)
        options = ("--config-file", "model-config.yaml", *options)
    return archive(folder, "multiplier", "handler.py", "--extra-files", "factor.txt", *options, said=said)


def broken(folder: Path) -> Path:
    """A handler that raises when it is initialized."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "broken.py").write_text(BROKEN)
    return archive(folder, "multiplier", "broken.py")


def colours(folder: Path, sharpness: float, said: str = "1.0") -> Path:
    """TorchScript behind a handler of TorchServe's own."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "colours.pt").write_bytes(torchscript(sharpness))
    (folder / "index_to_name.json").write_text(json.dumps({str(index): name for index, name in enumerate(COLOURS)}))
    options = ("--serialized-file", "colours.pt", "--extra-files", "index_to_name.json")
    return archive(folder, "colours", "image_classifier", *options, said=said)


def torchscript(sharpness: float) -> bytes:
    """What torch.jit.save would write of SCRIPT: its text, and its one attribute pickled."""
    module = types.ModuleType("__torch__")
    colour = type("Colour", (), {"__module__": "__torch__"})
    module.Colour = colour  # type: ignore[attr-defined]
    instance = colour()
    instance.__dict__ |= {"training": False, "sharpness": sharpness}
    sys.modules["__torch__"] = module
    try:
        pickled = pickle.dumps(instance, protocol=2)
    finally:
        del sys.modules["__torch__"]
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_STORED) as file:
        file.writestr("archive/data.pkl", pickled)
        file.writestr("archive/code/__torch__.py", SCRIPT)
        file.writestr("archive/constants.pkl", pickle.dumps((), protocol=2))
        file.writestr("archive/version", "3\n")
    return written.getvalue()


def picture(red: int, green: int, blue: int, side: int = 32) -> bytes:
    """A PNG of one colour."""
    rows = (b"\0" + bytes((red, green, blue)) * side) * side

    def chunk(kind: bytes, content: bytes) -> bytes:
        checked = kind + content
        return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts
