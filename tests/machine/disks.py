"""Disks that the machine steers: what they hold they do, fail or refuse when it says so."""

from __future__ import annotations

import errno
from typing import ClassVar

from vbdev.bdev import Bdev
from vbdev.bdev.geometry import SizedParams, set_geometry
from vbdev.modules.malloc import Malloc
from vbdev.vocab import IoFlag, Op, Status

CLEARS = (Op.UNMAP, Op.WRITE_ZEROES)
COUNTED = {Op.READ: "read", Op.WRITE: "write", Op.UNMAP: "unmap", Op.COPY: "copy"}


class Disk(Bdev):
    """A disk in a bytearray, in plain Python, that holds each I/O until `finish`.

    It has a write cache. `serials` says how often each block was changed, `stable_serials` how
    often it had been when it last became durable, `stable` with what: that is what a power cut
    leaves. `stored` is the content with which the next disk of the class starts. `room`: how many
    I/Os it holds before it answers NOMEM. `done`: I/Os and blocks that it carried out, by type.
    """

    kind = "disk"
    product_name = "Disk"
    Params = SizedParams
    params: SizedParams
    ops = frozenset(
        {
            Op.READ,
            Op.WRITE,
            Op.UNMAP,
            Op.FLUSH,
            Op.RESET,
            Op.WRITE_ZEROES,
            Op.COMPARE,
            Op.COPY,
            Op.ABORT,
        }
    )
    write_cache = True
    limits: ClassVar[dict[str, int]] = {}
    stored: ClassVar[bytes | None] = None

    async def start(self):
        set_geometry(self, self.params)
        vars(self).update(self.limits)
        self.held = []
        self.resets = 0
        self.room = 1000
        self.bytes = bytearray(self.stored or bytes(self.num_blocks * self.block_size))
        self.stable = bytearray(self.bytes)
        self.serials = [0] * self.num_blocks
        self.stable_serials = [0] * self.num_blocks
        self.done = {}

    @property
    def holds_reset(self):
        """Whether a RESET has reached it and not ended: then no channel of it lets I/O in."""
        return any(one.ops[0] == Op.RESET for one in self.held)

    def submit(self, _channel, ios):
        aborts = ios.take(Op.ABORT)
        self.held += ios.take(Op.RESET).split()
        for one in ios.split():
            if len(self.held) < self.room:
                self.held.append(one)
            else:
                self.refuse(one)
        for abort in aborts.split():
            self.abort(abort)

    def refuse(self, one):
        """There is no room for it now."""
        one.complete(Status.NOMEM)

    def abort(self, abort):
        for one in list(self.held):
            victims, hits = one.take_victims(abort)
            if len(victims):
                self.held.remove(one)
                victims.complete(Status.ABORTED)
                hits.complete(Status.SUCCESS)
                return
        abort.complete(Status.FAILED, errno.ENOENT)

    def finish(self, which, how="do"):
        """Let one of those held end: `do` it, `fail` it (undone), say that there is no room.

        Returns what it was, where it failed: (op, offset in blocks, number of blocks).
        """
        one = self.held.pop(which % len(self.held))
        ((op, offset, count),) = one.extents()
        if how == "fail":
            one.complete(Status.FAILED, errno.EREMOTEIO)
            return op, offset, count
        if how == "nomem" and op != Op.RESET:
            self.refuse(one)
        elif op == Op.RESET:
            self.resets += 1
            held, self.held = self.held, [o for o in self.held if o.ops[0] == Op.RESET]
            for other in held:
                if other.ops[0] != Op.RESET:
                    other.complete(Status.ABORTED)
            one.complete(Status.SUCCESS)
        else:
            status = self.execute(one, op, offset, count)
            if status == Status.SUCCESS and op in COUNTED:
                ops, blocks = self.done.get(COUNTED[op], (0, 0))
                self.done[COUNTED[op]] = (ops + 1, blocks + count)
            one.complete(status)
        return None

    def span(self, offset, count):
        return slice(offset * self.block_size, (offset + count) * self.block_size)

    def execute(self, one, op, offset, count):
        assert 0 <= offset <= offset + count <= self.num_blocks, "out of range, and let through"
        span = self.span(offset, count)
        if op == Op.WRITE:
            if self.split_on_write_unit and count:
                whole = (count, offset % count) == (self.write_unit_size, 0)
                assert whole, "a WRITE that is no write unit, and let through"
            self.change(offset, count, b"".join(bytes(view) for view in one.data()))
        elif op == Op.READ:
            at = span.start
            for view in one.data():
                view[:] = self.bytes[at : at + len(view)]
                at += len(view)
            assert at == span.stop, "a READ whose data is not as long as its blocks"
        elif op == Op.COMPARE:
            if b"".join(bytes(view) for view in one.data()) != self.bytes[span]:
                return Status.MISCOMPARE
        elif op in CLEARS:
            self.change(offset, count, bytes(count * self.block_size))
        elif op == Op.COPY:
            source = int(one.src_offset_blocks[0])
            assert 0 <= source <= source + count <= self.num_blocks, "a COPY from out of range"
            self.change(offset, count, bytes(self.bytes[self.span(source, count)]))
        elif op == Op.FLUSH:
            self.harden(*((offset, count) if count else (0, self.num_blocks)))
        if int(one.flags[0]) & IoFlag.FUA:
            self.harden(offset, count)
        return Status.SUCCESS

    def change(self, offset, count, data):
        assert len(data) == count * self.block_size, "data is not as long as its blocks"
        self.bytes[self.span(offset, count)] = data
        for block in range(offset, offset + count):
            self.serials[block] += 1

    def harden(self, offset, count):
        span = self.span(offset, count)
        self.stable[span] = self.bytes[span]
        self.stable_serials[offset : offset + count] = self.serials[offset : offset + count]


class Bare(Disk):
    """One that can do next to nothing itself: all else is emulated."""

    kind = "bare"
    ops = frozenset({Op.READ, Op.WRITE, Op.FLUSH, Op.RESET})


class Aligned(Disk):
    """One that takes whole pages in memory only: nearly all data is bounced."""

    kind = "aligned"
    required_alignment = 12


class Raw(Malloc):
    """Metadata that is nothing but a part of each block."""

    kind = "raw"
    metadata: ClassVar[dict[str, object]] = {"md_size": 8, "md_interleave": True}


class Separate(Malloc):
    """Protection information apart from the data, which the disk makes and checks itself."""

    kind = "separate"
    metadata: ClassVar[dict[str, object]] = {"md_size": 16, "dif_type": 1}


class Hidden(Malloc):
    """Protection information in the blocks, which the machine has made and checked for it."""

    kind = "hidden"
    hides = True
    metadata: ClassVar[dict[str, object]] = {"md_size": 8, "md_interleave": True, "dif_type": 1}
