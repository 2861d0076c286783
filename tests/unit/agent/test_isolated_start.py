"""What a model's code leaves behind is neither imported nor read by the agent at its next start."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from slipway.runtimes import RUNTIMES
from slipway.runtimes.torchserve import LAUNCH
from tests.isolation.attack import Attack
from tests.isolation.paths import AGENT, ATTACKS, SOURCES, TREE, mounts, read_dockerfile, sprung, template_of

FORMER = """
FROM base
RUN echo 'slipway:x:65532:65532:slipway:/tmp:/usr/sbin/nologin' >> /etc/passwd
COPY slipway_agent /opt/slipway/app/slipway_agent
ENV PATH=/opt/slipway/bin:/usr/local/bin:/usr/bin:/bin \\
    PYTHONPATH=/opt/slipway/app
WORKDIR /tmp
ENTRYPOINT ["/opt/slipway/bin/python", "-m", "slipway_agent"]
"""
"""How agents of 0.1 started."""

DOCKERFILES = sorted([TREE / "operator" / "Dockerfile", *(TREE / "serving-images").glob("*/Dockerfile")])


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_no_attack_by_way_of_a_path_gets_through(tmp_path: Path, attack: Attack) -> None:
    assert attack.attempt(tmp_path) is None


def test_the_former_start_fell_into_the_first_trap(tmp_path: Path) -> None:
    opened, log = sprung(tmp_path, FORMER, SOURCES["pvc"])
    assert opened
    assert {place.rpartition("/")[0] for place in opened} <= {"tmp", "tmp/slipway_agent"}
    assert "a trap was sprung" in log


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_agent_and_server_share_nothing_that_the_server_writes_but_its_log(runtime: str) -> None:
    template = template_of(runtime, SOURCES["https"])
    seen = mounts(template, "agent", writable=False)
    by_server = mounts(template, "server", writable=True)
    shared = seen.keys() & by_server.keys()
    assert shared == ({"slipway-server-log"} if RUNTIMES[runtime].log_folder else set())
    assert not shared & mounts(template, "agent", writable=True).keys()
    assert "slipway-models" not in by_server
    bounded = {volume["name"] for volume in template["volumes"] if volume.get("emptyDir", {}).get("sizeLimit")}
    assert shared <= bounded
    assert not template.keys() & {"shareProcessNamespace", "hostPID", "hostIPC", "hostNetwork"}


def test_nobody_writes_to_the_agents_home_and_working_directory() -> None:
    start = read_dockerfile((AGENT / "Dockerfile").read_text())
    written = mounts(template_of("TorchServe", SOURCES["https"]), "agent", writable=False).values()
    for place in (start.home, start.folder):
        assert not [path for path in written if f"{place}/".startswith(f"{path}/")]
    assert start.installed["slipway_agent"].endswith("/site-packages/slipway_agent")


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.parent.name)
def test_no_image_of_ours_works_where_something_may_have_been_written(file: Path) -> None:
    stage = file.read_text().rpartition("\nFROM ")[2]
    assert re.findall(r"^WORKDIR (.*)$", stage, re.M) == ["/"]
    if "compileall" in stage:  # Python of ours
        assert "PYTHONSAFEPATH=1" in stage
        assert "PYTHONPATH=" not in stage
    for command in re.findall(r"^ENTRYPOINT \[(.*python.*)\]$", stage, re.M):
        assert '"-I"' in command


def test_the_launcher_takes_torchserve_from_no_working_directory(tmp_path: Path) -> None:
    places = {name: tmp_path / name for name in ("own", "left")}
    for place in places.values():
        (place / "ts").mkdir(parents=True)
        (place / "ts" / "__init__.py").write_text("")
    (places["left"] / "importlib.py").write_text("raise SystemExit(66)\n")
    java = tmp_path / "java" / "bin" / "java"
    java.parent.mkdir(parents=True)
    java.write_text('#!/bin/sh\necho "$@"\n')
    java.chmod(0o755)
    variables = {"JAVA_HOME": str(tmp_path / "java"), "TS_CONFIG_FILE": "/models/repository/m/config.properties"}
    done = subprocess.run(
        [sys.executable, "-c", LAUNCH],
        cwd=places["left"],
        env={**os.environ, **variables, "PYTHONPATH": str(places["own"])},
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"-Dmodel_server_home={places['own']} " in done.stdout
