"""`python -m tests.bench.serving.download`: the agent's fetch beside its storage client alone, same server and object.

The client alone is obstore with one GET streamed into a file, nothing computed; the agent is the whole process, whose
fetch also digests, compares and publishes. They take turns, several times, against versitygw on the loopback of a
network namespace of its own, whose speed is that of a fast network card (10 Gbit/s; --gbit 0: as fast as memory allows,
where the sha256 of one core, about 2 GB/s, is what is measured). Prints MB/s, their ratio and the peak of resident
memory, which a much larger model (--large-gb), fetched once, must leave as it is. Needs root for the namespace.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from tests.storage.servers import ACCESS_KEY, BUCKET, SECRET_KEY, S3Server, run_s3

RATIO_GOAL, MEMORY_GOAL_MIB = 0.8, 200
KEY = "digits/1/model.onnx"
_ALONE = """
import sys, time, obstore
from obstore.store import S3Store
url, key, access, secret, target = sys.argv[1:]
store = S3Store("models", endpoint=url, access_key_id=access, secret_access_key=secret, region="us-east-1",
    client_options={"allow_http": True, "timeout": "1h"})
began = time.monotonic()
with open(target, "wb", buffering=0) as file:
    for chunk in obstore.get(store, key).stream(min_chunk_size=1 << 20):
        file.write(chunk)
print(time.monotonic() - began)
"""


@dataclass(frozen=True, slots=True)
class Run:
    """One download: how long, and the most memory that its process had."""

    seconds: float
    peak_mib: float


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.serving.download", description=__doc__)
    parser.add_argument("--gb", type=float, default=1.0, help="size of the model (default 1)")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--large-gb", type=float, default=5.0, help="size of the larger one; 0: none (default 5)")
    parser.add_argument("--gbit", type=float, default=10.0, help="speed of the network; 0: no limit (default 10)")
    parser.add_argument("--out", type=Path, default=None, help="a folder for the model and its copies (default: /tmp)")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if not options.inside:
        words = [*(sys.argv[1:] if arguments is None else arguments), "--inside"]
        command = ["unshare", "--net", sys.executable, "-m", "tests.bench.serving.download", *words]
        return subprocess.run(command, check=False).returncode
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    if options.gbit:
        rate = ["tbf", "rate", f"{options.gbit}gbit", "burst", "4mb", "latency", "50ms"]
        subprocess.run(["tc", "qdisc", "add", "dev", "lo", "root", *rate], check=True)
    with tempfile.TemporaryDirectory(dir=options.out) as scratch:
        measure(Path(scratch), int(options.gb * 1e9), int(options.large_gb * 1e9), options.repeats, options.gbit)
    return 0


def measure(folder: Path, size_bytes: int, large_bytes: int, repeats: int, gbit: float) -> None:
    (folder / "store").mkdir()
    with run_s3(folder / "store") as server:
        put_model(server, folder, size_bytes)
        alone, agent = [], []
        for turn in range(repeats):
            alone.append(run_alone(server, folder))
            agent.append(run_agent(server, folder))
            print(
                f"  {turn + 1}: client alone {speed(alone[-1], size_bytes):.0f} MB/s, "
                f"agent {speed(agent[-1], size_bytes):.0f} MB/s, agent's peak {agent[-1].peak_mib:.0f} MiB",
                file=sys.stderr,
            )
        large = None
        if large_bytes:
            put_model(server, folder, large_bytes)
            large = run_agent(server, folder)
    print(render(alone, agent, size_bytes, gbit))
    if large is not None:
        print(row(f"its peak RSS at {large_bytes / 1e9:g} GB", *peak(large.peak_mib)))


def put_model(server: S3Server, folder: Path, size_bytes: int) -> None:
    """Bytes that no file system can leave out or pack."""
    noise, place = os.urandom(1 << 20), folder / "model"
    with place.open("wb") as file:
        for number in range(size_bytes >> 20):
            file.write(number.to_bytes(8) + noise[8:])
        file.write(noise[: size_bytes % (1 << 20)])
    import obstore

    obstore.put(server.store, KEY, place)
    place.unlink()


def run_alone(server: S3Server, folder: Path) -> Run:
    target = folder / "alone"
    command = [sys.executable, "-c", _ALONE, server.url, KEY, ACCESS_KEY, SECRET_KEY, str(target)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    said = process.stdout.read()
    _, _, usage = os.wait4(process.pid, 0)
    process.returncode = 0
    target.unlink()
    return Run(float(said), usage.ru_maxrss / 1024)


def run_agent(server: S3Server, folder: Path) -> Run:
    """The agent as a pod runs it, until the version is published; its own log says how long the fetch took."""
    here = folder / "agent"
    (here / "secret").mkdir(parents=True)
    (here / "secret" / "AWS_ACCESS_KEY_ID").write_text(ACCESS_KEY)
    (here / "secret" / "AWS_SECRET_ACCESS_KEY").write_text(SECRET_KEY)
    source = {"uri": f"s3://{BUCKET}/digits", "versions": {}, "endpoint": server.url}
    config = {
        "schema": 1,
        "generation": "bench",
        "runtime": "Triton",
        "model": "digits",
        "source": source | {"credentials": str(here / "secret"), "secretName": "bench"},
        "served": 1,
        "load": [1],
        "triton": {},
    }
    (here / "agent.json").write_text(json.dumps(config))
    command = [sys.executable, "-m", "slipway_agent", "--config", str(here / "agent.json")]
    command += ["--models", str(here / "models"), "--port", "18081"]
    with (here / "log").open("wb") as log:
        process = subprocess.Popen(command, stderr=log, env={**os.environ, "SLIPWAY_LOG_FORMAT": "json"})
    try:
        published = wait_for(here / "log", "version published", process)
    finally:
        process.send_signal(signal.SIGTERM)
        _, _, usage = os.wait4(process.pid, 0)
        process.returncode = 0
        shutil.rmtree(here)
    return Run(float(str(published["seconds"])), usage.ru_maxrss / 1024)


def wait_for(log: Path, message: str, process: subprocess.Popen[bytes]) -> dict[str, object]:
    """The log's line with that message."""
    deadline = time.monotonic() + 600
    while True:
        for line in log.read_text().splitlines():
            if f'"message": "{message}"' in line:
                found: dict[str, object] = json.loads(line)
                return found
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)


