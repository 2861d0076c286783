"""Models of the onnx package's own backend tests: its inputs in, its expected outputs out, within its tolerance."""

from __future__ import annotations

import pytest

from tests.e2e.models import OnnxCase
from tests.e2e.stage import Served

pytestmark = pytest.mark.usefixtures("operator")


def test_rest_gives_the_expected_outputs(onnx_served: tuple[OnnxCase, Served]) -> None:
    case, served = onnx_served
    with served.asked() as ask:
        case.agrees(ask.rest.infer_binary(case.inputs))


def test_grpc_gives_the_expected_outputs(onnx_served: tuple[OnnxCase, Served]) -> None:
    case, served = onnx_served
    with served.asked() as ask:
        case.agrees(ask.grpc.infer(case.inputs))
