"""`make mutants`: a mutant is found by its words wherever they went, and one that can't be found fails."""

import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.mutation.drawn import draw
from tests.mutation.table import TABLE, Change, Mutant, NotFoundError, find, read_sources, read_table
from tests.mutation.trial import Copy

ROOT = Path(__file__).parents[2]
HERE = Path("rollout.py")
BEFORE = """
def judge(carrier, verdict):
    if carrier.ready == 0:  # nobody answers
        return None
    return verdict.is_good(
        carrier, limit=1,
    )


def hold(carrier):
    return carrier.ready == 0
"""
AFTER = """
def judge(workload, verdict):
    return None if workload.ready == 0 else _good(workload, verdict)


def _good(workload, verdict):
    return verdict.is_good(workload, limit=1)
"""
WORDS = {"carrier": ["workload"]}


def mutant(original: str, replacement: str, function: str = "judge") -> Mutant:
    return Mutant("m", "decide", "", function, original, replacement)


def mutated(source: str, change: Change) -> str:
    return re.sub(r"\s+", " ", change.apply(source))


def test_a_snippet_is_found_in_its_function_alone() -> None:
    change = find(mutant("carrier.ready == 0", "carrier.ready < 0"), {HERE: BEFORE}, WORDS)
    assert (change.function, change.line) == ("judge", 3)
    assert change.apply(BEFORE) == BEFORE.replace("ready == 0:", "ready < 0:")


def test_line_breaks_comments_and_trailing_commas_are_not_what_a_snippet_is() -> None:
    change = find(mutant("is_good(carrier, limit=1)", "is_good(carrier, limit=2)"), {HERE: BEFORE}, WORDS)
    assert "return verdict.is_good(carrier, limit=2) def hold" in mutated(BEFORE, change)


def test_a_renamed_word_and_a_split_function_do_not_hide_it() -> None:
    change = find(mutant("is_good(carrier, limit=1)", "is_bad(carrier, limit=1)"), {HERE: AFTER}, WORDS)
    assert change.function == "_good"
    assert "return verdict.is_bad(workload, limit=1)" in mutated(AFTER, change)


def test_a_leading_underscore_of_a_function_does_not_count() -> None:
    sources = {HERE: BEFORE, Path("other.py"): AFTER.replace("_good", "judge_all")}
    assert find(mutant("carrier.ready == 0", "", "_hold"), {HERE: BEFORE}, WORDS).function == "hold"
    assert find(mutant("limit=1", "limit=2", "_judge_all"), sources, WORDS).function == "judge_all"


@pytest.mark.parametrize(
    ("original", "function", "says"),
    [
        ("carrier.ready == 1", "judge", "nearest: `return carrier.ready == 0`"),
        ("carrier", "judge", "is there 3 times"),
        ("carrier.ready == 0", "gone", "is there 2 times (rollout.py:hold, rollout.py:judge)"),
    ],
)
def test_what_is_not_there_once_fails_and_says_what_to_mend(original: str, function: str, says: str) -> None:
    with pytest.raises(NotFoundError, match="Mend original, replacement or function") as caught:
        find(mutant(original, "False", function), {HERE: BEFORE}, WORDS)
    assert says in str(caught.value)


def test_every_mutant_of_the_table_is_in_the_tree() -> None:
    mutants, words, areas = read_table(TABLE.read_text())
    assert len({each.id for each in mutants}) == len(mutants) == 47
    sources = {area: read_sources(ROOT, area) for area in areas}
    for each in mutants:
        source = sources[each.area]
        change = find(each, source, words)
        assert change.apply(source[change.path]) != source[change.path]


def test_renamed_words_of_a_replacement_stand_in_its_original() -> None:
    mutants, words, _ = read_table(TABLE.read_text())
    for each in mutants:
        unknown = {*re.findall(r"\w+", each.replacement)} - {*re.findall(r"\w+", each.original)}
        assert not unknown & words.keys(), each.id


def test_a_seed_draws_the_same_mutants_and_each_is_another_program(tmp_path: Path) -> None:
    (tmp_path / "one.py").write_text(BEFORE)
    drawn = draw(tmp_path, {"decide": ["*.py"]}, 7, 4)
    assert drawn == draw(tmp_path, {"decide": ["*.py"]}, 7, 4)
    assert len({change.apply(BEFORE) for _, _, change in drawn} - {BEFORE}) == 4
    for _, _, change in drawn:
        compile(change.apply(BEFORE), "one.py", "exec")


class PlayedCopy(Copy):
    """Runs no pytest: its one test wants None from `judge`. One other never passes, and one fails at first."""

    def run(self, arguments: Sequence[str]) -> tuple[int | None, str]:
        is_well = "return None" in (self.root / HERE).read_text() and "fails anyway" not in arguments
        is_well = is_well and ("fails at first" not in arguments or "fails at first" in self.sound)
        self.sound.update(set(arguments) & {"fails at first"})
        return (0, "") if is_well else (1, arguments[0])


@pytest.mark.parametrize(
    ("text", "stages", "state", "by"),
    [
        ("0", [[], ["judges"]], "killed", "judges"),
        ("None", [["judges"], ["judges"]], "survived", ""),
        ("None", [["judges"], ["fails anyway"]], "broken", "fails anyway fails without it, too"),
        ("None", [["judges"], ["fails at first"]], "broken", "fails at first fails now and then"),
    ],
)
def test_a_mutant_is_killed_only_by_a_test_that_passes_without_it(
    tmp_path: Path, text: str, stages: list[list[str]], state: str, by: str
) -> None:
    source = "def judge(ready):\n    return None\n"
    (tmp_path / HERE).write_text(source)
    start = source.index("None")
    result = PlayedCopy(tmp_path).judge(Change(HERE, "judge", 2, start, start + 4, text), stages)
    assert (result.state, result.by) == (state, by)
    assert (tmp_path / HERE).read_text() == source
