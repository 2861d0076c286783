"""What a model can leave in the agent's way: traps in every place of its container into which somebody may write.

The places are read from the rendered pod template, and how the agent starts from its Dockerfile, so that neither can
drift from this. The container's root is a folder here: its paths are that folder's, and its Python is an environment
made as the Dockerfile makes it. A trap is sprung when it is opened (`inotify` tells), whatever becomes of it.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import venv
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slipway.api import parse
from slipway.controller.settings import read_settings
from slipway.render.pod_template import render_template
from slipway_agent.servers.torchserve.files import LOG_NAME
from slipway_agent.servers.torchserve.workers_log import LIMIT_BYTES, measure_log, read_log
from tests.isolation.attack import Attack
from tests.isolation.inotify import Watch
from tests.ports import free_port

Json = dict[str, Any]

TREE = Path(__file__).resolve().parents[2]
AGENT = TREE / "serving-images" / "agent"
SECONDS = 120.0
"""Until an agent on the slowest machine has tried to fetch."""

MODULES = (
    *("argparse", "json", "typing", "dataclasses", "pathlib", "socket", "signal", "threading", "subprocess", "ssl"),
    *("http", "urllib", "logging", "email", "tempfile", "requests", "urllib3", "certifi", "idna", "grpc", "obstore"),
    *("sitecustomize", "usercustomize", "slipway_agent"),
)
SETTINGS = (
    *(".netrc", "_netrc", "pip.conf", ".pip/pip.conf", ".config/pip/pip.conf", "openssl.cnf", "pyvenv.cfg", ".env"),
    *(".aws/credentials", ".aws/config", ".boto", ".s3cfg", ".docker/config.json", ".config/containers/auth.json"),
    *(".config/gcloud/application_default_credentials.json", ".azure/config", ".curlrc", ".pythonrc.py"),
)
TRAP = "import os, sys\nsys.stderr.write('a trap was sprung\\n')\nos._exit(66)\n"
USER_SITE = f".local/lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"

SOURCES: Mapping[str, Json] = {
    "pvc": {"uri": "pvc://models/digits"},
    "https": {"uri": "https://127.0.0.1:1/digits", "versions": {"3": "digits.tar.gz"}},
    "s3": {"uri": "s3://models/digits", "endpoint": "https://127.0.0.1:1"},
    "oci": {"uri": "oci://127.0.0.1:1/digits", "versions": {"3": "v3"}},
}


@dataclass(frozen=True, slots=True)
class Start:
    """How an image starts: by its last stage, and by the line that it adds to /etc/passwd.

    installed: what is copied into the image → where.
    """

    command: tuple[str, ...]
    folder: str
    variables: Mapping[str, str]
    home: str
    installed: Mapping[str, str]


def read_dockerfile(text: str) -> Start:
    """The start that a Dockerfile of ours describes. HOME is what ENV says, else what the user's passwd line does."""
    whole = re.sub(r"\\\n", " ", "\n".join(line for line in text.splitlines() if not line.startswith("#")))
    last = whole[whole.rindex("\nFROM ") :]
    variables = dict(
        word.split("=", 1) for line in re.findall(r"^ENV (.*)$", last, re.M) for word in line.split() if "=" in word
    )
    passwd = re.search(r"echo '[a-z]+:x:65532:65532:[a-z]+:([^:]+):", last)
    copied = re.findall(r"^COPY (\S+) (\S+)$", last, re.M)
    entry = re.search(r"^ENTRYPOINT (\[.*\])$", last, re.M)
    folder = re.search(r"^WORKDIR (\S+)$", last, re.M)
    assert entry is not None
    assert folder is not None
    assert passwd is not None
    home = variables.get("HOME", str(passwd[1]))
    return Start(tuple(json.loads(entry[1])), folder[1], variables, home, dict(copied))