def speed(run: Run, size_bytes: int) -> float:
    return size_bytes / 1e6 / run.seconds


def render(alone: Sequence[Run], agent: Sequence[Run], size_bytes: int, gbit: float) -> str:
    """The table. The ratio is that of the medians."""
    alone_speed = median(speed(run, size_bytes) for run in alone)
    agent_speed = median(speed(run, size_bytes) for run in agent)
    ratio = agent_speed / alone_speed
    network = f"{gbit:g} Gbit/s" if gbit else "no limit"
    rows = [
        row("storage client alone", f"{alone_speed:.0f} MB/s"),
        row("the agent's fetch", f"{agent_speed:.0f} MB/s"),
        row("of the client alone", f"{ratio:.0%}", f"≥ {RATIO_GOAL:.0%}", verdict(ratio >= RATIO_GOAL)),
        row("the agent's peak RSS", *peak(max(run.peak_mib for run in agent))),
    ]
    title = f"Download of {size_bytes / 1e9:g} GB from s3, network {network}, median of {len(agent)}"
    return "\n".join([title, *rows])


def row(what: str, found: str, goal: str = "", met: str = "") -> str:
    """A line of the table."""
    return f"  {what:<24}{found:>12}  {goal:<12}{met}".rstrip()


def peak(mib: float) -> tuple[str, str, str]:
    """Figure, goal, and whether it is met."""
    return f"{mib:.0f} MiB", f"≤ {MEMORY_GOAL_MIB} MiB", verdict(mib <= MEMORY_GOAL_MIB)


def verdict(is_met: bool) -> str:
    return "met" if is_met else "missed"


if __name__ == "__main__":
    sys.exit(main())
