"""Guests: who opens a bdev within the process, as a target or a module does, on several reactors.

What it submits and is accepted ends; it closes while others of its threads submit; it aborts what
is its own, and tries to abort what is not.
"""

from __future__ import annotations

from simulation.content import SECTOR
from vbdev.bdev import BdevError, BdevEvent
from vbdev.vocab import Op, Status

CLEARS = (Op.WRITE_ZEROES, Op.UNMAP)


class Sent:
    """An I/O of a guest that has not ended."""

    def __init__(self, guest, op, first, count, since_ns):
        self.guest, self.op, self.first, self.count = guest, op, first, count
        self.since_ns = since_ns
        self.request = None
        self.word = self.floor = self.data = None
        self.may_abort = False
        self.may_fail = False
        self.reactor = None


class Guest:
    """One open of an export's bdev, with I/O on any reactor."""

    def __init__(self, world, number, export):
        self.world, self.number, self.export = world, number, export
        self.sent = []
        self.lost = []
        self.leaving = False
        self.closed = False
        self.closing = None
        self.reactors = list(world.app.reactors)
        with world.app.reactor.here():
            self.descriptor = world.app.registry.open(
                export.bdev_name, write=True, on_event=self._told, holder=f"guest {number}"
            )

    def __repr__(self):
        return f"guest {self.number} of {self.export.name}"

    def _told(self, event):
        if event is BdevEvent.REMOVE:
            self.close()

    def submit(self, op, first, count, on, *, victim=None):
        """Submit one I/O; a guest that leaves submits no more, but one whose close is tried may."""
        if self.closed or (self.leaving and self.closing is None):
            return
        bdev, content = self.export.bdev, self.export.content
        if bdev is None or not bdev.can(op):
            return
        sectors = content.sectors
        if op in (Op.RESET, Op.ABORT, Op.FLUSH):
            first, count = 0, 0
            if op == Op.FLUSH:
                count = sectors
        else:
            count = 1 + (count - 1) % sectors
            first %= sectors - count + 1
        one = Sent(self, op, first, count, self.world.now_ns)
        one.reactor = self.reactors[on % len(self.reactors)]
        one.may_fail = self.closing is not None
        more = {}
        if op == Op.WRITE:
            one.word = content.write(first, count)
            one.data = content.payload(one.word, count)
        elif op in CLEARS:
            one.word = content.clear(first, count)
        elif op == Op.READ:
            one.data = bytearray(count * SECTOR)
            one.floor = content.look(first, count)
        elif op == Op.ABORT:
            more["victim"] = victim.request
        with one.reactor.here():
            try:
                one.request = self.descriptor.submit(
                    op, first, count, one.data, callback=lambda r: self._ended(one, r), **more
                )
            except BdevError:  # no BdevIO is free, or it is closed
                self._settle(one, done=False)
                return
            except (SystemExit, KeyboardInterrupt):  # a module's, and no word of what became of it
                self.lost.append(one)
                return
        self.sent.append(one)

    def abort(self, which, other, *, on=None):
        """Abort an I/O of this guest, or try to abort another's."""
        if not other.sent:
            return
        victim = other.sent[which % len(other.sent)]
        if victim.op == Op.ABORT or victim.request is None:
            return
        if other is self:
            victim.may_abort = True
        before = len(self.sent)
        self.submit(Op.ABORT, 0, 0, self.reactors.index(victim.reactor), victim=victim)
        if len(self.sent) > before:
            self.sent[-1].word = victim if other is not self else None

    def _settle(self, one, *, done):
        content = self.export.content
        if one.op == Op.WRITE:
            content.written(one.word, done=done)
        elif one.op in CLEARS:
            content.cleared(one.word, done=done and one.op == Op.WRITE_ZEROES)

    def _ended(self, one, request):
        if one in self.lost:
            self.lost.remove(one)
            self._settle(one, done=request.status == Status.SUCCESS)
            return
        if one not in self.sent:
            self.world.fail("guest", f"{self}: {one.op.name} ended twice")
            return
        self.sent.remove(one)
        if self.closed:
            self.world.fail("close", f"{self} was closed with its {one.op.name} under way")
        status = request.status
        self._settle(one, done=status == Status.SUCCESS)
        if one.op == Op.ABORT and one.word is not None and status == Status.SUCCESS:
            self.world.fail("abort", f"{self} has aborted an I/O of {one.word.guest}")
        if status == Status.ABORTED and not one.may_abort and not self.export.may_abort:
            self.world.fail("abort", f"{self}: {one.op.name} was aborted by nobody who may")
        if status != Status.SUCCESS and self.export.flawless:
            if one.op != Op.ABORT and not (one.may_abort or one.may_fail):
                self.world.fail(
                    "error", f"{self}: {one.op.name} ended with {status}, for no reason"
                )
        elif one.op == Op.READ and status == Status.SUCCESS:
            wrong = self.export.content.judge_data(one.first, one.data, one.floor)
            if wrong:
                self.world.fail("data", f"{self}: READ: {wrong}")
        if self.leaving and not self.sent:
            self.world.app.reactor.send_msg(self.close)

    def close(self):
        """Close, now or when what is under way has ended."""
        self.leaving = True
        if self.closed or self.closing is not None:
            return
        with self.world.app.reactor.here():
            try:
                closing = self.descriptor.close()
            except BdevError:  # busy: once more when the last has ended
                return
        self.closing = closing
        closing.add_done_callback(self._closed)

    def _closed(self, future):
        self.closing = None
        try:
            future.result()
        except BdevError:
            if not self.sent:
                self.world.app.reactor.send_msg(self.close)
            return
        self.closed = True
        if self.sent:
            self.world.fail(
                "close", f"{self} was closed with {len(self.sent)} I/Os under way, which were taken"
            )
