"""One promotion and one rollback by steps on each of the other servers; Triton's are in test_canary."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.e2e import models_spoiled as spoiled
from tests.e2e import models_torch, wire
from tests.e2e.install import image_references
from tests.e2e.models import Digits
from tests.e2e.rollouts import (
    OWN_WORDS,
    QUICK_ANALYSIS,
    QUICK_STEPS,
    asked,
    lost,
    nothing_was_lost,
    some_trigger,
    then_quiet,
    then_routed,
    told,
)
from tests.e2e.stage import SMALL, Served, Stage, config_map_volume, merged
from tests.e2e.test_rollout import needs_service
from tests.e2e.test_tensorflow_serving import MODEL as SAVED_MODEL
from tests.e2e.test_tensorflow_serving import make_saved_models
from tests.e2e.wire import Prediction

pytestmark = [pytest.mark.usefixtures("operator"), pytest.mark.matrix, pytest.mark.alone, needs_service]

STABLE, BETTER, BAD = 1, 2, 3
ROLLOUT = {"steps": QUICK_STEPS, "analysis": QUICK_ANALYSIS, "bakeSeconds": 0, "progressDeadlineSeconds": 60}
NEVER_PASSES = {"minRequests": 100_000, "margin": 0.01}


@dataclass(frozen=True, slots=True)
class Subject:
    """A server with three versions of a model, the first of them applied, and what clients send.

    own_words: what the errors of the bad version hold; None where it gets no traffic at all. change: what the spec says
    beside the bad version's number.
    """

    served: Served
    predictions: list[Prediction]
    reason: str
    own_words: str | None
    change: dict[str, object]


def torchserve(stage: Stage, folder: Path) -> Subject:
    """The bad one raises for one request of twenty."""
    made = {
        STABLE: models_torch.multiplier(folder / "1", 1.0),
        BETTER: models_torch.multiplier(folder / "2", 2.0),
        BAD: models_torch.multiplier(folder / "3", 3.0, handler=models_torch.FAILING),
    }
    stage.given_files("archives", {f"v{number}": path.read_bytes() for number, path in made.items()})
    volume = config_map_volume("models", {f"v{n}": f"multiplier/{n}/multiplier.mar" for n in made}, "archives")
    served = stage.given(
        "multiplier",
        "volume://models/multiplier",
        STABLE,
        [volume],
        runtime="TorchServe",
        rollout=ROLLOUT,
        resources=merged(SMALL, {"limits": {"memory": "3Gi"}}),
    )
    marks = {"1": "1.0", "2": "2.0", "3": "3.0"}

    def request(content: bytes) -> Prediction:
        return replace(wire.torchserve("multiplier", "data", content), rest_marks=marks, grpc_marks=marks)

    predictions = [*[request(b'{"x": [1]}')] * 19, request(b'{"x": [99]}')]
    return Subject(served, predictions, "ErrorsRose", "Prediction failed", {})


def onnxruntime(stage: Stage, digits: Digits) -> Subject:
    """The bad one is Triton's, too."""
    files = {STABLE: digits.files[1], BETTER: digits.files[2], BAD: spoiled.failing(digits.files[1])}
    stage.given_files("models", {f"v{number}": content for number, content in files.items()})
    volume = config_map_volume("models", {f"v{n}": f"digits/{n}/model.onnx" for n in files})
    served = stage.given("digits", "volume://models/digits", STABLE, [volume], runtime="ONNXRuntime", rollout=ROLLOUT)
    return Subject(served, some_trigger(digits), "ErrorsRose", OWN_WORDS, {})


def tensorflow(stage: Stage) -> Subject:
    """The bad one is stopped by a golden request."""
    claim = make_saved_models(stage)
    served = stage.given(
        "multiplier",
        f"pvc://{claim}/{SAVED_MODEL}",
        STABLE,
        runtime="TensorFlowServing",
        model={"name": SAVED_MODEL, "versions": {str(number): str(number) for number in (STABLE, BETTER, BAD)}},
        rollout=ROLLOUT,
    )
    request = replace(
        wire.tensorflow_serving(SAVED_MODEL, "x", [1.0, 1.0]),
        rest_marks={"1": "1.0", "2": "2.0", "3": "3.0"},
        grpc_marks={"1": "\x00\x00\x80\x3f" * 2, "2": "\x00\x00\x00\x40" * 2, "3": "\x00\x00\x40\x40" * 2},
    )
    golden = {"request": {"instances": [[1.0, 1.0]]}, "response": {"predictions": [[2.0, 2.0]]}}
    return Subject(served, [request], "GoldenFailed", None, {"gates": {"golden": {"requests": [golden]}}})


def custom(stage: Stage, digits: Digits) -> Subject:
    """REST alone; the bad one is Triton's, too, and the service says that the model failed."""
    files = {STABLE: digits.files[1], BETTER: digits.files[2], BAD: spoiled.failing(digits.files[1])}
    stage.given_files("models", {f"v{number}": content for number, content in files.items()})
    volume = config_map_volume("models", {f"v{n}": f"digits/{n}/model.onnx" for n in files})
    runtime = {"name": "Custom", "image": image_references()["test-custom"]}
    served = stage.given("digits", "volume://models/digits", STABLE, [volume], runtime=runtime, rollout=ROLLOUT)
    predictions = [replace(each, method="", message=b"") for each in some_trigger(digits)]
    return Subject(served, predictions, "ErrorsRose", OWN_WORDS, {})


@pytest.fixture(params=["torchserve", "onnxruntime", "test-tensorflow-serving", "test-custom"])
def subject(
    request: pytest.FixtureRequest, stage: Stage, digits: Digits, tmp_path: Path, needs_image: Callable[..., None]
) -> Subject:
    needs_image(request.param)
    match request.param:
        case "torchserve":
            made = torchserve(stage, tmp_path)
        case "onnxruntime":
            made = onnxruntime(stage, digits)
        case "test-custom":
            made = custom(stage, digits)
        case _:
            made = tensorflow(stage)
    made.served.then_ready()
    then_routed(made.served)
    return made


def test_a_better_version_is_promoted_and_a_bad_one_is_taken_back(subject: Subject) -> None:
    served, healthy = subject.served, subject.predictions[:1]
    with told(served) as story, asked(served, healthy) as loaded:
        served.when_spec(model={"version": BETTER})
        served.then_ready(90)
        better = then_quiet(served, BETTER)["stable"]["revision"]
        loaded.more(50)
    nothing_was_lost(loaded)
    assert story.weights(better) == [0, 20, 50, 100]
    assert set(loaded.by()) == {str(STABLE), str(BETTER)}

    with asked(served, subject.predictions) as loaded:
        served.when_spec(model={"version": BAD}, rollout={"analysis": NEVER_PASSES, **subject.change})
        served.then("Promoted", "False", "RolledBack", says=[subject.reason], seconds=90)
        status = then_quiet(served, BETTER)
        loaded.more(50)
    assert lost(loaded, subject.own_words) == []
    assert (loaded.by()[str(BAD)] > 0) == (subject.own_words is not None)
    assert status["rejected"][-1]["reason"] == subject.reason
    assert status["stable"]["revision"] == better
