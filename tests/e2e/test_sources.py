"""Where models come from: https:// with a private CA, redirects, pins and archives; volumes in all their layouts."""

from __future__ import annotations

import hashlib
import io
import tarfile
import zipfile
from typing import Any

import numpy as np
import pytest

from tests.e2e.models import Digits
from tests.e2e.stage import Served, Stage, config_map_volume, digits_volume
from tests.e2e.web import Web

pytestmark = pytest.mark.usefixtures("operator")

PBTXT = b"""
name: "another"
parameters { key: "team" value { string_value: "vision" } }
"""


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def folder_sha256(files: dict[str, bytes]) -> str:
    """As `sha256sum` would list the folder's files, sorted by path."""
    return sha256("".join(f"{sha256(content)}  {path}\n" for path, content in sorted(files.items())).encode())


def zipped(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, content in files.items():
            archive.writestr(path, content)
    return stream.getvalue()


def tarred(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for path, content in files.items():
            entry = tarfile.TarInfo(path)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return stream.getvalue()


def answers_as(served: Served, digits: Digits, version: int, asked_version: int | None = None) -> None:
    """Asserts that what serves is the trained `version`."""
    with served.asked() as ask:
        answer = ask.rest.infer_json({"image": digits.images}, asked_version)
        np.testing.assert_allclose(answer["probabilities"], digits.probabilities(version), atol=1e-4)


@pytest.fixture(scope="module")
def web(module_stage: Stage, digits: Digits) -> Web:
    """An https server with a private CA, in the module's namespace."""
    return Web.started(
        module_stage,
        {
            "digits-1.onnx": digits.files[1],
            "digits-2.onnx": digits.files[2],
            "digits-1.zip": zipped({"model.onnx": digits.files[1]}),
            "digits-2.tar.gz": tarred({"model.onnx": digits.files[2]}),
        },
    )


def from_web(web: Web, name: str, version: int, files: dict[int, str], path: str = "/models", **more: Any) -> Served:
    storage = {"caBundle": {"configMapName": web.ca_config_map}} | more.pop("storage", {})
    model = {"versions": {str(n): file for n, file in files.items()}} | more.pop("model", {})
    return web.stage.given(name, f"{web.url}{path}", version, model=model, storage=storage, **more)


def test_https_serves_files_and_archives(web: Web, digits: Digits) -> None:
    served = from_web(
        web,
        "archives",
        2,
        {1: "digits-1.zip", 2: "digits-2.tar.gz"},
        model={"sha256": {"1": sha256(web.files["digits-1.zip"]), "2": sha256(web.files["digits-2.tar.gz"])}},
        versionPolicy={"all": {}},
    ).then_ready()
    served.then("VersionsReady", "True", says=["1", "2"])
    answers_as(served, digits, 2)
    answers_as(served, digits, 1, asked_version=1)


def test_a_redirect_is_refused_until_allowed(web: Web, digits: Digits) -> None:
    served = from_web(web, "redirected", 1, {1: "digits-1.onnx"}, path="/redirect/models")
    served.then("Ready", "False", "RedirectRefused", says=["/redirect/models/digits-1.onnx", "allowRedirects"])
    before = [pod["metadata"]["uid"] for pod in served.pods()]
    served.when_spec(storage={"allowRedirects": True}).then_ready()
    answers_as(served, digits, 1)
    assert [pod["metadata"]["uid"] for pod in served.pods()] == before


def test_a_certificate_of_an_unknown_ca_is_named(web: Web) -> None:
    served = web.stage.given("distrusted", f"{web.url}/models", 1, model={"versions": {"1": "digits-1.onnx"}})
    served.then("Ready", "False", says=["certificate", "caBundle"])


def test_a_file_that_is_not_there_is_named(web: Web, digits: Digits) -> None:
    served = from_web(web, "absent", 1, {1: "digits-7.onnx"})
    served.then("Ready", "False", "VersionNotFound", says=["digits-7.onnx", "404"])
    served.when_spec(model={"versions": {"1": "digits-1.onnx"}}).then_ready()
    answers_as(served, digits, 1)


def test_a_wrong_pin_is_never_served_and_the_right_one_is(web: Web, digits: Digits) -> None:
    wrong = sha256(b"something else")
    served = from_web(web, "pinned", 1, {1: "digits-1.onnx"}, model={"sha256": {"1": wrong}})
    served.then("Ready", "False", "DigestMismatch", says=[wrong, sha256(digits.files[1])])
    served.when_spec(model={"sha256": {"1": sha256(digits.files[1])}}).then_ready()
    answers_as(served, digits, 1)


def test_a_folder_is_pinned_by_its_files_lines(stage: Stage, digits: Digits) -> None:
    stage.given_digits(digits)
    pins = {str(n): folder_sha256({"model.onnx": content}) for n, content in digits.files.items()}
    served = stage.given("digits", "volume://models/digits", 2, [digits_volume()], model={"sha256": pins}).then_ready()
    answers_as(served, digits, 2)
    (version,) = served.stored()["status"]["versions"]
    assert version["sha256"] == pins["2"]


def test_a_uri_that_is_itself_a_model_is_version_1(stage: Stage, digits: Digits) -> None:
    stage.given_digits(digits)
    served = stage.given("digits", "volume://models/digits/2", 1, [digits_volume()]).then_ready()
    answers_as(served, digits, 2, asked_version=1)


def test_any_layout_is_mapped_to_numbers(stage: Stage, digits: Digits) -> None:
    stage.given_digits(digits)
    volume = config_map_volume("models", {"digits-1": "first/model.onnx", "digits-2": "second.onnx"})
    served = stage.given(
        "digits",
        "volume://models/",
        20,
        [volume],
        model={"versions": {"10": "first", "20": "second.onnx"}, "name": "numbers"},
        versionPolicy={"all": {}},
    ).then_ready()
    served.then("VersionsReady", "True", says=["10", "20"])
    with served.asked("numbers") as ask:
        for version, trained in ((10, 1), (20, 2), (None, 2)):
            answer = ask.rest.infer_json({"image": digits.images}, version)
            np.testing.assert_allclose(answer["probabilities"], digits.probabilities(trained), atol=1e-4)


def test_a_models_own_config_is_kept(stage: Stage, digits: Digits) -> None:
    stage.given_digits(digits, pbtxt=PBTXT)
    volume = digits_volume()
    volume["configMap"]["items"].append({"key": "pbtxt", "path": "digits/config.pbtxt"})
    served = stage.given("digits", "volume://models/digits", 2, [volume]).then_ready()
    answers_as(served, digits, 2)
    with served.asked() as ask:
        config = ask.rest.session.get(ask.rest.path(None, "/config"), timeout=10).json()
    assert config["name"] == "digits"
    assert config["parameters"]["team"] == {"string_value": "vision"}
