"""Children at the API server: what differs is written, what is no longer rendered is deleted, pods are nudged.

Invariant: nothing that another owns is written or deleted; every answer goes into the cache, so that the next pass
works on nothing older than what was written.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, replace

from slipway.api import SpecError
from slipway.controller.cache import Cache, Key, owner_key
from slipway.controller.kube import Cluster, ClusterError, TransientError
from slipway.controller.pacing import Pacing
from slipway.model.names import CONFIG_ANNOTATION, REVISION_ANNOTATION, ROUTER_CONFIG_ANNOTATION, child_name
from slipway.model.revision import Json, hash_of
from slipway.model.server_key import asked_secret
from slipway.model.workload import Trouble
from slipway.observe.field_managers import managers_of
from slipway.observe.pods import Pod, revision_of
from slipway.observe.router_reports import RouterPod
from slipway.observe.snapshot import Snapshot, is_left_behind, is_owned, was_owned
from slipway.render.desired import Rendered
from slipway.render.drift import differing_fields, differs
from slipway.render.objects import CONFIG_MAP, CONTROLLER_REVISION, DEPLOYMENT, NETWORK_POLICY, Child, render_key
from slipway.report.events import Notice, change_put_back

log = logging.getLogger("slipway")

PRUNED_KINDS = ("Deployment", "ConfigMap", "Service", "ControllerRevision", "PodDisruptionBudget", "NetworkPolicy")


KEY_BYTES = 32


class NamespaceGoesError(ClusterError):
    """The namespace is being deleted, and the ModelDeployment with it: nothing is left to do."""


@dataclass(frozen=True, slots=True)
class Applied:
    """What an apply of all children came to.

    hindrance: what stands in the way; None: nothing does. writes: how many. put_back: what others had changed.
    """

    hindrance: Trouble | None
    writes: int
    put_back: tuple[Notice, ...]


class Children:
    """The children of all ModelDeployments."""

    def __init__(self, cluster: Cluster, cache: Cache, pacing: Pacing) -> None:
        self._cluster = cluster
        self._cache = cache
        self._pacing = pacing
        self._applied: dict[Key, dict[tuple[str, str], str]] = {}

    def forget(self, key: Key) -> None:
        """This ModelDeployment is gone."""
        self._applied.pop(key, None)

    async def apply(self, key: Key, uid: str, rendered: Rendered, snapshot: Snapshot) -> Applied:
        """Apply what differs, in order; the first that can't be written ends it. A workload whose key may not be made
        stays as it is, and only that: a rollback to another must not wait for it.

        Raises NamespaceGoesError; TransientError, unless it has lasted: then that is what stands in the way.
        """
        writes = 0
        keyless: Trouble | None = None
        put_back: list[Notice] = []
        for wanted in rendered.children:
            live = snapshot.live.get((wanted.kind, wanted.name))
            if live is not None and not _is_other(wanted, live):
                continue
            child: Child | None = wanted
            try:
                is_made, refused = await self._make_key(wanted, live, key)
                writes += is_made
                if refused is not None:
                    keyless = keyless or refused
                    # A quota or role refuses to make one that is there, too: its pods find out.
                    is_tried = live is None and wanted.name in rendered.once_made
                    child = wanted if is_tried else _without_new_pods(wanted, live)
                if child is None:
                    continue
                changed = await self._changed_by_others(child, live, key)
                answer = await self._write(child, live, key, uid)
            except SpecError as error:
                if wanted.is_optional:
                    log.warning("left out", extra={"key": "/".join(key), "child": wanted.name, "error": error.message})
                    continue
                self._pacing.note_written(key)
                return Applied(Trouble(error.reason, error.message), writes, tuple(put_back))
            except TransientError as error:
                if error.status < 500 or not self._pacing.is_lasting(key):
                    raise
                return Applied(_fails(wanted, error), writes, tuple(put_back))
            if answer is not None:
                writes += 1
                self._applied.setdefault(key, {})[child.kind, child.name] = hash_of(child.manifest)
                if changed is not None:
                    self._pacing.note_told(key, f"{child.kind} {child.name}")
                    put_back.append(changed)
                self._cache.put(child.kind, answer)
                log.debug("applied", extra={"key": "/".join(key), "kind": child.kind, "child": child.name})
        self._pacing.note_written(key)
        return Applied(keyless, writes, tuple(put_back))

    async def _changed_by_others(self, child: Child, live: Json | None, key: Key) -> Notice | None:
        """What to tell of a child that differs because somebody else changed it; None: nobody did, or it was just told.

        What we applied last is what differs then. Where we don't know what that was, the API server says whose the
        fields are: it is asked, since what watches keep of an object doesn't.
        """
        what = f"{child.kind} {child.name}"
        if live is None or not self._pacing.may_tell(key, what):
            return None
        last = self._applied.get(key, {}).get((child.kind, child.name))
        if last is not None and last != hash_of(child.manifest):
            return None  # the change is our own
        try:
            fresh = await self._cluster.read(child.kind, key[0], child.name)
        except ClusterError:
            return None  # the correction matters, not who is named for it
        if fresh is None:
            return None
        fields = list(differing_fields(child.manifest, _comparable(child, fresh)))
        managers = managers_of(fields, fresh)
        return change_put_back(what, fields, managers) if fields and (managers or last is not None) else None

    async def _write(self, child: Child, live: Json | None, key: Key, uid: str) -> Json | None:
        """Create or correct one child. Returns the API server's answer; None: nothing had to be written.

        Raises SpecError when another has the name, or when the API server will not have the object.
        """
        try:
            if live is None:
                return await self._create(child, key, uid)
            return await self._cluster.apply(child.manifest, live["metadata"]["uid"])
        except TransientError:
            raise
        except ClusterError as error:
            raise _known(error) or _refused(child, error) from error

    async def _make_key(self, child: Child, live: Json | None, key: Key) -> tuple[bool, Trouble | None]:
        """Make the Secret that a Deployment is about to ask for, before any pod waits for it.

        Returns whether it wrote, and why it may not be made; None: it was, it is there, or none is asked for.

        One that exists is taken for ours: from a pass that was ended between the two, or from an earlier workload of
        the revision. The value is drawn here and kept nowhere. Raises TransientError and NamespaceGoesError.
        """
        secret = asked_secret(child.manifest["spec"]["template"]) if child.kind == DEPLOYMENT.kind else None
        if secret is None or (live is not None and asked_secret(live["spec"]["template"]) == secret):
            return False, None
        what = f"create Secret {secret}"
        owners = self._owners_of_key(child.name, key)
        if not owners:
            raise TransientError(what, 409, f"ConfigMap {child.name} has just been deleted")
        try:
            is_made = await self._cluster.create_secret(render_key(secret, child, owners, secrets.token_hex(KEY_BYTES)))
        except TransientError as error:
            raise TransientError(what, error.status, f"Secret {secret}: {error.message}") from error
        except ClusterError as error:
            if (known := _known(error)) is not None:
                raise known from error
            return False, _key_refused(secret, error)
        if is_made:
            log.debug("applied", extra={"key": "/".join(key), "kind": "Secret", "child": secret})
        return is_made, None

    def _owners_of_key(self, workload: str, key: Key) -> list[Json]:
        """A workload's ConfigMap and the ControllerRevision that it carries: both are applied before its Deployment."""
        cached = {(each["kind"], str(each["metadata"]["name"])): each for each in self._cache.children(key)}
        config_map = cached.get((CONFIG_MAP.kind, workload))
        if config_map is None:
            return []
        revision = (config_map["metadata"].get("annotations") or {}).get(REVISION_ANNOTATION, "")
        kept = cached.get((CONTROLLER_REVISION.kind, child_name(key[1], revision)))
        return [config_map, *([kept] if kept is not None else [])]

    async def _create(self, child: Child, key: Key, uid: str) -> Json | None:
        """Create one child; one that exists after all is corrected where it is ours."""
        created = await self._cluster.create(child.manifest)
        if created is not None:
            return created
        what = f"create {child.kind} {child.name}"
        live = await self._cluster.read(child.kind, key[0], child.name)
        if live is None:
            raise TransientError(what, 409, "it has just been deleted")
        is_ours = is_owned(live, uid) or (is_left_behind(live) and owner_key(child.kind, live) == key)
        if not is_ours:
            if was_owned(live, key[1]):
                raise TransientError(what, 409, "that of a deleted ModelDeployment of this name is still there")
            raise _name_conflict(child, key)
        self._cache.put(child.kind, live)  # ours: the watch is late with it
        if not _is_other(child, live):
            return None
        return await self._cluster.apply(child.manifest, live["metadata"]["uid"])

    async def prune(self, key: Key, rendered: Rendered, snapshot: Snapshot) -> None:
        """Delete what is ours and no longer rendered."""
        wanted = {(child.kind, child.name) for child in rendered.children}
        for (kind, name), live in snapshot.live.items():
            if revision_of(live) in rendered.unreadable:
                continue
            if kind == "Service" and revision_of(live) and snapshot.routers.pods and rendered.router_generation is None:
                continue  # routers that end still find the pods by it, for the clients that they still have
            if kind in PRUNED_KINDS and (kind, name) not in wanted and "deletionTimestamp" not in live["metadata"]:
                await self._cluster.delete(kind, key[0], name, live["metadata"]["uid"])
                log.debug("pruned", extra={"key": "/".join(key), "kind": kind, "child": name})

    async def nudge(self, key: Key, rendered: Rendered, snapshot: Snapshot) -> int:
        """Make kubelets refresh the configuration of pods that have an older one. Returns the number of writes.

        A pod update makes the kubelet sync its volumes at once, where it would take up to a minute by itself. The two
        watches race, so the value is written anew each time until the new generation is reported.
        """
        writes = 0
        for pod, annotation, generation in _outdated(rendered, snapshot):
            value = self._pacing.nudge(pod, generation)
            if value is None:
                continue
            try:
                answer = await self._cluster.annotate_pod(key[0], pod.name, annotation, value)
            except TransientError:
                raise
            except ClusterError as error:  # a policy may forbid it: the kubelet refreshes the volume by itself, later
                log.warning("a pod can't be nudged", extra={"key": "/".join(key), "error": str(error)})
                continue
            if answer is not None:
                self._cache.put("Pod", answer)
            writes += 1
        return writes


