"""The benchmark's measurements, run inside the cluster's network: capture and bare loop, then the operator.

Each takes a fresh cluster, so that neither pays for what the other left to the controller-manager.
Must not import slipway: the operator is a process, watched from outside.
"""

import asyncio
import contextlib
import json
import os
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tests.apiserver import (
    CHILD_KINDS,
    KINDS,
    METADATA_ONLY,
    ApiServer,
    Manifest,
    path_of,
    read_access,
    read_crds,
    write_kubeconfig,
)
from tests.bench.figures import percentile

from .audit import AuditLog, Write, count_by_kind
from .bare_loop import CONNECTIONS, BareLoop, create_model_deployments, run_bare_loop
from .machine import busy_seconds, describe_cpu, read_cpu_seconds
from .operator_process import Memory, OperatorError, OperatorProcess
from .workload import (
    NAMESPACE,
    Child,
    RecordedWrite,
    children_of,
    model_deployment,
    name_of,
    new_recording,
    read_recording,
    settled_writes,
)

ACCOUNT_NAMESPACE = "bench-accounts"
QUIET_SECONDS = 5.0
CHILD_RESOURCES = frozenset(KINDS[kind][1] for kind in CHILD_KINDS)


@dataclass(frozen=True, slots=True)
class Options:
    """What a run was asked for; see `--help` of the command."""

    count: int
    changes: int
    changes_per_second: float
    idle_seconds: float
    settle_seconds: float
    bare: bool
    restart: bool
    profile: bool
    module: str
    crds: str
    out: str


@dataclass(slots=True)
class Captured:
    """The operator's writes for one ModelDeployment, and what the bare loop made of them."""

    writes: list[RecordedWrite]
    bare: BareLoop | None = None

    def save(self, file: Path) -> None:
        file.write_text(json.dumps(asdict(self)))

    @classmethod
    def load(cls, file: Path) -> "Captured":
        data = json.loads(file.read_text())
        bare = BareLoop(**data["bare"]) if data["bare"] else None
        return cls([RecordedWrite(**write) for write in data["writes"]], bare)


@dataclass(slots=True)
class Measured:
    """What the operator's run found; None where it was left out."""

    all_children_seconds: float | None = None
    writes: int = 0
    writes_by_kind: Counter[str] = field(default_factory=Counter)
    writes_by_own_metric: float | None = None
    writes_per_second: float | None = None
    cpu_seconds_a_write: float | None = None
    settled: bool = True
    latencies: list[float] = field(default_factory=list)
    create_cpu_seconds: float = 0.0
    settle_cpu_seconds: float = 0.0
    change_cpu_seconds: float = 0.0
    peak_resident: float = 0.0
    peak_anonymous: float = 0.0
    started_memory: Memory | None = None
    idle_writes: Counter[str] | None = None
    idle_cpu_seconds: float = 0.0
    restart_seconds: float | None = None
    restart_writes: Counter[str] | None = None
    restart_cpu_seconds: float = 0.0
    restart_peak_resident: float = 0.0
    stop_seconds: float = 0.0


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {text}", flush=True)


@contextlib.asynccontextmanager
async def prepared_cluster(options: Options, account: str) -> AsyncIterator[tuple[ApiServer, ApiServer, Path, str]]:
    """Yields (administrator, the account's own session, its kubeconfig, its user name), CRDs and namespace in place."""
    admin_kubeconfig = Path(os.environ["KUBECONFIG"])
    crds = read_crds(Path(options.crds))
    async with ApiServer(read_access(admin_kubeconfig)) as admin:
        await admin.install_crds(crds)
        await admin.make_namespace(NAMESPACE)
        await admin.make_namespace(ACCOUNT_NAMESPACE)
        token = await admin.make_account(ACCOUNT_NAMESPACE, account)
        kubeconfig = Path(options.out, f"{account}.kubeconfig")
        write_kubeconfig(kubeconfig, admin_kubeconfig, token)
        async with ApiServer(read_access(kubeconfig), connections=CONNECTIONS) as own:
            # The first object of a new kind takes the API server two seconds (its audit log shows 32 requests that
            # wait for it), whoever makes it: both measurements begin after that. A dry run leaves nothing behind.
            body = model_deployment(0)
            await own.request("POST", path_of(body["kind"], NAMESPACE), body=body, params={"dryRun": "All"})
            yield admin, own, kubeconfig, f"system:serviceaccount:{ACCOUNT_NAMESPACE}:{account}"


