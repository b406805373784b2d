"""Which thread runs where, as SPDK asks for it: `framework_*_scheduler`, `framework_get_governor`.

A thread is its reactor here and stays with it, which is what SPDK's scheduler `static` does; there
is no other, and no governor of CPU frequencies.
"""

from __future__ import annotations

import errno
import os
from typing import Any, Final

from vbdev.api.errors import INTERNAL_ERROR, RpcError
from vbdev.api.params import Params, Uint8, Uint64
from vbdev.api.results import Governor, Scheduler
from vbdev.reactor.reactors import Reactors
from vbdev.rpc.serving.dispatch import Dispatcher, Method, State

__all__ = ["register_scheduler_methods", "scheduler_config"]

STATIC: Final = "static"
REFUSED: Final = (INTERNAL_ERROR, os.strerror(-errno.EINVAL))
"""SPDK forgets to turn the errno's sign around, so that it has no text: `Unknown error -22`."""


class SetSchedulerParams(Params, kw_only=True, frozen=True):
    """Choose the scheduler of threads. There is one, `static`: each thread stays on its reactor."""

    name: str
    """`static`; any other is refused."""
    period: Uint64 | None = None
    """How often to schedule, in us; `static` never does."""
    load_limit: Uint8 | None = None
    """Of SPDK's scheduler `dynamic`; `static` does not look at it."""
    core_limit: Uint8 | None = None
    """The same."""
    core_busy: Uint8 | None = None
    """The same."""
    mappings: str | None = None
    """`thread:core` pairs, separated by commas. A thread can only be mapped to the core that it
    has (`framework_get_reactors`)."""


def register_scheduler_methods(dispatcher: Dispatcher, reactors: Reactors) -> None:
    """Add them to a dispatcher."""

    async def set_scheduler(params: SetSchedulerParams) -> bool:
        if params.name != STATIC:
            raise refused(f"name: the scheduler here is {STATIC!r}, there is no {params.name!r}")
        for pair in filter(None, (params.mappings or "").split(",")):
            thread, _, core = pair.partition(":")
            if not any((thread, core) == (str(r.id), str(r.core.number)) for r in reactors):
                raise refused(f"mappings: {pair!r}: threads stay on the cores that they have")
        return True

    async def get_scheduler(_params: None) -> Scheduler:
        """Return the scheduler of threads."""
        return Scheduler(
            scheduler_name=STATIC,
            scheduler_period=0,
            isolated_core_mask="0",
            scheduling_core=reactors.first.core.number,
        )

    async def get_governor(_params: None) -> Governor:
        """Return the governor of CPU frequencies: nothing, because there is none."""
        return Governor()

    both = State.STARTUP | State.RUNTIME
    for method in (
        Method(
            "framework_set_scheduler",
            set_scheduler,
            SetSchedulerParams,
            states=both,
            errors=(REFUSED,),
        ),
        Method(
            "framework_get_scheduler",
            get_scheduler,
            states=both,
            result=Scheduler,
            unwanted="'rpc_get_scheduler' requires no arguments",
        ),
        Method(
            "framework_get_governor",
            get_governor,
            result=Governor,
            unwanted="'rpc_get_governor' requires no arguments",
        ),
    ):
        dispatcher.register(method)


def refused(detail: str) -> RpcError:
    """Return what SPDK answers, with the reason."""
    return RpcError(*REFUSED, detail)


def scheduler_config() -> list[dict[str, Any]]:
    """Return the RPC call that chooses the same scheduler again, as SPDK saves it."""
    return [{"method": "framework_set_scheduler", "params": {"name": STATIC}}]
