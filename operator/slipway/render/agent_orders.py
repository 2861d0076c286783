"""The configuration of a workload's agents: agent.json, schema 1 (serving-images/agent/README.md).

Invariant: what is said of one place never comes from a listing of another.
Must not import: report, controller. Pure.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError

from slipway.api import SpecError
from slipway.api.quantity import parse_quantity
from slipway.api.v1alpha1 import Golden, GoldenRequest, ModelDeployment, ModelDeploymentSpec
from slipway.model.revision import Json, Revision, hash_of, spec_of, ways_of_fetching
from slipway.model.rollout import Plan
from slipway.model.workload import Turn
from slipway.observe.snapshot import Snapshot
from slipway.render.pod_template import CACHE_FOLDER, SECRET_FOLDER
from slipway.runtimes import RUNTIMES
from slipway.runtimes.server import ENDPOINT_REMOVAL_SECONDS


def render_agent_config(
    deployment: ModelDeployment,
    revision: Revision,
    load: Iterable[int],
    labels: Mapping[str, int],
    golden: Json | None = None,
) -> Json:
    """agent.json of a workload: what its agents are to do.

    Place, served version, batching, warm-up and model name are the revision's own. Pins, paths, labels, the memory
    factor, golden requests and the other versions follow the spec at once, with no pod restart, as long as it speaks
    of the same place. Who must have signed a version follows it wherever that comes from: no revision is excepted.
    """
    own = spec_of(deployment, revision)
    runtime = RUNTIMES[own.runtime.name]
    fetching = revision.fetching
    if own.model.uri == deployment.spec.model.uri:
        fetching = ways_of_fetching(deployment.spec)
        if own is not deployment.spec:
            # The spec need not name the versions of revisions before it: those still have to be found.
            fetching["versions"] = revision.fetching["versions"] | fetching["versions"]
    key, settings = runtime.agent_settings(own)
    storage = own.storage
    source: Json = {
        "uri": own.model.uri,
        "path": _mounted_path(own),
        # A mounted image is the served version itself; its tag is no path in it.
        "versions": {} if storage is not None and storage.image_volume else fetching["versions"],
        "allowRedirects": fetching["allowRedirects"],
        "caFile": "/etc/slipway-ca/ca.crt" if storage and storage.ca_bundle else None,
    }
    if storage is not None and storage.secret_ref is not None:
        source |= {"credentials": SECRET_FOLDER, "secretName": storage.secret_ref.name}
    if storage is not None and storage.cache is not None:
        source["cache"] = CACHE_FOLDER
    source |= {name: fetching[name] for name in ("endpoint", "region", "pathStyle", "pollSeconds") if name in fetching}
    if limits := _limits(own, fetching):
        source["limits"] = limits
    if deployment.spec.storage is not None and deployment.spec.storage.trusted_keys:
        source["verify"] = {"keys": deployment.spec.storage.trusted_keys}
    config: Json = {
        "schema": 1,
        "runtime": own.runtime.name,
        "model": own.model.name or deployment.name,
        "source": source,
        "served": revision.version or None,
        "load": list(load),
        "sha256": fetching["sha256"],
        key: settings,
    }
    if own.runtime.name == "TensorFlowServing":
        config["labels"] = dict(labels)
    if limit := memory_limit_bytes(own):
        config["memory"] = {"limitBytes": limit, "factor": deployment.spec.model.memory_factor}
    if own.warmup is not None:
        config["warmup"] = own.warmup.requests
    if golden is not None:
        config["golden"] = golden
    return _named(config)


def _limits(own: ModelDeploymentSpec, fetching: Json) -> Json:
    """How large a version may be, and all of them: the latter is in the revision's pods, whatever the spec says now."""
    limits: Json = dict(fetching.get("limits", {}))
    if own.storage is not None and own.storage.size_limit is not None:
        limits["volumeBytes"] = int(parse_quantity(own.storage.size_limit))
    return limits


def trusted_names(spec: ModelDeploymentSpec) -> frozenset[str]:
    """What agents call the keys of which one must have signed a version: the SHA-256 of each PEM text."""
    keys = spec.storage.trusted_keys if spec.storage is not None else []
    return frozenset(hashlib.sha256(key.strip().encode()).hexdigest() for key in keys)


TURN_FIELDS = ("served", "load", "labels", "golden", "probe")
PROBES_SECONDS = 3
"""Until a kubelet has seen that a pod isn't ready any more: two probes, a second apart (`pod_template`)."""


def in_turn(config: Json, former: Json, turn: Turn) -> Json:
    """Orders of a workload whose pods go over from `former` to `config`, those alone whose turn it is.

    What isn't in `turn` is for all. An agent that doesn't know turns goes on with what was there before.
    """
    assert turn.pods is not None
    own: Json = {"pods": list(turn.pods), **{name: config[name] for name in TURN_FIELDS if name in config}}
    if turn.leaves:
        own["drainSeconds"] = PROBES_SECONDS + ENDPOINT_REMOVAL_SECONDS
    if turn.is_held:
        own["held"] = True
    return _named({**former, "turn": own})


