"""Which release of SPDK's methods are served, and by which of ours."""

from __future__ import annotations

from typing import Final

from vbdev import __version__

__all__ = ["SPDK_MAJOR", "SPDK_MINOR", "SUFFIX", "VERSION"]

SPDK_MAJOR: Final = 26
SPDK_MINOR: Final = 9
SUFFIX: Final = f"-vbdev-{__version__}"
VERSION: Final = f"SPDK v{SPDK_MAJOR}.{SPDK_MINOR:02}{SUFFIX}"
"""What `spdk_get_version` and `vbdev spdk-tgt --version` say."""
