"""agent.json: what is read from it, and in which words it is refused."""

import json
from typing import Any

import pytest

from slipway_agent.config import Config, TritonSpec, parse_config, parse_version, show_url
from slipway_agent.failures import Reason, SpecError


def config_fields(**changes: Any) -> dict[str, Any]:
    source = {"uri": "pvc://models/digits", "path": "/source/digits", "versions": {}, "allowRedirects": False}
    fields = {
        "schema": 1,
        "generation": "g1",
        "runtime": "Triton",
        "model": "digits",
        "source": source,
        "served": 3,
        "load": [3, 2],
        "sha256": {"3": "AB" * 32},
        "triton": {
            "httpPort": 8000,
            "maxBatchSize": 32,
            "preferredBatchSizes": [],
            "instanceCount": None,
            "gpu": False,
        },
    }
    return fields | changes


def https_source(**changes: Any) -> dict[str, Any]:
    return {"uri": "https://models.example/digits", "path": None, "versions": {"3": "v3.onnx"}} | changes


def parse(**changes: Any) -> Config:
    return parse_config(json.dumps(config_fields(**changes)))


def test_every_field_is_read() -> None:
    config = parse()
    assert (config.generation, config.model, config.served, config.load) == ("g1", "digits", 3, (2, 3))
    assert config.source.uri == "pvc://models/digits"
    assert config.sha256 == {3: "ab" * 32}
    assert config.triton == TritonSpec(http_port=8000, max_batch_size=32)


def test_absent_and_null_optional_fields_mean_say_nothing() -> None:
    assert parse(triton=None, sha256=None).triton == TritonSpec()
    assert parse(triton={}).triton.max_batch_size is None


def test_an_unknown_field_of_a_newer_operator_is_ignored() -> None:
    assert parse(warmup={"requests": []}).model == "digits"


@pytest.mark.parametrize(
    ("mapped", "location"),
    [
        ("v3.onnx", "https://models.example/digits/v3.onnx"),
        ("/other/v3.onnx", "https://models.example/other/v3.onnx"),
        ("https://elsewhere.example/v3.zip", "https://elsewhere.example/v3.zip"),
    ],
)
def test_a_url_may_be_absolute_or_relative_to_the_uri(mapped: str, location: str) -> None:
    assert parse(source=https_source(versions={"3": mapped})).source.location(3) == location


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"schema": 2}, "schema is 2"),
        ({"runtime": "TorchServe"}, "this agent knows Triton"),
        ({"served": 4}, "served is 4, which load does not name (2, 3)"),
        ({"load": []}, "it is empty"),
        ({"load": [0]}, "load[0] is 0"),
        ({"load": ["3"]}, "load[0] must be a whole number"),
        ({"served": True}, "served must be a whole number"),
        ({"served": 2**63}, "served is 9223372036854775808"),
        ({"generation": None}, "generation is missing"),
        ({"model": "../etc"}, "model is '../etc'"),
        ({"model": ".."}, "model is '..'"),
        ({"sha256": {"3": "abc"}}, "sha256[3] is 'abc'"),
        ({"sha256": {"03": "ab" * 32}}, "has the key '03'"),
        ({"source": None}, "source is missing"),
        ({"source": []}, "source must be an object"),
        ({"source": https_source(uri="http://models.example")}, "only https:// can be fetched"),
        ({"source": https_source(versions={"3": "http://models.example/x"})}, "only https:// URLs are fetched"),
        ({"source": https_source(uri="https://[bad/")}, "only https:// can be fetched"),
        ({"source": https_source(versions={"3": "https://h:port/x"})}, "only https:// URLs are fetched"),
        ({"source": https_source(versions={"3": "https://[bad/"})}, "only https:// URLs are fetched"),
        ({"source": https_source(versions={"v3": "x"})}, "has the key 'v3'"),
        ({"source": {"uri": "pvc://c", "path": "/s", "versions": {"3": "../x"}}}, "without '..'"),
        ({"source": {"uri": "pvc://c", "path": "/s", "versions": {"3": "/etc"}}}, "without '..'"),
        ({"triton": {"gpu": 1}}, "triton.gpu must be true or false"),
        ({"triton": {"maxBatchSize": -1}}, "triton.maxBatchSize is -1"),
        ({"triton": {"instanceCount": 0}}, "triton.instanceCount is 0"),
        ({"triton": {"preferredBatchSizes": [4, "8"]}}, "triton.preferredBatchSizes[1] must be a whole number"),
    ],
)
def test_a_refusal_names_the_field_and_what_it_holds(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError) as refusal:
        parse(**changes)
    assert refusal.value.reason is Reason.CONFIG_INVALID
    assert words in refusal.value.message


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://user:pass@h.example/a@b?x=1", "https://h.example/a@b?…"),
        ("https://h.example:8443/a", "https://h.example:8443/a"),
        ("pvc://models/digits/3", "pvc://models/digits/3"),
        ("", ""),
    ],
)
def test_a_shown_url_has_no_password_and_no_query(url: str, shown: str) -> None:
    assert show_url(url) == shown


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"x"', "{} {}"])
def test_what_is_no_json_object_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match=r"agent\.json can't be used"):
        parse_config(text)


@pytest.mark.parametrize(
    ("name", "version"), [("3", 3), ("10", 10), ("0", None), ("01", None), ("v1", None), ("", None), ("³", None)]
)
def test_only_canonical_whole_numbers_are_versions(name: str, version: int | None) -> None:
    assert parse_version(name) == version
