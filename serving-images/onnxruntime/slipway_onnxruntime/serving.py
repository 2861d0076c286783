"""MLServer, put together for one pod: versions that come and go while it serves, and an end that loses nothing.

What differs from MLServer 1.7.1, and why (all read in its source, and seen in it):
- An unversioned request gets the highest version that is *ready*. MLServer makes a version the default while it is
  still loading, and every unversioned request fails until it is loaded.
- A load loads what is new and unloads what is named no more; MLServer loads every version of the model again. It is all
  or nothing: where one version fails, the others that came with it go, and the answer has the failing one's words.
- The repository API answers to the holder of the pod's key alone, and over REST alone.
- A server starts with the versions it can load, and stays up without the others; MLServer ends.
- Metrics name the version that answered, for unversioned requests too, and never one that doesn't exist.
- SIGTERM: every answer says `Connection: close` for a while, so that clients move on by themselves; then it listens no
  more, and what is in flight is finished. MLServer's own handler isn't called at all with a present uvicorn.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import hmac
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import uvicorn
from fastapi.exceptions import RequestValidationError
from grpc import aio
from mlserver import MLServer
from mlserver.errors import MLServerError, ModelNotFound
from mlserver.grpc import dataplane_pb2 as pb
from mlserver.grpc.dataplane_pb2_grpc import add_GRPCInferenceServiceServicer_to_server
from mlserver.grpc.server import GRPCServer
from mlserver.grpc.servicers import InferenceServicer
from mlserver.grpc.utils import STATUS_CODE_MAPPING
from mlserver.handlers import DataPlane, ModelRepositoryHandlers
from mlserver.logging import configure_logger, logger
from mlserver.metrics import MetricsServer
from mlserver.model import MLModel
from mlserver.registry import MultiModelRegistry, SingleModelRegistry
from mlserver.repository import ModelRepository
from mlserver.rest import RESTServer
from mlserver.rest.requests import Request
from mlserver.settings import ModelParameters, ModelSettings, Settings
from mlserver.types import (
    InferenceRequest,
    InferenceResponse,
    MetadataModelResponse,
    RepositoryIndexRequest,
    RepositoryIndexResponse,
    RepositoryIndexResponseItem,
    State,
)
from prometheus_client import Counter, Histogram
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from slipway_onnxruntime import wire
from slipway_onnxruntime.model import FILE_NAME, OnnxModel

SETTINGS_FILE = "model-settings.json"
KEY_HEADER = "slipway-agent"
REPOSITORY_PATH = "/v2/repository"
KEEP_ALIVE_SECONDS = 620  # longer than clients and balancers keep a connection: they close it, and know
FREE_SECONDS = 1.0  # after a load: what is in flight still holds a version that was unloaded
LAST_ANSWERS_SECONDS = 3.0  # after SIGTERM: how long clients are told to move on before the port closes

# MLServer's own metrics count the callers' faults as failures, and know neither gRPC's answers nor whether a version
# was named. Slipway judges by these where no router counts.
REQUESTS = Counter(
    "slipway_inference_requests",
    "Requests answered, by how they were asked (unversioned, named) and how they ended (ok, error, refused).",
    ["model", "version", "asked", "outcome"],
)
SECONDS = Histogram(
    "slipway_inference_seconds",
    "How long answers took.",
    ["model", "version", "asked"],
    # the bounds that Slipway's routers count in
    buckets=[
        milliseconds / 1000
        for milliseconds in (
            1, 2, 3, 5, 7.5, 10, 15, 20, 30, 50, 75, 100, 150, 200, 300, 500, 750,
            1_000, 1_500, 2_000, 3_000, 5_000, 7_500, 10_000, 20_000, 30_000, 60_000,
        )
    ],
)  # fmt: skip

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Asgi = Callable[[Scope, Receive, Send], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says. key: the pod's secret; None: the repository API answers to this machine alone."""

    repository: Path
    http_port: int
    grpc_port: int
    metrics_port: int
    host: str
    drain_seconds: float
    grpc_connection_age_seconds: float
    key: str | None = field(repr=False)


class VersionsRefusedError(MLServerError):
    """Versions that can't be loaded, with the words of each."""

    def __init__(self, words: Mapping[str, str]) -> None:
        super().__init__("; ".join(f"version {version}: {each}" for version, each in words.items()))
        self.words = words


# --- versions ---------------------------------------------------------------------------------------------------------


