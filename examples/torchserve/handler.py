"""What TorchServe runs around the model: JSON in, tensors through the model in one batch, JSON out.

`initialize` and `inference` are BaseHandler's own: they load the TorchScript of the .mar, and call it.
"""

import json
from typing import Any

import torch
from ts.torch_handler.base_handler import BaseHandler


class Moons(BaseHandler):
    def preprocess(self, data: list[dict[str, Any]]) -> torch.Tensor:
        """One request's body is {"points": [[x, y], …]}; TorchServe hands over as many requests as it batched."""
        bodies = [row["body"] if "body" in row else row["data"] for row in data]
        bodies = [json.loads(body) if isinstance(body, (bytes, bytearray)) else body for body in bodies]
        self.counts = [len(body["points"]) for body in bodies]
        return torch.tensor([point for body in bodies for point in body["points"]], device=self.device)

    def postprocess(self, data: torch.Tensor) -> list[dict[str, Any]]:
        """For each request, the probability that each of its points is on the lower moon."""
        lower = torch.softmax(data, 1)[:, 1]
        return [{"lower": part.tolist()} for part in lower.split(self.counts)]
