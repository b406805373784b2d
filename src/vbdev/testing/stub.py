"""Bdevs that a test steers: a leaf that holds what it gets, and layers made of a function."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from vbdev.bdev import ALL_OPS, Bdev, VirtualBdev
from vbdev.bdev.geometry import SizedParams, set_geometry
from vbdev.core.coroutine.runner import BdevIO
from vbdev.core.engine.batch import IOBatch
from vbdev.core.engine.channel import Channel
from vbdev.vocab import Status

__all__ = ["Stub", "describe", "forward", "gather", "layer"]

Submit = Callable[[Any, Channel, IOBatch], object]
"""A module's `submit` or `completed`: of itself, the channel and the batch."""
Handle = Callable[[Any, Channel, BdevIO], Coroutine[Any, Any, Any]]
"""A module's `handle`: of itself, the channel and the I/O."""


class Stub(Bdev):
    """A leaf that takes every I/O type and holds every I/O until `complete`.

    held: batches of one I/O each, in the order of arrival.
    arrived: (op, offset in blocks, number of blocks) of all that ever came.
    batch_sizes: how many I/Os each call of `submit` brought.
    """

    kind = "stub"
    product_name = "stub"
    Params = SizedParams
    ops = ALL_OPS
    params: SizedParams

    async def start(self) -> None:
        """Take the size that the parameters give."""
        set_geometry(self, self.params)
        self.held: list[IOBatch] = []
        self.batch_sizes: list[int] = []
        self.arrived: list[tuple[int, int, int]] = []

    def submit(self, channel: Channel, ios: IOBatch) -> None:
        """Hold a batch."""
        self.batch_sizes.append(len(ios))
        self.arrived += describe(ios)
        self.held += ios.split()

    def complete(
        self,
        which: Iterable[int] | None = None,
        status: Status | None = Status.SUCCESS,
        errno: int = 0,
        **detail: Any,
    ) -> None:
        """Complete the held I/Os with these indices (all without), in that order.

        detail: what else `IOBatch.complete` takes (nvme, scsi, cdw0).
        """
        chosen = list(range(len(self.held))) if which is None else list(which)
        batches = [self.held[i] for i in chosen]
        gone = set(chosen)
        self.held = [one for i, one in enumerate(self.held) if i not in gone]
        for one in batches:
            one.complete(status, errno, **detail)


def describe(ios: IOBatch) -> list[tuple[int, int, int]]:
    """Return [(op, offset in blocks, number of blocks)] of a batch."""
    return list(
        zip(ios.ops.tolist(), ios.offset_blocks.tolist(), ios.num_blocks.tolist(), strict=True)
    )


def forward(_self: Any, channel: Channel, ios: IOBatch) -> None:
    """Hand a batch on."""
    channel.base.submit(ios)


def layer(
    submit: Submit | None = None,
    completed: Submit | None = None,
    *,
    handle: Handle | None = None,
    kind: str = "layer",
    **attributes: Any,
) -> type[VirtualBdev]:
    """Return a class of vbdev out of functions (self, channel, ios); forwarding by default.

    handle: a coroutine function (self, channel, io).
    """
    body = {"kind": kind, "product_name": kind, "ops": ALL_OPS, **attributes}
    if handle is not None:
        body["handle"] = handle
    if submit is not None or handle is None:
        body["submit"] = submit or forward
    if completed is not None:
        body["completed"] = completed
    return type(kind.title(), (VirtualBdev,), body)


def gather(number: int) -> type[VirtualBdev]:
    """Return a class of vbdev that holds I/Os until it has this many, then sends one batch.

    What lies under it so receives batches of a known size.
    """

    def submit(self: Any, channel: Channel, ios: IOBatch) -> None:
        if not hasattr(self, "gathered"):
            self.gathered = IOBatch()
        self.gathered.extend(ios)
        if len(self.gathered) >= number:
            channel.base.submit(self.gathered.take())

    return layer(submit, kind="gather")
