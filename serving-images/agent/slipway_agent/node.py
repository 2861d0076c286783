"""The node's last start. Imports nothing of the agent."""

from pathlib import Path

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def read_boot_id() -> str:
    """Names the node's last start; empty where the kernel doesn't say."""
    try:
        return BOOT_ID.read_text().strip()
    except OSError:
        return ""
