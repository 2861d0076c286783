"""`make demo`: from nothing to a real model that answers on a real Kubernetes.

Steps: cluster up, images built and loaded, the operator installed by Helm, the example model trained and put into a
claim, the ModelDeployment applied, Ready awaited, real images sent, predictions shown beside what is written on them;
then a better version is promoted by steps and a worse one rolled back, under traffic (examples/canary).

Invariant: each step does only what is missing, so a second run is quick; each failure ends in one message that says
what to do, never in a traceback.
The first half runs in the machine's own network; from the operator on it runs inside the cluster's
(`python -m tests.e2e.cluster exec`), where the Kubernetes API and Services can be reached on every form of cluster.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from examples.canary.versions import BAD
from examples.digits.ask import AskError, predict, table
from tests.e2e import reach, store
from tests.e2e.cluster.layout import cache_folder
from tests.e2e.demo import story
from tests.e2e.generator import LoadError
from tests.e2e.install import BUILD, InstallError, Operator, image_archives, image_references, install_operator
from tests.e2e.kube import Kube, Manifest, RefusedError, TimedOutError, kubectl
from tests.e2e.stage import conditions, is_ready

ROOT = Path(__file__).resolve().parents[3]
NAMESPACE = "slipway-demo"
CLAIM = "models"
CONTENT_ANNOTATION = "demo.slipway.dev/content"
IMAGES = ("operator", "agent", "triton", "router")
CLUSTER = (sys.executable, "-m", "tests.e2e.cluster")
READY_SECONDS = 180
STARTED = "SLIPWAY_DEMO_STARTED"


class DemoError(Exception):
    """A step failed; the message says why and what to do."""


@contextmanager
def step(name: str) -> Iterator[Callable[[str], None]]:
    """One line on the terminal: what is done, what it is at (given to the yielded function), how long it took."""
    begin, is_terminal = time.monotonic(), sys.stdout.isatty()
    shown = ""

    def progress(now: str) -> None:
        nonlocal shown
        now = now.strip()
        if not now or now == shown:
            return
        shown = now
        if is_terminal:
            print(f"\r\033[K  {name} … {now}"[:110], end="", flush=True)
        else:
            print(f"  {name} … {now}", flush=True)

    progress(" ")
    if is_terminal:
        print(f"  {name} …", end="", flush=True)
    yield progress
    print(("\r\033[K" if is_terminal else "") + f"  {name:<58}{time.monotonic() - begin:6.1f} s", flush=True)


def run(command: list[str], progress: Callable[[str], None], what_to_do: str) -> None:
    """Runs a command, each line of it as progress. Raises DemoError with its last lines."""
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    said: list[str] = []
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, errors="replace",
    ) as process:  # fmt: skip
        assert process.stdout is not None
        for line in process.stdout:
            said.append(line.rstrip())
            progress(line)
    if process.returncode != 0:
        tail = "\n".join(f"    {line}" for line in said[-15:])
        raise DemoError(f"`{' '.join(command[:6])}` ended with {process.returncode}:\n{tail}\n{what_to_do}")


def outside() -> None:
    """Cluster and images; then the rest, inside the cluster's network."""
    with step("cluster is up") as progress:
        run([*CLUSTER, "up"], progress, "what to do: read the lines above; `make cluster-down` and try again")
    with step("images are built") as progress:
        run([*BUILD, "build", *IMAGES], progress, "what to do: read the log that is named above")
    with step("images are in the cluster") as progress:
        archives = image_archives()
        run([*CLUSTER, "load", *(str(archives[name]) for name in IMAGES)], progress, "what to do: make cluster-status")
    os.chdir(ROOT)
    sys.stdout.flush()
    command = [*CLUSTER, "exec", sys.executable, "-m", "tests.e2e.demo", "inside"]
    os.execv(command[0], command)


def inside() -> None:
    """Operator, model, ModelDeployment, predictions."""
    with step("operator is installed by Helm"):
        install_operator()
    kube = Kube()
    with step("example model is trained") as progress:
        folder = train(progress)
    with step("model is in PersistentVolumeClaim models") as progress:
        fill_claim(kube, folder, progress)
    manifest = ROOT / "examples" / "digits" / "modeldeployment.yaml"
    with step("examples/digits/modeldeployment.yaml is applied"):
        done = kubectl("-n", NAMESPACE, "apply", "-f", str(manifest))
        if done.status != 0:
            raise DemoError(f"kubectl apply refused the example:\n{done.err}")
    with step("ModelDeployment digits is Ready") as progress:
        wait_ready(kube, progress)
    samples = json.loads((folder / "digits.json").read_text())["samples"]
    images = [sample["image"] for sample in samples]
    with reach.service(kube, "digits", NAMESPACE) as address, step("the model answers over HTTP"):
        labels, sure = predict_patiently(address.http_url, images)
        older, _ = predict_patiently(address.http_url, images, version=1)
    print(f"\nPOST {address.http_url}/v2/models/digits/infer\n")
    print(table(samples, labels, sure))
    right = sum(label == sample["digit"] for label, sample in zip(older, samples, strict=True))
    print(f"version 1, poorer and still loaded, at /v2/models/digits/versions/1: {right} of {len(samples)} right\n")
    with step("steps are added, and two routers stand before the model") as progress:
        story.begin(NAMESPACE)
        kube.wait("ModelDeployment", "digits", NAMESPACE, "routers", story.has_routers, READY_SECONDS)
    story.tell(kube, NAMESPACE, images)
    print("\n$ kubectl get modeldeployments")
    print(kubectl("-n", NAMESPACE, "get", "modeldeployments").out)
    print(closing(time.time() - float(os.environ.get(STARTED, time.time()))))


