"""Whether a folder is what a bundle says, and the bundle signed by one of some keys. Run by `confined.process`.

    {"folder": "/models/.staging/3/copy", "bundle": "model.sig", "keys": ["-----BEGIN PUBLIC KEY-----…", …]}

is answered by one of

    {"key": 0}                                  the first of the keys signed it, and every file is as it was signed
    {"refused": "Key"}                          none of them did
    {"refused": "Files", "changed": […], "added": […], "missing": […], "others": n}
    {"refused": "Bundle", "detail": "…"}        it can't be read
    {"refused": "Form", "detail": "…"}          signed otherwise than by a SHA-256 of each file
    {"refused": "Memory"}

OpenSSF's own package verifies and compares. It leaves out what the bundle names as ignored (by default .git and its
like); here those count as added: a file that nobody signed isn't served. Imports nothing of the agent.
"""

import base64
import json
import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from model_signing import hashing, verifying

MOST_NAMED = 3
"""Of files that differ; the rest is counted."""
_CHANGED = re.compile(r"Hash mismatch for \\?'(.+?)\\?': Expected")
"""In the package's words, which are a list as Python prints one: its quotes may be escaped."""
_SIGNED_FORM = ("files", "sha256")


class _MismatchError(Exception):
    """The bundle is signed by that key, and the folder is another."""


def answer(question: dict[str, Any]) -> dict[str, Any]:
    folder, bundle = Path(question["folder"]), question["bundle"]
    try:
        for position, key in enumerate(question["keys"]):
            try:
                is_signer = _is_signed_by(folder, bundle, key)
            except _MismatchError as mismatch:
                return _explain_mismatch(folder, bundle, str(mismatch))
            if is_signer:
                added = sorted(_files(folder) - _signed_names(folder / bundle) - {bundle})
                return _name_files(added=added) if added else {"key": position}
    except MemoryError:
        return {"refused": "Memory"}
    except Exception as cause:  # whatever a stranger's bundle makes the parsers say
        if "start new thread" in str(cause):  # which is how Python says that there is no memory for one
            return {"refused": "Memory"}
        return {"refused": "Bundle", "detail": f"{type(cause).__name__}: {cause}"[:300]}
    return {"refused": "Key"}


def _is_signed_by(folder: Path, bundle: str, key: str) -> bool:
    """Whether the key signed the bundle. _MismatchError where it did, and the folder's files aren't those."""
    ours = hashing.Config().use_file_serialization(hashing_algorithm="sha256", max_workers=1)
    config = verifying.Config().use_elliptic_key_verifier(public_key=_as_file(key))
    config.set_hashing_config(ours.set_ignored_paths(paths=[bundle], ignore_git_paths=False))
    try:
        config.verify(folder, folder / bundle)
    except InvalidSignature:
        return False
    except ValueError as refusal:
        # the package's only words for it; tests with real bundles hold them
        if str(refusal).startswith("Key mismatch"):
            return False
        if str(refusal).startswith("Signature mismatch"):
            raise _MismatchError(str(refusal)) from refusal
        raise
    return True


def _as_file(text: str) -> str:
    """A path by which this process, and no other, reads the text: the package wants a key's path."""
    file = os.memfd_create("key")
    os.write(file, text.encode())
    return f"/proc/self/fd/{file}"


def _statement(bundle: Path) -> Any:
    """What was signed. Believed only once the bundle is verified."""
    return json.loads(base64.b64decode(json.loads(bundle.read_bytes())["dsseEnvelope"]["payload"]))["predicate"]


def _signed_names(bundle: Path) -> set[str]:
    return {resource["name"] for resource in _statement(bundle)["resources"]}


def _files(folder: Path) -> set[str]:
    """Every file and link below, whatever its name."""
    found = set()
    for place, folders, files in os.walk(folder):
        links = [each for each in folders if os.path.islink(os.path.join(place, each))]
        found |= {os.path.relpath(os.path.join(place, each), folder) for each in (*files, *links)}
    return found


def _explain_mismatch(folder: Path, bundle: str, words: str) -> dict[str, Any]:
    form = _statement(folder / bundle)["serialization"]
    if (form["method"], form["hash_type"]) != _SIGNED_FORM:
        return {"refused": "Form", "detail": f"{form['method']}, {form['hash_type']}"[:100]}
    signed, found = _signed_names(folder / bundle), _files(folder) - {bundle}
    return _name_files(changed=_CHANGED.findall(words), added=sorted(found - signed), missing=sorted(signed - found))


def _name_files(changed: Iterable[str] = (), added: Iterable[str] = (), missing: Iterable[str] = ()) -> dict[str, Any]:
    """The first few of each kind, and how many others there are."""
    every = {"changed": list(changed), "added": list(added), "missing": list(missing)}
    shown = {kind: [name[:200] for name in names[:MOST_NAMED]] for kind, names in every.items()}
    others = sum(len(names) for names in every.values()) - sum(len(names) for names in shown.values())
    return {"refused": "Files", **shown, "others": others}


def main() -> None:
    answers = os.dup(1)
    os.dup2(2, 1)  # the package prints warnings
    found = json.dumps(answer(json.load(sys.stdin)))
    os.write(answers, found.encode())


if __name__ == "__main__":
    main()
