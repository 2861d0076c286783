"""The agent beside a model server: it brings model versions into the pod, and says what became of them.

One direction: agent.json, the disk and the server -> `plan` (pure) -> actions of `loop`, the shell -> a report (pure).
`model`, `config`, `plan` and `reporting.report` do no I/O and read no clock. `loop` has `fetching` bring versions from
`sources` into `volume`, and `servers` load them.
Standard library and requests only: nothing of the operator is in the agent's image, so nothing here imports it.
"""

__version__ = "0.1.0"
"""The release, as the operator's."""