class Repository(ModelRepository):
    """`<root>/<model>/model-settings.json`: one list of MLServer's ModelSettings, written by the agent.

    One file for all versions, so that a server that starts finds one set or the other, never half of each.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    async def list(self) -> list[ModelSettings]:
        return [settings for place in sorted(self._root.glob(f"*/{SETTINGS_FILE}")) for settings in _read(place)]

    async def find(self, name: str) -> list[ModelSettings]:
        found = [settings for settings in await self.list() if settings.name == name]
        if not found:
            raise ModelNotFound(name)
        return found


def _read(place: Path) -> Iterator[ModelSettings]:
    try:
        entries = json.loads(place.read_text())
        for entry in entries:
            settings = ModelSettings.model_validate(
                entry | {"implementation": f"{OnnxModel.__module__}.{OnnxModel.__name__}"}
            )
            assert isinstance(settings.parameters, ModelParameters)
            settings.parameters.uri = str(place.parent / (settings.parameters.uri or ""))
            yield settings
    except (OSError, ValueError, TypeError, AssertionError) as cause:
        raise MLServerError(f"{place} can't be used: {cause}") from cause


class Versions(SingleModelRegistry):
    """A model's versions; the default is the highest that is ready."""

    @property
    def default(self) -> MLModel | None:
        return max((model for model in self._versions.values() if model.ready), key=number_of, default=None)

    def _find_default(self) -> MLModel | None:
        return self.default

    def _refresh_default(self, new_model: MLModel | None = None) -> MLModel | None:
        return self.default

    def _clear_default(self) -> None:
        """There is nothing to clear: it is looked up."""


class Registry(MultiModelRegistry):
    """MLServer's, with `Versions` in it."""

    async def load(self, model_settings: ModelSettings) -> MLModel:
        self._models.setdefault(model_settings.name, Versions(model_settings))
        return await super().load(model_settings)

    async def versions_of(self, name: str) -> dict[str, MLModel]:
        """The versions that are there, ready or not, in order."""
        try:
            models = list(await self.get_models(name))
        except ModelNotFound:
            return {}
        return {model.version: model for model in sorted(models, key=number_of) if model.version}


def number_of(model: MLModel) -> int:
    return int(model.version or 0)


class Loads(ModelRepositoryHandlers):
    """The repository API: makes the registry hold what the repository names, and touches nothing else."""

    def __init__(self, repository: ModelRepository, model_registry: Registry) -> None:
        super().__init__(repository, model_registry)
        self._registry = model_registry
        self._repository = repository
        self._loaded_as: dict[tuple[str, str], str] = {}
        self._words: dict[tuple[str, str], str] = {}
        self._turn = asyncio.Lock()

    async def load_at_start(self) -> None:
        """What can be loaded, the highest version first; the others stay out, and the log says why."""
        async with self._turn:
            try:
                named = await self._repository.list()
            except MLServerError as cause:
                logger.error(f"nothing is loaded: {cause}")
                return
            for settings in sorted(named, key=lambda each: -int(each.version or 0)):
                try:
                    await self._load_one(settings)
                except Exception as cause:
                    logger.error(f"version {settings.version} of {settings.name} isn't loaded: {cause}")
            self._tidy()

    async def load(self, name: str) -> bool:
        """Raises VersionsRefusedError, and then what was loaded before is loaded still, and nothing else."""
        async with self._turn:
            wanted = {str(each.version): each for each in await self._repository.find(name)}
            held = await self._registry.versions_of(name)
            # the highest last: an unversioned request goes to it the moment that it is ready
            for version in sorted(wanted, key=int):
                model = held.get(version)
                if model is not None and model.ready and self._is_as(wanted[version]):
                    continue
                try:
                    await self._load_one(wanted[version])
                except Exception as cause:
                    for new in (await self._registry.versions_of(name)).keys() - held.keys():
                        await self._registry.unload_version(name, new)
                    self._tidy()
                    raise VersionsRefusedError({version: str(cause)}) from cause
            for version in held.keys() - wanted.keys():
                await self._registry.unload_version(name, version)
                self._loaded_as.pop((name, version), None)
            self._tidy()
        return True

    async def index(self, payload: RepositoryIndexRequest) -> RepositoryIndexResponse:
        items = []
        for settings in await self._repository.list():
            version = str(settings.version)
            model = (await self._registry.versions_of(settings.name)).get(version)
            state = State.UNAVAILABLE if model is None else State.READY if model.ready else State.LOADING
            reason = self._words.get((settings.name, version), "") if state is State.UNAVAILABLE else ""
            if state is State.READY or not payload.ready:
                items.append(
                    RepositoryIndexResponseItem(name=settings.name, version=version, state=state, reason=reason)
                )
        for name in {settings.name for settings in await self._repository.list()}:
            named = {item.version for item in items}
            items += [
                RepositoryIndexResponseItem(name=name, version=version, state=State.READY, reason="")
                for version, model in (await self._registry.versions_of(name)).items()
                if model.ready and version not in named
            ]
        return RepositoryIndexResponse(root=items)

    async def _load_one(self, settings: ModelSettings) -> None:
        place = (settings.name, str(settings.version))
        began = time.monotonic()
        identity = _identity_of(settings)
        try:
            await self._registry.load(settings)
        except Exception as cause:
            self._words[place] = str(cause)
            raise
        self._words.pop(place, None)
        self._loaded_as[place] = identity
        logger.info(f"version {place[1]} of {place[0]} is ready after {time.monotonic() - began:.2f} s")

    def _tidy(self) -> None:
        loop = asyncio.get_running_loop()
        loop.call_later(FREE_SECONDS, loop.run_in_executor, None, give_memory_back)

    def _is_as(self, settings: ModelSettings) -> bool:
        return self._loaded_as.get((settings.name, str(settings.version))) == _identity_of(settings)


