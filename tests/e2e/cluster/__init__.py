"""A Kubernetes cluster to test on and to demonstrate with, whatever the machine offers.

One interface (`provider.ClusterProvider`), three forms: *native* (a real one-node Kubernetes built from pinned Go
modules, for machines without Docker), *kind* (where a Docker engine answers), *existing* (what KUBECONFIG names).
Standard library only: it runs before any virtual environment is made, and it knows nothing of Slipway itself.
"""