def _is_other(child: Child, live: Json) -> bool:
    """Whether a child must be corrected."""
    return differs(child.manifest, _comparable(child, live))


def _comparable(child: Child, live: Json) -> Json:
    """The live object; a cached one doesn't say in which version of its API it is."""
    return {**live, "apiVersion": child.manifest["apiVersion"], "kind": child.kind}


def _outdated(rendered: Rendered, snapshot: Snapshot) -> Iterator[tuple[Pod | RouterPod, str, str]]:
    """Pods whose agents or routers still have an older configuration: the pod, its annotation, the generation."""
    for pod in snapshot.pods:
        generation = rendered.configured.get(pod.workload)
        if pod.is_ending or pod.report is None or generation is None or pod.report.generation == generation:
            continue
        yield pod, CONFIG_ANNOTATION, generation
    generation = rendered.router_generation
    for router in snapshot.routers.pods:
        heard = snapshot.routers.reports.get(router.uid)
        if router.is_ending or generation is None or (heard is not None and heard.generation == generation):
            continue
        if heard is None and snapshot.routers.generation in (None, generation):
            continue  # one that starts mounts what is there; but what changes meanwhile must reach it
        yield router, ROUTER_CONFIG_ANNOTATION, generation


def _without_new_pods(child: Child, live: Json | None) -> Child | None:
    """A Deployment with the pod template that it has, where it may not have its new one yet: how many pods there are
    doesn't wait for that. None: nothing else differs, or there is none yet."""
    if live is None:
        return None
    spec = {**child.manifest["spec"], "template": live["spec"]["template"]}
    kept = replace(child, manifest={**child.manifest, "spec": spec})
    return kept if _is_other(kept, live) else None