def give_memory_back() -> None:
    """To the system, what loading and unloaded versions took: glibc keeps it, and the next version needs it twice."""
    with contextlib.suppress(OSError, AttributeError):  # another C library gives back by itself
        ctypes.CDLL(None).malloc_trim(0)


def _identity_of(settings: ModelSettings) -> str:
    """Names settings and bytes of a version: what is the same needs no second load."""
    parameters = settings.parameters
    assert parameters is not None
    try:
        status = os.stat(Path(parameters.uri or "") / FILE_NAME)
        bytes_on_disk = f"{status.st_dev} {status.st_ino} {status.st_mtime_ns} {status.st_size}"
    except OSError:
        bytes_on_disk = "none"
    # other warm-up requests are for versions that come: what serves is warm
    extra = {name: value for name, value in (parameters.extra or {}).items() if name != "warmup"}
    chosen = [settings.max_batch_size, settings.max_batch_time, parameters.uri, extra]
    return f"{bytes_on_disk} {json.dumps(chosen)}"


class Answers(DataPlane):
    """What requests get, with the version that answers them in the metrics and in the metadata."""

    def __init__(self, settings: Settings, model_registry: Registry) -> None:
        super().__init__(settings, model_registry)
        self._registry = model_registry

    async def ready(self) -> bool:
        return any(model.ready for model in await self._registry.get_models())

    async def model_ready(self, name: str, version: str | None = None) -> bool:
        try:
            return bool((await self._registry.get_model(name, version)).ready)
        except ModelNotFound:
            return False

    async def model_metadata(self, name: str, version: str | None = None) -> MetadataModelResponse:
        found = await super().model_metadata(name, version)
        if not version:  # of one version, it speaks of that one, as Triton does
            held = await self._registry.versions_of(name)
            found.versions = [number for number, model in held.items() if model.ready]
        return found

    async def infer(self, payload: InferenceRequest, name: str, version: str | None = None) -> InferenceResponse:
        model = await self._registry.get_model(name, version)
        identity = payload.id
        with counted(name, model.version or "", "named" if version else "unversioned"):
            response = await super().infer(payload, name, model.version)
        response.id = identity  # MLServer makes one up
        return response


@contextlib.contextmanager
def counted(model: str, version: str, asked: str) -> Iterator[None]:
    """Counts a request, REST or gRPC, by how it ends: ok, error (ours), refused (the caller's fault, or taken back)."""
    outcome = "error"
    began = time.perf_counter()
    try:
        yield
        outcome = "ok"
    except MLServerError as refusal:
        outcome = "refused" if refusal.status_code < 500 else "error"
        raise
    except asyncio.CancelledError:
        outcome = "refused"
        raise
    finally:
        SECONDS.labels(model, version, asked).observe(time.perf_counter() - began)
        REQUESTS.labels(model, version, asked, outcome).inc()


# --- REST -------------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Draining:
    """Whether the process is on its way out."""

    is_on: bool = False


