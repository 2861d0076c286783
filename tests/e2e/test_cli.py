"""`kubectl slipway` as a person uses it, on a real cluster: what it shows, what it writes, and how mistakes end."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.install import ROOT
from tests.e2e.kube import Kube, Manifest, Ran, kubectl
from tests.e2e.models import Digits
from tests.e2e.stage import Served, Stage, digits_volume

pytestmark = pytest.mark.usefixtures("operator")

PLUGIN = """\
#!{python}
import sys
sys.path.insert(0, {path!r})
from slipway.cli.__main__ import main
main()
"""
Slipway = Callable[..., Ran]


@pytest.fixture(scope="session")
def plugin_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the two commands that `pip install slipway[cli]` makes."""
    folder = tmp_path_factory.mktemp("bin")
    for name in ("slipway", "kubectl-slipway"):
        path = folder / name
        path.write_text(PLUGIN.format(python=sys.executable, path=str(ROOT / "operator")))
        path.chmod(0o755)
    return folder


@pytest.fixture(scope="session")
def slipway(plugin_folder: Path) -> Slipway:
    """`slipway("status", …, stdin=…, NAME=value)`: the command as a process; capitals are its environment."""

    # pytest-xdist sets COLUMNS in its workers, and a pipe has no width.
    here = {name: value for name, value in os.environ.items() if name != "COLUMNS"} | {"LC_ALL": "C.UTF-8"}

    def run(*words: str, stdin: bytes | None = None, seconds: float = 120, **environment: str) -> Ran:
        done = subprocess.run(
            [plugin_folder / "slipway", *words],
            input=stdin,
            capture_output=True,
            timeout=seconds,
            env={**here, **environment},
            check=False,
        )
        return Ran(done.returncode, done.stdout.decode(), done.stderr.decode())

    return run


def watched(slipway: Path, *words: str, until: str, seconds: float = 30) -> tuple[int, str]:
    """Watches on a terminal until it shows that text, then types Ctrl-C: the exit status, and all that was drawn."""
    ours, theirs = pty.openpty()
    terminal = {"TERM": "xterm-256color", "COLUMNS": "100", "LINES": "40", "LC_ALL": "C.UTF-8"}
    process = subprocess.Popen(
        [slipway, *words],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, **terminal},
        # What a shell starts in the background ignores Ctrl-C, and so would all that it starts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    os.close(theirs)
    drawn = b""

    def read() -> bytes:
        readable, _, _ = select.select([ours], [], [], 0.1)
        with contextlib.suppress(OSError):  # the other end is closed
            return os.read(ours, 65_536) if readable else b""
        return b""

    try:
        deadline = time.monotonic() + seconds
        while until.encode() not in drawn and time.monotonic() < deadline:
            drawn += read()
        process.send_signal(signal.SIGINT)
        deadline = time.monotonic() + seconds
        while process.poll() is None and time.monotonic() < deadline:
            read()  # as terminals do: one that stops reading stops who writes
        return process.wait(timeout=1), drawn.decode(errors="replace")
    finally:
        process.kill()
        os.close(ours)


def request_of(digits: Digits, folder: Path) -> Path:
    """A prediction of the first held-out image, in a file."""
    tensor = {"name": "image", "shape": [1, 64], "datatype": "FP32", "data": digits.images[0].tolist()}
    path = folder / "request.json"
    path.write_text(json.dumps({"inputs": [tensor]}))
    return path


def only_line(ran: Ran) -> str:
    """The one line of stderr that a mistake ends in."""
    assert "Traceback" not in ran.err
    (line,) = ran.err.splitlines()
    assert line.startswith("slipway: ")
    return line


# --- what is there already ---


def test_status_shows_a_healthy_model(slipway: Slipway, digits_served: Served) -> None:
    shown = slipway("status", digits_served.name, "-n", digits_served.namespace)
    assert shown.status == 0, shown.err
    assert shown.out.splitlines()[0] == f"digits in {digits_served.namespace} · Ready · 1 of 1 pods ready"
    stable = digits_served.stored()["status"]["stable"]["revision"]
    assert f"● stable  {stable}        2      1" in shown.out.splitlines()


