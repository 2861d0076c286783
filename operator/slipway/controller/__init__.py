"""The shell: kopf's events, the work queue, the cache, the API client, agents and routers, pacing, and the pass itself.

Invariant: it reads, calls the core in order and writes; it decides nothing about a rollout.
kopf is imported in `kopf_edge` alone, the Kubernetes client in `kube` alone.
"""
