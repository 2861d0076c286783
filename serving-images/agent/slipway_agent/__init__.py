"""The agent beside a model server: it brings model versions into the pod, and says what became of them.

One direction: agent.json and what is on disk and what the server answers -> decide (pure) -> actions -> report (pure).
The core (`decide`, `report`, `pbtxt`, `servers.triton_config`) does no I/O and reads no clock; `loop` is the shell.
Standard library and requests only: nothing of the operator is in the agent's image, so nothing here imports it.
"""
