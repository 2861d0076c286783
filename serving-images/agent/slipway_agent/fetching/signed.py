"""Signed models: a version is published only if one of the spec's keys signed its bundle, and its files are as signed.

The bundle is `model.sig` in the version's folder, as `model_signing sign key` writes it: a DSSE envelope around the
names and SHA-256 digests of all files. It is verified by OpenSSF's package, in a process of its own, for each version
that is fetched, from a cache too: who can write there must not be believed.

Invariant: a version that isn't verified raises; nothing here publishes. Identities (keyless) aren't verified: they need
a root of trust that is online.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from slipway_agent.config import key_name
from slipway_agent.confined.process import Bounds, Ended, run
from slipway_agent.model.errors import Reason, SpecError, TransientError
from slipway_agent.model.ledger import describe_bytes

BUNDLE = "model.sig"
MAX_BUNDLE_BYTES = 1 << 20
"""Some 4,500 files. The container has little more room beside the agent than what the largest one takes to parse."""
BOUNDS = Bounds({"AS": 144 << 20, "FSIZE": 64 << 10}, needs_packages=True)
"""The largest honest bundle takes 78 MiB of memory, of which 60 are the package; one that parses into as many objects
as a megabyte can name took 120 MiB until it was stopped by this."""
SCRIPT = Path(__file__).with_name("verify_bundle.py")


def verify_signed(folder: Path, keys: Sequence[str], what: str, check: Callable[[], None]) -> str:
    """The name (`config.key_name`) of the key that signed the folder's files. what: "version 3 at s3://…".

    SpecError(NotSigned) without a bundle, SpecError(VerificationFailed) for every other refusal, TransientError where
    the process was ended from outside; `check` raises to call it off.
    """
    signed = find_signed(folder)
    if signed is None:
        raise SpecError(
            Reason.NOT_SIGNED,
            f"{what} has no {BUNDLE} in its folder, and storage.verify is Require. It is not loaded. Sign it with one "
            f"of the keys of storage.publicKeys: model_signing sign key FOLDER --signature FOLDER/{BUNDLE} "
            "--private_key KEY; then put the folder there anew",
        )
    size_bytes = (signed / BUNDLE).stat().st_size
    if size_bytes > MAX_BUNDLE_BYTES:
        raise _refuse(
            what,
            f"{BUNDLE} has {describe_bytes(size_bytes)}, and no more than {describe_bytes(MAX_BUNDLE_BYTES)} of one are"
            " read, which name some 4,500 files. Sign a folder with fewer files",
        )
    question = {"folder": str(signed), "bundle": BUNDLE, "keys": list(keys)}
    answer = run(SCRIPT, question, BOUNDS, check)
    if isinstance(answer, Ended) and answer.limit == "AS":
        answer = {"refused": "Memory"}
    if isinstance(answer, Ended) and answer.is_its_own:
        raise _refuse(what, f"{BUNDLE} ends the verification (it {answer.words}). Sign the version anew")
    if isinstance(answer, Ended):
        raise TransientError(f"{what} can't be verified: it {answer.words}; it is tried again")
    position = answer.get("key")
    if isinstance(position, int) and 0 <= position < len(keys):
        return key_name(keys[position])
    raise _refuse(what, _explain(answer, len(keys)))


def find_signed(folder: Path) -> Path | None:
    """The folder with the bundle in it: people pack the folder itself. None: there is none."""
    while not (folder / BUNDLE).is_file():
        entries = list(folder.iterdir())
        if len(entries) != 1 or not entries[0].is_dir():
            return None
        folder = entries[0]
    return folder


def refuse_unsigned_config(what: str) -> SpecError:
    """For a model whose config.pbtxt stands beside its version folders, where no version's bundle covers it."""
    return _refuse(
        what,
        "config.pbtxt beside the version folders is covered by no bundle, nor are the files that it names. Put it into "
        "the version's own folder, and sign that",
    )


def _refuse(what: str, why: str) -> SpecError:
    return SpecError(Reason.VERIFICATION_FAILED, f"{what} can't be verified, and is not loaded: {why}")


def _explain(answer: Mapping[str, object], key_count: int) -> str:
    match answer.get("refused"):
        case "Key":
            keys = "the key of storage.publicKeys" if key_count == 1 else f"any of the {key_count} storage.publicKeys"
            return f"{BUNDLE} isn't signed by {keys}. Sign the version with one of these, or add its signer's key there"
        case "Files":
            return (
                f"{_list_files(answer)}. Only files that the bundle names, as they were signed, are served. Put back "
                "what was signed, or sign what is there"
            )
        case "Form":
            return (
                f"it is signed in a form that isn't read ({answer.get('detail')}). Sign it as the command does by "
                "itself: a SHA-256 of each file"
            )
        case "Memory":
            return f"{BUNDLE} takes more memory than a verification may use. Sign a folder with fewer files"
        case _:
            return f"{BUNDLE} can't be read as a bundle ({answer.get('detail')}). Sign the version anew"


def _list_files(answer: Mapping[str, object]) -> str:
    """`model.onnx was changed; a.py is not signed (and 3 others)`"""
    said = []
    for kind, words in (("changed", "was changed"), ("added", "is not signed"), ("missing", "is missing")):
        names = answer.get(kind)
        if isinstance(names, list) and names:
            said.append(f"{', '.join(map(str, names))} {words}")
    others = answer.get("others")
    return "; ".join(said or ["its files differ"]) + (f" (and {others} others)" if others else "")
