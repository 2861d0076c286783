"""Deployments and their pods as counts: what their controllers make of a scale, and pods that start and die.

For worlds of decisions alone, in which a pod is nothing but ready or not. Pure. Must not import slipway.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import ClassVar


class Counted:
    """scale: workload → what its Deployment says. pods: workload → one True (ready) or False for each pod."""

    never_ready: ClassVar[Collection[str]] = ()
    """Workloads whose pods never become ready."""
    scale: dict[str, int]
    pods: dict[str, list[bool]]

    def control(self, *names: str) -> None:
        """The controllers of these Deployments, or of all, make or end pods; those that are not ready end first."""
        for name in names or self.scale:
            if name in self.scale:
                here = sorted(self.pods.get(name, []), reverse=True)[: self.scale[name]]
                self.pods[name] = here + [False] * (self.scale[name] - len(here))

    def start(self, name: str) -> None:
        """A pod becomes ready, if this workload's ever do."""
        here = self.pods.get(name, [])
        if False in here and name not in self.never_ready:
            here[here.index(False)] = True

    def die(self, name: str) -> None:
        """A ready pod is lost; its replacement comes when the controller does."""
        here = self.pods.get(name, [])
        if True in here:
            here.remove(True)
