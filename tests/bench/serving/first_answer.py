"""Figures (d): from `apply` to the first answer, beside what a person writes without Slipway.

The hand-written form is a Deployment and a Service: an init container fetches the same archive from the same https
server and unpacks it, the same server's image starts with that folder, its own readiness path is the probe. Both get
the same resources; they take turns, and each is gone before the next begins. A try ends with the first prediction that
the Service's address answers, asked anew every 50 ms.
"""

from __future__ import annotations

import io
import statistics
import tarfile
import time
from collections.abc import Iterator

import requests

from tests.bench.figures import Goal
from tests.bench.serving.figures import Figure
from tests.bench.serving.subjects import MODEL, Files, Subject
from tests.e2e.install import image_references
from tests.e2e.kube import Kube, Manifest
from tests.e2e.stage import SMALL, Stage, describe
from tests.e2e.web import Web

ARCHIVE = f"{MODEL}-1.tar.gz"
LIMIT_SECONDS = 180.0
PAUSE_SECONDS = 0.05

FETCH = """
import io, ssl, sys, tarfile, urllib.request
url, folder = sys.argv[1:]
trust = ssl.create_default_context(cafile="/etc/web-ca/ca.crt")
with urllib.request.urlopen(url, context=trust) as answer:
    tarfile.open(fileobj=io.BytesIO(answer.read())).extractall(folder)
"""


def measure(stage: Stage, subject: Subject, repeats: int) -> Iterator[Figure]:
    """Medians of both forms, taken in turns."""
    web = Web.started(stage, {ARCHIVE: packed(subject.files[1])})
    taken: dict[str, list[float]] = {"Slipway": [], "hand-written": []}
    for number in range(repeats + 1):
        for form in sorted(taken, reverse=number % 2 == 0):
            seconds = _slipway(web, subject) if form == "Slipway" else _hand_written(web, subject)
            if number:  # the first round has the node read both images for the first time
                taken[form].append(seconds)
    ours, theirs = (statistics.median(taken[form]) for form in ("Slipway", "hand-written"))
    title = f"{subject.runtime}, apply → first answer"
    spread = f"{min(taken['hand-written']):.1f} to {max(taken['hand-written']):.1f} in {repeats}"
    yield Figure(f"{title}: hand-written, median", theirs, "s", note=spread)
    spread = f"{min(taken['Slipway']):.1f} to {max(taken['Slipway']):.1f} in {repeats}"
    yield Figure(f"{title}: Slipway, median", ours, "s", Goal("at most", round(1.2 * theirs + 3, 1)), note=spread)


