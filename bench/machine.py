"""Where a session was measured: processor, kernel, versions of all who took part."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from pathlib import Path

import vbdev

__all__ = ["machine", "versions"]

PEERS = {
    "fio": ["fio", "--version"],
    "nbdkit": ["nbdkit", "--version"],
    "qemu-nbd": ["qemu-nbd", "--version"],
    "qemu-storage-daemon": ["qemu-storage-daemon", "--version"],
    "nbd-server": ["nbd-server", "--version"],
    "nbdcopy": ["nbdcopy", "--version"],
}
VERSION = re.compile(r"\d+(\.\d+)+")


def machine() -> dict[str, str]:
    """Return what is known of this machine, by name."""
    return {
        "processor": f"{_processor()}, {os.cpu_count()} CPUs",
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def versions() -> dict[str, str]:
    """Return the version of each that is installed."""
    found = {
        "vbdev": vbdev.__version__,
        platform.python_implementation(): platform.python_version(),
    }
    for name, command in PEERS.items():
        if shutil.which(name) is not None:
            answer = subprocess.run(
                command, capture_output=True, text=True, check=False, timeout=30
            )
            version = VERSION.search(answer.stdout + answer.stderr)
            found[name] = version.group() if version else "of an unknown version"
    return found
