"""The methods of the control plane, one room for each subject, and here the table of them all.

Each room ends with its `METHODS`, whose handlers are functions of (plane, params). `plane` is what
they work on; what several of them tell of a bdev is in `vbdev.rpc.bdev_info`. What a module
declares comes to the same dispatcher, by `bdev.register_module`.
"""

from __future__ import annotations

from typing import Final

from vbdev.api.methods import Method
from vbdev.rpc.methods import (
    bdev,
    examine,
    framework,
    holder,
    init,
    iobuf,
    log,
    nbd,
    nbd_disk,
    nothing,
    notify,
    process,
    scheduler,
    schema,
    stat,
    thread,
)
from vbdev.rpc.methods.plane import Plane

__all__ = ["METHODS", "SUBSTITUTES", "register_methods"]

METHODS: Final[tuple[Method[Plane], ...]] = (
    *process.METHODS,
    *log.METHODS,
    *thread.METHODS,
    *scheduler.METHODS,
    *framework.METHODS,
    *schema.METHODS,
    *init.METHODS,
    *bdev.METHODS,
    *examine.METHODS,
    *iobuf.METHODS,
    *holder.METHODS,
    *notify.METHODS,
    *stat.METHODS,
    *nbd.METHODS,
    *nbd_disk.METHODS,
)
"""In the order in which `rpc_get_methods` names them."""
SUBSTITUTES: Final = nothing.METHODS
"""Methods that a module's of the same name take the place of."""


def register_methods(plane: Plane) -> None:
    """Add all of them to the plane's dispatcher. ValueError where a name is taken."""
    for method in METHODS:
        plane.dispatcher.register(method, plane)
    for method in SUBSTITUTES:
        plane.dispatcher.register_substitute(method, plane)
