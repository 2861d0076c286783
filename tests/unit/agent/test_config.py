"""agent.json: what is read from it, and in which words it is refused."""

import json
from typing import Any

import pytest

from slipway_agent.config import (
    Config,
    Memory,
    Source,
    name_place,
    parse_config,
    parse_recorded,
    parse_version,
    show_url,
)
from slipway_agent.model.errors import Reason, SpecError
from slipway_agent.model.golden import Golden, GoldenRequest, Tolerance
from slipway_agent.model.limits import DEFAULT_LIMITS, Limits
from slipway_agent.model.probe import Question
from slipway_agent.servers.by_runtime import KINDS
from slipway_agent.servers.triton.config import TritonSpec


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
            "instanceCount": None,
            "gpu": False,
        },
    }
    return fields | changes


def https_source(**changes: Any) -> dict[str, Any]:
    return {"uri": "https://models.example/digits", "path": None, "versions": {"3": "v3.onnx"}} | changes


def parse(**changes: Any) -> Config:
    return parse_config(json.dumps(config_fields(**changes)), KINDS)


def test_every_field_is_read() -> None:
    config = parse()
    assert (config.generation, config.model, config.served, config.load) == ("g1", "digits", 3, (2, 3))
    assert config.source.uri == "pvc://models/digits"
    assert config.sha256 == {3: "ab" * 32}
    assert config.settings == TritonSpec(http_port=8000, max_batch_size=32)


def test_limits_are_read_and_each_has_a_default() -> None:
    limits = {"unpackedBytes": 5, "entries": 7, "volumeBytes": 9}
    assert parse(source=https_source(limits=limits)).source.limits == Limits(5, 7, 9)
    assert parse(source=https_source(limits={})).source.limits == DEFAULT_LIMITS == parse().source.limits


@pytest.mark.parametrize("name", ["unpackedBytes", "entries", "volumeBytes"])
def test_a_limit_of_nothing_is_refused(name: str) -> None:
    with pytest.raises(SpecError, match=f"source.limits.{name} is 0; it must be at least 1"):
        parse(source=https_source(limits={name: 0}))


TURN = {"pods": ["digits-a", "digits-b"], "served": 4, "load": [3, 4], "drainSeconds": 8, "held": True}


def of_pod(pod: str, **changes: Any) -> Config:
    return parse_config(json.dumps(config_fields(**changes)), KINDS, pod)


def test_whose_turn_it_is_has_its_own_orders_and_the_others_go_on_as_before() -> None:
    orders = {"turn": {**TURN, "labels": {"stable": 3, "canary": 4}}, "labels": {"stable": 3}}
    mine, others = of_pod("digits-b", **orders), of_pod("digits-c", **orders)
    assert (mine.served, mine.load, mine.drain_seconds, mine.is_held) == (4, (3, 4), 8.0, True)
    assert mine.labels == {"stable": 3, "canary": 4}
    assert others == parse(labels={"stable": 3})
    assert (others.served, others.drain_seconds, others.is_held) == (3, None, False)
    assert mine.source == others.source
    assert mine.generation == others.generation


def test_golden_requests_are_of_the_pods_whose_turn_it_is() -> None:
    golden: Any = {"requests": [{"request": {"inputs": []}, "response": {"outputs": []}}]}
    assert of_pod("digits-a", turn={**TURN, "golden": golden}).golden is not None
    assert of_pod("digits-c", turn={**TURN, "golden": golden}).golden is None
    assert of_pod("digits-a", turn=TURN, golden=golden).golden is None


PASSES: Any = {"requests": [{"request": {"inputs": [1]}, "response": {}}, {"request": {"inputs": [2]}, "response": {}}]}


@pytest.mark.parametrize(
    ("orders", "question"),
    [
        ({}, None),
        ({"warmup": [{"inputs": [3]}, {"inputs": [4]}]}, Question({"inputs": [3]})),
        ({"probe": {"request": {"inputs": [5]}}, "warmup": [{"inputs": [3]}]}, Question({"inputs": [5]})),
        ({"probe": {"file": "golden.json"}}, Question(file="golden.json")),
        ({"golden": PASSES, "probe": {"request": {"inputs": [5]}}}, Question({"inputs": [1]})),
        ({"golden": {"file": "golden.json"}}, Question(file="golden.json")),
    ],
)
def test_a_server_is_asked_what_its_version_passes_or_has_passed_else_a_warm_up_request(
    orders: dict[str, Any], question: Question | None
) -> None:
    assert parse(**orders).question == question


