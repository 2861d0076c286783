"""The kopf edge: which key an event wakes. The only module that imports kopf.

kopf watches, reconnects and logs in; every event of a ModelDeployment or of anything under its label goes into the
cache and wakes that ModelDeployment's key. The event's own content is not acted on: each pass reads everything anew.
Only `on.event` handlers: they need no finalizer, no annotations and no state of kopf's own. (kopf's other handlers
would add all three: an object could not be deleted while the operator is down.)
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

import kopf

from slipway.api import GROUP, KIND, PLURAL, VERSION
from slipway.controller import metrics
from slipway.controller.agents import Agents
from slipway.controller.cache import Cache, Key
from slipway.controller.clients import Clients
from slipway.controller.health import Health
from slipway.controller.kube import Cluster
from slipway.controller.reconciler import Reconciler
from slipway.controller.resync import FirstListing, close_gap, list_children, relist, slot_of
from slipway.controller.routers import Routers
from slipway.controller.server_counts import ServerCounts
from slipway.controller.settings import Settings
from slipway.controller.workqueue import Queue
from slipway.model.names import MODEL_LABEL

log = logging.getLogger("slipway")

WORKERS = 32
CHILD_DELAY_SECONDS = 0.2
"""Events of children come in bursts (a Deployment, its pods, their conditions); one pass serves them all."""
CHILDREN = (
    ("apps", "v1", "deployments", "Deployment"),
    ("apps", "v1", "controllerrevisions", "ControllerRevision"),
    ("", "v1", "services", "Service"),
    ("", "v1", "configmaps", "ConfigMap"),
    ("", "v1", "pods", "Pod"),
    ("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget"),
    ("networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy"),
)


class _NoState(kopf.DiffBaseStorage, kopf.ProgressStorage):
    """kopf keeps nothing: it would compute a copy and a diff of every object for every event."""

    def build(self, **_: Any) -> Any:
        return {}

    def fetch(self, **_: Any) -> Any:
        return None

    def store(self, **_: Any) -> None:
        """Nothing."""

    def purge(self, **_: Any) -> None:
        """Nothing."""

    def touch(self, **_: Any) -> None:
        """Nothing."""

    def clear(self, *, essence: Any) -> Any:
        return essence


async def run(settings: Settings) -> None:
    """Run the operator until it is told to stop."""
    cache, queue, health = Cache(), Queue[Key](), Health()
    cluster = await Cluster.connect(connections=WORKERS)
    clients = Clients(cluster, Agents(), Routers(), ServerCounts())
    reconciler = Reconciler(clients, cache, queue, settings.images)
    namespaces, first = settings.namespaces, FirstListing()
    server = health.serve(settings.metrics_port)
    try:
        watching = kopf.operator(
            registry=_registry(cache, queue, first),
            settings=_kopf_settings(),
            clusterwide=not namespaces,
            namespaces=namespaces,
            standalone=True,
        )
        # kopf starts meanwhile; passes only begin when all children are listed.
        listing = asyncio.create_task(list_children(cluster, cache, namespaces, first))
        work = [_after(listing, reconciler.work) for _ in range(WORKERS)]
        work += [health.beat(), health.audit(cluster, cache, namespaces), _measure(cache, queue)]
        # What watches keep from us: at first what the beginning does, then, for ever, whatever does.
        work += [
            _after(
                listing,
                lambda: close_gap(cluster, cache, queue, namespaces, first),
                lambda: relist(cluster, cache, queue, namespaces),
            )
        ]
        await _until_one_ends([watching, *work])
    finally:
        server.shutdown()
        reconciler.close()
        await clients.close()


async def _after(listing: asyncio.Task[None], *steps: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """One step after another, once the children are listed. A failed listing ends the operator, with its reason."""
    await asyncio.shield(listing)
    for step in steps:
        await step()


async def _until_one_ends(coroutines: list[Coroutine[Any, Any, None]]) -> None:
    """Run all until one ends: kopf when it is told to stop, any other only by a defect, whose error is raised."""
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    ended, running = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    errors = [task.exception() for task in ended if not task.cancelled()]
    for error in errors:
        if error is not None:
            raise error


async def _measure(cache: Cache, queue: Queue[Key]) -> None:
    while True:
        metrics.QUEUE_DEPTH.set(len(queue))
        metrics.DEPLOYMENTS.set(sum(1 for _ in cache.deployments()))
        await asyncio.sleep(0.5)


def _registry(cache: Cache, queue: Queue[Key], first: FirstListing) -> kopf.OperatorRegistry:
    registry = kopf.OperatorRegistry()
    kopf.on.login(id="service-account", registry=registry)(kopf.login_with_service_account)
    kopf.on.login(id="kubeconfig", registry=registry)(kopf.login_with_kubeconfig)

    def watch(group: str, version: str, plural: str, kind: str, delay_seconds: float) -> None:
        async def seen(event: Any, **_: Any) -> None:
            forget = event["type"] == "DELETED"
            first.note_watched(slot_of(kind, event["object"]))
            key = (cache.drop if forget else cache.put)(kind, event["object"])
            if key is not None:
                await queue.wake(key, delay_seconds)

        kopf.on.event(group, version, plural, id=f"seen-{plural}", registry=registry)(seen)

    watch(GROUP, VERSION, PLURAL, KIND, 0.0)
    for group, version, plural, kind in CHILDREN:
        watch(group, version, plural, kind, CHILD_DELAY_SECONDS)
    return registry


def _kopf_settings() -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False  # our events are our own: on change only
    settings.scanning.disabled = True  # the CRD is installed before us; no rights on CRDs and namespaces are needed
    settings.watching.server_timeout = 300
    settings.watching.chunk_size = 50
    settings.queueing.idle_timeout = 0.1  # a task per object would stay 5 s: memory, at thousands of objects
    settings.queueing.exit_timeout = 1
    settings.persistence.finalizer = f"{GROUP}/none"
    settings.persistence.diffbase_storage = _NoState()
    settings.persistence.progress_storage = _NoState()
    for group, version, plural, _ in CHILDREN:
        settings.watching.label_selectors[group, version, plural] = MODEL_LABEL
    return settings
