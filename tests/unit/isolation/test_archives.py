"""Some of `make isolation`'s archives on every run, and that its checks can fail."""

from pathlib import Path
from typing import Any

import pytest

from slipway_agent.model.errors import Reason, SpecError
from tests.isolation import __main__ as runner
from tests.isolation import archives
from tests.isolation.attack import Attack, Outcome

FEW = (
    "tar.gz: a PAX path leads out",
    "tar.gz: a link to /proc/self/environ",
    "tar.gz: a hard link that leads out",
    "tar.gz: set-user-ID",
    "tar.gz: a GNU sparse file of 10 TiB",
    "tar.gz: PAX headers in PAX headers",
    "tar.gz: a PAX header of 600 MB",
    "tar.gz: 3 MB to 3 GiB",
    "zip: a name leads out",
    "zip: a link to /etc/passwd",
    "zip: LZMA with a dictionary of 4 GiB",
    "zip: the same bytes in 20,000 entries",
    "zip: 60,000 entries, said to be 1",
    "layer: a name leads out",
    "layer: a whiteout of the folder above",
    "layer: a whiteout through a link",
    "layer: /models is a link",
)


@pytest.mark.parametrize("name", FEW)
def test_it_is_contained(tmp_path: Path, name: str) -> None:
    (attack,) = [each for each in archives.ATTACKS if each.name == name]
    (tmp_path / "in").mkdir()
    assert attack.attempt(tmp_path / "in") is None


def test_each_attack_has_a_name_of_its_own() -> None:
    names = [attack.name for attack in archives.ATTACKS]
    assert len(set(names)) == len(names) > 150


# what would be an escape is one


def refuse(**_: Any) -> None:
    raise SpecError(Reason.UNSAFE_PATH, f"{archives.URI}/3.zip: it is refused", "fingerprint")


def attempt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: Any) -> str | None:
    folder = tmp_path / "in"
    folder.mkdir()

    def fetch_version(job: object, source: object, volume: object, server: object, progress: object) -> None:
        ending(folder=folder)

    monkeypatch.setattr(archives, "fetch_version", fetch_version)
    return archives.try_archive("zip", archives.bytes_of(b"x"), folder, may_pass=False)


def test_a_plain_refusal_is_no_escape(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert attempt(tmp_path, monkeypatch, refuse) is None


def write_beside(folder: Path) -> None:
    (folder.parent / "evil").touch()
    refuse()


def change_beside(folder: Path) -> None:
    (folder / "beside").write_text("other words")
    refuse()


def make_link(folder: Path) -> None:
    (folder / "models" / "repository" / "evil").symlink_to("/etc")
    refuse()


def keep_mode(folder: Path) -> None:
    (folder / "models" / "repository" / "sh").touch(0o755)
    (folder / "models" / "repository" / "sh").chmod(0o4755)
    refuse()


def leave_staged(folder: Path) -> None:
    (folder / "models" / ".staging" / "3").mkdir()
    refuse()


def refuse_silently(folder: Path) -> None:
    raise SpecError(Reason.UNSAFE_PATH, "evil\x1b[2J", "fingerprint")


def refuse_each_time(folder: Path) -> None:
    raise SpecError(Reason.UNSAFE_PATH, f"{archives.URI}/3.zip: it is refused")


def fail(folder: Path) -> None:
    raise OSError("a defect")


def publish(folder: Path) -> None:
    """As if it were a model."""


@pytest.mark.parametrize(
    ("ending", "words"),
    [
        (write_beside, "outside the models volume"),
        (change_beside, "outside the models volume"),
        (make_link, "is a link"),
        (keep_mode, "set-user-ID"),
        (leave_staged, "left in staging"),
        (refuse_silently, "without the right words"),
        (refuse_each_time, "fetched again for ever"),
        (fail, "tried again for ever"),
        (publish, "it was published"),
    ],
)
def test_an_escape_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: Any, words: str) -> None:
    assert words in (attempt(tmp_path, monkeypatch, ending) or "")


# the runner


def test_an_attack_that_hangs_or_kills_its_process_has_escaped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    attack = Attack("archive", "any", lambda folder: None)
    assert "took more than 0.01 s" in (runner.attempt("archives", 0, attack, 0.01).escaped or "")
    assert "ended the process" in (runner.attempt("archives", 999_999, attack).escaped or "")


def test_more_memory_than_the_container_has_is_an_escape() -> None:
    attack = Attack("archive", "any", lambda folder: None)
    line = b'{"escaped": null, "seconds": 1.5, "peak_mib": %d}\n'
    assert runner._read(attack, 0, line % 256, b"") == Outcome(attack, None, 1.5, 256.0)
    assert runner._read(attack, 0, line % 257, b"").escaped == "it took 257 MiB"


def test_the_table_counts_by_kind_and_names_each_escape() -> None:
    held, lost = Attack("archive", "held", lambda folder: None), Attack("link", "lost", lambda folder: "x")
    lines = runner.describe(
        [Outcome(held, None, 2.0, 90.0), Outcome(held, None, 1.0, 99.0), Outcome(lost, "it read", 3.0, 10.0)]
    )
    assert [line.split() for line in lines[1:3]] == [
        ["archive", "2", "2", "2.0", "99"],
        ["link", "1", "0", "3.0", "10"],
    ]
    assert lines[3:] == ["ESCAPED  link  lost: it read"]


def test_modules_that_arent_there_are_left_out() -> None:
    assert runner.collect(("archives", "nowhere"))[0][:2] == ("archives", 0)
