"""What a new version must be before it gets any live traffic: one that clients of the old version can go on using.

Golden requests are the other gate, and need nothing here: they are asked by the agent of the new version's pods, and a
pod isn't ready before they were answered as expected (docs/gates.md). A signature is compared here, so a pod waits for
that: a canary's gets no requests yet, and where requests aren't split it is held out of the Service (`Turn.is_held`).

Two worked examples of `compare`:
    x FP32 [-1, 64] → y FP32 [-1, 10]   and then   x FP32 [-1, 64] → y FP32 [-1, 10], z FP32 [-1, 3]:   ()
    x FP32 [-1, 64] → y FP32 [-1, 10]   and then   x FP32 [8, 64] → y FP64 [-1, 10]:
        ("input x takes [8, 64], was [any, 64]", "output y is FP64, was FP32")

Invariant: what isn't known stops nothing, and nothing is waited for without an end.
Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from slipway.api.v1alpha1 import ModelDeploymentSpec
from slipway.model.signals import OPEN, GateState, GateVerdict
from slipway.model.signature import DYNAMIC, Signature, Tensor
from slipway.observe.agent_reports import SIGNATURES
from slipway.observe.pods import Pod
from slipway.runtimes import RUNTIMES

SIGNATURE_CHANGED = "SignatureChanged"
DIFFERENCES_SAID = 8
NAME_LIMIT = 80

Shape = tuple[int, ...] | None


def compare(old: Signature, new: Signature) -> tuple[str, ...]:
    """What clients of the old version would miss in the new one, each in words; empty: nothing.

    Inputs must take all that they took. Outputs must be there as they were; of a dimension that either version leaves
    open nothing is known. More outputs, and inputs that may be left out, trouble nobody.
    """
    inputs = {each.name: each for each in new.inputs}
    outputs = {each.name: each for each in new.outputs}
    known = {each.name for each in old.inputs}
    added = [each for each in new.inputs if each.name not in known and not each.is_optional]
    renamed = _renamed([each for each in old.inputs if each.name not in inputs], added)
    found: list[str] = []
    for each in old.inputs:
        if now := inputs.get(each.name):
            found += _changes("input", "takes", each, now, _takes_as_much)
            if each.is_optional and not now.is_optional:
                found.append(f"input {_short(each.name)} can't be left out any more")
        elif each.name in renamed:
            found.append(f"input {_short(each.name)} is called {_short(renamed[each.name])} now")
        else:
            found.append(f"input {_short(each.name)} is gone")
    found += [
        f"input {_short(each.name)} ({each.datatype} {_show(each.shape)}) is new, and clients don't send it"
        for each in added
        if each.name not in renamed.values()
    ]
    for each in old.outputs:
        if given := outputs.get(each.name):
            found += _changes("output", "has", each, given, _may_agree)
        else:
            found.append(f"output {_short(each.name)} is gone")
    return tuple(found)


def judge_gates(
    spec: ModelDeploymentSpec,
    stable_version: int | None,
    stable_pods: Sequence[Pod],
    canary_version: int,
    canary_pods: Sequence[Pod],
    *,
    is_held: bool = False,
) -> GateVerdict:
    """Whether the canary's version may get live traffic beside, and then in place of, the stable one.

    It waits only for an agent that is about to tell the canary's signature. stable_version: None where nothing serves.
    is_held: its pods are kept out of the Service meanwhile, so they aren't ready: what isn't loaded yet is waited for.
    """
    if not compares_signatures(spec) or stable_version is None or not stable_pods:
        return OPEN
    old = _signature_of(stable_version, stable_pods)
    new = _signature_of(canary_version, canary_pods)
    if old is not None and new is not None:
        differences = compare(old, new)
        return _fail(stable_version, canary_version, differences) if differences else OPEN
    if is_held and (waits_for := _held_by(stable_version, stable_pods, canary_version, canary_pods)):
        return GateVerdict(GateState.WAITING, message=waits_for)
    if is_held or (old is None and not _is_being_read(stable_version, stable_pods)):
        return _unknown(stable_version if old is None else canary_version)
    if old is None or _is_being_read(canary_version, canary_pods):
        version = stable_version if old is None else canary_version
        return GateVerdict(GateState.WAITING, message=f"the signature of version {version} is being read")
    silent = [pod.name for pod in canary_pods if pod.is_ready and pod.report is None]
    if silent:  # those of the stable pods answer, so this one is about to
        return GateVerdict(GateState.WAITING, message=f"the agent of pod {silent[0]} hasn't answered yet")
    return _unknown(canary_version) if any(pod.is_ready for pod in canary_pods) else OPEN


def compares_signatures(spec: ModelDeploymentSpec) -> bool:
    """Whether the spec wants a new version to be one that clients of the old one can use."""
    rollout = spec.rollout
    if rollout.gates is not None and rollout.gates.signature is not None:
        return rollout.gates.signature == "Compatible"
    has_steps = bool(rollout.steps) or rollout.strategy == "Canary"
    return has_steps and RUNTIMES[spec.runtime.name].tells_signatures


def _fail(stable_version: int, canary_version: int, differences: Sequence[str]) -> GateVerdict:
    said = list(differences[:DIFFERENCES_SAID])
    if len(differences) > DIFFERENCES_SAID:
        said.append(f"and {len(differences) - DIFFERENCES_SAID} more")
    beside = f"version {canary_version} beside version {stable_version}"
    if stable_version == canary_version:
        beside = f"version {canary_version} as the new revision serves it"
    return GateVerdict(
        GateState.FAILED,
        SIGNATURE_CHANGED,
        f"clients of what serves now can't use {beside}: {'; '.join(said)}. Serve it as another ModelDeployment, or "
        "set spec.rollout.gates.signature: Ignore to let it through",
    )


def _held_by(stable_version: int, stable_pods: Sequence[Pod], canary_version: int, canary_pods: Sequence[Pod]) -> str:
    """What signatures that aren't known both are waited for, in words; empty: nothing will come."""
    if not any(_is_loaded(canary_version, pod) for pod in canary_pods):
        return f"version {canary_version} isn't loaded in any pod yet"
    for version, pods in ((stable_version, stable_pods), (canary_version, canary_pods)):
        if _signature_of(version, pods) is None and any(_is_to_tell(version, pod) for pod in pods):
            return f"the signature of version {version} is being read"
    silent = [pod.name for pod in stable_pods if pod.is_ready and pod.report is None]
    if _signature_of(stable_version, stable_pods) is None and silent:
        return f"the agent of pod {silent[0]} hasn't answered yet"
    return ""