async def capture_and_run_bare_loop(options: Options) -> Captured:
    """Records what the operator writes for one ModelDeployment, then replays it for `count` of them."""
    recording = new_recording(Path(options.out))
    async with prepared_cluster(options, "bare-loop") as (_, api, kubeconfig, _):
        launcher = ("tests.bench.controller.recorded", str(recording))
        operator = OperatorProcess.start(
            options.module, kubeconfig, NAMESPACE, Path(options.out, "operator-capture.log"), launcher
        )
        try:
            await operator.wait_until_idle(0, 30)
            uid = (await api.create(model_deployment(0)))["metadata"]["uid"]
            writes = await _recorded_until_quiet(operator, recording)
        finally:
            await operator.stop()
        captured = Captured(settled_writes(writes))
        kinds = ", ".join(kind for kind, _ in children_of(captured.writes))
        say(f"one ModelDeployment is {len(writes)} writes; settled, {len(captured.writes)}: status and {kinds}")
        if options.bare:
            say(f"bare loop: {len(captured.writes)} writes for each of {options.count:,}, {CONNECTIONS} connections")
            bare = captured.bare = await run_bare_loop(api, captured.writes, uid, range(1, options.count + 1))
            say(f"bare loop: {bare.writes:,} writes in {bare.seconds:.1f} s, {bare.writes_per_second:.0f} writes/s")
            say(f"bare loop: {bare.cpu}")
    return captured


async def _recorded_until_quiet(operator: OperatorProcess, recording: Path) -> list[RecordedWrite]:
    """Waits until the operator wrote something and then nothing for a while."""
    deadline = time.monotonic() + 60
    seen, since = 0, time.monotonic()
    while time.monotonic() < deadline:
        await asyncio.sleep(0.5)
        operator.assert_is_alive()
        writes = read_recording(recording)
        if len(writes) != seen:
            seen, since = len(writes), time.monotonic()
        elif seen and time.monotonic() - since > QUIET_SECONDS:
            return writes
    raise OperatorError(f"the operator wrote {seen} times for one ModelDeployment and did not come to rest in 60 s")


async def count_objects(api: ApiServer, kind: str) -> int:
    """How many there are, by a list of one: it says how many remain, and costs the API server next to nothing."""
    page = await api.request("GET", path_of(kind, NAMESPACE), params={"limit": "1"}, accept=METADATA_ONLY)
    return len(page["items"] or []) + int(page["metadata"].get("remainingItemCount", 0))


async def missing_children(api: ApiServer, wanted: set[Child]) -> set[Child]:
    """Those of the wanted children that do not exist."""
    found = set()
    for kind in {kind for kind, _ in wanted}:
        items, _ = await api.list_all(kind, NAMESPACE, metadata_only=True)
        found |= {(kind, item["metadata"]["name"]) for item in items}
    return wanted - found


class Sampler:
    """Keeps the highest anonymous memory seen; the kernel keeps the highest resident one itself."""

    def __init__(self, operator: OperatorProcess) -> None:
        self._operator = operator
        self.peak_anonymous = 0.0

    async def run(self) -> None:
        with contextlib.suppress(FileNotFoundError, KeyError):  # the process is gone
            while True:
                self.peak_anonymous = max(self.peak_anonymous, self._operator.memory().anonymous)
                await asyncio.sleep(0.2)


async def measure_operator(options: Options, captured: Captured) -> Measured:
    """The operator under N ModelDeployments at once, changes, idleness and a restart."""
    measured = Measured()
    async with prepared_cluster(options, "operator") as (admin, _, kubeconfig, user):
        audit = AuditLog(Path(os.environ["SLIPWAY_AUDIT_LOG"]), user)
        launcher: tuple[str, ...] = ()
        if options.profile:
            launcher = ("tests.bench.controller.profiled", str(Path(options.out, "profile")))
        log = Path(options.out, "operator.log")
        operator = OperatorProcess.start(options.module, kubeconfig, NAMESPACE, log, launcher)
        sampler = Sampler(operator)
        sampling = asyncio.create_task(sampler.run())
        try:
            await operator.wait_until_idle(0, 60)
            measured.started_memory = operator.memory()
            await _measure_creation(options, captured, admin, operator, audit, measured)
            if options.changes:
                await _measure_changes(options, admin, operator, measured)
                await _wait_until_quiet(operator, audit, options.settle_seconds)
            if options.idle_seconds:
                await _measure_idleness(options, operator, audit, measured)
            measured.peak_resident = operator.memory().resident_peak
            measured.peak_anonymous = sampler.peak_anonymous
        finally:
            sampling.cancel()
            measured.stop_seconds = await operator.stop()
        if options.restart:
            await _measure_restart(options, kubeconfig, audit, measured)
    return measured


