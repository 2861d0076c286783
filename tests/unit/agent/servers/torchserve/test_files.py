"""The files of a TorchServe model and server: completed, composed, read back."""

import json
from xml.etree import ElementTree

import pytest

from slipway_agent.model.errors import Reason, SpecError
from slipway_agent.servers.torchserve.files import (
    TorchServeSpec,
    complete_manifest,
    complete_model_config,
    compose_logging,
    compose_properties,
    find_words,
    order_versions,
    read_properties,
)

DEFAULTS = "responseTimeout: 600\nstartupTimeout: 600\n"


@pytest.mark.parametrize(
    ("said", "told"), [("1.0", "1.0"), ("7.5", "7.5"), ("3", None), ("3.0", None), (None, None), (3, None)]
)
def test_the_folders_number_is_the_version_and_another_one_in_the_manifest_is_told(
    said: object, told: str | None
) -> None:
    model = {"handler": "h.py", "modelName": "x"} | ({} if said is None else {"modelVersion": said})
    made = complete_manifest(json.dumps({"runtime": "python", "model": model}), "digits", 3)
    assert made.said == told
    assert json.loads(made.text) == {
        "runtime": "python",
        "model": {
            "handler": "h.py",
            "modelName": "digits",
            "modelVersion": "3",
            "configFile": "model-config.yaml",
        },
    }


@pytest.mark.parametrize("kept", ["", "[]", "{}", '{"model": 3}', '{"model": {"configFile": "../../etc"}}'])
def test_a_manifest_that_is_none_is_refused(kept: str) -> None:
    with pytest.raises(SpecError) as refused:
        complete_manifest(kept, "digits", 3)
    assert refused.value.reason is Reason.MODEL_INVALID


@pytest.mark.parametrize(
    ("kept", "spec", "wanted"),
    [
        ("", TorchServeSpec(), f"minWorkers: 1\nmaxWorkers: 1\n{DEFAULTS}"),
        ("", TorchServeSpec(default_workers=2), f"minWorkers: 2\nmaxWorkers: 2\n{DEFAULTS}"),
        ("minWorkers: 4\n", TorchServeSpec(default_workers=2), f"minWorkers: 4\n{DEFAULTS}"),
        (
            "batchSize: 2 # mine\nminWorkers: 4\nhandler:\n  batchSize: 7\n",
            TorchServeSpec(workers=1, max_batch_size=8, max_batch_delay_milliseconds=5),
            "handler:\n  batchSize: 7\nminWorkers: 1\nmaxWorkers: 1\nbatchSize: 8\nmaxBatchDelay: 5\n" + DEFAULTS,
        ),
        (
            "---\nminWorkers: 1\nmaxWorkers: 1\nresponseTimeout: 9\nstartupTimeout: 8\n...\n",
            TorchServeSpec(max_batch_size=2),
            "---\nminWorkers: 1\nmaxWorkers: 1\nresponseTimeout: 9\nstartupTimeout: 8\nbatchSize: 2\n",
        ),
    ],
)
def test_what_the_spec_sets_wins_and_the_rest_of_a_models_configuration_stays(
    kept: str, spec: TorchServeSpec, wanted: str
) -> None:
    made = complete_model_config(kept, spec)
    assert made == wanted
    assert sorted(complete_model_config(made, spec).splitlines()) == sorted(made.splitlines())


def test_a_configuration_in_braces_is_completed_as_json_or_refused() -> None:
    made = json.loads(complete_model_config('{"batchSize": 2, "mine": [1]}', TorchServeSpec(max_batch_size=8)))
    assert (made["batchSize"], made["mine"], made["minWorkers"]) == (8, [1], 1)
    with pytest.raises(SpecError, match="one key a line"):
        complete_model_config("{batchSize: 2}", TorchServeSpec(max_batch_size=8))


def test_a_start_loads_what_is_written_the_served_version_first() -> None:
    ordered = order_versions({1, 2, 3}, 2)
    assert ordered == [2, 3, 1]
    assert order_versions({1, 3}, 2) == [3, 1]
    paths = {version: f"/models/repository/digits/{version}" for version in ordered}
    written = compose_properties("digits", paths, ordered, TorchServeSpec())
    assert "load_models=digits=/models/repository/digits/2,digits=/models/repository/digits/3," in written
    assert read_properties(written) == {1, 2, 3}
    assert read_properties(compose_properties("digits", {}, [], TorchServeSpec())) == set()
    assert read_properties("anything") == set()


def test_management_listens_on_loopback_alone_and_fetches_nothing() -> None:
    written = compose_properties("digits", {}, [], TorchServeSpec()).splitlines()
    assert "management_address=http://127.0.0.1:8083" in written
    assert "grpc_management_address=127.0.0.1" in written
    assert "allowed_urls=none" in written
    assert "install_py_dep_per_model=false" in written


def test_the_logging_configuration_is_xml_and_bounds_its_file() -> None:
    root = ElementTree.fromstring(compose_logging("/tmp/torchserve"))
    [file] = root.findall("Appenders/RollingFile")
    assert file.get("fileName") == "/tmp/torchserve/workers.log"
    assert file.find("SizeBasedTriggeringPolicy") is not None


def log_of(said: str, thread: str = "W-9000-digits_3-stdout") -> str:
    return "".join(f"{thread} {line}\n" for line in said.splitlines())


RAISED = """\
Backend worker process died.
Traceback (most recent call last):
  File "x.py", line 3, in initialize
    raise ValueError("no vocabulary")
ValueError: no vocabulary
"""
# a RuntimeError is caught by the worker, told, and raised again without its words
CAUGHT = """\
Failed to load model digits, exception size mismatch
Traceback (most recent call last):
  File "x.py", line 3, in initialize
RuntimeError: Error(s) in loading state_dict:
	size mismatch for layer.weight
Backend worker process died.
Traceback (most recent call last):
  File "worker.py", line 9, in handle_connection
RuntimeError: 500 - Unknown exception
"""
UNKNOWN = """\
Backend worker process died.
Traceback (most recent call last):
  File "x.py", line 1, in <module>
ModuleNotFoundError: No module named 'transformers'

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "loader.py", line 9, in load
ModuleNotFoundError: No module named 'ts.torch_handler.handler'
"""
PREDICTION = """\
Invoking custom service failed.
Traceback (most recent call last):
  File "x.py", line 1, in handle
KeyError: 'x'
"""
CHAINED = """\
Backend worker process died.
Traceback (most recent call last):
  File "x.py", line 1, in read
KeyError: 'labels'

The above exception was the direct cause of the following exception:

Traceback (most recent call last):
  File "x.py", line 2, in initialize
OSError: the model's index can't be read
"""


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("Torch worker started.\n", None),
        (PREDICTION, None),
        (RAISED, "ValueError: no vocabulary"),
        (PREDICTION + RAISED + PREDICTION, "ValueError: no vocabulary"),
        (CAUGHT, "RuntimeError: Error(s) in loading state_dict: size mismatch for layer.weight"),
        (UNKNOWN, "ModuleNotFoundError: No module named 'transformers'"),
        (CHAINED, "KeyError: 'labels'; then OSError: the model's index can't be read"),
    ],
)
def test_the_words_of_a_failure_are_its_tracebacks_errors(said: str, words: str | None) -> None:
    assert find_words(log_of(said), "digits", 3) == words


def test_another_versions_words_are_not_this_ones() -> None:
    mixed = log_of(RAISED, "W-9001-digits_13-stdout") + log_of("Torch worker started.")
    assert find_words(mixed, "digits", 3) is None
    assert find_words(mixed, "digits", 13) == "ValueError: no vocabulary"
