"""The cluster's binaries, compiled from the Go modules below `go/` and cached by what goes into them.

Invariant: a folder in the cache is complete, because it is renamed into place after its last file; two builds of the
same module wait for each other. go.sum pins every source.
"""

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .commands import run_checked, tell
from .errors import ClusterError
from .layout import GO_MODULES, cache_folder

_KUBERNETES_VERSION = "1.36.3"
# Said twice, here and in the module's go.mod, because the linker writes it into the program; a unit test compares.
_HELM_VERSION = "3.22.0"
_CONTAINERD_VERSION = "2.4.2"


@dataclass(frozen=True, slots=True)
class GoModule:
    """One module and the programs built of it (`programs`: file name → Go package)."""

    name: str
    programs: tuple[tuple[str, str], ...]
    link_flags: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    cold_seconds: int = 60  # measured on 2 cores with an empty build cache; only ever shown
    is_static: bool = False  # no cgo: the program runs in an image that holds nothing else


_CNI = "github.com/containernetworking/plugins/plugins"
_CONTAINERD = "github.com/containerd/containerd/v2/cmd"
_VERSION_PACKAGE = "k8s.io/component-base/version"

KUBE = GoModule(
    "kube",
    (("kube", "."),),
    link_flags=(
        f"-X {_VERSION_PACKAGE}.gitVersion=v{_KUBERNETES_VERSION}",
        f"-X {_VERSION_PACKAGE}.gitMajor={_KUBERNETES_VERSION.split('.')[0]}",
        f"-X {_VERSION_PACKAGE}.gitMinor={_KUBERNETES_VERSION.split('.')[1]}",
    ),
    cold_seconds=256,
)
ETCD = GoModule("etcd", (("etcd", "go.etcd.io/etcd/server/v3"),), cold_seconds=26)
CONTAINERD = GoModule(
    "containerd",
    tuple((program, f"{_CONTAINERD}/{program}") for program in ("containerd", "containerd-shim-runc-v2", "ctr")),
    link_flags=(f"-X github.com/containerd/containerd/v2/version.Version=v{_CONTAINERD_VERSION}",),
    tags=("no_btrfs", "no_devmapper", "no_zfs"),
    cold_seconds=67,
)
RUNC = GoModule("runc", (("runc", "github.com/opencontainers/runc"),), tags=("seccomp",), cold_seconds=19)
CNI = GoModule(
    "cni",
    (
        ("ptp", f"{_CNI}/main/ptp"),
        ("loopback", f"{_CNI}/main/loopback"),
        ("host-local", f"{_CNI}/ipam/host-local"),
        ("portmap", f"{_CNI}/meta/portmap"),
    ),
    cold_seconds=6,
)
COREDNS = GoModule("coredns", (("coredns", "."),), cold_seconds=60)
HELM = GoModule(
    "helm",
    (("helm", "helm.sh/helm/v3/cmd/helm"),),
    link_flags=(f"-X helm.sh/helm/v3/internal/version.version=v{_HELM_VERSION}",),
    cold_seconds=60,
)

# What models are fetched from in tests/storage and in the cluster's tests: an S3 server and an OCI registry. Static, so
# that an image of each needs nothing else.
VERSITYGW = GoModule(
    "versitygw", (("versitygw", "github.com/versity/versitygw/cmd/versitygw"),), is_static=True, cold_seconds=40
)
REGISTRY = GoModule(
    "registry", (("registry", "github.com/distribution/distribution/v3/cmd/registry"),), is_static=True, cold_seconds=47
)

CONTROL_PLANE_MODULES = (KUBE, ETCD)
STORE_MODULES = (VERSITYGW, REGISTRY)
NODE_MODULES = (KUBE, ETCD, CONTAINERD, RUNC, CNI, COREDNS, HELM)


def go_version() -> str:
    """The toolchain's version as Go writes it, such as go1.26.8.

    Raises ClusterError where there is no Go.
    """
    return run_checked(
        ["go", "env", "GOVERSION"],
        "finding Go",
        "install Go 1.26 or newer; an older one from 1.21 on fetches the right toolchain by itself",
        cwd="/",
    ).strip()


def cache_key(module: GoModule, compiler: str, folder: Path | None = None) -> str:
    """The first 12 hex digits of a digest over the module's files, the compiler and the flags."""
    digest = hashlib.sha256()
    digest.update(repr((module.programs, module.link_flags, module.tags, compiler)).encode())
    digest.update(b"static" if module.is_static else b"")
    for path in sorted((folder or GO_MODULES / module.name).iterdir()):
        if path.suffix in {".go", ".mod", ".sum", ".c"}:
            digest.update(f"{path.name}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def ensure_binaries(modules: Sequence[GoModule]) -> dict[str, Path]:
    """Builds what the cache lacks and returns file name → path for every program of the modules."""
    compiler = go_version()
    found: dict[str, Path] = {}
    for module in modules:
        folder = cache_folder() / "binaries" / f"{module.name}-{cache_key(module, compiler)}"
        if not folder.is_dir():
            _build(module, folder, compiler)
        found |= {program: folder / program for program, _ in module.programs}
    return found


def _build(module: GoModule, folder: Path, compiler: str) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f".{module.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.is_dir():
            return  # another process built it while we waited
        _refuse_old_go(module, compiler)
        if module is RUNC and not shutil.which("pkg-config"):
            raise ClusterError("building runc", "pkg-config is not installed", "make deps")
        tell(f"building {module.name} (about {module.cold_seconds} s from an empty cache on 2 cores) …")
        begin = time.monotonic()
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{module.name}-") as scratch:
            for program, package in module.programs:
                _compile(module, package, Path(scratch) / program)
            Path(scratch).chmod(0o755)
            Path(scratch).rename(folder)
            Path(scratch).mkdir()  # TemporaryDirectory wants something to remove
        tell(f"building {module.name}: {time.monotonic() - begin:.0f} s")


def _compile(module: GoModule, package: str, target: Path) -> None:
    command = ["nice", "go", "build", "-mod=readonly", "-buildvcs=false"]
    command += ["-ldflags", " ".join(("-s", "-w", *module.link_flags))]
    if module.tags:
        command += ["-tags", ",".join(module.tags)]
    command += ["-o", str(target), package]
    environment = {name: value for name, value in os.environ.items() if name != "GOFLAGS"} | {
        "CGO_ENABLED": "0" if module.is_static else "1"
    }
    done = subprocess.run(
        command, cwd=GO_MODULES / module.name, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise ClusterError(
            f"building {target.name} in {GO_MODULES / module.name}",
            f"go build ended with {done.returncode}\n{done.stderr.strip()[-4000:]}",
            "a missing header or pkg-config file: make deps. A module that can't be fetched: check GOPROXY",
        )


def _refuse_old_go(module: GoModule, compiler: str) -> None:
    wanted = re.search(r"^go (\d+)\.(\d+)", (GO_MODULES / module.name / "go.mod").read_text(), re.MULTILINE)
    present = re.match(r"go(\d+)\.(\d+)", compiler)
    toolchain = run_checked(["go", "env", "GOTOOLCHAIN"], "asking Go for its toolchain setting", cwd="/").strip()
    if wanted is None or present is None or toolchain != "local":
        return  # a development version, or one that fetches the toolchain go.mod names
    if (int(present[1]), int(present[2])) < (int(wanted[1]), int(wanted[2])):
        raise ClusterError(
            f"building {module.name}",
            f"it needs Go {wanted[1]}.{wanted[2]} and this machine has {compiler} with GOTOOLCHAIN=local",
            "install that Go, or unset GOTOOLCHAIN so that Go fetches it",
        )
