"""Whose CPU time a measurement took: control plane, operator, this harness, and everybody else on the machine.

On two cores the API server is usually what limits; a figure taken while others compile says little, and the line that
this makes shows it. Invariant: reads /proc only.
"""

import os
from collections.abc import Mapping
from pathlib import Path

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
COMPONENTS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")

CpuSeconds = Mapping[str, float]


def read_cpu_seconds(operator_pid: int | None = None) -> dict[str, float]:
    """CPU seconds so far by name; "all" is the whole machine's, its interrupts included."""
    seconds: dict[str, float] = {}
    our_network = os.readlink("/proc/self/ns/net")
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            network = os.readlink(folder / "ns/net")
            words = (folder / "cmdline").read_bytes().split(b"\0")
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has ended meanwhile, or is not ours to look at
            continue
        is_ours = network == our_network  # another cluster on this machine is somebody else
        name = next(
            (c for c in COMPONENTS for word in words[:2] if is_ours and os.path.basename(word.decode()) == c), ""
        )
        if int(folder.name) == operator_pid:
            name = "operator"
        elif int(folder.name) == os.getpid():
            name = "this harness"
        if name:
            seconds[name] = seconds.get(name, 0.0) + (int(fields[11]) + int(fields[12])) / TICKS_PER_SECOND
    fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:]
    user, nice, system, _, _, interrupts, soft, *_ = (int(field) / TICKS_PER_SECOND for field in fields)
    seconds["all"] = user + nice + system + interrupts + soft
    return seconds


def busy_seconds(before: CpuSeconds, after: CpuSeconds) -> float:
    """What control plane, operator and harness used together; nobody else on the machine can make it more."""
    return sum(seconds - before.get(name, 0.0) for name, seconds in after.items() if name != "all")


def describe_cpu(before: CpuSeconds, after: CpuSeconds, wall_seconds: float) -> str:
    """One line: who used how much of the CPU in between."""
    used = {name: seconds - before.get(name, 0.0) for name, seconds in after.items()}
    known = sum(seconds for name, seconds in used.items() if name != "all")
    used["others"] = max(0.0, used.pop("all") - known)
    available = wall_seconds * (os.cpu_count() or 1)
    parts = ", ".join(f"{name} {used[name]:.1f}" for name in sorted(used, key=lambda name: -used[name]))
    return f"CPU seconds, of {available:.0f} there were: {parts}"
