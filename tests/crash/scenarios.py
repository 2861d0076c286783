"""What is done to a ModelDeployment in a crash test: what exists before, the one edit, what is true at the end.

Pure but for the edit itself; must not import slipway.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from tests.apiserver import ApiServer, Manifest

NAME = "digits"
Edit = Callable[[ApiServer, str], Awaitable[object]]


def model_deployment(namespace: str, **changes: Any) -> Manifest:
    """The ModelDeployment of all scenarios; `changes` replace parts of its spec."""
    spec: Manifest = {
        "runtime": {"name": "Triton"},
        "model": {"uri": "pvc://models/digits", "version": 1},
        "replicas": 2,
        "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}},
        "rollout": {"revisionHistoryLimit": 1},
    }
    return {
        "apiVersion": "slipway.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": NAME, "namespace": namespace},
        "spec": spec | changes,
    }


def apply(**changes: Any) -> Edit:
    async def edit(api: ApiServer, namespace: str) -> None:
        await api.apply(model_deployment(namespace, **changes))

    return edit


async def delete(api: ApiServer, namespace: str) -> None:
    await api.delete("ModelDeployment", namespace, NAME)


@dataclass(frozen=True, slots=True)
class Scenario:
    """before: edits made, each to its end, by an undisturbed operator. edit: what the dying operator works on.
    while_down: an edit made when it is dead, before it is started again. leaves_nothing: nothing may remain."""

    name: str
    edit: Edit
    before: tuple[Edit, ...] = ()
    while_down: Edit | None = None
    leaves_nothing: bool = False

    @property
    def edit_deletes(self) -> bool:
        """Whether the edit itself leaves nothing, so that there is no status to wait for."""
        return self.leaves_nothing and self.while_down is None


def version(number: int) -> Manifest:
    return {"uri": "pvc://models/digits", "version": number}


SCENARIOS = (
    Scenario("create", apply()),
    # The history's limit is one: the third revision's arrival also prunes the first's objects.
    Scenario("new-version", apply(model=version(3)), before=(apply(), apply(model=version(2)))),
    Scenario("back-again", apply(), before=(apply(), apply(model=version(2)))),
    Scenario("resources", apply(resources={"requests": {"cpu": "200m", "memory": "256Mi"}}), before=(apply(),)),
    Scenario("scale", apply(replicas=3), before=(apply(),)),
    Scenario("delete", delete, before=(apply(),), leaves_nothing=True),
    Scenario("delete-while-down", apply(), while_down=delete, leaves_nothing=True),
)
