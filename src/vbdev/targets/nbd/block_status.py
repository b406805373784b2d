"""NBD_CMD_BLOCK_STATUS: extents out of SEEK_DATA and SEEK_HOLE.

A hole reads as zeroes in every bdev that has SEEK (it is NBD_STATE_HOLE and NBD_STATE_ZERO); what
is not a hole is data. A bdev without SEEK is data from end to end, which is always true.
"""

from __future__ import annotations

import errno
from collections.abc import Callable

from vbdev.bdev import BdevError
from vbdev.bdev.descriptor import Descriptor
from vbdev.core.engine.engine import Engine
from vbdev.core.engine.requests import Request
from vbdev.vocab import Op, Status, status_errno

__all__ = ["MAX_EXTENTS", "find_extents"]

HOLE_AND_ZERO = 3
DATA = 0

MAX_EXTENTS = 1024
"""Extents in one reply. A client asks again from where it ends (proto.md allows fewer)."""

Extents = list[tuple[int, int]]


def find_extents(
    engine: Engine,
    descriptor: Descriptor,
    offset_bytes: int,
    length_bytes: int,
    *,
    one: bool,
    done: Callable[[Extents, int], object],
) -> None:
    """Find the extents of a range and call `done([(length_bytes, state)], errno)`.

    The range is inside the bdev, at any bytes. Extents follow one another from `offset_bytes` and
    end with the range; neighbours differ; with `one` there is one. A failing SEEK gives its errno,
    and no extents.
    engine: the calling reactor's; a seek that finds no BdevIO free waits for one in its line.
    """
    bdev = descriptor.bdev
    if Op.SEEK_DATA not in bdev.ops or Op.SEEK_HOLE not in bdev.ops:
        done([(length_bytes, DATA)], 0)
        return
    size = descriptor.block_size
    skip_bytes = offset_bytes % size

    def found(extents: Extents, number: int) -> None:
        done(cut(extents, skip_bytes, length_bytes) if extents else extents, number)

    _Walk(
        engine,
        descriptor,
        offset_bytes // size,
        -(-(offset_bytes + length_bytes) // size),
        most=1 if one else MAX_EXTENTS,
        done=found,
    ).step()


def cut(extents: Extents, skip_bytes: int, length_bytes: int) -> Extents:
    """Return what extents of whole blocks say of a range that begins and ends inside of some."""
    (first, state), *rest = extents
    shortened = [(first - skip_bytes, state), *rest]
    beyond = sum(length for length, _ in shortened) - length_bytes
    if beyond > 0:
        length, state = shortened[-1]
        shortened[-1] = (length - beyond, state)
    return shortened


class _Walk:
    """One request's way through a range, seek by seek."""

    def __init__(
        self,
        engine: Engine,
        descriptor: Descriptor,
        at: int,
        end: int,
        *,
        most: int,
        done: Callable[[Extents, int], object],
    ) -> None:
        self._engine = engine
        self._descriptor = descriptor
        self._at = at
        self._end = end
        self._most = most
        self._done = done
        self._extents: Extents = []

    def step(self) -> None:
        """Ask where the next data is: before it there is a hole."""
        self._seek(Op.SEEK_DATA, self._at_data)

    def _seek(self, op: Op, then: Callable[[int], None]) -> None:
        def ended(request: Request) -> None:
            if request.status != Status.SUCCESS:
                self._done([], status_errno(request.status, request.errno))
            else:
                then(min(request.result, self._end))

        try:
            self._descriptor.submit(op, self._at, 1, callback=ended)
        except BdevError as error:
            if error.errno != errno.ENOMEM:
                self._done([], error.errno)
                return
            # All BdevIOs are in use. Those that have them do not wait for this one.
            self._engine.io_wait(lambda: self._seek(op, then))

    def _at_data(self, data: int) -> None:
        if data > self._at:
            self._add(data, HOLE_AND_ZERO)
            self._go_on(self.step)
        else:
            self._seek(Op.SEEK_HOLE, self._at_hole)

    def _at_hole(self, hole: int) -> None:
        # A file may change between two seeks: without progress, one block counts as data.
        self._add(max(hole, self._at + 1), DATA)
        self._go_on(self.step)

    def _add(self, end: int, state: int) -> None:
        length = (end - self._at) * self._descriptor.block_size
        if self._extents and self._extents[-1][1] == state:
            self._extents[-1] = (self._extents[-1][0] + length, state)
        else:
            self._extents.append((length, state))
        self._at = end

    def _go_on(self, step: Callable[[], None]) -> None:
        if self._at >= self._end or len(self._extents) >= self._most:
            self._done(self._extents, 0)
        else:
            step()
