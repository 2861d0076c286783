"""`python -m slipway_onnxruntime --model-repository /models/repository`: the server's command line."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from pathlib import Path

from slipway_onnxruntime.serving import Options, Server


def main() -> int:
    parser = argparse.ArgumentParser(prog="slipway-onnxruntime", description="Serves ONNX models; see README.md.")
    parser.add_argument("--model-repository", type=Path, default=Path("/models/repository"))
    parser.add_argument("--host", default="0.0.0.0", help="address to listen at")  # noqa: S104  a pod's own
    parser.add_argument("--http-port", type=int, default=8000)
    parser.add_argument("--grpc-port", type=int, default=8001)
    parser.add_argument("--metrics-port", type=int, default=8002)
    parser.add_argument("--drain-seconds", type=float, default=30.0, help="longest wait for what is in flight")
    parser.add_argument(
        "--grpc-max-connection-age-seconds", type=float, default=0.0, help="0: connections stay as long as they like"
    )
    given = parser.parse_args()
    options = Options(
        repository=given.model_repository,
        http_port=given.http_port,
        grpc_port=given.grpc_port,
        metrics_port=given.metrics_port,
        host=given.host,
        drain_seconds=given.drain_seconds,
        grpc_connection_age_seconds=given.grpc_max_connection_age_seconds,
        key=os.environ.get("SLIPWAY_SERVER_KEY") or None,
    )
    asyncio.run(Server(options).run())
    return 0


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # a load in progress can't be interrupted
