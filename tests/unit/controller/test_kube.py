"""Which answers of the API server pass by themselves, and which it would give again."""

from __future__ import annotations

import asyncio
import base64
import json
import traceback
from collections.abc import Callable
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


# ---- a Secret that may not be read

KEY = "0123456789abcdef" * 4
SECRET: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Secret",
    "metadata": {"name": "digits-a-key", "namespace": "models"},
    "stringData": {"slipway-server-key": KEY},
}
EXISTS = json.dumps({"message": 'secrets "digits-a-key" already exists'})
Answering = Callable[[web.Request, str], web.Response]


def created(answering: Answering) -> tuple[bool, list[tuple[str, dict[str, str], str]]]:
    """A Secret is created. Returns what came of it, and the requests: path, query, body. Raises as the client does."""
    asked: list[tuple[str, dict[str, str], str]] = []

    async def create() -> bool:
        async def answer(request: web.Request) -> web.Response:
            asked.append((f"{request.method} {request.path}", dict(request.query), text := await request.text()))
            return answering(request, text)

        app = web.Application()
        app.router.add_route("*", "/{path:.*}", answer)
        async with TestServer(app) as server, aiohttp.ClientSession() as session:
            settings = Configuration()
            settings.host = str(server.make_url("")).rstrip("/")
            return await Cluster(session, settings).create_secret(SECRET)

    return asyncio.run(create()), asked


def test_a_secret_is_asked_for_and_created_and_never_read() -> None:
    is_made, asked = created(lambda request, text: web.json_response({"kind": "PartialObjectMetadata"}, status=201))
    assert is_made
    assert [path for path, _, _ in asked] == ["POST /api/v1/namespaces/models/secrets"] * 2
    assert [query.get("dryRun") for _, query, _ in asked] == ["All", None]
    assert [KEY in text for _, _, text in asked] == [False, True]


def test_a_secret_that_exists_is_told_without_a_write() -> None:
    is_made, asked = created(lambda request, text: web.Response(status=409, text=EXISTS))
    assert not is_made
    assert [query.get("dryRun") for _, query, _ in asked] == ["All"]


def test_a_secret_that_another_makes_meanwhile_is_told() -> None:
    def answer(request: web.Request, text: str) -> web.Response:
        is_asking = "dryRun" in request.query
        return web.Response(status=201, text="{}") if is_asking else web.Response(status=409, text=EXISTS)

    assert created(answer)[0] is False


def test_a_conflict_of_a_quotas_counter_is_no_secret_that_exists() -> None:
    words = "Operation cannot be fulfilled on resourcequotas: the object has been modified"
    with pytest.raises(TransientError):
        created(lambda request, text: web.Response(status=409, text=json.dumps({"message": words})))


@pytest.mark.parametrize("status", [403, 422, 500])
@pytest.mark.parametrize(
    "words",
    [
        "denied: {text}",
        "denied: " + base64.b64encode(KEY.encode()).decode(),
        f"not JSON {'x' * 450}{KEY}",
        f"not JSON {'x' * 440}{base64.b64encode(KEY.encode()).decode()}",
    ],
)
def test_an_error_never_tells_what_the_secret_holds(status: int, words: str) -> None:
    def answer(request: web.Request, text: str) -> web.Response:
        if "dryRun" in request.query:
            return web.Response(status=201, text="{}")
        told = words.replace("{text}", text)
        return web.Response(status=status, text=told if told.startswith("not") else json.dumps({"message": told}))

    with pytest.raises(ClusterError) as raised:
        created(answer)
    told = "".join(traceback.format_exception(raised.value)) + repr(raised.value)
    assert "create Secret digits-a-key" in told
    for form in (KEY, base64.b64encode(KEY.encode()).decode()):
        assert form[:8] not in told