def test_kubectl_finds_the_plugin(plugin_folder: Path, digits_served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{plugin_folder}{os.pathsep}{os.environ['PATH']}")
    shown = kubectl("slipway", "status", "mdep/digits", "-n", digits_served.namespace, "-o", "json")
    assert shown.status == 0, shown.err
    told = json.loads(shown.out)
    assert (told["name"], told["outcome"], told["revisions"][0]["version"]) == ("digits", "promoted", 2)


def test_the_list_has_every_namespace(slipway: Slipway, digits_served: Served) -> None:
    shown = slipway("status", "-A", "-o", "yaml")
    assert shown.status == 0, shown.err
    found = {(item["namespace"], item["name"]) for item in yaml.safe_load(shown.out)["items"]}
    assert (digits_served.namespace, "digits") in found
    assert f"{digits_served.namespace}" in slipway("status", "-A").out


@pytest.mark.parametrize("to", ["stable", "service"])
def test_predict_asks_the_model(
    slipway: Slipway, digits_served: Served, digits: Digits, tmp_path: Path, to: str
) -> None:
    file = request_of(digits, tmp_path)
    answered = slipway("predict", "digits", "-n", digits_served.namespace, "-f", str(file), "--to", to)
    assert answered.status == 0, answered.err
    outputs = {each["name"]: each["data"] for each in json.loads(answered.out)["outputs"]}
    assert outputs["probabilities"] == pytest.approx(digits.samples[0].probabilities[2], abs=1e-4)
    assert "answered 200 in" in only_line(answered)


def test_predict_passes_the_models_own_refusal_on(slipway: Slipway, digits_served: Served) -> None:
    answered = slipway(
        "predict", "digits", "-n", digits_served.namespace, "-f", "-", "--to", "stable", stdin=b'{"inputs": []}'
    )
    assert answered.status == 1
    assert "error" in json.loads(answered.out)
    assert "stable answered 400" in answered.err


def test_the_digest_is_the_one_that_status_records(
    slipway: Slipway, digits_served: Served, digits: Digits, tmp_path: Path
) -> None:
    (tmp_path / "2").mkdir()
    (tmp_path / "2" / "model.onnx").write_bytes(digits.files[2])
    recorded = next(each for each in digits_served.stored()["status"]["versions"] if each["served"])
    printed = slipway("digest", str(tmp_path / "2"), KUBECONFIG="/none")
    assert printed.status == 0, printed.err
    assert printed.out == f"{recorded['sha256']}\n"


# --- mistakes ---


def test_an_unknown_name_gets_the_nearest(slipway: Slipway, digits_served: Served) -> None:
    ran = slipway("status", "digit", "-n", digits_served.namespace)
    assert ran.status == 3
    assert "did you mean digits" in only_line(ran)


def test_a_name_of_another_namespace_is_found(slipway: Slipway, digits_served: Served, stage: Stage) -> None:
    ran = slipway("status", "digits", "-n", stage.namespace)
    assert ran.status == 3
    assert f"add -n {digits_served.namespace}" in only_line(ran) or ", but in " in only_line(ran)


def test_a_command_without_a_canary_says_what_serves(slipway: Slipway, digits_served: Served) -> None:
    ran = slipway("promote", "digits", "-n", digits_served.namespace)
    assert ran.status == 1
    assert "no revision of digits is taking over" in only_line(ran)
    assert "slipway.dev/command" not in (digits_served.stored()["metadata"].get("annotations") or {})


def broken_kubeconfigs(folder: Path) -> dict[str, tuple[str, str]]:
    """Kubeconfigs that can't work → (their text, what is said)."""
    good = yaml.safe_load(Path(os.environ["KUBECONFIG"]).read_text())
    silent = json.loads(json.dumps(good))
    silent["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:1"
    distrusted = json.loads(json.dumps(good))
    for key in ("certificate-authority", "certificate-authority-data"):
        distrusted["clusters"][0]["cluster"].pop(key, None)
    stranger = json.loads(json.dumps(good))
    stranger["users"][0]["user"] = {"token": "unknown"}
    plugin = json.loads(json.dumps(good))
    plugin["users"][0]["user"] = {
        "exec": {
            "apiVersion": "client.authentication.k8s.io/v1",
            "command": "no-such-login",
            "interactiveMode": "Never",
        }
    }
    return {
        "down": (yaml.safe_dump(silent), "connection refused"),
        "untrusted": (yaml.safe_dump(distrusted), "certificate is not trusted"),
        "stranger": (yaml.safe_dump(stranger), "the cluster does not know you"),
        "plugin": (yaml.safe_dump(plugin), "no-such-login"),
        "empty": ("", "no cluster to talk to"),
        "words": ("hello", "kubeconfig"),
        "binary": ("\x00\x01", "kubeconfig"),
    }


@pytest.mark.parametrize("case", ["down", "untrusted", "stranger", "plugin", "empty", "words", "binary"])
def test_a_kubeconfig_that_cant_work_ends_in_one_line(slipway: Slipway, tmp_path: Path, case: str) -> None:
    text, says = broken_kubeconfigs(tmp_path)[case]
    path = tmp_path / "config"
    path.write_text(text)
    ran = slipway("status", "--kubeconfig", str(path))
    assert ran.status == 5, ran.err
    assert says in only_line(ran)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--kubeconfig", "/none"), "there is no file /none"),
        (("--context", "nowhere"), "kubectl config get-contexts lists them"),
    ],
)
def test_a_cluster_that_is_not_known_is_named(slipway: Slipway, words: tuple[str, ...], says: str) -> None:
    ran = slipway("status", *words)
    assert ran.status == 5
    assert says in only_line(ran)


