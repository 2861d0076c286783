"""The names by which objects find each other: labels, annotations, keys of ConfigMaps, ports, and what the agents' and
routers' contracts call things.

Invariant: these strings stand in live objects; one that changes restarts pods or loses what was written before.
Must not import: anything but `api`. Pure.
"""

from __future__ import annotations

from slipway.api.v1alpha1 import GROUP

FIELD_MANAGER = "slipway"
"""By which server-side apply knows what we wrote."""

MODEL_LABEL = f"{GROUP}/model"

REVISION_LABEL = f"{GROUP}/revision"

CONFIG_ANNOTATION = f"{GROUP}/agent-config"

POD_VARIABLE = "SLIPWAY_POD"
"""The variable with a pod's name, in agents and routers: each answer has it, since an address may have become another
pod's."""

ROUTER_CONFIG_ANNOTATION = f"{GROUP}/router-config"

REVISION_ANNOTATION = f"{GROUP}/carries"
"""On a workload's ConfigMap: the revision that its agents serve. The word stays: it stands in live objects."""

REPLACES_ANNOTATION = f"{GROUP}/replaces"
"""On a workload's ConfigMap: the revision before it in place, until bake is over."""

STABLE_ANNOTATION = f"{GROUP}/stable"
"""On Service `<name>`, from its first rollout on: the stable revision, so that a lost status loses nothing."""

LAST_SPEC_ANNOTATION = f"{GROUP}/last-spec"
"""On Service `<name>`: the last spec that could be read, as it was written. What runs goes on by it while the object's
own can't be."""

REFRESHED_ANNOTATION = f"{GROUP}/refreshed"
"""On a ControllerRevision, whose data is immutable: the pod template that a refresh put in the place of its own."""

REFRESHED_BY_ANNOTATION = f"{GROUP}/refreshed-by"
"""In such a template, and so on the pods made of it: the id of the command, by which old pods and new ones are told
apart."""

PORTS_ANNOTATION = f"{GROUP}/ports"
"""On a Service that we write: the numbers of its ports that are ours."""

ROUTER_SUFFIX = ".router"

ROUTER_PORT_NAME = "router"
"""The router's one port: it tells HTTP and gRPC apart by itself."""

AGENT_PORT = 8081

AGENT_CONFIG_KEY = "agent.json"

RECORDED_KEY = "recorded.json"

CONFIG_VOLUME = "slipway-config"


def labels_of(name: str, revision: str | None = None) -> dict[str, str]:
    """The labels of a ModelDeployment's children; with a revision, of that revision's."""
    labels = {"app.kubernetes.io/managed-by": "slipway", "app.kubernetes.io/part-of": name, MODEL_LABEL: name}
    return labels | ({REVISION_LABEL: revision} if revision else {})


def router_label(name: str) -> str:
    """The model label of a router's pods. No name has a dot, so no selector of model pods finds them."""
    return f"{name}{ROUTER_SUFFIX}"


def model_of_label(value: str) -> str:
    """The ModelDeployment that a model label speaks of, a router's pods' included."""
    return value.removesuffix(ROUTER_SUFFIX)


def selector_of(name: str) -> str:
    """The label selector of all its pods, as text: what the scale subresource shows."""
    return f"{MODEL_LABEL}={name}"


def child_name(name: str, revision: str) -> str:
    """The name of a revision's objects."""
    return f"{name}-{revision}"


def metrics_name(name: str) -> str:
    """The name of the Service by which the model pods' metrics are found; no workload is called `metrics`."""
    return f"{name}-metrics"


ROUTER_PORT = 10080

STATUS_PORT = 10090

STATUS_HOST = "status.slipway.internal"
"""Requests for this host are answered with what is in force."""

POD_HEADER = "slipway-pod"
"""Of that answer: the pod's name; `-` from a router of an older release, which doesn't know its name."""

ROUTES_KEY = "routes.json"

HTTP_CLUSTERS = "http"

GRPC_CLUSTERS = "grpc"

ROUTED_ANNOTATION = f"{GROUP}/routed"
"""On the routers' ConfigMap: the generation of the configuration in it."""