def test_pods_of_both_sides_of_a_turn_have_their_own_question_and_may_be_out() -> None:
    orders: dict[str, Any] = {"turn": {**TURN, "golden": PASSES}, "probe": {"request": {"inputs": [5]}}}
    orders["out"] = ["digits-a", "digits-c"]
    assert of_pod("digits-a", **orders).question == Question({"inputs": [1]})
    assert of_pod("digits-c", **orders).question == Question({"inputs": [5]})
    assert of_pod("digits-a", turn=TURN, probe={"file": "g"}).question is None, "another version has passed that"
    assert [of_pod(pod, **orders).is_out for pod in ("digits-a", "digits-b", "digits-c")] == [True, False, True]


def test_a_pod_without_a_name_has_no_turn() -> None:
    assert of_pod("", turn=TURN) == parse()


def test_all_pods_may_be_held() -> None:
    assert parse(held=True).is_held
    assert not parse().is_held


def test_absent_and_null_optional_fields_mean_say_nothing() -> None:
    assert parse(triton=None, sha256=None).settings == TritonSpec()
    assert parse(triton={}).settings == TritonSpec()


def test_what_an_older_operator_doesnt_write_means_what_it_meant() -> None:
    config = parse()
    assert (config.labels, config.memory, config.warmup, config.golden) == ({}, None, (), None)
    source = config.source
    assert (source.credentials, source.secret_name, source.endpoint, source.region, source.cache) == (None,) * 5
    assert (source.path_style, source.poll_seconds, source.public_keys) == (None, 60.0, ())
    assert parse(memory=None, labels=None, warmup=None, golden=None) == config


def test_the_fields_of_stores_and_of_all_servers_are_read() -> None:
    source = {
        "uri": "s3://models/digits",
        "path": None,
        "versions": {"3": "v3/model.onnx"},
        "credentials": "/etc/slipway-secret",
        "secretName": "store-credentials",
        "endpoint": "https://minio.example",
        "region": "eu-west-1",
        "pathStyle": True,
        "cache": "/cache",
        "pollSeconds": 1.5,
        "verify": {"keys": ["one", "two"]},
    }
    config = parse(
        source=source,
        labels={"stable": 3, "canary": 9},
        memory={"limitBytes": 2 << 30, "factor": 1.5},
        warmup=[{"inputs": []}, [1]],
    )
    assert config.source == Source(
        "s3://models/digits",
        None,
        {3: "v3/model.onnx"},
        credentials="/etc/slipway-secret",
        secret_name="store-credentials",
        endpoint="https://minio.example",
        region="eu-west-1",
        path_style=True,
        cache="/cache",
        poll_seconds=1.5,
        public_keys=("one", "two"),
    )
    assert config.labels == {"stable": 3, "canary": 9}
    assert config.memory == Memory(2 << 30, 1.5)
    assert config.warmup == ({"inputs": []}, [1])


def test_golden_requests_are_read() -> None:
    request = {"name": "one", "request": {"x": 1}, "response": [1], "maxLatencyMilliseconds": 20}
    tolerance = {"absolute": 0, "relative": 0.5}
    assert parse(golden={"requests": [request], "file": None, "tolerance": tolerance}).golden == Golden(
        (GoldenRequest("one", {"x": 1}, [1], 20),), None, Tolerance(0.0, 0.5)
    )
    assert parse(golden={"requests": [], "file": "tests/golden.json"}).golden == Golden(file="tests/golden.json")