def template_of(runtime: str, source: Json) -> Json:
    """The pod template of a new revision, with everything that an agent may have mounted."""
    model = {"version": 3, **{name: value for name, value in source.items() if name != "endpoint"}}
    image = {"image": "example.org/server:1"} if runtime == "Custom" else {}
    spec: Json = {"runtime": {"name": runtime, **image}, "model": model, "storage": {"cache": {"claimName": "cache"}}}
    if model["uri"].startswith("pvc://"):
        del spec["storage"]
    meta = {"name": "digits", "namespace": "models", "uid": "u"}
    body = {"apiVersion": "slipway.dev/v1alpha1", "kind": "ModelDeployment", "metadata": meta, "spec": spec}
    pod: Json = render_template(parse(body), read_settings({}).images, "abc")["spec"]
    return pod


def mounts(template: Json, name: str, *, writable: bool) -> dict[str, str]:
    """Volume → path of those that a container has, or of those alone into which it may write."""
    [container] = [each for each in template["initContainers"] + template["containers"] if each["name"] == name]
    return {
        mount["name"]: mount["mountPath"]
        for mount in container["volumeMounts"]
        if not (writable and mount.get("readOnly"))
    }


def trapped_paths(template: Json) -> dict[str, str]:
    """Volume → path in the agent's container, of each into which the server or the agent itself may write."""
    own = mounts(template, "agent", writable=True)
    by_server = mounts(template, "server", writable=True)
    return own | {name: path for name, path in mounts(template, "agent", writable=False).items() if name in by_server}


def lay_traps(folder: Path) -> list[Path]:
    """Everything that a Python, or a library of the agent's, has ever read from its working or home directory."""
    traps: list[Path] = []

    def lay(place: str, text: str) -> None:
        file = folder / place
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        traps.append(file)

    for below in ("", f"{USER_SITE}/"):
        for name in MODULES:
            lay(f"{below}{name}.py", TRAP)
        lay(f"{below}slipway_agent/__init__.py", TRAP)
        lay(f"{below}slipway_agent/__main__.py", TRAP)
        lay(f"{below}zz.pth", "import os; os._exit(66)\n")
    for name in SETTINGS:
        lay(name, "trap\n")
    return traps


class Container:
    """The agent's container, with a folder for its root."""

    def __init__(self, root: Path, start: Start, template: Json, source: Json) -> None:
        self._root, self._start, self._template = root, start, template
        paths = mounts(template, "agent", writable=False)
        for path in paths.values():
            self.place(path).mkdir(parents=True, exist_ok=True)
        self.place(start.folder).mkdir(parents=True, exist_ok=True)
        _make_environment(self.place("/opt/slipway"))
        for what, where in start.installed.items():
            if (AGENT / what).exists():
                self.place(where).parent.mkdir(parents=True, exist_ok=True)
                self.place(where).symlink_to(AGENT / what)
        config = self._orders(source)
        (self.place("/etc/slipway") / "agent.json").write_text(json.dumps(config))

    def place(self, path: str) -> Path:
        return self._root / path.lstrip("/")

    def _orders(self, source: Json) -> Json:
        path = str(self.place("/source") / "digits") if source["uri"].startswith("pvc://") else None
        given = {**source, "path": path, "pollSeconds": 0.2}
        settings = {"logFolder": str(self.place("/tmp/torchserve"))}
        orders = {"schema": 1, "generation": "1", "runtime": "TorchServe", "model": "digits", "served": 3, "load": [3]}
        return {**orders, "source": given, "torchServe": settings}

    def lay_traps(self) -> list[Path]:
        found = [trap for path in trapped_paths(self._template).values() for trap in lay_traps(self.place(path))]
        home = self.place(self._start.home)
        return found + (lay_traps(home) if home.is_dir() and home not in [p.parent for p in found] else [])

    @contextmanager
    def agent(self) -> Iterator[subprocess.Popen[str]]:
        """The agent, as the image starts it with the template's arguments."""
        program, *words = self._start.command
        [container] = self._template["initContainers"]
        arguments = [str(self.place(word)) if word.startswith("/") else word for word in container["args"]]
        arguments += ["--models", str(self.place("/models")), "--port", str(free_port())]
        environment = {name: self._below(value) for name, value in self._start.variables.items() if name != "PATH"}
        environment |= {"HOME": str(self.place(self._start.home)), "PATH": "/usr/bin:/bin", "SLIPWAY_POD": "pod"}
        environment["TMPDIR"] = str(self.place("/tmp"))
        environment["SLIPWAY_LOG_LEVEL"] = "debug"
        with subprocess.Popen(
            [str(self.place(program)), *words, *arguments],
            cwd=self.place(self._start.folder),
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        ) as running:
            late = threading.Timer(SECONDS, _end, [running])
            late.start()
            try:
                yield running
            finally:
                late.cancel()
                _end(running)

    def _below(self, value: str) -> str:
        return str(self.place(value)) if value.startswith("/") else value


