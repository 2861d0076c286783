"""Which answers of the API server pass by themselves, and which it would give again."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from kubernetes.aio.client import Configuration

from slipway.controller.kube import Cluster, ClusterError, TransientError

MANIFEST: dict[str, Any] = {"kind": "Service", "metadata": {"name": "digits", "namespace": "models"}}
DOUBLED = (
    "failed to create typed patch object (models/digits; /v1, Kind=Service): .spec.ports: duplicate entries for key "
    '[port=8080,protocol="TCP"]'
)


def applied(status: int, body: str) -> None:
    """An apply that the API server answers so. Raises what the client raises."""

    async def apply() -> None:
        async def answer(_: web.Request) -> web.Response:
            return web.Response(status=status, text=body)

        app = web.Application()
        app.router.add_route("*", "/{path:.*}", answer)
        async with TestServer(app) as server, aiohttp.ClientSession() as session:
            settings = Configuration()
            settings.host = str(server.make_url("")).rstrip("/")
            await Cluster(session, settings).apply(MANIFEST, "uid")

    asyncio.run(apply())


@pytest.mark.parametrize(
    ("status", "message", "passes"),
    [
        (500, DOUBLED, False),
        (500, "failed to convert new object (models/digits; /v1, Kind=Service) to proper version: x", False),
        (422, "Service is invalid", False),
        (400, "json: cannot unmarshal", False),
        (403, "exceeded quota", False),
        (500, "etcdserver: leader changed", True),
        (500, 'Internal error occurred: failed calling webhook "x"', True),
        (503, "no endpoints", True),
        (504, "timeout", True),
        (429, "too many requests", True),
        (409, "the object has been modified", True),
        (408, "timeout", True),
    ],
)
def test_an_answer_passes_by_itself_or_lasts(status: int, message: str, *, passes: bool) -> None:
    with pytest.raises(ClusterError) as raised:
        applied(status, json.dumps({"message": message}))
    assert isinstance(raised.value, TransientError) == passes
    assert raised.value.message == message


def test_an_answer_that_is_no_status_is_quoted() -> None:
    with pytest.raises(TransientError, match="bad gateway"):
        applied(502, "bad gateway")
