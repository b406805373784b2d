"""What a server offers and refuses all the same, in words."""

from __future__ import annotations

import logging
from typing import Final

__all__ = ["tell"]

log = logging.getLogger(__name__)

INSTEAD: Final = {
    1: ("WRITE_ZEROES", "zeroes are written"),
    2: ("WRITE_ZEROES with NO_HOLE", "zeroes are written"),
    4: ("WRITE_ZEROES with FAST_ZERO", "it is refused here"),
    8: ("TRIM", "UNMAP does nothing"),
    16: ("FUA", "a FLUSH follows each write with FUA"),
}
"""By REFUSES_* of `vbdev.core.nbd.client.queue`: what was refused, and what is done from now on."""


def tell(bdev: str, server: object, refused: int) -> None:
    """Log what a server has refused for the first time, a mask of REFUSES_*."""
    for bit, (what, instead) in INSTEAD.items():
        if refused & bit:
            log.warning(
                "nbd server refuses what it offers; from now on %s bdev=%s server=%s refused=%s",
                instead,
                bdev,
                server,
                what,
            )