@pytest.mark.parametrize(
    ("golden", "words"),
    [
        ([], "golden must be an object, and is a list"),
        ({}, "golden must have requests or a file, and has neither"),
        ({"requests": [{"request": 1, "response": 1}], "file": "a"}, "must have requests or a file, and has both"),
        ({"requests": {"request": 1}}, "golden.requests must be a JSON list of objects"),
        ({"requests": [{"request": 1}]}, "golden.requests[0] has no response"),
        ({"file": 3}, "golden.file must be a text, and is a number"),
        ({"file": "/etc/passwd"}, "golden.file is '/etc/passwd': write a path below the version's own folder"),
        ({"file": "a/../../b"}, "golden.file is 'a/../../b'"),
        ({"file": "a", "tolerance": {"absolute": -1}}, "golden.tolerance.absolute is -1; it must be at least 0"),
        ({"file": "a", "tolerance": {"relative": "1"}}, "golden.tolerance.relative must be a number"),
        ({"file": "a", "tolerance": {"relative": 1e999}}, "golden.tolerance.relative is inf; it must be at least 0"),
    ],
)
def test_golden_requests_that_make_no_sense_are_refused_by_name(golden: object, words: str) -> None:
    with pytest.raises(SpecError) as refused:
        parse(golden=golden)
    assert refused.value.reason is Reason.CONFIG_INVALID
    assert words in refused.value.message


def test_nothing_may_be_named_yet() -> None:
    config = parse(served=None, load=[])
    assert (config.served, config.load) == (None, ())


@pytest.mark.parametrize(
    ("uri", "entry", "location"),
    [
        ("s3://models/digits", None, "s3://models/digits/3"),
        ("s3://models/digits/", "best.onnx", "s3://models/digits/best.onnx"),
        ("oci://registry.example/digits", None, "oci://registry.example/digits:3"),
        ("oci://registry.example/digits", "v3", "oci://registry.example/digits:v3"),
        ("oci://registry.example/digits", "@sha256:ab", "oci://registry.example/digits@sha256:ab"),
        ("oci://registry.example/digits", "large:v3", "oci://registry.example/digits/large:v3"),
        ("oci://registry.example/digits", "oci://other.example/d:3", "oci://other.example/d:3"),
    ],
)
def test_a_version_in_a_store_has_one_place(uri: str, entry: str | None, location: str) -> None:
    source = {"uri": uri, "path": None, "versions": {} if entry is None else {"3": entry}}
    assert parse(source=source).source.location(3) == location


@pytest.mark.parametrize(
    ("text", "recorded"),
    [
        (f'{{"3": "{"AB" * 32}", "v3": "{"ab" * 32}", "4": "short", "5": null}}', {3: "ab" * 32}),
        ("", {}),
        ("[]", {}),
        ("{", {}),
    ],
)
def test_a_record_that_cant_be_read_says_nothing(text: str, recorded: dict[int, str]) -> None:
    assert parse_recorded(text) == recorded


