"""Nothing that is rendered can change unseen: a difference says every byte."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.golden.difference import applied, check, difference

SMALLEST = (Path(__file__).parent / "cases" / "smallest.rendered.yaml").read_text()

# Few different lines, so that the same ones stand again and again and a hunk has many places where it could belong.
LINES = st.lists(
    st.sampled_from(["  a:", "  - b: 1", "    c: x", "  - --port=1", "", "    slipway.dev/revision: r1"]), max_size=12
)


@st.composite
def texts(draw: st.DrawFn) -> str:
    objects = []
    for kind in draw(st.lists(st.sampled_from(["Service", "ConfigMap", "Deployment"]), min_size=1, max_size=4)):
        name, revision = (
            draw(st.sampled_from(["digits", "digits-r1", "digits-r2"])),
            draw(st.sampled_from(["r1", "r2"])),
        )
        head = [f"kind: {kind}", f"  name: {name}", f"    slipway.dev/revision: {revision}", "spec:"]
        objects.append("\n".join([*head, *draw(LINES)]))
    return "\n---\n".join(objects) + "\n"


TITLED_ALIKE = "kind: Service\n  name: digits-r1\n    slipway.dev/revision: {}\nspec:\n"


@example(  # the second is called what the base's is called, and plays another role
    TITLED_ALIKE.format("r1"), f"{TITLED_ALIKE.format('r2')}---\n{TITLED_ALIKE.format('r1')}"
)
@settings(max_examples=200)
@given(texts(), texts())
def test_the_text_comes_back_from_its_difference(base: str, text: str) -> None:
    assert applied(base, difference(base, text)) == text


@given(st.integers(0, len(SMALLEST) - 2), st.sampled_from("x: -\n1"))
def test_any_changed_byte_shows(place: int, other: str) -> None:
    """Where it may still be read as objects: a changed `kind` or `---` is another object, and shows as one."""
    changed = f"{SMALLEST[:place]}{other}{SMALLEST[place + 1 :]}"
    try:
        written = difference(SMALLEST, changed)
    except KeyError:  # an object without a kind or a name
        return
    assert (written == difference(SMALLEST, SMALLEST)) == (changed == SMALLEST)
    assert applied(SMALLEST, written) == changed


def test_an_object_taken_away_or_moved_shows() -> None:
    objects = SMALLEST.removesuffix("\n").split("\n---\n")
    for other in ([objects[1], objects[0], *objects[2:]], objects[:-1], [*objects, objects[0]]):
        text = "\n---\n".join(other) + "\n"
        assert difference(SMALLEST, text) != difference(SMALLEST, SMALLEST)
        assert applied(SMALLEST, difference(SMALLEST, text)) == text


def test_a_second_revision_differs_by_more_than_its_hash_alone() -> None:
    second = SMALLEST.replace("d2e878d329", "0123456789").replace("replicas: 1", "replicas: 2")
    assert difference(SMALLEST, second).splitlines() == [
        "== Service digits, from Service digits",
        *(
            f"== {kind} digits-0123456789, from {kind} digits-d2e878d329 with 0123456789 for d2e878d329"
            for kind in ("ControllerRevision", "ConfigMap", "Deployment")
        ),
        "@@ spec",
        " spec:",
        "-  replicas: 1",
        "+  replicas: 2",
        "   revisionHistoryLimit: 0",
        "== Service digits-metrics, from Service digits-metrics",
    ]


@pytest.mark.parametrize("line", ["", "+ ", "== Service digits, from Service other", "not a line of a difference"])
def test_a_committed_difference_changed_by_hand_fails(line: str, tmp_path: Path) -> None:
    base, golden = tmp_path / "base.yaml", tmp_path / "golden.diff"
    base.write_text(SMALLEST)
    text = SMALLEST.replace("replicas: 1", "replicas: 2")
    check(text, golden, base, update=True)
    check(text, golden, base, update=False)
    golden.write_text(golden.read_text() + line + "\n")
    with pytest.raises((AssertionError, ValueError)):
        check(text, golden, base, update=False)


def test_a_rendered_text_other_than_the_committed_one_fails(tmp_path: Path) -> None:
    base, golden = tmp_path / "base.yaml", tmp_path / "golden.diff"
    check(SMALLEST, base, update=True)
    check(SMALLEST, golden, base, update=True)
    with pytest.raises(AssertionError, match="--update-golden"):
        check(SMALLEST.replace("maxSurge: 1", "maxSurge: 2"), golden, base, update=False)
    with pytest.raises(AssertionError, match="--update-golden"):
        check(SMALLEST.removesuffix("\n"), golden, base, update=False)