async def _measure_creation(
    options: Options,
    captured: Captured,
    api: ApiServer,
    operator: OperatorProcess,
    audit: AuditLog,
    measured: Measured,
) -> None:
    templates = children_of(captured.writes)
    wanted = {
        (kind, name.replace(name_of(0), name_of(number)))
        for kind, name in templates
        for number in range(1, options.count + 1)
    }
    waiting = Counter(kind for kind, _ in wanted)
    before = {kind: await count_objects(api, kind) for kind in waiting}
    cpu, machine = operator.cpu_seconds(), read_cpu_seconds(operator.pid)
    say(f"operator: creating {options.count:,} ModelDeployments at once, {len(wanted):,} children wanted")
    began, began_epoch = time.monotonic(), time.time()
    await create_model_deployments(api, range(1, options.count + 1))
    say(f"operator: all ModelDeployments are created after {time.monotonic() - began:.1f} s")
    limit = 60 + options.count / 5
    while waiting:
        operator.assert_is_alive()
        if time.monotonic() - began > limit:
            missing = sorted(await missing_children(api, wanted))
            raise OperatorError(
                f"{len(missing)} of {len(wanted)} children are missing after {limit:.0f} s, {missing[:1]} first"
            )
        await asyncio.sleep(0.25)
        kind = next(iter(waiting))
        if await count_objects(api, kind) - before[kind] >= waiting[kind]:
            del waiting[kind]
    wall, used = time.monotonic() - began, read_cpu_seconds(operator.pid)
    if missing := sorted(await missing_children(api, wanted)):
        raise OperatorError(f"other children than expected were written; {missing[0]} is missing")
    writes = audit.read_new()
    # By the audit log's own clock: the answer to the last write of a child.
    measured.all_children_seconds = max(w.at_seconds for w in writes if w.resource in CHILD_RESOURCES) - began_epoch
    measured.cpu_seconds_a_write = busy_seconds(machine, used) / len(writes)
    say(f"operator: {describe_cpu(machine, used, wall)}")
    measured.create_cpu_seconds = operator.cpu_seconds() - cpu
    span = measured.all_children_seconds
    during = [w for w in writes if w.at_seconds <= began_epoch + span and w.status < 400]
    measured.writes_per_second = len(during) / span
    say(
        f"operator: all children are written after {span:.1f} s, {len(during):,} writes, "
        f"{len(during) / span:.0f} a second"
    )

    say(f"operator: waiting until Deployments have their pods and it has written nothing for {QUIET_SECONDS:.0f} s")
    settling = await _wait_until_deployed(api, options.settle_seconds)
    settling += await _wait_until_quiet_collecting(operator, audit, writes, options.settle_seconds)
    measured.settled = settling == ""
    if settling:
        say(f"operator: {settling}; its writes are counted up to here")
    measured.settle_cpu_seconds = operator.cpu_seconds() - cpu
    measured.writes = len(writes)
    measured.writes_by_kind = count_by_kind(writes)
    metrics = await operator.read_metrics()
    measured.writes_by_own_metric = metrics.writes if metrics else None


async def _wait_until_deployed(api: ApiServer, limit_seconds: float) -> str:
    """Waits for the controller-manager, which is held to 20 requests a second; returns what is missing, or nothing."""
    deadline = time.monotonic() + limit_seconds
    behind = 0
    while time.monotonic() < deadline:
        deployments, _ = await api.list_all("Deployment", NAMESPACE)
        behind = sum(d.get("status", {}).get("replicas", 0) != d["spec"]["replicas"] for d in deployments)
        if not behind:
            return ""
        await asyncio.sleep(3)
    return f"{behind} Deployments have no pods yet after {limit_seconds:.0f} s. "


async def _wait_until_quiet_collecting(
    operator: OperatorProcess, audit: AuditLog, writes: list[Write], limit_seconds: float
) -> str:
    """Adds the operator's writes to the list until there are none for a while; returns a complaint, or nothing."""
    deadline = time.monotonic() + limit_seconds
    since = time.monotonic()
    while time.monotonic() - since < QUIET_SECONDS:
        operator.assert_is_alive()
        await asyncio.sleep(0.5)
        if new := audit.read_new():
            writes += new
            since = time.monotonic()
        if time.monotonic() > deadline:
            return f"still writing after {limit_seconds:.0f} s"
    return ""


async def _wait_until_quiet(operator: OperatorProcess, audit: AuditLog, limit_seconds: float) -> None:
    if complaint := await _wait_until_quiet_collecting(operator, audit, [], limit_seconds):
        say(f"operator: {complaint}")


