"""One rendered YAML file as its difference from another: read object by object, and exact to the byte.

A difference lists the objects of the file in their order, each below a title:

    == ConfigMap digits-807aed3907, from ConfigMap digits-d2e878d329 with 807aed3907 for d2e878d329
    @@ data.agent.json.source
    -     "path": "/source/digits",
    +     "path": "/source/first",

An object is compared with the last one before it, in this file or else in the base, that plays the same role: same
kind, same name but for the WORDS in it. Those words are exchanged first, so that no line differs by a revision's hash
alone. A title without lines: the same as the other, to the byte. `new`: nothing plays this role before. `not here`:
only the base has it. Behind @@ stand the fields around the first line that differs.

Law: applied(base, difference(base, text)) == text. So a test that compares the difference compares every byte.
"""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

WORDS = (
    "namespace",
    "app.kubernetes.io/part-of",
    "slipway.dev/revision",
)  # fields whose values stand all over an object
TITLE = re.compile(r"== (?P<title>.+?)(?:, from (?P<source>.+?)(?: with (?P<words>.+))?|, new|, not here)")
FIELD = re.compile(r' *(?:- )?"?(?P<key>[^\s":]+)"?:(?: "?(?P<value>[^\s"]+))?')


@dataclass(frozen=True, slots=True)
class Written:
    """One object as text: what it is called, the role it plays, and the values of WORDS by which others differ."""

    text: str
    title: str
    role: str
    words: Mapping[str, str]

    @classmethod
    def of(cls, text: str) -> Written:
        found = {key: re.search(rf"^ *{re.escape(key)}: (.+)$", text, re.MULTILINE) for key in ("kind", "name", *WORDS)}
        values = {key: match[1].strip("'") for key, match in found.items() if match}
        title = f"{values.pop('kind')} {values.pop('name')}"
        return cls(text, title, _exchanged(title, {word: key for key, word in values.items()}), values)


def check(text: str, golden: Path, base: Path | None = None, *, update: bool) -> None:
    """The committed file is the text, or its difference from the committed `base`; with `update` it is written anew."""
    if update:
        golden.write_text(difference(base.read_text(), text) if base else text)
    committed = golden.read_text()
    hint = "if that is meant: pytest tests/golden --update-golden, and read the difference"
    assert (applied(base.read_text(), committed) if base else committed) == text, hint
    assert not base or committed == difference(base.read_text(), text), hint


def difference(base: str, text: str) -> str:
    """What `applied` makes `text` from, with `base`. Both end with a line's end."""
    known = {one.title: one for one in _objects(base)}
    absent = dict(known)
    lines: list[str] = []
    for one in _objects(text):
        other = next((earlier for earlier in reversed(known.values()) if earlier.role == one.role), None)
        if other is None:
            lines += [f"== {one.title}, new", *(f"+{line}" for line in one.text.split("\n"))]
        else:
            words = {word: one.words[key] for key, word in other.words.items() if one.words.get(key, word) != word}
            said = " with " * bool(words) + ", ".join(f"{new} for {old}" for old, new in words.items())
            lines.append(f"== {one.title}, from {other.title}{said}")
            lines += _hunks(_exchanged(other.text, words).split("\n"), one.text.split("\n"))
        known.pop(one.title, None)  # so that it becomes the last one
        known[one.title] = one
        absent = {title: other for title, other in absent.items() if other.role != one.role}
    lines += [f"== {one.title}, not here" for one in absent.values()]
    return "\n".join(lines) + "\n"


def applied(base: str, written: str) -> str:
    """The text whose difference from `base` is `written`. ValueError: it is none, or it is from another base."""
    known = {one.title: one.text for one in _objects(base)}
    made: list[str] = []
    for part in re.split(r"^(?=== )", written, flags=re.MULTILINE)[1:]:
        head, *lines = part.removesuffix("\n").split("\n")
        title = TITLE.fullmatch(head)
        if title is None or (title["source"] or title["title"]) not in {*known, title["title"]}:
            raise ValueError(f"not the title of an object: {head}")
        if head.endswith(", not here"):
            continue
        pairs = [pair.split(" for ") for pair in (title["words"] or "").split(", ") if pair]
        words = {old: new for new, old in pairs}
        other = _exchanged(known[title["source"]], words).split("\n") if title["source"] else []
        known[title["title"]] = "\n".join(_changed(other, lines))
        made.append(known[title["title"]])
    return "\n---\n".join(made) + "\n"


def _objects(text: str) -> list[Written]:
    return [Written.of(one) for one in text.removesuffix("\n").split("\n---\n")]


def _exchanged(text: str, words: Mapping[str, str]) -> str:
    """Every key of `words` gives way to its value, all at once."""
    longest_first = "|".join(map(re.escape, sorted(words, key=len, reverse=True)))
    return re.sub(longest_first, lambda found: words[found[0]], text) if words else text


def _hunks(old: Sequence[str], new: Sequence[str]) -> list[str]:
    """A unified diff with fields in place of line numbers: as many lines around each hunk as show where it belongs."""
    for around in range(1, len(old) + 2):
        hunks = list(_with_fields(old, list(difflib.unified_diff(old, new, n=around, lineterm=""))[2:]))
        try:
            if _changed(old, hunks) == new:
                return hunks
        except ValueError:
            continue
    raise AssertionError("with all lines around it a hunk fits at one place only")


def _changed(old: Sequence[str], lines: Sequence[str]) -> list[str]:
    """`old` with each hunk where its old lines first stand behind the one before. ValueError: nowhere."""
    new: list[str] = []
    at = 0
    for starts, hunk in itertools.groupby(lines, lambda line: line.startswith("@@")):
        if starts:
            continue
        marked = list(hunk)
        before = [line[1:] for line in marked if line[:1] != "+"]
        places = range(at, len(old) - len(before) + 1)
        found = next((place for place in places if old[place : place + len(before)] == before), None)
        if found is None:
            raise ValueError("these lines are not in the object that it differs from:\n" + "\n".join(before))
        new += [*old[at:found], *(line[1:] for line in marked if line[:1] != "-")]
        at = found + len(before)
    return [*new, *old[at:]]


def _with_fields(old: Sequence[str], unified: Sequence[str]) -> Iterator[str]:
    for at, line in enumerate(unified):
        if not line.startswith("@@"):
            yield line
            continue
        start = int(line.split()[1].split(",")[0][1:]) - 1  # @@ -START,COUNT +START,COUNT @@, counted from 1
        same = next(after for after, other in enumerate(unified[at + 1 :]) if other[0] != " ")
        yield f"@@ {_fields(old[: start + same], unified[at + 1 + same][1:])}".rstrip()


def _fields(above: Sequence[str], line: str) -> str:
    """The fields around a line of YAML, or of JSON within it, from the outermost to the innermost."""
    fields: list[str] = []
    depth = _depth(line)
    for line in reversed(above):
        if line.strip() and _depth(line) < depth:
            depth = _depth(line)
            if field := FIELD.match(line):
                is_item = line.lstrip().startswith("- ") and field["value"]
                fields.insert(0, field["value"] if is_item else field["key"])
    return ".".join(fields)


def _depth(line: str) -> int:
    """YAML writes the items of a list as far left as the field above them: half a step further in."""
    bare = line.lstrip(" ")
    return 2 * (len(line) - len(bare)) + bare.startswith("- ")
