"""Real stores on the loopback: versitygw (S3) and distribution (OCI registry), built of the Go modules of the tests."""

import base64
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import bcrypt
import obstore
from obstore.store import S3Store

from tests.e2e.cluster.binaries import STORE_MODULES, ensure_binaries
from tests.ports import free_port

ACCESS_KEY, SECRET_KEY = "tester", "a word for the tests"
BUCKET = "models"


@dataclass(frozen=True, slots=True)
class S3Server:
    """A running S3 server with one bucket."""

    url: str
    store: S3Store

    def put(self, key: str, content: bytes = b"weights") -> None:
        obstore.put(self.store, key, content)

    def delete(self, key: str) -> None:
        obstore.delete(self.store, key)


@dataclass(frozen=True, slots=True)
class Registry:
    """A running registry; `user` and `password` are None where anybody may pull and push."""

    url: str
    user: str | None = None
    password: str | None = None

    @property
    def host(self) -> str:
        return self.url.partition("://")[2]


@contextmanager
def run_s3(folder: Path) -> Iterator[S3Server]:
    program = ensure_binaries(STORE_MODULES)["versitygw"]
    port = free_port()
    (folder / "buckets" / BUCKET).mkdir(parents=True)
    (folder / "metadata").mkdir()
    command = [program, "--port", f"127.0.0.1:{port}", "--access", ACCESS_KEY, "--secret", SECRET_KEY]
    command += ["--quiet", "posix", "--sidecar", folder / "metadata", folder / "buckets"]
    url = f"http://127.0.0.1:{port}"
    with running([str(word) for word in command], folder / "versitygw.log", {}, url):
        store = S3Store(
            BUCKET,
            endpoint=url,
            access_key_id=ACCESS_KEY,
            secret_access_key=SECRET_KEY,
            region="us-east-1",
            client_options={"allow_http": True},
        )
        yield S3Server(url, store)


@contextmanager
def run_registry(folder: Path, user: str | None = None, password: str | None = None) -> Iterator[Registry]:
    program = ensure_binaries(STORE_MODULES)["registry"]
    port = free_port()
    (folder / "config.yaml").write_text(
        f"version: 0.1\nlog: {{level: warn}}\nstorage: {{filesystem: {{rootdirectory: {folder / 'blobs'}}}}}\n"
        f"http: {{addr: '127.0.0.1:{port}'}}\n"
    )
    environment = {}
    if user is not None and password is not None:
        hashed = bcrypt.hashpw(password.encode(), bcrypt.gensalt(4)).decode()
        (folder / "passwords").write_text(f"{user}:{hashed}\n")
        environment = {
            "REGISTRY_AUTH": "htpasswd",
            "REGISTRY_AUTH_HTPASSWD_REALM": "models",
            "REGISTRY_AUTH_HTPASSWD_PATH": str(folder / "passwords"),
        }
    url = f"http://127.0.0.1:{port}"
    command = [str(program), "serve", str(folder / "config.yaml")]
    with running(command, folder / "registry.log", environment, f"{url}/v2/"):
        yield Registry(url, user, password)


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


@contextmanager
def running(command: list[str], log: Path, environment: dict[str, str], url: str) -> Iterator[None]:
    """A server of the tests until the block ends; it answers at `url` when the block begins."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, env={**os.environ, **environment}, start_new_session=True
        )
    try:
        deadline = time.monotonic() + 20
        while not _answers(url):
            assert process.poll() is None, f"{command[0]} ended with {process.returncode}: {log.read_text()[-2000:]}"
            assert time.monotonic() < deadline, f"{command[0]} doesn't answer: {log.read_text()[-2000:]}"
            time.sleep(0.02)
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=1).close()
    except urllib.error.HTTPError as refused:
        refused.close()
    except OSError:
        return False
    return True
