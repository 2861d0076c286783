"""The digest is the one that coreutils give, in whatever order a file system lists."""

import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipway_agent.__main__ import main
from slipway_agent.volume.digest import digest_of_files, digest_path

COREUTILS = "find -L . -type f -printf '%P\\0' | LC_ALL=C sort -z | xargs -0 -r sha256sum | sha256sum"


def test_a_files_digest_is_that_of_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"weights")
    assert digest_path(tmp_path / "model.onnx") == hashlib.sha256(b"weights").hexdigest()


def test_a_folders_digest_is_what_coreutils_print(tmp_path: Path) -> None:
    for name in ("a", "a.b", "sub/model.onnx", "sub/Z", "ü", "with space", "back\\slash", "new\nline", ".hidden"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "empty").mkdir()
    printed = subprocess.run(["bash", "-c", COREUTILS], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert digest_path(tmp_path) == printed.stdout.split()[0]


def test_a_moved_or_changed_file_changes_the_digest(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    before = digest_path(tmp_path)
    (tmp_path / "a").rename(tmp_path / "b")
    moved = digest_path(tmp_path)
    (tmp_path / "b").write_text("y")
    assert len({before, moved, digest_path(tmp_path)}) == 3


@given(st.dictionaries(st.text(min_size=1), st.text("0123456789abcdef", min_size=64, max_size=64)), st.randoms())
def test_order_never_matters(files: dict[str, str], random: "object") -> None:
    pairs = list(files.items())
    shuffled = list(pairs)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert digest_of_files(pairs) == digest_of_files(shuffled)


def test_a_link_to_its_own_folder_is_an_error_and_no_endless_walk(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path)
    with pytest.raises(OSError, match="symbolic links"):
        digest_path(tmp_path)


def test_the_command_prints_the_digest_or_says_what_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "model.onnx").write_bytes(b"weights")
    assert main(["digest", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"{digest_path(tmp_path)}\n"
    shutil.rmtree(tmp_path)
    assert main(["digest", str(tmp_path)]) == 1
    assert "can't be read: No such file" in capsys.readouterr().err


def test_a_configmaps_generations_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "model.py").write_text("x")
    mounted = tmp_path / "mounted"
    (mounted / "..2026_11_21").mkdir(parents=True)
    (mounted / "..2026_11_21" / "model.py").write_text("x")
    (mounted / "..data").symlink_to("..2026_11_21")
    (mounted / "model.py").symlink_to("..data/model.py")
    assert digest_path(mounted) == digest_path(tmp_path / "plain")