def test_an_unknown_field_of_a_newer_operator_is_ignored() -> None:
    assert parse(novelty={"requests": []}).model == "digits"


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
        ({"runtime": "Abacus"}, "this agent knows Triton"),
        ({"served": 4}, "served is 4, which load does not name (2, 3)"),
        ({"load": []}, "it is empty"),
        ({"load": [0]}, "load[0] is 0"),
        ({"load": ["3"]}, "load[0] must be a whole number"),
        ({"served": True}, "served must be a whole number"),
        ({"served": 2**31}, "served is 2147483648; it must be at most 2147483647"),
        ({"load": [3, 2**31]}, "load[1] is 2147483648; it must be at most 2147483647"),
        ({"labels": {"best": 20240115120000}}, "labels.best is 20240115120000; it must be at most 2147483647"),
        ({"sha256": {"2147483648": "ab" * 32}}, "has the key '2147483648'; a version is a whole number from 1 to 214"),
        ({"generation": None}, "generation is missing"),
        ({"model": "../etc"}, "model is '../etc'"),
        ({"model": ".."}, "model is '..'"),
        ({"sha256": {"3": "abc"}}, "sha256[3] is 'abc'"),
        ({"sha256": {"03": "ab" * 32}}, "has the key '03'"),
        ({"source": None}, "source is missing"),
        ({"source": []}, "source must be an object"),
        ({"source": https_source(uri="http://models.example")}, "without a path only https://"),
        ({"source": https_source(versions={"3": "http://models.example/x"})}, "only https:// URLs are fetched"),
        ({"source": https_source(uri="https://[bad/")}, "it is no URL with a host"),
        ({"source": https_source(versions={"3": "https://h:port/x"})}, "only https:// URLs are fetched"),
        ({"source": https_source(versions={"3": "https://[bad/"})}, "only https:// URLs are fetched"),
        ({"source": https_source(versions={"v3": "x"})}, "has the key 'v3'"),
        ({"source": {"uri": "pvc://c", "path": "/s", "versions": {"3": "../x"}}}, "without '..'"),
        ({"source": {"uri": "pvc://c", "path": "/s", "versions": {"3": "/etc"}}}, "without '..'"),
        ({"served": None}, "served is null and load names 2, 3"),
        ({"source": {"uri": "ftp://h/x", "path": None}}, "only https://, s3://, oci:// can be fetched"),
        ({"source": {"uri": "s3:///x", "path": None}}, "only https://, s3://, oci:// can be fetched"),
        ({"source": {"uri": "s3://b", "path": None, "versions": {"3": "../x"}}}, "without '..'"),
        ({"source": {"uri": "pvc://c", "path": "/s", "pollSeconds": 0}}, "source.pollSeconds is 0; it must be more"),
        ({"source": {"uri": "pvc://c", "path": "/s", "verify": {}}}, "source.verify.keys is empty"),
        ({"source": {"uri": "pvc://c", "path": "/s", "verify": {"keys": []}}}, "source.verify.keys is empty"),
        ({"source": {"uri": "pvc://c", "path": "/s", "verify": {"keys": [1]}}}, "source.verify.keys[0] must be a text"),
        ({"memory": {"factor": 2}}, "memory.limitBytes is missing"),
        ({"memory": {"limitBytes": 1, "factor": True}}, "memory.factor must be a number"),
        ({"memory": {"limitBytes": 1, "factor": 0}}, "memory.factor is 0; it must be more than 0"),
        ({"labels": {"stable": "3"}}, "labels.stable must be a whole number"),
        ({"warmup": {}}, "warmup must be a list"),
        ({"triton": {"gpu": 1}}, "triton.gpu must be true or false"),
        ({"triton": {"maxBatchSize": -1}}, "triton.maxBatchSize is -1"),
        ({"triton": {"instanceCount": 0}}, "triton.instanceCount is 0"),
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
        parse_config(text, KINDS)


@pytest.mark.parametrize(
    ("name", "version"),
    [
        *(("3", 3), ("10", 10), ("0", None), ("01", None), ("v1", None), ("", None), ("³", None)),
        *(("2147483647", 2147483647), ("2147483648", None), ("20240115120000", None), ("9" * 5000, None)),
    ],
)
def test_only_canonical_whole_numbers_that_the_api_takes_are_versions(name: str, version: int | None) -> None:
    assert parse_version(name) == version


@pytest.mark.parametrize(
    ("entry", "location"),
    [
        ("v3", "oci://ghcr.io/team/digits:v3"),
        (f"sha256:{'a' * 64}", f"oci://ghcr.io/team/digits@sha256:{'a' * 64}"),
        ("large:v3", "oci://ghcr.io/team/digits/large:v3"),
    ],
)
def test_an_entry_of_an_oci_model_is_a_tag_a_digest_or_a_repository_below(entry: str, location: str) -> None:
    assert Source("oci://ghcr.io/team/digits", None, {3: entry}).location(3) == location


def test_a_place_is_named_without_what_opens_it_and_another_key_is_another_place() -> None:
    plain, one, other = "https://host/a.onnx", "https://host/a.onnx?sig=one", "https://host/a.onnx?sig=other"
    assert name_place(plain) == plain
    assert name_place("pvc://claim/a") == "pvc://claim/a"
    assert len({name_place(each) for each in (plain, one, other, "https://user:one@host/a.onnx")}) == 4
    for each in (one, "https://user:one@host/a.onnx"):
        assert "one" not in name_place(each)
        assert name_place(name_place(each)) == name_place(each)