@pytest.fixture
def visitor(kube: Kube, stage: Stage, tmp_path: Path) -> Path:
    """The kubeconfig of one who may look at ModelDeployments of the stage's namespace, and no more."""
    stage.given_object({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "visitor"}})
    for manifest in visitors_rights(stage.namespace):
        done = stage.kubectl("apply", "-f", "-", stdin=yaml.safe_dump(manifest))
        assert done.status == 0, done.err
    token = stage.kubectl("create", "token", "visitor").out.strip()
    settings = yaml.safe_load(Path(os.environ["KUBECONFIG"]).read_text())
    settings["users"][0]["user"] = {"token": token}
    path = tmp_path / "visitor"
    path.write_text(yaml.safe_dump(settings))
    return path


def visitors_rights(namespace: str) -> Iterator[Manifest]:
    rule = {"apiGroups": ["slipway.dev"], "resources": ["modeldeployments"], "verbs": ["get", "list"]}
    meta: dict[str, Any] = {"name": "visitor", "namespace": namespace}
    yield {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": meta, "rules": [rule]}
    yield {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": meta,
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "visitor"},
        "subjects": [{"kind": "ServiceAccount", "name": "visitor", "namespace": namespace}],
    }


def test_what_a_visitor_may_not_do_is_said(slipway: Slipway, stage: Stage, visitor: Path) -> None:
    stage.given("idle", "volume://models/digits", 1, [digits_volume()], replicas=0).then("Ready", "False")
    flags = ("-n", stage.namespace, "--kubeconfig", str(visitor))
    assert slipway("status", "idle", *flags).status == 0
    assert slipway("status", *flags).status == 0
    for words, says in (
        (("status", "-A"), "you may not list modeldeployments in all namespaces"),
        (("history", "idle", *flags), f"you may not list controllerrevisions in namespace {stage.namespace}"),
    ):
        ran = slipway(*words, "--kubeconfig", str(visitor))
        assert ran.status == 5
        assert says in only_line(ran)


# --- steering ---

STEPS = [{"weight": 50, "holdSeconds": 1}, {"pause": {}}, {"weight": 100}]
STEPPED = {"steps": STEPS, "analysis": {"mode": "Off"}, "bakeSeconds": 600}


@pytest.fixture(scope="module")
def two_versions(module_stage: Stage, digits: Digits) -> Served:
    """Version 1 of the digits, to be replaced by steps."""
    module_stage.given_digits(digits)
    served = module_stage.given("digits", "volume://models/digits", 1, [digits_volume()], rollout=STEPPED)
    return served.then_ready()


