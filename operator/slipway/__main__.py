"""`python -m slipway`: read the settings, run the operator, end with one clear line when it can't start."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import sys
from pathlib import Path

from kubernetes.config import ConfigException

from slipway import __version__
from slipway.controller.kopf_edge import run
from slipway.controller.kube import ClusterError
from slipway.controller.logs import configure_logs
from slipway.controller.settings import SettingsError, read_settings


def main() -> None:
    """Run until SIGTERM or SIGINT."""
    try:
        settings = read_settings(os.environ, _resolver())
    except SettingsError as error:
        sys.exit(f"slipway: {error}")
    # Imports stay for ever, and passes leave no cycles to speak of: look at less, and less often.
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
    configure_logs(settings.log_format, settings.log_level)
    logging.getLogger("slipway").info(
        "starting", extra={"version": __version__, "namespaces": ",".join(settings.namespaces) or "all"}
    )
    try:
        asyncio.run(run(settings))
    except ConfigException as error:
        sys.exit(f"slipway: no cluster to talk to: {error}. Run it in a pod, or set KUBECONFIG")
    except ClusterError as error:
        sys.exit(f"slipway: {error}. Is the CRD installed, and may the service account list what it watches?")
    except KeyboardInterrupt:
        return
    except Exception as error:  # the last resort: the pod restarts, and says why in one line beside the trace
        logging.getLogger("slipway").critical("ended by an unexpected error", exc_info=error)
        sys.exit(f"slipway: ended by an unexpected error: {error}")


def _resolver() -> str:
    """How this machine finds names: a pod's says what the cluster's domain is."""
    try:
        return Path("/etc/resolv.conf").read_text(errors="replace")
    except OSError:
        return ""


if __name__ == "__main__":
    main()
