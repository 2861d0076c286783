"""What the machine lends to a build: its certificates and package configuration, as secrets that reach no layer."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from slipway_images.images import SUITE

DEBIAN_CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
PIP_SETTINGS = ("index-url", "extra-index-url", "trusted-host", "proxy", "timeout", "default-timeout", "retries")


def output_of(command: Sequence[str]) -> str | None:
    """A command's output, or None where it is missing or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except OSError:
        return None
    return done.stdout if done.returncode == 0 else None


def machine_secrets(folder: Path) -> dict[str, Path]:
    """Files that let a build reach the machine's package indices the way the machine itself does."""
    secrets = {}

    def add(name: str, text: str) -> None:
        secrets[name] = folder / name
        secrets[name].write_text(text)

    certificates = next(
        (
            Path(path)
            for path in (
                os.environ.get("PIP_CERT"),
                os.environ.get("SSL_CERT_FILE"),
                DEBIAN_CERTIFICATES,
            )
            if path and Path(path).is_file()
        ),
        None,
    )
    pip_settings = {}
    for line in (output_of([sys.executable, "-m", "pip", "config", "list"]) or "").splitlines():
        key, _, value = line.partition("=")
        setting = key.rpartition(".")[2]
        if setting in PIP_SETTINGS:
            pip_settings["timeout" if setting == "default-timeout" else setting] = value.strip("'\"")
    if certificates:
        add("ca.crt", certificates.read_text())
        pip_settings["cert"] = "/run/secrets/ca.crt"
    add("pip.conf", "[global]\n" + "".join(f"{key} = {value}\n" for key, value in sorted(pip_settings.items())))

    settings = [
        line
        for line in (output_of(["apt-config", "dump", "Acquire"]) or "").splitlines()
        if line.startswith(("Acquire::http", "Acquire::https", "Acquire::Check-"))
    ]
    if certificates:
        settings.append('Acquire::https::CaInfo "/run/secrets/ca.crt";')
    add("apt.conf", "".join(f"{line}\n" for line in settings))
    sources = [f"deb {address} {suite} {component}" for address, suite, component in debian_sources()]
    if sources:
        add("apt.list", "".join(f"{line}\n" for line in sources))
    return secrets


def debian_sources() -> list[tuple[str, str, str]]:
    """The machine's own Debian 12 sources: (address, suite, component); empty where it is another system."""
    form = "$(ORIGIN)|$(REPO_URI)|$(RELEASE)|$(COMPONENT)"
    listed = output_of(["apt-get", "indextargets", "--format", form, "Created-By: Packages"]) or ""
    sources = []
    for line in listed.splitlines():
        origin, address, suite, component = line.split("|")
        if origin == "Debian" and suite.split("-")[0] == SUITE:
            sources.append((address, suite, component))
    return list(dict.fromkeys(sources))
