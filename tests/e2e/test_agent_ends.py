"""Whatever becomes of the agent beside a server that serves, its pod goes on serving."""

from __future__ import annotations

import pytest

from tests.e2e import reach
from tests.e2e.kube import Manifest, kubectl
from tests.e2e.models import Digits
from tests.e2e.stage import Served, Stage, digits_volume, eventually, is_ready
from tests.e2e.test_rollout import load_on

pytestmark = [
    pytest.mark.usefixtures("operator"),
    pytest.mark.alone,  # load of which nothing may be lost
    pytest.mark.skipif(not reach.is_inside(), reason="kubectl port-forward stays with one pod"),
]

WORKER = """
import os
for each in filter(str.isdigit, os.listdir("/proc")):
    try:
        words = open(f"/proc/{each}/cmdline", "rb").read().split(b"\\0")
    except OSError:
        continue
    if b"slipway_agent.loop" in words:
        print(each)
"""
END = "import os, sys; os.kill(int(sys.argv[1]), int(sys.argv[2]))"
FIRST, SIGKILL, SIGTERM = "1", "9", "15"


def in_agent(served: Served, pod: Manifest, script: str, *arguments: str) -> str:
    """What a script says in the agent's container."""
    command = ["exec", pod["metadata"]["name"], "-n", served.namespace, "-c", "agent", "--"]
    done = kubectl(*command, "/opt/slipway/bin/python", "-I", "-c", script, *arguments)
    assert done.status == 0, done.err
    return done.out.strip()


def then_another_worker(served: Served, pod: Manifest, before: str) -> None:
    eventually("another worker", lambda: in_agent(served, pod, WORKER) not in ("", before), 60)


def agents_restarts(pod: Manifest) -> int:
    return int(pod["status"]["initContainerStatuses"][0]["restartCount"])


def ready_since(pod: Manifest) -> str:
    (ready,) = [each for each in pod["status"]["conditions"] if each["type"] == "Ready"]
    assert ready["status"] == "True"
    return str(ready["lastTransitionTime"])


def test_the_only_pod_stays_ready_and_loses_nothing_while_its_agents_worker_is_killed(
    stage: Stage, digits: Digits
) -> None:
    stage.given_digits(digits)
    served = stage.given("digits", "volume://models/digits", 1, [digits_volume()]).then_ready()
    (pod,) = served.pods()
    since = ready_since(pod)
    with load_on(served, digits, ended_pods=0) as load:
        for _ in range(3):
            worker = in_agent(served, pod, WORKER)
            in_agent(served, pod, END, worker, SIGKILL)
            then_another_worker(served, pod, worker)
            load.after_answers(20)
    (after,) = served.pods()
    assert (after["metadata"]["uid"], ready_since(after)) == (pod["metadata"]["uid"], since)
    assert agents_restarts(after) == 0


def test_nothing_is_lost_while_an_agents_container_ends_beside_another_pod(stage: Stage, digits: Digits) -> None:
    stage.given_digits(digits)
    served = stage.given("digits", "volume://models/digits", 1, [digits_volume()], replicas=2).then_ready()
    pod = served.pods()[0]
    name = pod["metadata"]["name"]
    with load_on(served, digits, ended_pods=0):
        in_agent(served, pod, END, FIRST, SIGTERM)

        def is_back(found: Manifest | None) -> bool | None:
            return (found is not None and agents_restarts(found) == 1 and is_ready(found)) or None

        served.kube.wait("Pod", name, served.namespace, "its agent is back and it is ready", is_back, seconds=60)
    server = served.pods()[0]["status"]["containerStatuses"][0]
    assert server["restartCount"] == 0