def train(progress: Callable[[str], None]) -> Path:
    """The folder with the trained versions; trained again only when the training changed."""
    sources = [ROOT / "examples" / name for name in ("digits/train.py", "canary/versions.py")]
    content = b"".join(source.read_bytes() for source in sources)
    folder = cache_folder() / "demo" / hashlib.sha256(content).hexdigest()[:12]
    if not (folder / "digits" / str(BAD) / "model.onnx").exists():
        for module in ("examples.digits.train", "examples.canary.versions"):
            run([sys.executable, "-m", module, str(folder)], progress, "what to do: make venv, and try again")
    return folder


def fill_claim(kube: Kube, folder: Path, progress: Callable[[str], None]) -> None:
    """Namespace, claim, and the model in it, unless the claim says that it holds just that."""
    digest = hashlib.sha256()
    for path in sorted((folder / "digits").rglob("*.onnx")):
        digest.update(path.read_bytes())
    content = digest.hexdigest()[:16]
    kube.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    store.claim(kube, NAMESPACE, CLAIM)
    claim = kube.get("PersistentVolumeClaim", CLAIM, NAMESPACE)
    if claim and (claim["metadata"].get("annotations") or {}).get(CONTENT_ANNOTATION) == content:
        return
    progress("copying it with an upload pod")
    store.upload(kube, NAMESPACE, CLAIM, folder, image_references()["agent"], "IfNotPresent")
    change = {"metadata": {"annotations": {CONTENT_ANNOTATION: content}}}
    kube.patch("PersistentVolumeClaim", CLAIM, NAMESPACE, change)


def wait_ready(kube: Kube, progress: Callable[[str], None]) -> None:
    """Waits for condition Ready of the present generation, and for a pod behind it. Raises DemoError."""

    def ready(found: Manifest | None) -> bool | None:
        for one in conditions(found):
            if found and one["type"] == "Ready" and one.get("observedGeneration") == found["metadata"]["generation"]:
                progress(f"{one['reason']}: {one['message']}")
                if one["status"] == "True":
                    return True
        return None

    def has_ready_pod(pods: list[Manifest]) -> bool | None:
        return True if any(is_ready(pod) for pod in pods if "deletionTimestamp" not in pod["metadata"]) else None

    try:
        kube.wait("ModelDeployment", "digits", NAMESPACE, "Ready", ready, READY_SECONDS)
        # a cluster that was stopped still says what was true then
        kube.wait_list("Pod", NAMESPACE, "a ready pod", has_ready_pod, "slipway.dev/model=digits", READY_SECONDS)
    except TimedOutError as late:
        pods = kube.list_("Pod", NAMESPACE, labels="slipway.dev/model=digits")
        logs = [
            kubectl("-n", NAMESPACE, "logs", pod["metadata"]["name"], "-c", "agent", "--tail=15").out for pod in pods
        ]
        raise DemoError(
            f"{late}\nlast lines of the agent:\n{''.join(logs) or 'no pod'}\nlast lines of the operator:\n"
            f"{Operator(kube).log(NAMESPACE)}\nwhat to do: the condition above says what is wrong; "
            f"`kubectl -n {NAMESPACE} describe mdep digits` shows more"
        ) from late


def predict_patiently(url: str, images: list[list[float]], version: int | None = None) -> tuple[list[int], list[float]]:
    """As `predict`; a Service needs a moment to learn of its new pod, and other versions load after the served one."""
    deadline = time.monotonic() + 30
    while True:
        try:
            return predict(url, images, version)
        except AskError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.3)


def closing(seconds: float) -> str:
    """What to try next."""
    lines = [
        ('eval "$(python3 -m tests.e2e.cluster env)"', "kubectl and helm of this cluster, in this shell"),
        (f"kubectl -n {NAMESPACE} describe mdep digits", "conditions and events"),
        (f"kubectl -n {NAMESPACE} get deploy,svc,cm,pods", "what the operator made of it"),
        (f"kubectl -n {NAMESPACE} edit mdep digits", "serve version 1, scale it, break it"),
        (f"kubectl slipway -n {NAMESPACE} status digits --watch", "a rollout as it goes on"),
        (f"kubectl -n {NAMESPACE} logs -l slipway.dev/model=digits -c agent", "what the agent did"),
        ("kubectl explain mdep.spec", "every field"),
    ]
    around = "\n".join(f"  {command:<68}{what}" for command, what in lines)
    return (
        f"All that took {seconds:.0f} s. Look around:\n\n{around}\n\n"
        "Stop: make cluster-down, and a later `make demo` is quick; make clean forgets everything. Test: make test"
    )


def main() -> int:
    os.environ.setdefault(STARTED, str(time.time()))
    try:
        if sys.argv[1:] == ["inside"]:
            inside()
        else:
            outside()
    except (
        AskError, AssertionError, DemoError, InstallError, LoadError, RefusedError, story.StoryError, store.StoreError
    ) as failed:  # fmt: skip
        print(f"\n\nerror: {failed}", file=sys.stderr)
        return 1
    except OSError as failed:
        print(f"\n\nerror: {failed}\nwhat to do: make cluster-status shows whether the cluster runs", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped; `make demo` goes on where it was", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
