"""Triton in explicit model control: boot configuration in config.pbtxt, loads by POST, on 127.0.0.1 alone.

Facts (measured on 2.51 with the Python-based onnxruntime backend): a load is by model, and with only the version
policy changed it touches no version that is loaded already; one failing version aborts it and the loaded ones stay;
a version folder that is missing is skipped with 200, so readiness is asked afterwards; the index and the ready
endpoints answer within milliseconds during a load; kept-alive connections hold up Triton's exit, so none is kept.
"""

import http.client
import json
import re
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from slipway_agent.config import TritonSpec, parse_version
from slipway_agent.servers import Gone, Loaded, LoadOutcome, Refused, ServerView
from slipway_agent.servers.triton_config import BACKEND_BY_FILE, compose_config, detect_backend, read_versions
from slipway_agent.volume import ModelVolume, link_or_copy

HOST = "127.0.0.1"
ASK_SECONDS = 2.0
PROMISED_SECONDS = 5.0  # between a load that succeeded and its versions being seen ready
BUSY_SECONDS = 15.0  # how long the last answer stands in for one that doesn't come
KEY_HEADER = "slipway-agent"
WORDS_LIMIT = 2000  # characters of a server's complaint that a status can carry
_VERSION_WORDS = re.compile(r"version (\d+) is at UNAVAILABLE state: (.*?)(?=;?\s*$|;\s*version \d+ is at)", re.DOTALL)


class TritonServer:
    """`key` is what `--http-restricted-api=model-repository:slipway-agent=KEY` expects; None when it isn't set."""

    def __init__(self, volume: ModelVolume, spec: TritonSpec, served: int, key: str | None) -> None:
        self._volume = volume
        self._spec = spec
        self._served = served
        self._last_view = (ServerView(), 0.0)
        self._headers = {"Connection": "close"} | ({KEY_HEADER: key} if key else {})

    def holds_model(self, folder: Path) -> bool:
        return detect_backend(_names(folder)) is not None

    def accepted_files(self) -> str:
        return ", ".join(["*.onnx", *(name for name in BACKEND_BY_FILE if name != "model.onnx")])

    def name_files(self, folder: Path) -> None:
        """`digits-v3.onnx` becomes `model.onnx` too: each version may have another name, and one config serves all."""
        names = _names(folder)
        named = [name for name in names if name.endswith(".onnx")]
        if len(named) == 1 and not names & set(BACKEND_BY_FILE):
            link_or_copy(folder / named[0], folder / "model.onnx")

    def observe(self, versions: frozenset[int]) -> ServerView:
        try:
            status, body = self._ask("POST", "/v2/repository/index", ASK_SECONDS, b"{}")
            if status != 200:
                return ServerView(is_alive=True)
            listed = frozenset(_ready_in_index(body, self._volume.model)) & versions
            # the index speaks of the load, the version's own endpoint of whether it answers
            ready = frozenset(version for version in listed if self._is_ready(version))
        except TimeoutError:
            # busy is not gone: a pod that drops out under load makes the load worse for the others
            view, at = self._last_view
            return (
                ServerView(view.is_alive, view.ready & versions)
                if time.monotonic() - at < BUSY_SECONDS
                else ServerView()
            )
        except (OSError, http.client.HTTPException):
            return ServerView()
        view = ServerView(is_alive=True, ready=ready)
        self._last_view = (view, time.monotonic())
        return view

    def read_boot(self) -> frozenset[int]:
        return read_versions(self._volume.read_in_repository("config.pbtxt") or "")

    def write_boot(self, versions: frozenset[int]) -> None:
        # The configuration that came with the served version speaks for the model, or with the newest of the others.
        author = self._served if self._served in versions else max(versions)
        content = compose_config(
            kept=self._volume.kept_config(author),
            model=self._volume.model,
            versions=versions,
            backend=detect_backend(_names(self._volume.repository / str(author))),
            spec=self._spec,
        )
        self._volume.write_in_repository("config.pbtxt", content)

    def load(self, versions: frozenset[int]) -> LoadOutcome:
        before = self._volume.read_in_repository("config.pbtxt")
        self.write_boot(versions)
        outcome = self._load_now(versions)
        if not isinstance(outcome, Loaded) and before is not None:
            self._volume.write_in_repository("config.pbtxt", before)
        return outcome

    def _load_now(self, versions: frozenset[int]) -> LoadOutcome:
        try:
            status, body = self._ask("POST", f"/v2/repository/models/{self._volume.model}/load", None, b"{}")
        except ConnectionRefusedError:
            return Gone(f"the server doesn't answer at {HOST}:{self._spec.http_port}")
        except (OSError, http.client.HTTPException) as cause:
            return Gone(f"the server ended during the load ({str(cause) or type(cause).__name__})")
        if status != 200:
            return explain_refusal(status, body)
        deadline = time.monotonic() + PROMISED_SECONDS
        while missing := versions - (view := self.observe(versions)).ready:
            if not view.is_alive:
                return Gone("the server ended right after the load")
            if time.monotonic() > deadline:
                break
            time.sleep(0.1)
        if missing:
            words = "Triton accepted the load and doesn't have the version ready after it"
            return Refused(words, dict.fromkeys(missing, words))
        return Loaded()

    def _is_ready(self, version: int) -> bool:
        path = f"/v2/models/{self._volume.model}/versions/{version}/ready"
        return self._ask("GET", path, ASK_SECONDS)[0] == 200

    def _ask(self, method: str, path: str, seconds: float | None, body: bytes | None = None) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(HOST, self._spec.http_port, timeout=ASK_SECONDS)
        try:
            connection.connect()
            connection.sock.settimeout(seconds)  # a load may take minutes; a server that died resets the connection
            connection.request(method, path, body, self._headers)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()


def explain_refusal(status: int, body: bytes) -> Refused:
    """Triton's answer to a load that failed, per version where it names versions, without a stack's lines."""
    try:
        said = str(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        said = body.decode(errors="replace").strip() or f"status {status} without a word"
    words = {
        int(version): _plain(reason)
        for version, reason in _VERSION_WORDS.findall(said)
        if parse_version(version) is not None
    }
    return Refused(_plain(said), words)


def _plain(words: str) -> str:
    """Without the stack that Triton's Python backends append."""
    return words.split("\n\nAt:\n", 1)[0].strip().rstrip(";").strip()[:WORDS_LIMIT]


def _ready_in_index(body: bytes, model: str) -> Iterable[int]:
    try:
        entries = json.loads(body)
    except ValueError:
        return
    for entry in entries if isinstance(entries, list) else ():
        if isinstance(entry, Mapping) and entry.get("name") == model and entry.get("state") == "READY":
            version = parse_version(str(entry.get("version")))
            if version is not None:
                yield version


def _names(folder: Path) -> frozenset[str]:
    try:
        return frozenset(entry.name for entry in folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return frozenset()
