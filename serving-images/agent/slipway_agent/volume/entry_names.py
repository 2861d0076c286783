"""Names that an archive or an image may give its files, judged as text. Pure; imports nothing of the agent.

What a file system refuses, what a recursive walk can't survive, what isn't what it looks like in a log or a condition,
and what the folder digest leaves out. Two names that a person can't tell apart, but Linux can, are two files.
"""

import unicodedata

NAME_BYTES, PATH_BYTES, DEPTH = 255, 2048, 64
"""Linux's own for a name; a path has 4096 with everything above it; folders deeper than that nobody makes by hand."""
_TURNING = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_CONTROLS = ("Cc", "Cs", "Zl", "Zp")


def find_fault(path: str, whole: str = "archive") -> str | None:
    """What is wrong with a relative path without empty parts, as the rest of "the entry X …"; None: nothing.

    "a/b.onnx" is None; "a/../b" "leads out of the archive by '..'".
    """
    parts = path.split("/")
    if ".." in parts:
        return f"leads out of the {whole} by '..'"
    if any(part.startswith("..") for part in parts):
        return "begins with '..': the folder digest leaves such names out"
    if any(unicodedata.category(character) in _CONTROLS or character in _TURNING for character in path):
        return "has a name that isn't printable UTF-8"
    if any(len(part.encode()) > NAME_BYTES for part in parts):
        return f"has a name of more than {NAME_BYTES} bytes, which no file system takes"
    if len(path.encode()) > PATH_BYTES:
        return f"has a path of {len(path.encode())} bytes, and {PATH_BYTES} are taken at most"
    if len(parts) > DEPTH:
        return f"lies {len(parts)} folders deep, and {DEPTH} are made at most"
    return None


def show_name(name: str) -> str:
    """For a message: no control character, no surrogate, no turning of the line, and not endless."""
    short = name if len(name) <= 120 else f"{name[:120]}…"
    return short if short.isprintable() and not _TURNING & set(short) else ascii(short)
