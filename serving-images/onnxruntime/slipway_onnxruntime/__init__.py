"""ONNX Runtime behind the Open Inference Protocol: MLServer with one model class, and the agent's way to load versions.

Not a server of its own: REST, gRPC, metrics and the registry of models are MLServer's. What it adds is in four places:
`model` (the one MLModel class), `tensors` and `wire` (the protocol's datatypes and its binary form), `batches`
(requests computed together) and `serving` (hot versions, a closed repository API, a drain that loses nothing).
"""