def packed(files: Files) -> bytes:
    """The files as a tar.gz."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for path, content in files.items():
            entry = tarfile.TarInfo(path)
            entry.size, entry.mode = len(content), 0o644
            archive.addfile(entry, io.BytesIO(content))
    return stream.getvalue()


def _slipway(web: Web, subject: Subject) -> float:
    begin = time.monotonic()
    served = web.stage.given(
        MODEL,
        f"{web.url}/models",
        1,
        model={"versions": {"1": ARCHIVE}},
        storage={"caBundle": {"configMapName": web.ca_config_map}},
        runtime=subject.runtime,
    )
    seconds = _first_answer(web.stage, MODEL, subject) - begin
    pods = served.pods()
    served.kube.delete("ModelDeployment", served.name, served.namespace)
    served.kube.wait_gone("Service", served.name, served.namespace, LIMIT_SECONDS)
    _remove(served.kube, served.namespace, pods)
    return seconds


def _hand_written(web: Web, subject: Subject) -> float:
    stage, begin = web.stage, time.monotonic()
    stage.given_object(_deployment(web, subject))
    stage.given_object(
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "byhand"},
            "spec": {"selector": {"app": "byhand"}, "ports": [{"name": "http", "port": subject.http_port}]},
        }
    )
    seconds = _first_answer(stage, "byhand", subject) - begin
    pods = stage.kube.list_("Pod", stage.namespace, labels="app=byhand")
    for kind in ("Deployment", "Service"):
        stage.kube.delete(kind, "byhand", stage.namespace)
    _remove(stage.kube, stage.namespace, pods)
    return seconds


def _remove(kube: Kube, namespace: str, pods: list[Manifest]) -> None:
    """Both forms' pods at once: how long they drain is none of this figure's business."""
    for pod in pods:
        kube.delete("Pod", pod["metadata"]["name"], namespace, grace_seconds=0)
    for pod in pods:
        kube.wait_gone("Pod", pod["metadata"]["name"], namespace, LIMIT_SECONDS)


def _first_answer(stage: Stage, service: str, subject: Subject) -> float:
    """time.monotonic() of the first prediction that came back."""
    deadline = time.monotonic() + LIMIT_SECONDS
    found = stage.kube.wait(
        "Service", service, stage.namespace, "there is a Service", lambda one: one, seconds=LIMIT_SECONDS
    )
    ports = {port["name"]: port["port"] for port in found["spec"]["ports"]}
    url = f"http://{found['spec']['clusterIP']}:{ports['http']}{subject.prediction.path}"
    said = ""
    with requests.Session() as session:
        session.trust_env = False
        session.headers.update({"connection": "close", "content-type": subject.prediction.content_type})
        while time.monotonic() < deadline:
            try:
                answer = session.post(url, data=subject.prediction.body, timeout=2)
            except requests.RequestException as error:
                said = str(error)
            else:
                if answer.status_code == 200:
                    return time.monotonic()
                said = f"HTTP {answer.status_code}: {answer.text[:200]}"
            time.sleep(PAUSE_SECONDS)
    raise AssertionError(
        f"{service} did not answer within {LIMIT_SECONDS:.0f} s: {said}\n{describe(stage.kube, stage.namespace)}"
    )


def _deployment(web: Web, subject: Subject) -> Manifest:
    """What a person writes who knows the server: fetch, then serve."""
    models = {"name": "models", "mountPath": "/models"}
    config = [{"name": "config", "mountPath": f"/models/{MODEL}/{path}", "subPath": path} for path in subject.config]
    if subject.config:
        web.stage.given_files("byhand-config", dict(subject.config))
    volumes: list[Manifest] = [
        {"name": "models", "emptyDir": {}},
        {"name": "tmp", "emptyDir": {}},
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "256Mi"}},
        {"name": "ca", "configMap": {"name": web.ca_config_map}},
    ]
    if config:
        volumes.append({"name": "config", "configMap": {"name": "byhand-config"}})
    locked = {"readOnlyRootFilesystem": True, "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    pod = {
        "automountServiceAccountToken": False,
        "securityContext": {"runAsNonRoot": True, "runAsUser": 65532, "runAsGroup": 65532, "fsGroup": 65532},
        "initContainers": [
            {
                "name": "fetch",
                "image": image_references()["agent"],
                "command": ["python3", "-c", FETCH, f"{web.url}/models/{ARCHIVE}", f"/models/{MODEL}/1"],
                "securityContext": locked,
                "volumeMounts": [models, {"name": "ca", "mountPath": "/etc/web-ca"}],
            }
        ],
        "containers": [
            {
                "name": "server",
                "image": image_references()[subject.image],
                "command": list(subject.command),
                "resources": SMALL,
                "ports": [{"containerPort": subject.http_port}],
                "readinessProbe": {
                    "httpGet": {"path": subject.ready_path, "port": subject.http_port},
                    "periodSeconds": 1,
                },
                "securityContext": locked,
                "volumeMounts": [
                    models,
                    *config,
                    {"name": "tmp", "mountPath": "/tmp"},
                    {"name": "shm", "mountPath": "/dev/shm"},
                ],
            }
        ],
        "volumes": volumes,
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "byhand"},
        "spec": {
            "selector": {"matchLabels": {"app": "byhand"}},
            "template": {"metadata": {"labels": {"app": "byhand"}}, "spec": pod},
        },
    }
