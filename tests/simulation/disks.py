"""Modules that the simulation steers: a disk that delays, fails, hangs and has no room, and a layer
that raises and lies.

What a disk does costs virtual time, which it charges at once: so the length of a reactor's turn
is known without a look at a clock, and the same on any machine.
"""

from __future__ import annotations

import errno

import numpy as np

from simulation.content import SECTOR, WORDS
from vbdev.bdev import BASIC_OPS, Bdev, VirtualBdev
from vbdev.bdev.geometry import SizedParams, set_geometry
from vbdev.vocab import IoFlag, Op, Status

COST_US = {
    Op.READ: 2,
    Op.WRITE: 3,
    Op.FLUSH: 20,
    Op.UNMAP: 100,
    Op.WRITE_ZEROES: 200,
    Op.SEEK_DATA: 5,
    Op.SEEK_HOLE: 5,
}
"""What an I/O of one sector takes of the thread that carries it out."""
BYTES_PER_US = 4096
EXTENT = 300
"""Sectors of data, and of holes, by turns, as SEEK tells."""


class SimDisk(Bdev):
    """A disk with a volatile cache.

    mode: "ok"; "hang": keeps all that comes until `heal`. delay_us: how long an I/O takes. failing:
    so many of the next READs and WRITEs fail. room: how many it holds before it answers NOMEM.
    """

    kind = "simdisk"
    product_name = "Simulated disk"
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
            Op.ABORT,
            Op.SEEK_DATA,
            Op.SEEK_HOLE,
        }
    )
    write_cache = True
    fua = True
    world = None

    async def start(self):
        set_geometry(self, self.params)
        self.bytes = bytearray(self.num_blocks * SECTOR)
        self.stable = bytearray(self.bytes)
        self.mode = "ok"
        self.delay_us = 0
        self.failing = 0
        self.room = 1 << 30
        self.held = {}
        self.carried_out = 0
        self.world.disks[self.name] = self

    async def stop(self):
        self.world.disks.pop(self.name, None)

    def submit(self, channel, ios):
        aborts, resets = ios.take(Op.ABORT), ios.take(Op.RESET)
        for one in ios.split():
            self._take(channel, one)
        for abort in aborts.split():
            self._abort(channel, abort)
        if resets:
            self._reset(channel, resets)

    def _take(self, channel, one):
        if len(self.held) >= self.room:
            one.complete(Status.NOMEM)
        elif self.mode == "hang" or self.delay_us:
            number = self.world.number()
            timer = None
            if self.mode != "hang":
                timer = channel.reactor.call_later(self.delay_us, lambda: self._due(number))
            self.held[number] = (channel, one, timer)
        else:
            self._carry_out(one)

    def _due(self, number):
        if number in self.held:
            self._carry_out(self.held.pop(number)[1])

    def _abort(self, channel, abort):
        for number, (other, one, timer) in list(self.held.items()):
            if other is channel:
                victims, hits = one.take_victims(abort)
                if len(victims):
                    del self.held[number]
                    if timer is not None:
                        timer.cancel()
                    victims.complete(Status.ABORTED)
                    hits.complete(Status.SUCCESS)
                    return
        abort.complete(Status.FAILED, errno.ENOENT)

    def _reset(self, channel, resets):
        for number, (other, _one, timer) in list(self.held.items()):
            if timer is not None:
                timer.cancel()
            if other.reactor is channel.reactor:
                self.held.pop(number)[1].complete(Status.ABORTED)
            else:
                other.reactor.send_msg(self._end_held, number)
        resets.complete(Status.SUCCESS)

    def _end_held(self, number):
        if number in self.held:
            self.held.pop(number)[1].complete(Status.ABORTED)

    def heal(self):
        """Carry out all that is held, and be an ordinary disk again."""
        self.mode, self.delay_us, self.failing, self.room = "ok", 0, 0, 1 << 30
        for number, (channel, _one, timer) in list(self.held.items()):
            if timer is None:
                channel.reactor.send_msg(self._due, number)

    def grow(self, sectors):
        """Become so much larger, as a module does whose device has."""
        self.bytes += bytes(sectors * SECTOR)
        self.stable += bytes(sectors * SECTOR)
        self.notify_blockcnt_change(self.num_blocks + sectors)

    def stable_words(self, first, count):
        """Return the numbers in those sectors that a power cut leaves."""
        return np.frombuffer(self.stable, "<u8")[first * WORDS : (first + count) * WORDS : WORDS]

    def _carry_out(self, one):
        ((op, offset, count),) = one.extents()
        self.carried_out += 1
        data = count * SECTOR // BYTES_PER_US if op in (Op.READ, Op.WRITE) else 0
        self.world.charge(COST_US.get(op, 1) + data)
        if self.failing and op in (Op.READ, Op.WRITE):
            self.failing -= 1
            one.complete(Status.FAILED, errno.EIO)
            return
        span = slice(offset * SECTOR, (offset + count) * SECTOR)
        if op == Op.WRITE:
            self.bytes[span] = b"".join(one.data())
        elif op == Op.READ:
            at = span.start
            for view in one.data():
                view[:] = self.bytes[at : at + len(view)]
                at += len(view)
        elif op in (Op.UNMAP, Op.WRITE_ZEROES):
            self.bytes[span] = bytes(count * SECTOR)
        elif op == Op.FLUSH:
            self.stable[:] = self.bytes
        elif op in (Op.SEEK_DATA, Op.SEEK_HOLE):
            one.results = [self._seek(op, offset)]
        if int(one.flags[0]) & IoFlag.FUA:
            self.stable[span] = self.bytes[span]
        one.complete(Status.SUCCESS)

    def _seek(self, op, offset):
        in_data = offset // EXTENT % 2 == 0
        if in_data == (op == Op.SEEK_DATA):
            return offset
        edge = (offset // EXTENT + 1) * EXTENT
        if edge < self.num_blocks:
            return edge
        return self.num_blocks if op == Op.SEEK_HOLE else (1 << 64) - 1


class Shaky(VirtualBdev):
    """A layer that forwards, until it is told to do wrong.

    going_down, coming_up: exceptions that the next batches raise, half of them handed on. lies: so
    many batches of READs that come without a buffer are answered as done, without any data.
    promises: so many SEEKs with a place that there is not.
    """

    kind = "shaky"
    product_name = "Shaky layer"
    ops = BASIC_OPS | {Op.ABORT, Op.SEEK_DATA, Op.SEEK_HOLE}
    gives_read_buffers = True
    max_rw_size = 100
    world = None

    async def start(self):
        # Its own choice, whatever the base's: where nobody above has given a buffer, none is there.
        self.max_rw_size, self.gives_read_buffers = Shaky.max_rw_size, True
        self.going_down = []
        self.coming_up = []
        self.lies = 0
        self.promises = 0
        self.world.layers[self.name] = self

    async def stop(self):
        self.world.layers.pop(self.name, None)

    def submit(self, channel, ios):
        if self.lies:
            # What has a buffer already can not be told from what was filled.
            reads, before = ios.take(Op.READ).split(), self.lies
            for read in reads:
                if read.data():
                    ios.extend(read)
                else:
                    self.lies = before - 1
                    read.complete(Status.SUCCESS)
        if self.promises and (seeks := ios.take((Op.SEEK_DATA, Op.SEEK_HOLE))):
            self.promises -= 1
            seeks.results = [self.num_blocks * 1000 + 7] * len(seeks)
            seeks.complete(Status.SUCCESS)
        if self.going_down and (writes := ios.take(Op.WRITE)):
            channel.base.submit(ios)
            half = [i < len(writes) // 2 for i in range(len(writes))]
            channel.base.submit(writes.take(half))
            raise self.going_down.pop()
        channel.base.submit(ios)

    def completed(self, channel, ios):
        if self.coming_up and len(ios):
            raise self.coming_up.pop()