def _unknown(version: int) -> GateVerdict:
    return GateVerdict(
        GateState.PASSED, message=f"signatures aren't compared: the server doesn't tell version {version}'s"
    )


def _signature_of(version: int, pods: Iterable[Pod]) -> Signature | None:
    """As the first of the pods tells it that can; all of them have the same bytes."""
    told = (pod.report.signatures.get(version) for pod in pods if pod.report is not None)
    return next((signature for signature in told if signature is not None), None)


def _is_being_read(version: int, pods: Iterable[Pod]) -> bool:
    """A pod serves the version, and its agent, which tells signatures, is about to tell this one's."""
    return any(pod.is_ready and _is_to_tell(version, pod) for pod in pods)


def _is_to_tell(version: int, pod: Pod) -> bool:
    """The pod has the version loaded, and its agent, which tells signatures, hasn't told this one's."""
    report = pod.report
    is_missing = report is not None and SIGNATURES in report.abilities and version not in report.signatures
    return is_missing and _is_loaded(version, pod)


def _is_loaded(version: int, pod: Pod) -> bool:
    said = pod.report.version(version) if pod.report is not None else None
    return said is not None and said.state == "Available"


def _renamed(gone: Sequence[Tensor], added: Sequence[Tensor]) -> Mapping[str, str]:
    """Old name → new name, where one input went and one of the same kind came."""
    if len(gone) != 1 or len(added) != 1:
        return {}
    before, now = gone[0], added[0]
    is_same = before.datatype == now.datatype and _takes_as_much(before.shape, now.shape)
    return {before.name: now.name} if is_same else {}


def _changes(
    what: str, verb: str, before: Tensor, now: Tensor, is_compatible: Callable[[Shape, Shape], bool]
) -> list[str]:
    found = []
    if before.datatype != now.datatype:
        found.append(f"{what} {_short(before.name)} is {now.datatype}, was {before.datatype}")
    if not is_compatible(before.shape, now.shape):
        found.append(f"{what} {_short(before.name)} {verb} {_show(now.shape)}, was {_show(before.shape)}")
    return found


def _takes_as_much(before: Shape, now: Shape) -> bool:
    """Every shape that `before` allows, `now` allows too."""
    if now is None:
        return True
    if before is None or len(before) != len(now):
        return False
    return all(new in (DYNAMIC, old) for old, new in zip(before, now, strict=True))


def _may_agree(before: Shape, now: Shape) -> bool:
    """Some shape is allowed by both."""
    if before is None or now is None:
        return True
    if len(before) != len(now):
        return False
    return all(DYNAMIC in (old, new) or old == new for old, new in zip(before, now, strict=True))


def _show(shape: Shape) -> str:
    """[-1, 64] is `[any, 64]`."""
    if shape is None:
        return "any shape"
    return "[" + ", ".join("any" if size == DYNAMIC else str(size) for size in shape) + "]"


def _short(name: str) -> str:
    return name if len(name) <= NAME_LIMIT else name[:NAME_LIMIT] + "…"
