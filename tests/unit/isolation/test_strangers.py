"""Some of `make isolation`'s servers and links on every run: what they patch and call is still there."""

from pathlib import Path

import pytest

from tests.isolation import links, servers

FEW = (
    "a file that is a FIFO",
    "the URI's folder as a link out of the claim",
    "a link that config.pbtxt names, to the secret",
    "cache: about.json as a FIFO",
    "https: a Content-Length larger than any disk",
    "https: a redirect to file://",
    "oci: a manifest nested 200,000 deep",
    "oci: a realm of file://",
    "s3: the same page for ever",
    "model server: JSON nested 200,000 deep",
    "to the operator: a redirect",
)


@pytest.mark.parametrize("name", FEW)
def test_it_is_contained(tmp_path: Path, name: str) -> None:
    (attack,) = [each for each in (*links.ATTACKS, *servers.ATTACKS) if each.name == name]
    (tmp_path / "in").mkdir()
    assert attack.attempt(tmp_path / "in") is None