class Gate:
    """In front of MLServer's application: keeps the repository API for the agent, and moves clients on at the end."""

    def __init__(self, app: Asgi, key: str | None, draining: Draining) -> None:
        self._app = app
        self._key = key
        self._draining = draining

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if scope["path"].startswith(REPOSITORY_PATH) and not self._may_load(scope):
            words = "the repository API is for the pod's agent; versions are named in the ModelDeployment"
            await JSONResponse({"error": words}, 403)(scope, receive, send)
            return

        async def send_last(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start" and self._draining.is_on:
                message["headers"] = [*message.get("headers", ()), (b"connection", b"close")]
            await send(message)

        await self._app(scope, receive, send_last)

    def _may_load(self, scope: Scope) -> bool:
        if self._key is None:
            return (scope.get("client") or ("",))[0] in ("127.0.0.1", "::1")
        given = dict(scope["headers"]).get(KEY_HEADER.encode(), b"")
        return hmac.compare_digest(given, self._key.encode())


class Uvicorn(uvicorn.Server):
    """Leaves signals to the one that ends all servers in order."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def serve_at(self, port: int) -> None:
        """Until it is told to stop. OSError when it can't begin."""
        try:
            await self.serve()
        except SystemExit:  # uvicorn's way to say so
            raise OSError(f"port {port} is taken") from None

    @property
    def open_connections(self) -> int:
        return len(self.server_state.connections)


class Rest(RESTServer):
    """MLServer's REST server, with predictions read and written without a list of Python numbers in between."""

    def __init__(
        self, settings: Settings, answers: Answers, loads: Loads, options: Options, draining: Draining
    ) -> None:
        super().__init__(settings, answers, loads)
        self._options = options
        self._draining = draining
        self._server: Uvicorn | None = None
        for version in ("", "/versions/{version}"):
            route = Route(f"/v2/models/{{name}}{version}/infer", self._infer, methods=["POST"])
            self._app.router.routes.insert(0, route)
        self._app.add_exception_handler(VersionsRefusedError, _say_words)
        self._app.add_exception_handler(RequestValidationError, _say_problem)
        self._app.add_exception_handler(Exception, _say_defect)

    async def start(self) -> None:
        config = uvicorn.Config(
            Gate(self._app, self._options.key, self._draining),  # type: ignore[arg-type]  # our names for ASGI's types
            host=self._settings.host,
            port=self._settings.http_port,
            access_log=False,
            log_level="warning",
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=int(self._options.drain_seconds),
            server_header=False,
        )
        self._server = Uvicorn(config)
        await self._server.serve_at(self._settings.http_port)

    async def stop(self, sig: int | None = None) -> None:
        """Until every client has moved on by itself, or has been told to for long enough; then what is in flight."""
        if self._server is None:
            return
        deadline = time.monotonic() + LAST_ANSWERS_SECONDS
        while self._server.open_connections and time.monotonic() < deadline:  # noqa: ASYNC110  uvicorn has no event
            await asyncio.sleep(0.05)
        self._server.should_exit = True

    async def _infer(self, request: Any) -> Response:
        body = await Request(request.scope, request.receive).body()  # MLServer's own, which knows gzip
        payload, head = wire.read_rest(body, request.headers.get(wire.HEADER_LENGTH))
        names = request.path_params
        response = await self._data_plane.infer(payload, names["name"], names.get("version"))
        written, header_length = wire.write_rest(response, head)
        return Response(written, headers=dict(wire.headers_of(header_length)))


async def _say_words(request: Any, refusal: Exception) -> Response:
    assert isinstance(refusal, VersionsRefusedError)
    return JSONResponse({"error": str(refusal), "versions": dict(refusal.words)}, refusal.status_code)


async def _say_problem(request: Any, problem: Exception) -> Response:
    assert isinstance(problem, RequestValidationError)
    first = problem.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return JSONResponse({"error": f"{where}: {first['msg']}"}, 400)


async def _say_defect(request: Any, defect: Exception) -> Response:
    return JSONResponse({"error": f"the server failed: {type(defect).__name__}: {defect}"}, 500)


class Metrics(MetricsServer):
    """MLServer's, which leaves signals alone."""

    async def start(self) -> None:
        config = uvicorn.Config(
            self._app,
            host=self._settings.host,
            port=self._settings.metrics_port,
            access_log=False,
            log_level="warning",
            timeout_graceful_shutdown=1,
        )
        self._server = Uvicorn(config)
        await self._server.serve_at(self._settings.metrics_port)

    async def stop(self, sig: int | None = None) -> None:
        self._server.should_exit = True


# --- gRPC -------------------------------------------------------------------------------------------------------------


class Servicer(InferenceServicer):
    """MLServer's, with predictions read and written as arrays, and without the repository API."""

    async def ModelInfer(  # noqa: N802  the protocol's own name
        self, request: pb.ModelInferRequest, context: Any
    ) -> pb.ModelInferResponse:
        try:
            payload = wire.read_grpc(request)
            response = await self._data_plane.infer(payload, request.model_name, request.model_version or None)
            return wire.write_grpc(response)
        except MLServerError as refusal:
            code = STATUS_CODE_MAPPING.get(refusal.status_code, grpc.StatusCode.UNKNOWN)
            await context.abort(code, str(refusal))
            raise AssertionError from refusal  # abort raises

    async def ModelStreamInfer(  # noqa: N802
        self, requests: AsyncIterator[pb.ModelInferRequest], context: Any
    ) -> AsyncIterator[pb.ModelInferResponse]:
        async for request in requests:
            yield await self.ModelInfer(request, context)

    async def _refuse(self, request: Any, context: Any) -> Any:
        await context.abort(grpc.StatusCode.PERMISSION_DENIED, "versions are named in the ModelDeployment")

    RepositoryIndex = RepositoryModelLoad = RepositoryModelUnload = _refuse


class Grpc(GRPCServer):
    """MLServer's gRPC server, whose connections end after an age, so that clients find the pods that there are."""

    def __init__(self, settings: Settings, answers: Answers, loads: Loads, options: Options) -> None:
        super().__init__(settings, answers, loads)
        self._options = options

    def _create_server(self) -> Any:
        age_milliseconds = int(self._options.grpc_connection_age_seconds * 1000)
        self._server = aio.server(
            options=[
                ("grpc.max_receive_message_length", -1),
                ("grpc.max_send_message_length", -1),
                ("grpc.so_reuseport", 0),
                # the age's grace is infinite by default: what is in flight is finished
                *([("grpc.max_connection_age_ms", age_milliseconds)] if age_milliseconds else []),
            ]
        )
        add_GRPCInferenceServiceServicer_to_server(
            Servicer(self._data_plane, self._model_repository_handlers), self._server
        )
        self._server.add_insecure_port(f"{self._settings.host}:{self._settings.grpc_port}")
        return self._server

    async def stop(self, sig: int | None = None) -> None:
        await asyncio.sleep(LAST_ANSWERS_SECONDS)
        await self._server.stop(grace=self._options.drain_seconds)


# --- the process ------------------------------------------------------------------------------------------------------


class Server(MLServer):
    """All of it. `run` returns when it was told to end and nothing is in flight."""

    def __init__(self, options: Options) -> None:  # not MLServer's: it makes each part by a class that is fixed
        self._settings = Settings(
            debug=False,
            parallel_workers=0,
            host=options.host,
            http_port=options.http_port,
            grpc_port=options.grpc_port,
            metrics_port=options.metrics_port,
            model_repository_root=str(options.repository),
            extensions=["binary_tensor_data", "model_repository"],
        )
        configure_logger(self._settings)
        self._draining = Draining()
        registry = Registry()
        answers = Answers(self._settings, registry)
        self._loads = Loads(Repository(options.repository), registry)
        self._rest_server = Rest(self._settings, answers, self._loads, options, self._draining)
        self._grpc_server = Grpc(self._settings, answers, self._loads, options)
        self._metrics_server = Metrics(self._settings)

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        ending = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, ending.set)
        servers = [
            loop.create_task(server.start()) for server in (self._rest_server, self._grpc_server, self._metrics_server)
        ]
        loading = loop.create_task(self._loads.load_at_start())
        told = loop.create_task(ending.wait())
        done, _ = await asyncio.wait([told, *servers], return_when=asyncio.FIRST_COMPLETED)
        if failed := done - {told}:
            # one that ends by itself couldn't begin: there is nothing to finish, and unwinding the others is noise
            logger.error(f"the server ends: {next(iter(failed)).exception()}")
            os._exit(1)
        self._draining.is_on = True
        loading.cancel()
        await asyncio.gather(self._rest_server.stop(), self._grpc_server.stop())
        await asyncio.gather(*servers[:2])
        await self._metrics_server.stop()
        await servers[2]