def _name_conflict(child: Child, key: Key) -> SpecError:
    return SpecError(
        "NameConflict",
        f"{child.kind} {child.name} exists in namespace {key[0]} and is not this ModelDeployment's. It is left as it "
        f"is: delete or rename it, or give the ModelDeployment another name",
    )


def _known(error: ClusterError) -> NamespaceGoesError | None:
    """An error that says that the namespace goes, as that; None: it says something else."""
    is_so = error.status == 403 and "being terminated" in error.message
    return NamespaceGoesError(str(error), error.status, error.message) if is_so else None


def _fails(child: Child, error: ClusterError) -> Trouble:
    return Trouble(
        "WriteFailed",
        f"{child.kind} {child.name} can't be written: the API server answers {error.status}: {error.message}. It is "
        "tried again; see whether an admission webhook, or the API server itself, is down",
    )


def _refused(child: Child, error: ClusterError) -> SpecError:
    if "exceeded quota" in error.message:
        return SpecError("QuotaExceeded", f"{child.kind} {child.name}: {error.message}. Raise the ResourceQuota")
    if child.kind == NETWORK_POLICY.kind:  # nothing of it is the spec's
        return SpecError(
            "Refused",
            f"the API server refuses {child.kind} {child.name}: {error.message}. Correct networkPolicy.models in the "
            "values of the operator's chart, which hold for every ModelDeployment; nothing new is rolled out meanwhile",
        )
    return SpecError(
        "Refused",
        f"the API server refuses {child.kind} {child.name}: {error.message}. Correct the part of the spec that it "
        "names (resources, runtime or podTemplate)",
    )


def _key_refused(secret: str, error: ClusterError) -> Trouble:
    """Why a workload's new pods have to wait. Those that run have their key."""
    what = f"Secret {secret}, which holds the key between agent and server, can't be made: {error.message.rstrip('.')}"
    if "exceeded quota" in error.message:
        return Trouble("QuotaExceeded", f"{what}. Raise the ResourceQuota's count of secrets")
    if error.status == 403 and 'cannot create resource "secrets"' in error.message:
        return Trouble(
            "SecretRefused",
            f"{what}. The operator's role lacks the verb create on secrets, most often since it is of an older chart "
            "than the operator: helm upgrade the release, or add that verb to a role of your own. New pods wait for "
            "it; those that serve go on",
        )
    return Trouble(
        "SecretRefused",
        f"{what}. Have whoever refuses it (an admission webhook, a policy) let Slipway make it. New pods wait for it; "
        "those that serve go on",
    )
