"""Starts the operator with every mutating request written to a file: `python -m tests.bench.controller.recorded FILE
MODULE`. The benchmark's bare loop replays what this saw for one ModelDeployment, re-named for all the others.

It hooks aiohttp's one request method, below the operator's API client, so nothing the process sends can escape it.
"""

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import aiohttp
from yarl import URL

WRITES = frozenset({"POST", "PUT", "PATCH", "DELETE"})


def _text(data: Any) -> str:
    if isinstance(data, bytes | bytearray | memoryview):
        return bytes(data).decode()
    return data if isinstance(data, str) else ""


def record_writes(file: Path) -> None:
    """From here on appends each write that the API server accepted to the file, one JSON object a line."""
    request = aiohttp.ClientSession._request

    async def recording(
        self: aiohttp.ClientSession, method: str, str_or_url: Any, **options: Any
    ) -> aiohttp.ClientResponse:
        response = await request(self, method, str_or_url, **options)
        if method.upper() in WRITES and response.status < 300:
            body = json.dumps(options["json"]) if options.get("json") is not None else _text(options.get("data"))
            line = {
                "method": method.upper(),
                "path": URL(str(response.request_info.url)).raw_path_qs,
                "content_type": response.request_info.headers.get("Content-Type", "application/json"),
                "body": body,
            }
            with file.open("a") as out:
                out.write(json.dumps(line) + "\n")
        return response

    aiohttp.ClientSession._request = recording  # type: ignore[method-assign]


if __name__ == "__main__":
    record_writes(Path(sys.argv[1]))
    module = sys.argv[2]
    sys.argv = [module]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
