"""`framework_start_init` and `framework_wait_init`: from STARTUP to RUNTIME."""

from __future__ import annotations

from typing import Final

from vbdev.api.errors import INTERNAL_ERROR
from vbdev.api.methods import BOTH, Method, Refusal, State
from vbdev.rpc.methods.plane import Plane

__all__ = ["INIT_FAILED", "METHODS"]

INIT_FAILED: Final = Refusal(INTERNAL_ERROR, "framework_initialization failed")
"""What those who wait are told where the start fails, before the daemon ends."""


async def start_init(plane: Plane, _params: None) -> bool:
    """Go on from the settling of options to the bdevs; the answer comes when all is there."""
    plane.start_init()
    await plane.initialized
    return True


async def wait_init(plane: Plane, _params: None) -> bool:
    """Wait until all that was asked for at the start is there."""
    await plane.initialized
    return True


METHODS: Final[tuple[Method[Plane], ...]] = (
    Method("framework_start_init", None, start_init, states=State.STARTUP, errors=(INIT_FAILED,)),
    Method(
        "framework_wait_init", None, wait_init, states=BOTH, errors=(INIT_FAILED,), unwanted=None
    ),
)
