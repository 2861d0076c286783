"""Slipway: a Kubernetes operator for model serving.

One direction: watch event → parse → observe → decide → render → apply → status. The core (api, revisions, versions,
runtimes, rollout, manifests, drift, status) is pure; `cluster`, `agents`, `metrics` and `health` do the I/O;
`reconcile` calls them in order; `handlers` is the only module that knows kopf.
"""

__version__ = "0.1.0"