def held(config: Json) -> Json:
    """Orders of a workload whose pods stay out of the Service, ready or not."""
    return _named({**config, "held": True})


def with_question(config: Json, question: Json | None) -> Json:
    """Orders of servers that are asked on and on what they have passed once."""
    if question is None or config.get("golden") is not None:
        return config
    return _named({**config, "probe": question})


def without_pods(config: Json, out: Sequence[str]) -> Json:
    """Orders by which these pods leave the Service until their servers answer their own request well."""
    return _named({**config, "out": list(out)}) if out else config


def _named(config: Json) -> Json:
    """With its generation, which names all of it."""
    body = {name: value for name, value in config.items() if name != "generation"}
    return {"generation": hash_of(body)} | body


def labels_before(own: Json, former: Json, live: Mapping[str, int]) -> dict[str, int]:
    """Labels of pods whose turn it isn't. own: the orders of those that have gone over; live: labels as they stand.

    One that leads to a version that these pods don't hold yet stays where it was, or, being new, leads to what they
    serve: whoever asks for a label in mid-change gets an answer from every pod.
    """
    kept, served = (
        {label: version for label, version in live.items() if version in former["load"]},
        int(former["served"]),
    )
    return {
        label: kept.get(label, served) if version in own["load"] and version not in former["load"] else version
        for label, version in own["labels"].items()
    }


def _mounted_path(spec: ModelDeploymentSpec) -> str | None:
    """Where the agent finds the source in its own files; None when it has to fetch it."""
    scheme, _, rest = spec.model.uri.partition("://")
    if scheme in ("pvc", "volume"):
        return f"/source/{rest.partition('/')[2].strip('/')}".rstrip("/")
    return "/source" if spec.storage is not None and spec.storage.image_volume else None


def memory_limit_bytes(spec: ModelDeploymentSpec) -> int | None:
    """The server container's memory limit; None without one."""
    limit = spec.resources.limits.get("memory") if spec.resources else None
    return None if limit is None else int(parse_quantity(limit))


def golden_kept(plan: Plan, snapshot: Snapshot) -> Json | None:
    """The golden requests that the canary's agents have; None: none."""
    for workload, assignment in plan.assignments.items():
        live = snapshot.agent_orders.get(workload)
        if live is not None and live.revision == assignment.revision == plan.state.canary:
            return live.golden
    return None


GOLDEN_REQUESTS = TypeAdapter(Annotated[list[GoldenRequest], Field(min_length=1, max_length=64)])
"""As many as the spec and agents take."""


def golden_orders(golden: Golden, data: Mapping[str, str] | None = None) -> Json:
    """Golden requests, as in agent.json. data: of the ConfigMap, where they stand in one; None: there is none.

    Raises SpecError(GoldenUnreadable) for a ConfigMap that isn't there, or doesn't hold what it should.
    """
    tolerance = {"absolute": golden.tolerance.absolute, "relative": golden.tolerance.relative}
    place = golden.config_map
    if place is None:
        return {"requests": [_golden(each) for each in golden.requests], "file": golden.file, "tolerance": tolerance}
    where = f"spec.rollout.gates.golden.configMap: ConfigMap {place.name}"
    if data is None:
        raise SpecError("GoldenUnreadable", f"{where} does not exist in this namespace. Create it, or correct its name")
    if place.key not in data:
        raise SpecError(
            "GoldenUnreadable", f"{where} has no key {place.key}; it has {', '.join(sorted(data)) or 'none'}"
        )
    try:
        requests = GOLDEN_REQUESTS.validate_json(data[place.key])
    except ValidationError as error:
        first = error.errors()[0]
        at = ".".join(str(part) for part in first["loc"])
        raise SpecError(
            "GoldenUnreadable",
            f"{where}, key {place.key}: {at + ': ' if at else ''}{first['msg']}. It must be a JSON list of objects "
            "with request and response",
        ) from None
    return {"requests": [_golden(each) for each in requests], "file": None, "tolerance": tolerance}


def _golden(request: GoldenRequest) -> Json:
    return request.model_dump(mode="json", by_alias=True, exclude_none=True)


def version_labels(
    deployment: ModelDeployment, plan: Plan, revision: Revision, former: Revision | None
) -> dict[str, int]:
    """TensorFlow Serving's labels. In every pod `stable` leads somewhere; `canary` only while there is one."""
    if revision.version == 0:
        return {}
    own = {"stable": revision.version}
    if plan.state.canary == revision.hash and plan.state.stable is not None and former is not None and former.version:
        # Of two versions the higher one isn't kept beside the other: requests without a version would get it.
        own = {"stable": min(former.version, revision.version), "canary": revision.version}
    elif plan.state.canary == revision.hash and plan.state.stable is not None and plan.weights is not None:
        own["canary"] = revision.version
    return {**deployment.spec.model.labels, **own}
