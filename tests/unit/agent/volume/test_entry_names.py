"""Names and links, judged as text."""

import pytest

from slipway_agent.volume.entry_names import find_fault, show_name
from slipway_agent.volume.second_names import follow_links


@pytest.mark.parametrize(
    "path", ["a", "a/b.onnx", ".hidden", "a..b", "é", "e\u0301", "模型", "a b", "n" * 255, "d/" * 63 + "f"]
)
def test_what_a_file_system_takes_and_a_person_can_read_is_taken(path: str) -> None:
    assert find_fault(path) is None


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("a/../b", "leads out of the archive"),
        ("a/..data", "the folder digest leaves such names out"),
        ("a\n", "printable"),
        ("a\x85b", "printable"),
        ("a\u2028b", "printable"),
        ("gnp\u202eexe", "printable"),
        ("caf\udce9", "printable"),
        ("n" * 256, "255 bytes"),
        ("é" * 128, "255 bytes"),
        ("/".join(["n" * 200] * 11), "2048 are taken"),
        ("d/" * 64 + "f", "65 folders deep"),
    ],
)
def test_what_isnt_is_told(path: str, words: str) -> None:
    assert words in (find_fault(path) or "")
    assert show_name(path).isprintable()
    assert len(show_name(path)) < 250


def test_a_link_is_followed_to_its_end_and_a_ring_has_none() -> None:
    assert follow_links({"a": "b", "b": "c"}) == {"a": "c", "b": "c"}
    rings = follow_links({"x": "a", "a": "b", "b": "a", "s": "s"})
    assert all(end in {"a", "b", "s", "x"} for end in rings.values())
    assert follow_links({}) == {}


def test_a_long_chain_costs_no_more_than_its_length() -> None:
    count = 20_000
    links = {f"{number}": f"{number + 1}" for number in range(count)}
    assert set(follow_links(links).values()) == {str(count)}
