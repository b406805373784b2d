"""Which thread runs where, as SPDK asks for it: `framework_*_scheduler`, `framework_get_governor`.

A thread is its reactor here and stays with it, which is what SPDK's scheduler `static` does; there
is no other, and no governor of CPU frequencies.
"""

from __future__ import annotations

import errno
import os
from typing import Any, Final

from vbdev.api.errors import INTERNAL_ERROR
from vbdev.api.methods import BOTH, Method, Refusal
from vbdev.api.params import Params, Uint8, Uint64
from vbdev.api.results import Governor, Scheduler
from vbdev.rpc.methods.plane import Plane

__all__ = ["METHODS", "scheduler_config"]

STATIC: Final = "static"
REFUSED: Final = Refusal(INTERNAL_ERROR, os.strerror(-errno.EINVAL))
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


async def set_scheduler(plane: Plane, params: SetSchedulerParams) -> bool:
    if params.name != STATIC:
        raise REFUSED.error(f"name: the scheduler here is {STATIC!r}, there is no {params.name!r}")
    for pair in filter(None, (params.mappings or "").split(",")):
        thread, _, core = pair.partition(":")
        if not any((thread, core) == (str(r.id), str(r.core.number)) for r in plane.reactors):
            raise REFUSED.error(f"mappings: {pair!r}: threads stay on the cores that they have")
    return True


async def get_scheduler(plane: Plane, _params: None) -> Scheduler:
    """Return the scheduler of threads."""
    return Scheduler(
        scheduler_name=STATIC,
        scheduler_period=0,
        isolated_core_mask="0",
        scheduling_core=plane.reactors.first.core.number,
    )


async def get_governor(_plane: Plane, _params: None) -> Governor:
    """Return the governor of CPU frequencies: nothing, because there is none."""
    return Governor()


def scheduler_config() -> list[dict[str, Any]]:
    """Return the RPC call that chooses the same scheduler again, as SPDK saves it."""
    return [{"method": "framework_set_scheduler", "params": {"name": STATIC}}]


METHODS: Final[tuple[Method[Plane], ...]] = (
    Method(
        "framework_set_scheduler",
        SetSchedulerParams,
        set_scheduler,
        states=BOTH,
        errors=(REFUSED,),
    ),
    Method(
        "framework_get_scheduler",
        None,
        get_scheduler,
        states=BOTH,
        result=Scheduler,
        unwanted="'rpc_get_scheduler' requires no arguments",
    ),
    Method(
        "framework_get_governor",
        None,
        get_governor,
        result=Governor,
        unwanted="'rpc_get_governor' requires no arguments",
    ),
)