async def _measure_changes(options: Options, api: ApiServer, operator: OperatorProcess, measured: Measured) -> None:
    """Changes `replicas` of random ModelDeployments at a steady rate; times each until the Deployment has the number.

    From the moment the change is sent to the moment a watch shows the child: both ways over the wire are in it.
    """
    say(f"operator: {options.changes} changes at {options.changes_per_second:g} a second")
    sent: dict[str, float] = {}
    done = asyncio.Event()
    names = random.Random(1).sample(range(1, options.count + 1), min(options.changes, options.count))
    _, version = await api.list_all("Deployment", NAMESPACE, metadata_only=True)

    def note(deployment: Manifest) -> None:
        owners = deployment["metadata"].get("ownerReferences", [])
        owner = owners[0]["name"] if owners else ""
        if deployment["spec"]["replicas"] == 2 and owner in sent:
            measured.latencies.append(time.monotonic() - sent.pop(owner))
            if len(measured.latencies) == len(names):
                done.set()

    async def watch() -> None:
        async for event, deployment in api.watch("Deployment", NAMESPACE, version):
            if event == "MODIFIED":
                note(deployment)

    async def change(name: str) -> None:
        sent[name] = time.monotonic()
        await api.merge("ModelDeployment", NAMESPACE, name, {"spec": {"replicas": 2}})

    watching = asyncio.create_task(watch())
    cpu = operator.cpu_seconds()
    try:
        async with asyncio.TaskGroup() as group:
            began = time.monotonic()
            for number, index in enumerate(names):
                await asyncio.sleep(max(0.0, began + number / options.changes_per_second - time.monotonic()))
                group.create_task(change(name_of(index)))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(done.wait(), 30)
    finally:
        watching.cancel()
    measured.change_cpu_seconds = operator.cpu_seconds() - cpu
    if sent:
        raise OperatorError(
            f"{len(sent)} of {len(names)} changes reached no Deployment within 30 s: {sorted(sent)[:3]}"
        )
    say(
        f"operator: p50 {percentile(measured.latencies, 50) * 1000:.0f} ms, "
        f"p99 {percentile(measured.latencies, 99) * 1000:.0f} ms, max {max(measured.latencies) * 1000:.0f} ms"
    )


async def _measure_idleness(options: Options, operator: OperatorProcess, audit: AuditLog, measured: Measured) -> None:
    say(f"operator: {options.idle_seconds:.0f} idle seconds")
    audit.read_new()
    cpu = operator.cpu_seconds()
    await asyncio.sleep(options.idle_seconds)
    operator.assert_is_alive()
    measured.idle_writes = count_by_kind(audit.read_new())
    measured.idle_cpu_seconds = operator.cpu_seconds() - cpu
    say(f"operator: idle writes: {_counted(measured.idle_writes)}; {measured.idle_cpu_seconds:.2f} s of CPU")


async def _measure_restart(options: Options, kubeconfig: Path, audit: AuditLog, measured: Measured) -> None:
    say("operator: started again")
    audit.read_new()
    log = Path(options.out, "operator-restarted.log")
    launcher: tuple[str, ...] = ()
    if options.profile:
        launcher = ("tests.bench.controller.profiled", str(Path(options.out, "profile-restart")))
    operator = OperatorProcess.start(options.module, kubeconfig, NAMESPACE, log, launcher)
    try:
        idle_at = await operator.wait_until_idle(options.count, 120)
        measured.restart_seconds = idle_at - operator.started
        measured.restart_cpu_seconds = operator.cpu_seconds()
        await asyncio.sleep(QUIET_SECONDS)
        measured.restart_writes = count_by_kind(audit.read_new())
        measured.restart_peak_resident = operator.memory().resident_peak
    finally:
        await operator.stop()
    say(
        f"operator: empty queue {measured.restart_seconds:.1f} s after exec; "
        f"writes: {_counted(measured.restart_writes)}"
    )


def _counted(writes: Counter[str]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in writes.most_common()) or "0"


def describe(measured: Measured, count: int) -> Sequence[str]:
    """What the table has no room for: writes by kind, CPU by phase, memory at each stage."""
    lines = ["writes of the operator, from the API server's audit log:"]
    lines += [
        f"  {number:7,}  {number / count:6.2f} an object  {kind}"
        for kind, number in measured.writes_by_kind.most_common()
    ]
    if measured.writes_by_own_metric is not None:
        lines.append(f"  {measured.writes_by_own_metric:7,.0f}  by its own metric slipway_api_writes_total")
    if not measured.settled:
        lines.append("  (it had not come to rest: more would follow)")
    if measured.started_memory is not None:
        lines.append(
            f"memory: {measured.started_memory.resident:.0f} MiB resident at start "
            f"({measured.started_memory.anonymous:.0f} anonymous); peak {measured.peak_resident:.0f} "
            f"({measured.peak_anonymous:.0f} anonymous); after a restart {measured.restart_peak_resident:.0f}"
        )
    lines.append(
        f"CPU seconds: create {measured.create_cpu_seconds:.1f}, until settled {measured.settle_cpu_seconds:.1f}, "
        f"changes {measured.change_cpu_seconds:.1f}, idle {measured.idle_cpu_seconds:.2f}, "
        f"restart {measured.restart_cpu_seconds:.1f}; stopping took {measured.stop_seconds:.1f} s"
    )
    return lines
