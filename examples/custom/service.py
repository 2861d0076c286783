"""A service of your own around a model, as Slipway's Custom runtime wants it: FastAPI, onnxruntime and your code.

Before this starts, Slipway has put the served version's files at SLIPWAY_MODEL_PATH. It asks three things of a service:
the live path answers 200 while the process works, the ready path answers 200 once it can predict, and after SIGTERM
what was begun is finished. Here the paths are those of the Open Inference Protocol, which are the default; whatever
else the service offers (here: POST /classify) is up to you.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from fastapi import FastAPI, HTTPException, Response
from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument
from pydantic import BaseModel

NAME = os.environ.get("SLIPWAY_MODEL_NAME", "digits")
PATH = Path(os.environ.get("SLIPWAY_MODEL_PATH", "."))
VERSION = PATH.resolve().name  # the path is a link to the served version's folder
NUMPY = {"FP32": np.float32, "FP64": np.float64, "INT64": np.int64, "INT32": np.int32}
PROTOCOL = {"tensor(float)": "FP32", "tensor(double)": "FP64", "tensor(int64)": "INT64", "tensor(int32)": "INT32"}

app = FastAPI(title="digits")
sessions: list[ort.InferenceSession] = []
problems: list[str] = []


class Tensor(BaseModel):
    """A tensor as JSON."""

    name: str
    shape: list[int]
    datatype: str
    data: list[Any]


class Inference(BaseModel):
    """A request of the Open Inference Protocol, as far as this service needs it."""

    inputs: list[Tensor]


class Picture(BaseModel):
    """A request of the service's own: 64 grey values from 0 to 16, row by row."""

    pixels: list[float]


def load() -> None:
    """Load the model off the event loop: the service is alive at once, and ready later."""
    try:
        files = sorted(PATH.glob("*.onnx"))
        if not files:
            raise FileNotFoundError(f"no *.onnx in {PATH}; it holds {sorted(each.name for each in PATH.iterdir())}")
        sessions.append(ort.InferenceSession(str(files[0]), providers=["CPUExecutionProvider"]))
    except Exception as problem:
        problems.append(str(problem))


threading.Thread(target=load, daemon=True).start()


def ready_session(name: str = NAME) -> ort.InferenceSession:
    if name != NAME:
        raise HTTPException(404, f"there is no model {name}; this is {NAME}")
    if not sessions:
        raise HTTPException(503, problems[0] if problems else "the model is being loaded")
    return sessions[0]


@app.get("/v2/health/live")
def live() -> Response:
    return Response()


@app.get("/v2/models/{name}/ready")
def ready(name: str) -> Response:
    """What makes the pod ready. A body that says why not is shown in the ModelDeployment's condition."""
    ready_session(name)
    return Response()


@app.get("/v2/models/{name}")
def metadata(name: str) -> dict[str, Any]:
    session = ready_session(name)

    def describe(arguments: list[Any]) -> list[dict[str, Any]]:
        return [
            {
                "name": each.name,
                "datatype": PROTOCOL[each.type],
                "shape": [size if isinstance(size, int) else -1 for size in each.shape],
            }
            for each in arguments
        ]

    inputs, outputs = describe(session.get_inputs()), describe(session.get_outputs())
    return {"name": name, "versions": [], "platform": "custom", "inputs": inputs, "outputs": outputs}


@app.post("/v2/models/{name}/infer")
def infer(name: str, request: Inference) -> dict[str, Any]:
    """In the protocol's words, so that its clients work unchanged. `def`, not `async def`: it runs on a thread."""
    session = ready_session(name)
    try:
        feed = {each.name: np.array(each.data, NUMPY[each.datatype]).reshape(each.shape) for each in request.inputs}
        results = session.run(None, feed)
    except (InvalidArgument, KeyError, TypeError, ValueError) as problem:
        raise HTTPException(400, str(problem)) from problem
    except Exception as problem:  # the model's own: 5xx is what a canary is judged by
        raise HTTPException(500, str(problem)) from problem
    outputs = [
        {
            "name": output.name,
            "datatype": PROTOCOL[output.type],
            "shape": list(result.shape),
            "data": result.ravel().tolist(),
        }
        for output, result in zip(session.get_outputs(), results, strict=True)
    ]
    return {"model_name": name, "model_version": VERSION, "outputs": outputs}


@app.post("/classify")
def classify(picture: Picture) -> dict[str, Any]:
    """In words of its own: what people wrap a model for."""
    session = ready_session()
    if len(picture.pixels) != 64:
        raise HTTPException(400, f"a picture has 64 pixels, and {len(picture.pixels)} came")
    image = np.array([picture.pixels], np.float32)
    label, probabilities = session.run(["label", "probabilities"], {"image": image})
    return {"digit": int(label[0]), "certainty": round(float(probabilities[0].max()), 3)}
