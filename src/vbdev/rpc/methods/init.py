"""`framework_start_init` and `framework_wait_init`: from STARTUP to RUNTIME."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from vbdev.api.errors import INTERNAL_ERROR
from vbdev.reactor.task import Future
from vbdev.rpc.serving.dispatch import Dispatcher, Method, State

__all__ = ["INIT_FAILED", "register_init_methods"]

INIT_FAILED: Final = (INTERNAL_ERROR, "framework_initialization failed")
"""What those who wait are told where the start fails, before the daemon ends."""


def register_init_methods(
    dispatcher: Dispatcher, start: Callable[[], object], initialized: Future[None]
) -> None:
    """Add them to a dispatcher. `start` begins what `initialized` is the end of."""

    async def start_init(_params: None) -> bool:
        """Go on from the settling of options to the bdevs; the answer comes when all is there."""
        start()
        await initialized
        return True

    async def wait_init(_params: None) -> bool:
        """Wait until all that was asked for at the start is there."""
        await initialized
        return True

    both = State.STARTUP | State.RUNTIME
    for method in (
        Method("framework_start_init", start_init, states=State.STARTUP, errors=(INIT_FAILED,)),
        Method("framework_wait_init", wait_init, states=both, errors=(INIT_FAILED,), unwanted=None),
    ):
        dispatcher.register(method)