def test_a_person_leads_a_canary_to_the_end_and_back(
    slipway: Slipway, plugin_folder: Path, two_versions: Served, digits: Digits, tmp_path: Path
) -> None:
    served, flags = two_versions, ("digits", "-n", two_versions.namespace)
    first = served.stored()["status"]["stable"]["revision"]
    served.when_spec(model={"version": 2}).then("Promoted", "False", "Paused")
    spec = served.stored()["spec"]

    shown = slipway("status", *flags)
    assert "▶ pause" in shown.out
    assert f"slipway resume digits -n {served.namespace}" in shown.out
    second = served.stored()["status"]["canary"]["revision"]

    status, drawn = watched(plugin_folder / "slipway", "status", *flags, "--watch", until="/s")
    assert status == 130
    assert "p99" in drawn, f"no curves from the routers' counters in {drawn}"

    compared = json.loads(
        slipway("predict", *flags, "-f", str(request_of(digits, tmp_path)), "--to", "both", "-o", "json").out
    )
    assert [(each["revision"], each["version"], each["status"]) for each in compared["answers"]] == [
        (first, 1, 200),
        (second, 2, 200),
    ]
    assert {each["name"] for each in compared["compared"]} == {"label", "probabilities"}

    difference = slipway("diff", *flags)
    assert [line for line in difference.out.splitlines() if line[0] in "+-"][2:] == ["-  version: 1", "+  version: 2"]

    again = slipway("retry", *flags)
    assert again.status == 1
    assert "nothing to retry" in only_line(again)

    resumed = slipway("resume", *flags)
    assert resumed.status == 0, resumed.err
    assert resumed.out.startswith("digits: ")
    served.kube.wait(
        "ModelDeployment",
        "digits",
        served.namespace,
        "the bake",
        lambda found: (found or {}).get("status", {}).get("previous"),
    )
    baking = slipway("status", *flags, "--wait", "--timeout", "1s")
    assert baking.status == 4
    assert "in bake" in baking.out

    promoted = slipway("promote", *flags)
    assert promoted.status == 0, promoted.err
    ended = slipway("status", *flags, "--wait", "--timeout", "60s", "-o", "json")
    assert ended.status == 0, ended.err
    assert json.loads(ended.out)["outcome"] == "promoted"

    kept = json.loads(slipway("history", *flags, "-o", "json").out)["revisions"]
    assert [(each["revision"], each["state"], each["changed"]) for each in kept] == [
        (second, "stable", ["model.version"]),
        (first, "", []),
    ]

    back = slipway("rollback", *flags, "--to", "1")
    assert back.status == 0, back.err
    assert f"revision {first} serves instead of {second}" in back.out
    ended = slipway("status", *flags, "--wait", "--timeout", "100s", "-o", "json")
    assert ended.status == 1
    told = json.loads(ended.out)
    assert told["pinned"] == {"revision": first, "insteadOf": second}
    served.then_answers(digits, 1)
    assert served.stored()["spec"] == spec, "no command ever writes the spec"


def test_an_abort_is_remembered_until_retried(slipway: Slipway, stage: Stage, digits: Digits) -> None:
    stage.given_digits(digits)
    served = stage.given("digits", "volume://models/digits", 1, [digits_volume()], rollout=STEPPED).then_ready()
    flags = ("digits", "-n", stage.namespace)
    served.when_spec(model={"version": 2}).then("Promoted", "False", "Paused")
    second = served.stored()["status"]["canary"]["revision"]
    aborted = slipway("abort", *flags)
    assert aborted.status == 0, aborted.err
    assert second in aborted.out
    ended = slipway("status", *flags, "--wait", "--timeout", "60s")
    assert ended.status == 1
    assert "slipway: digits does not serve the spec's revision" in ended.err
    assert "rejected" in slipway("history", *flags).out
    tried = slipway("retry", *flags)
    assert tried.status == 0, tried.err
    assert second in tried.out
    served.then("Promoted", "False", "Paused")
