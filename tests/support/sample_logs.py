"""Logs of writes that others wrote, see tests/crash/samples."""

from __future__ import annotations

import gzip
from pathlib import Path

SAMPLES = Path(__file__).parents[1] / "crash" / "samples"
MIB = 1 << 20


def unpack(name: str, directory: Path) -> str:
    """Write one of them to a directory; return its path."""
    path = directory / name
    path.write_bytes(gzip.decompress((SAMPLES / f"{name}.gz").read_bytes()))
    return str(path)


def base_of(name: str) -> bytes:
    """Return the disk that a log was begun on."""
    if name != "ext4-kernel.log":
        return bytes(MIB)
    return gzip.decompress((SAMPLES / "ext4-base.img.gz").read_bytes())
