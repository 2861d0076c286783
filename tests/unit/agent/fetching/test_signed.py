"""Signed models: what is published under `storage.verify: Require`, with real bundles made here with fresh keys."""

import base64
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from model_signing import hashing

from slipway_agent.config import key_name
from slipway_agent.fetching import signed, verify_bundle
from slipway_agent.fetching.signed import MAX_BUNDLE_BYTES, verify_signed
from slipway_agent.model.errors import CancelledError, Reason, SpecError, TransientError
from tests.unit.agent.signing import BUNDLE, SigningKey, make_key

WHAT = "version 3 at s3://models/digits/3"


def go_on() -> None:
    pass


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[SigningKey, SigningKey]:
    folder = tmp_path_factory.mktemp("keys")
    return make_key(folder, "ours"), make_key(folder, "another")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, keys: tuple[SigningKey, SigningKey]) -> Path:
    folder = tmp_path_factory.mktemp("made") / "3"
    (folder / "1").mkdir(parents=True)
    (folder / "1" / "model.onnx").write_bytes(b"weights")
    (folder / "config.pbtxt").write_text("backend: 'onnxruntime'")
    keys[0].sign(folder)
    return folder


@pytest.fixture
def model(made: Path, tmp_path: Path) -> Path:
    """A signed version of its own."""
    return Path(shutil.copytree(made, tmp_path / "model"))


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real verification, without the half second that a process takes to start."""
    monkeypatch.setattr(signed, "run", lambda script, question, limits, check: verify_bundle.answer(dict(question)))


def verify(folder: Path, *keys: SigningKey) -> str:
    return verify_signed(folder, [key.public for key in keys], WHAT, go_on)


def refusal(folder: Path, *keys: SigningKey, reason: Reason = Reason.VERIFICATION_FAILED) -> str:
    with pytest.raises(SpecError) as refused:
        verify(folder, *keys)
    assert refused.value.reason is reason
    assert refused.value.message.startswith(WHAT)
    return refused.value.message


# in a process of its own


def test_a_signed_version_is_verified_by_the_key_that_signed_it(
    model: Path, keys: tuple[SigningKey, SigningKey]
) -> None:
    assert verify(model, keys[0]) == key_name(keys[0].public)


def test_another_key_or_a_changed_byte_is_refused_in_a_process_too(
    model: Path, keys: tuple[SigningKey, SigningKey]
) -> None:
    assert "model.sig isn't signed by the key of storage.publicKeys" in refusal(model, keys[1])
    (model / "1" / "model.onnx").write_bytes(b"weightz")
    assert "1/model.onnx was changed" in refusal(model, keys[0])


def test_one_that_is_ended_from_outside_is_tried_again(
    model: Path, keys: tuple[SigningKey, SigningKey], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    script = tmp_path / "script.py"
    script.write_text("import os; os.kill(os.getpid(), 9)")
    monkeypatch.setattr(signed, "SCRIPT", script)
    with pytest.raises(TransientError, match=r"can't be verified: it was ended by SIGKILL; it is tried again"):
        verify(model, keys[0])


def test_a_bundle_that_parses_into_more_than_the_process_may_hold_is_refused_for_good(
    model: Path, keys: tuple[SigningKey, SigningKey]
) -> None:
    edit(model, lambda bundle: bundle["verificationMaterial"].update(tlogEntries=[{}] * 170_000))
    assert (model / BUNDLE).stat().st_size <= MAX_BUNDLE_BYTES
    message = refusal(model, keys[0])
    assert re.search("ends the verification|takes more memory", message)


def test_a_fetch_that_is_called_off_ends_its_verification(model: Path, keys: tuple[SigningKey, SigningKey]) -> None:
    def call_off() -> None:
        raise CancelledError

    with pytest.raises(CancelledError):
        verify_signed(model, [keys[0].public], WHAT, call_off)


def test_the_largest_bundle_that_is_read_fits_into_the_process(
    keys: tuple[SigningKey, SigningKey], tmp_path: Path
) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(4_500):
        (folder / f"part-{number:05}.bin").touch()
    keys[0].sign(folder)
    assert 0.9 * MAX_BUNDLE_BYTES < (folder / BUNDLE).stat().st_size <= MAX_BUNDLE_BYTES
    assert verify(folder, keys[0]) == key_name(keys[0].public)


# the table of refusals


def change(folder: Path) -> None:
    (folder / "config.pbtxt").write_text("backend: 'python'")


def add(folder: Path) -> None:
    (folder / "1" / "model.py").write_text("import os")


def add_where_git_is(folder: Path) -> None:
    (folder / ".git").mkdir()
    (folder / ".git" / "hook.py").write_text("import os")


def lose(folder: Path) -> None:
    (folder / "config.pbtxt").unlink()


def rename(folder: Path) -> None:
    (folder / "config.pbtxt").rename(folder / "config.pbtxt.old")


def swap(folder: Path) -> None:
    (folder / "config.pbtxt").rename(folder / "x")
    (folder / "1" / "model.onnx").rename(folder / "config.pbtxt")
    (folder / "x").rename(folder / "1" / "model.onnx")


def link(folder: Path) -> None:
    (folder / "passwd").symlink_to("/etc/passwd")


def write_nonsense(folder: Path) -> None:
    (folder / BUNDLE).write_text("nonsense")


def write_nothing(folder: Path) -> None:
    (folder / BUNDLE).write_text("")


def write_nests(folder: Path) -> None:
    (folder / BUNDLE).write_text("[" * 1_000_000)


def write_an_empty_object(folder: Path) -> None:
    (folder / BUNDLE).write_text("{}")


def write_bytes(folder: Path) -> None:
    (folder / BUNDLE).write_bytes(bytes(range(256)) * 64)


def take_the_signature_off(folder: Path) -> None:
    edit(folder, lambda bundle: bundle["dsseEnvelope"].update(signatures=[]))


def sign_it_with_nothing(folder: Path) -> None:
    edit(folder, lambda bundle: bundle["dsseEnvelope"]["signatures"][0].update(sig=""))


def name_what_is_there(folder: Path) -> None:
    """The attack: the payload is made to fit what was changed, under the signature as it was."""
    change(folder)

    def forge(bundle: dict) -> None:  # type: ignore[type-arg]
        statement = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
        ours = hashing.Config().set_ignored_paths(paths=[BUNDLE]).hash(folder)
        found = {each.identifier: each.digest.digest_hex for each in ours.resource_descriptors()}
        for resource in statement["predicate"]["resources"]:
            resource["digest"] = found[resource["name"]]
        bundle["dsseEnvelope"]["payload"] = base64.b64encode(json.dumps(statement).encode()).decode()

    edit(folder, forge)


def edit(folder: Path, how: Callable[[dict], None]) -> None:  # type: ignore[type-arg]
    bundle = json.loads((folder / BUNDLE).read_text())
    how(bundle)
    (folder / BUNDLE).write_text(json.dumps(bundle))


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (change, "config.pbtxt was changed"),
        (add, "1/model.py is not signed"),
        (add_where_git_is, ".git/hook.py is not signed"),
        (lose, "config.pbtxt is missing"),
        (rename, "config.pbtxt.old is not signed; config.pbtxt is missing"),
        (swap, "1/model.onnx, config.pbtxt was changed"),
        (link, "symlink"),
        (write_nonsense, "model.sig can't be read as a bundle (JSONDecodeError"),
        (write_nothing, "model.sig can't be read as a bundle (JSONDecodeError"),
        (write_nests, "model.sig can't be read as a bundle (RecursionError"),
        (write_an_empty_object, "model.sig can't be read as a bundle (KeyError"),
        (write_bytes, "model.sig can't be read as a bundle (UnicodeDecodeError"),
        (take_the_signature_off, "model.sig can't be read as a bundle (IndexError"),
        (sign_it_with_nothing, "model.sig isn't signed by the key of storage.publicKeys"),
        (name_what_is_there, "model.sig isn't signed by the key of storage.publicKeys"),
    ],
)
def test_what_isnt_as_it_was_signed_is_refused(
    model: Path, keys: tuple[SigningKey, SigningKey], spoil: Callable[[Path], None], says: str
) -> None:
    assert verify(model, keys[0]) == key_name(keys[0].public)
    spoil(model)
    assert says in refusal(model, keys[0])


@pytest.mark.usefixtures("in_this_process")
def test_any_of_several_keys_will_do(model: Path, keys: tuple[SigningKey, SigningKey]) -> None:
    ours, another = keys
    assert verify(model, another, ours) == key_name(ours.public)
    another.sign(model)
    assert verify(model, another, ours) == key_name(another.public)
    assert "isn't signed by the key" in refusal(model, ours)


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize("curve", [ec.SECP384R1(), ec.SECP521R1()], ids=lambda curve: curve.name)
def test_keys_of_every_curve_that_can_sign_can_verify(model: Path, tmp_path: Path, curve: ec.EllipticCurve) -> None:
    key = make_key(tmp_path, "larger", curve)
    key.sign(model)
    assert verify(model, key) == key_name(key.public)


@pytest.mark.usefixtures("in_this_process")
def test_no_bundle_is_not_signed_and_the_message_has_the_command(
    model: Path, keys: tuple[SigningKey, SigningKey]
) -> None:
    (model / BUNDLE).unlink()
    message = refusal(model, keys[0], reason=Reason.NOT_SIGNED)
    assert "has no model.sig in its folder" in message
    assert "model_signing sign key" in message


@pytest.mark.usefixtures("in_this_process")
def test_a_folder_around_the_signed_one_is_taken_off_and_a_file_beside_it_is_not(
    model: Path, keys: tuple[SigningKey, SigningKey], tmp_path: Path
) -> None:
    around = tmp_path / "around"
    around.mkdir()
    model.rename(around / "digits")
    assert verify(around, keys[0]) == key_name(keys[0].public)
    (around / "model.py").write_text("import os")
    refusal(around, keys[0], reason=Reason.NOT_SIGNED)


@pytest.mark.usefixtures("in_this_process")
def test_a_folder_in_shards_is_refused_with_what_to_do(model: Path, keys: tuple[SigningKey, SigningKey]) -> None:
    form = hashing.Config().use_shard_serialization().set_ignored_paths(paths=[BUNDLE])
    keys[0].sign(model, form)
    assert "a form that isn't read (shards, sha256)" in refusal(model, keys[0])


@pytest.mark.usefixtures("in_this_process")
def test_a_file_of_gits_passes_once_it_is_signed(model: Path, keys: tuple[SigningKey, SigningKey]) -> None:
    (model / ".gitattributes").write_text("*.onnx filter=lfs")
    keys[0].sign(model)
    assert ".gitattributes is not signed" in refusal(model, keys[0])
    keys[0].sign(model, hashing.Config().set_ignored_paths(paths=[BUNDLE], ignore_git_paths=False))
    assert verify(model, keys[0]) == key_name(keys[0].public)


@pytest.mark.usefixtures("in_this_process")
def test_files_that_the_signer_ignored_count_as_not_signed(model: Path, keys: tuple[SigningKey, SigningKey]) -> None:
    keys[0].sign(model, hashing.Config().set_ignored_paths(paths=[BUNDLE, "1"]))
    assert "1/model.onnx is not signed" in refusal(model, keys[0])


@pytest.mark.usefixtures("in_this_process")
def test_of_many_files_a_few_are_named(model: Path, keys: tuple[SigningKey, SigningKey]) -> None:
    for number in range(12):
        (model / f"{number:02}").touch()
    assert "00, 01, 02 is not signed (and 9 others)" in refusal(model, keys[0])


def test_a_bundle_of_a_gigabyte_is_not_read(model: Path, keys: tuple[SigningKey, SigningKey]) -> None:
    os.truncate(model / BUNDLE, 1 << 30)
    assert "model.sig has 1.0 GiB, and no more than 1.0 MiB of one are read" in refusal(model, keys[0])


@pytest.mark.usefixtures("in_this_process")
def test_a_key_that_is_none_is_refused_and_never_skipped_to_nothing(
    model: Path, keys: tuple[SigningKey, SigningKey]
) -> None:
    with pytest.raises(SpecError, match="can't be verified, and is not loaded"):
        verify_signed(model, ["-----BEGIN PUBLIC KEY-----\nno\n-----END PUBLIC KEY-----\n"], WHAT, go_on)
