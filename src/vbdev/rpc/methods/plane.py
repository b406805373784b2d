"""What the methods of the control plane work on: one `Plane` for each daemon.

It composes and decides nothing. A room asks it for what its methods need and for no more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from vbdev.api.methods import Method
from vbdev.reactor.reactors import Reactors
from vbdev.reactor.task import Future
from vbdev.registry import Registry
from vbdev.registry.options import IobufOptions
from vbdev.reports.context_switches import ContextSwitchMonitor
from vbdev.reports.logs import Logs
from vbdev.rpc.serving.dispatch import Dispatcher
from vbdev.targets.nbd import KernelDisks, NbdServer

__all__ = ["Iobuf", "MadeSchema", "Plane", "Subsystems"]

Subsystems = dict[str, tuple[list[str], Callable[[], Iterable[dict[str, Any]]] | None]]
"""{name: (what it depends on, its configuration as RPC calls, if it has one)}, in the order of
initialisation. Others may run between two of the calls."""


class Iobuf:
    """The options as they are, and whether anybody has set them."""

    def __init__(self) -> None:
        self.options = IobufOptions()
        self.is_set = False

    def config(self) -> list[dict[str, Any]]:
        """Return the RPC call that sets them again; none where nobody has set them."""
        if not self.is_set:
            return []
        params = msgspec.structs.asdict(self.options)
        return [{"method": "iobuf_set_options", "params": params}]


@dataclass(slots=True)
class MadeSchema:
    """The document that was made last, and of which methods; and the end of another's making."""

    methods: list[Method[Any]] = field(default_factory=list)
    document: dict[str, Any] = field(default_factory=dict)
    making: Future[None] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plane:
    """A daemon, as its RPC methods see it. They run on the first of the reactors."""

    dispatcher: Dispatcher
    """Whose methods `rpc_get_methods` and `rpc_get_schema` tell of."""
    reactors: Reactors
    cpus: frozenset[int]
    """What `thread_set_cpumask` chooses among: `given_cpus`, from before any thread was bound."""
    registry: Registry
    nbd: NbdServer
    kernel_disks: KernelDisks
    logs: Logs
    """Must be open, else the `log_*` methods answer ENOTSUP: it is somebody else's log."""
    monitor: ContextSwitchMonitor
    iobuf: Iobuf
    subsystems: Subsystems
    renew_engines: Callable[[], object]
    """Called when options of the registry or `iobuf` were set. There is no bdev yet."""
    start_init: Callable[[], object]
    """Begins what `initialized` is the end of."""
    initialized: Future[None]
    schema: MadeSchema = field(default_factory=MadeSchema)