def _end(agent: subprocess.Popen[str]) -> None:
    """All processes of the agent's session, in whatever group: it has some of its own."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            pid, session = int(stat.parent.name), int(stat.read_text().rpartition(")")[2].split()[3])
            if session == agent.pid:
                os.kill(pid, signal.SIGKILL)


def _make_environment(folder: Path) -> None:
    """The image's Python: an environment of its own, in which the packages of this one stand for the pinned ones."""
    venv.create(folder, with_pip=False, symlinks=True)
    own = folder / f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
    (own / "packages.pth").write_text("\n".join(each for each in sys.path if each.endswith("site-packages")) + "\n")


def sprung(root: Path, dockerfile: str, source: Json) -> tuple[list[str], str]:
    """Lays the traps, starts the agent, and has it start over: those that it opened, below the root, and its log."""
    container = Container(root, read_dockerfile(dockerfile), template_of("TorchServe", source), source)
    traps = container.lay_traps()
    watch = Watch(traps)
    log: list[str] = []
    try:
        for _ in range(2):
            with container.agent() as agent:
                log += _until_it_has_looked(agent)
    finally:
        opened = watch.opened()
        watch.close()
    return [str(trap.relative_to(root)) for trap in opened], "".join(log)


LOOKED = re.compile(r'"reason": "[A-Z]')
"""A line of the log: a source that isn't there has been asked, and what came of it is told."""


def _until_it_has_looked(agent: subprocess.Popen[str]) -> list[str]:
    """The log up to the line that tells what came of the fetch, or up to the end of an agent that ended."""
    lines: list[str] = []
    assert agent.stderr is not None
    for line in agent.stderr:
        lines.append(line)
        if LOOKED.search(line):
            break
    return lines


def _attack(source: Json) -> Callable[[Path], str | None]:
    def attempt(folder: Path) -> str | None:
        found, log = sprung(folder, (AGENT / "Dockerfile").read_text(), source)
        if found:
            return f"the agent opened {', '.join(found)}"
        return None if LOOKED.search(log) else f"the agent didn't get as far as its source: {log[-300:]}"

    return attempt


def _link(log: Path, target: Path) -> None:
    target.write_text("SECRET")
    log.symlink_to(target)


def _sparse(log: Path, target: Path) -> None:
    with log.open("wb") as file:
        file.truncate(1 << 40)


LOGS: Mapping[str, Callable[[Path, Path], object]] = {
    "a link to a file of the agent's": _link,
    "a link to the agent's environment": lambda log, target: log.symlink_to("/proc/self/environ"),
    "a FIFO": lambda log, target: os.mkfifo(log),
    "1 TiB that takes no room": _sparse,
}
"""What a handler may put in the place of the one file of the server's that the agent reads."""


def _log_attack(put: Callable[[Path, Path], object]) -> Callable[[Path], str | None]:
    def attempt(folder: Path) -> str | None:
        (folder / "log").mkdir()
        log, said = folder / "log" / LOG_NAME, list[str]()
        put(log, folder / "target")
        reading = threading.Thread(target=lambda: said.append(read_log(log, min(measure_log(log), 0))), daemon=True)
        reading.start()
        reading.join(SECONDS)
        if not said:
            return "the agent waits for it"
        if said[0].strip("\0"):
            return f"the agent read {said[0][:80]!r}"
        return "the agent read more than a log has" if len(said[0]) > LIMIT_BYTES else None

    return attempt


ATTACKS: list[Attack] = [
    *(
        Attack("path", f"traps in every path that is written to, a model from {scheme}://", _attack(source))
        for scheme, source in SOURCES.items()
    ),
    *(Attack("path", f"the server's log is {what}", _log_attack(put)) for what, put in LOGS.items()),
]
