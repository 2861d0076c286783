"""The committed mutants: small faults, each of which a test must notice; where they are in today's tree.

A mutant is found by its words, not by its place, so that it outlives moved files, split functions and renamed
variables. Its original must occur exactly once: in functions of its name, or, where these don't hold it, in the whole
package. Line breaks, comments, trailing commas and leading underscores don't count, and a word of the original stands
for each of its renamings (`[words]` in mutants.toml).
Invariant: what can't be found fails; nothing is left out in silence.
"""

from __future__ import annotations

import ast
import difflib
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

TABLE = Path(__file__).with_name("mutants.toml")
PACKAGES = {
    "decide": ("operator/slipway", "operator/slipway/cli"),
    "render": ("operator/slipway", "operator/slipway/cli"),
    "plan": ("serving-images/agent/slipway_agent", "serving-images/agent/slipway_agent/servers"),
}
"""Area → where its mutants are looked for, and what of that is left out."""

_TOKEN = re.compile(r'#[^\n]*|[rbfRBF]{0,2}(?:"""[\s\S]*?"""|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\')|\w+|[^\w\s]')
_WORD = re.compile(r"[A-Za-z_]\w*")

Words = Mapping[str, Sequence[str]]
Token = tuple[str, int, int]


class NotFoundError(Exception):
    """A mutant isn't in the tree exactly once; the message says what to mend."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """meaning: what goes wrong, for a reader. killed_by: names of test functions that noticed it before."""

    id: str
    area: str
    meaning: str
    function: str
    original: str
    replacement: str
    killed_by: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Change:
    """A mutant in the tree: these characters of a file become others. path: below the root."""

    path: Path
    function: str
    line: int
    start: int
    end: int
    text: str

    def apply(self, source: str) -> str:
        """The file with the fault in it."""
        return source[: self.start] + self.text + source[self.end :]


def read_table(text: str) -> tuple[list[Mutant], Words, Mapping[str, Sequence[str]]]:
    """Mutants, renamed words (former → today's), and area → globs of the files that mutants are drawn from."""
    raw = tomllib.loads(text)
    mutants = [Mutant(**{**each, "killed_by": tuple(each.get("killed_by", ()))}) for each in raw["mutant"]]
    return mutants, raw["words"], raw["areas"]


def read_sources(root: Path, area: str) -> dict[Path, str]:
    """Path below the root → text, of all files in which the area's mutants may be."""
    package, left_out = PACKAGES[area]
    found = {path.relative_to(root): path for path in sorted((root / package).rglob("*.py"))}
    return {at: path.read_text() for at, path in found.items() if Path(left_out) not in at.parents}


def find(mutant: Mutant, sources: Mapping[Path, str], words: Words) -> Change:
    """Where the mutant is. Raises NotFoundError unless that is one place."""
    wanted = [text for text, _, _ in tokens(mutant.original)]
    found = [
        (path, start, renamed) for path, source in sources.items() for start, renamed in _matches(wanted, source, words)
    ]
    placed = [
        (function_at(sources[path], tokens(sources[path])[start][1]), path, start, renamed)
        for path, start, renamed in found
    ]
    inside = (
        [each for each in placed if each[0] == mutant.function]
        or [each for each in placed if _bare(each[0]) == _bare(mutant.function)]
        or placed
    )
    if len(inside) != 1:
        where = ", ".join(sorted({f"{path}:{function}" for function, path, *_ in inside})) or _nearest(mutant, sources)
        raise NotFoundError(
            f"{mutant.id}: `{mutant.original}` is there {len(inside)} times ({where}), and must be once. "
            f"Mend original, replacement or function in {TABLE.name}, or add a renamed word to its [words]"
        )
    ((function, path, start, renamed),) = inside
    read, source = tokens(sources[path]), sources[path]
    text = _WORD.sub(lambda word: renamed.get(word[0], word[0]), mutant.replacement)
    first = read[start][1]
    change = Change(path, function, 1 + source.count("\n", 0, first), first, read[start + len(wanted) - 1][2], text)
    ast.parse(change.apply(source))
    return change


@cache
def tokens(source: str) -> list[Token]:
    """Words, signs and texts with their offsets; comments and commas before a closing bracket left out."""
    found = [(match[0], *match.span()) for match in _TOKEN.finditer(source) if not match[0].startswith("#")]
    following = [text for text, _, _ in found[1:]] + [""]
    return [token for token, after in zip(found, following, strict=True) if token[0] != "," or after not in (*")]}",)]


def _matches(wanted: Sequence[str], source: str, words: Words) -> list[tuple[int, dict[str, str]]]:
    """Position of the first token, and the words that are others there, of each occurrence."""
    read = [text for text, _, _ in tokens(source)]
    allowed = [{_bare(text), *map(_bare, words.get(text, ()))} for text in wanted]
    return [
        (start, {ours: theirs for ours, theirs in zip(wanted, read[start:], strict=False) if ours != theirs})
        for start, text in enumerate(read[: len(read) - len(wanted) + 1])
        if _bare(text) in allowed[0]
        and all(_bare(there) in each for there, each in zip(read[start:], allowed, strict=False))
    ]


def function_at(source: str, offset: int) -> str:
    """The name of the innermost function around an offset; `module` outside of all."""
    line = 1 + source.count("\n", 0, offset)
    return next((name for first, last, name in _functions(source) if first <= line <= last), "module")


@cache
def _functions(source: str) -> list[tuple[int, int, str]]:
    """First line, last line, name; the innermost first."""
    found = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return sorted(((node.lineno, node.end_lineno or 0, node.name) for node in found), reverse=True)


def _bare(name: str) -> str:
    return name.lstrip("_") or name


def _nearest(mutant: Mutant, sources: Mapping[Path, str]) -> str:
    """The line most like the original's first: what it may have become."""
    lines = {line.strip(): path for path, source in sources.items() for line in source.splitlines()}
    like = difflib.get_close_matches(mutant.original.strip().splitlines()[0], list(lines), n=1, cutoff=0)
    return f"nearest: `{like[0]}` in {lines[like[0]]}" if like else "nothing is like it"
