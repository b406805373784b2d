"""The machine: random stacks on one to three reactors under random I/O of all types, resets,
aborts, refusals for want of room, quiescing, hot removals and returns, deletes, power cuts.

The model says what each block may hold (model.py). I/Os that overlap are kept apart, so that what
a READ must bring follows from those that ended before. Pools are tiny: waiting and refusal are the
normal case. Held throughout:

- each request ends exactly once, with a status for which there is a reason;
- what comes back is what was written, and a writer's data stays as it is;
- what was flushed, or written with FUA, is on the disk and not in its cache;
- counters equal what the disk did, and what passed;
- a claim keeps writers out, a quiesced range I/O, a RESET everything;
- at the end nothing is left in use.
"""

from __future__ import annotations

import errno
import inspect
import os
import sys
import time
from itertools import pairwise

import pytest
from hypothesis import event
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from machine.disks import Aligned, Bare, Disk, Hidden, Raw, Separate
from machine.layers import FLIPPED, LAYERS, wish
from machine.model import Model
from support.stack import Stack
from vbdev.bdev import BdevError, BdevState
from vbdev.bdev.entry import entry_of
from vbdev.files import access
from vbdev.modules.error import InjectParams
from vbdev.modules.file.service import FileService
from vbdev.modules.malloc import Malloc
from vbdev.modules.null import Null
from vbdev.modules.uring import Uring
from vbdev.vocab import WRITE_OPS, IoFlag, Op, Status

BLOCK = 512
NUM_BLOCKS = 96
MAX_NODES = 8
MAX_DEPTH = 5
BUFFERS = 16384
LONGEST = 16  # blocks of an I/O
DATA_OPS = (Op.READ, Op.WRITE, Op.COMPARE, Op.COMPARE_AND_WRITE)
CHANGES = (Op.WRITE, Op.UNMAP, Op.WRITE_ZEROES, Op.COPY, Op.COMPARE_AND_WRITE, Op.ZCOPY)
LOCKED = (*CHANGES, Op.READ, Op.COMPARE)
SEEKS = (Op.SEEK_DATA, Op.SEEK_HOLE)
NO_RANGE = (Op.RESET, Op.NVME_NSSR)
NOWHERE = (1 << 64) - 1
FLIPS = ("flip", "flip_each")
PATIENCE_S = 20.0
SPLIT_BY = ("max_rw_size", "max_write_zeroes", "max_copy")
BY_WRITES = (Op.WRITE, Op.WRITE_ZEROES, Op.COPY, Op.COMPARE_AND_WRITE)

ios = st.fixed_dictionaries(
    {
        "at": st.integers(0, MAX_NODES),
        "on": st.integers(0, 2),
        "op": st.sampled_from(
            [Op.READ] * 5
            + [Op.WRITE] * 5
            + [Op.UNMAP, Op.WRITE_ZEROES, Op.COPY, Op.COPY, Op.COMPARE, Op.COMPARE]
            + [Op.COMPARE_AND_WRITE, Op.ZCOPY, Op.FLUSH, Op.FLUSH, Op.RESET, *SEEKS]
            + [Op.WRITE_UNCORRECTABLE, Op.GET_ZONE_INFO, Op.NVME_NSSR]
        ),
        "offset": st.integers(0, NUM_BLOCKS + 2),
        "source": st.integers(0, NUM_BLOCKS + 2),
        "count": st.integers(0, LONGEST),
        "cuts": st.lists(st.integers(0, LONGEST * BLOCK), max_size=4),
        "byte": st.integers(0, 255),
        "bare": st.booleans(),
        "fua": st.booleans(),
        "patient": st.booleans(),
    }
)
limits = st.fixed_dictionaries(
    {
        "optimal_io_boundary": st.sampled_from([0, 4]),
        "split_on_optimal_io_boundary": st.booleans(),
        "max_rw_size": st.sampled_from([0, 0, 3, 8]),
        "max_num_segments": st.sampled_from([0, 0, 0, 2]),
        "max_segment_size": st.sampled_from([0, 0, 0, 1024]),
        "max_unmap": st.sampled_from([0, 5]),
        "max_unmap_segments": st.sampled_from([0, 1]),
        "max_write_zeroes": st.sampled_from([0, 5]),
        "max_copy": st.sampled_from([0, 3]),
        "acwu": st.sampled_from([0, 4]),
        "write_unit_size": st.sampled_from([1, 1, 2, 4]),
        "fua": st.booleans(),
        "reset_io_drain_timeout": st.sampled_from([0, 0, 1]),
    }
)


def in_whole_units(limits):
    """Return limits of a disk that is written in units: none is less than a unit."""
    unit = limits["write_unit_size"]
    if unit == 1:
        return limits
    more = {name: limits[name] and max(limits[name], unit) for name in SPLIT_BY}
    return {**limits, **more, "split_on_write_unit": True}


class Node:
    """A bdev of the stack, as the model knows it."""

    def __init__(self, name, kind, base, first):
        self.name, self.kind, self.base = name, kind, base
        self.first = first  # on the disk, in blocks
        self.flips = (base.flips if base else False) ^ (kind in FLIPS)
        self.depth = base.depth + 1 if base else 0
        self.key = name  # of the wish that it comes from
        self.passed = {}  # blocks that clients of it and of those above have read and written

    def path(self):
        node = self
        while node is not None:
            yield node
            node = node.base

    def stands_on(self, other):
        return other in self.path()

    def turned(self, data):
        """What the disk holds where this node shows `data`, and the other way round."""
        return bytes(data).translate(FLIPPED) if self.flips else bytes(data)


class Pending:
    """A request in flight, and what its end means for the model."""

    def __init__(self, op, node, opened, spans):
        self.op, self.node, self.opened = op, node, opened
        self.spans = spans  # on the disk: (first block, number)
        self.request = None
        self.ends = 0
        self.may_abort = self.may_fail = self.must_abort = self.frozen = False
        self.locks = []

    def changes(self):
        return self.op in CHANGES

    def touches(self, first, count):
        return any(a < first + count and first < a + n and n and count for a, n in self.spans)


class Lock:
    """A range that is, or is to be, quiesced."""

    def __init__(self, node, offset, count, task):
        self.node, self.offset, self.count, self.task = node, offset, count, task
        self.first = node.first + offset
        self.released = False


class Stacks(RuleBasedStateMachine):
    """See the module docstring. What canaries replace: `layers`, `disks`, `submit`."""

    layers = LAYERS
    disks = (Disk, Disk, Disk, Bare, Aligned, Malloc, Null, Uring, Raw, Separate, Hidden, Hidden)

    @initialize(
        cls=st.integers(0, 100),
        limits=limits,
        limited=st.booleans(),
        reactors=st.integers(1, 3),
        pool=st.integers(3, 14),
    )
    def make(self, cls, limits, limited, reactors, pool):
        cls = self.disks[cls % len(self.disks)]
        self.stack = Stack(reactors=reactors, pool_size=pool, buffer_limit_bytes=BUFFERS)
        self.steered = issubclass(cls, Disk)
        self.limits = in_whole_units(limits) if limited and self.steered else {}
        self.write_unit = self.limits.get("write_unit_size", 1)
        self.metadata = getattr(cls, "metadata", {})
        self.hides = hasattr(cls, "hides")
        self.protected = "dif_type" in self.metadata
        # What a block is to who opens the disk.
        self.block = BLOCK
        if "md_interleave" in self.metadata and not self.hides:
            self.block += self.metadata["md_size"]
        self.cls = type(cls.__name__, (cls,), {"limits": self.limits}) if self.steered else cls
        self.file = None
        if cls is Uring:
            self.file = os.memfd_create("disk")
            os.ftruncate(self.file, NUM_BLOCKS * BLOCK)
        self.model = Model(NUM_BLOCKS, self.block, forgets=cls is Null)
        self.pending = []
        self.opened = {}
        self.locks = []
        self.lent = []  # ZCOPYs between their phases
        self.tries = 0
        self.steps = self.ended_ios = 0
        self.resetting = 0
        self.calm = self.steered and not self.limits and cls is Disk
        self.root = Node("Disk", self.cls.kind, None, 0)
        self.nodes = [self.root]
        self.attach_disk()
        self.open_all(self.root)

    def attach_disk(self):
        params = {"num_blocks": NUM_BLOCKS, "block_size": BLOCK, **self.metadata}
        if self.file is not None:
            # By a path of its own, and not shared with who may have the last one open still.
            params = {"filename": f"/proc/self/fd/{self.file}", "block_size": BLOCK}
        self.trivial = {}  # I/Os that the disk's channel ends itself
        made = self.cls.Params(name="Disk", **params)
        self.run_down(self.spawn(self.stack.registry.create(self.cls, made)), finish=False)
        self.disk = self.stack.registry.get("Disk")

    # What is where

    def bdev(self, node):
        return self.stack.registry.get(node.name)

    def above(self, node):
        return [other for other in self.nodes if other is not node and other.stands_on(node)]

    def open(self, node, on):
        """Return an open of a node, for writing if it began before a layer claimed the bdev."""
        opened = self.opened.get((node.name, on))
        if opened is None or opened not in self.stack.descriptors:
            opened = self.stack.open(
                node.name, write=not self.above(node), on=on, hide_metadata=self.hides
            )
            self.opened[node.name, on] = opened
        return opened

    def open_all(self, node):
        for on in range(len(self.stack.reactors)):
            self.open(node, on)

    def free(self, spans, changes):
        return not any(
            pending.touches(first, count)
            for pending in self.pending
            if changes or pending.changes()
            for first, count in spans
        )

    # Rules: I/O

    @rule(ios=st.lists(ios, min_size=1, max_size=8))
    def burst(self, ios):
        for io in ios:
            self.io(**io)

    @rule(ios=st.lists(ios, min_size=3, max_size=12), us=st.integers(0, 500))
    def burst_and_go_on(self, ios, us):
        self.burst(ios)
        self.stack.pass_time(us)
        if self.steered:
            while self.disk.held:
                self.finish_one(us, "do")

    @rule(ios=st.lists(ios, min_size=1, max_size=6), which=st.integers(0, 20))
    def burst_and_abort(self, ios, which):
        self.burst(ios)
        if self.pending:
            self.abort(which)

    @rule(ios=st.lists(ios, min_size=1, max_size=6), on=st.integers(0, 2), turns=st.integers(0, 3))
    def burst_and_reset(self, ios, on, turns):
        self.burst(ios[:-1])
        self.io(**{**ios[-1], "op": Op.RESET})
        for _ in range(turns):
            self.stack.reactors.poll()
        self.burst([{**io, "on": on} for io in ios])

    def io(self, *, at, on, op, offset, source, count, cuts, byte, bare, fua, patient):
        node = self.nodes[at % len(self.nodes)]
        on %= len(self.stack.reactors)
        bdev, opened = self.bdev(node), self.open(node, on)
        if op in NO_RANGE:
            offset = count = 0
        if op in SEEKS or op == Op.GET_ZONE_INFO:
            count = 0
        if op == Op.ZCOPY:
            count = max(count, 1)
        where, from_where = node.first + offset, node.first + source
        refusal, early = self.refusal(bdev, opened, op, offset, source, count, fua)
        unfit = op in BY_WRITES and any(
            count and ((where - each.first) % self.write_unit or count % self.write_unit)
            for each in node.path()
        )
        spans = [(where, count)] + ([(from_where, count)] if op == Op.COPY else [])
        if op in SEEKS:
            spans = [(0, NUM_BLOCKS)]
        if op == Op.FLUSH:
            spans = []
        if refusal:
            spans = []
        elif not self.free(spans, op in CHANGES):
            return
        payload, pieces, more = None, None, {"src_offset_blocks": source}
        if op in DATA_OPS and not (op == Op.READ and bare):
            content = bytes([byte]) * (count * self.block)
            if op in (Op.COMPARE, Op.COMPARE_AND_WRITE) and not refusal and byte % 2:
                content = node.turned(self.model.guess(where, count))  # right as often as not
            payload = memoryview(bytearray(content))
            edges = sorted({0, len(payload), *(cut % (len(payload) + 1) for cut in cuts)})
            pieces = [payload[a:b] for a, b in pairwise(edges)] or [payload]
        if op == Op.COMPARE_AND_WRITE:
            more["write_data"] = bytes([byte ^ 0x5A]) * (count * self.block)
        if op == Op.GET_ZONE_INFO:
            pieces = bytearray(32)
        if fua and op == Op.WRITE:
            more["flags"] = IoFlag.FUA

        pending = Pending(op, node, opened, spans)
        pending.refusal, pending.early = refusal, early
        pending.may_abort = bool(self.resetting)
        # Parts of write units: a layer with another beginning has others than its base.
        pending.unfit = unfit
        # Pieces that a limit of segments cuts within a block or unit can not be carried out.
        pending.may_be_cut = (
            self.limits.get("max_num_segments")
            and any(cut % (self.block * self.write_unit) for cut in cuts)
            and pieces
        )
        pending.blocks = (where, count)
        pending.source = from_where
        pending.offset = offset
        pending.payload, pending.before = payload, bytes(payload) if payload is not None else b""
        pending.new = {
            Op.WRITE: pending.before,
            Op.COMPARE_AND_WRITE: more.get("write_data"),
            Op.UNMAP: bytes(count * self.block),
            Op.WRITE_ZEROES: bytes(count * self.block),
            Op.ZCOPY: bytes([byte]) * (count * self.block),
        }.get(op)
        pending.fua = bool(fua and op == Op.WRITE)
        pending.ready = lambda: self.submit(
            pending, op, offset, count, pieces, callback=lambda r: self.ended(pending, r), **more
        )
        if any(op not in self.bdev(each).ops for each in node.path()):
            self.calm = False  # it is, or may be, emulated
        self.pending.append(pending)
        self.go(pending, patient=patient)

    def refusal(self, bdev, opened, op, offset, source, count, fua):
        """Return with which errno an I/O is refused, or 0; and whether before a RESET is felt."""
        if not bdev.can(op) or (self.hides and op == Op.ZCOPY):
            return errno.ENOTSUP, True
        if op in WRITE_OPS and not opened.descriptor.write:
            return errno.EBADF, True
        if fua and op == Op.WRITE and bdev.write_cache and not bdev.fua:
            return errno.ENOTSUP, True
        if offset + count > bdev.num_blocks:
            return errno.EINVAL, True
        unit = self.write_unit
        late = (
            (op == Op.COPY and source + count > bdev.num_blocks)
            or (op == Op.COMPARE_AND_WRITE and count > bdev.acwu)
            or (op == Op.WRITE and count and (offset % unit or count % unit))
            or (op in SEEKS and offset >= bdev.num_blocks)
        )
        return (errno.EINVAL if late else 0), False

    def submit(self, pending, *words, **more):
        return pending.opened.submit(*words, **more)

    def go(self, pending, *, patient):
        """Submit it now; where no BdevIO is free wait in line for one, or give up."""
        if pending.opened not in self.stack.descriptors:
            self.pending.remove(pending)  # it was removed while this waited
            return
        pending.locks = [
            lock
            for lock in self.locks
            if pending.op in LOCKED
            and lock.task.done
            and pending.node.stands_on(lock.node)
            and pending.touches(lock.first, lock.count)
        ]
        pending.frozen = (
            self.steered and pending.node is self.root and pending.op != Op.RESET
        ) and self.disk.holds_reset
        pending.may_abort |= bool(self.resetting) or pending.frozen
        if self.steered:
            pending.serials = list(self.disk.serials)
            # One that comes while another is under way ends with that one.
            pending.resets = self.disk.resets - bool(self.resetting)
        if pending.op == Op.RESET:
            self.expect_aborts()
            self.resetting += 1
        pending.request = pending.ready()
        if pending.request is not None:
            return
        self.resetting -= pending.op == Op.RESET
        reactor, engine = pending.opened.reactor, pending.opened.requests.engine
        assert engine.ios_in_use >= engine.pool_size or self.somebody_waits(engine)
        if patient:
            with reactor.here():
                engine.io_wait(lambda: self.go(pending, patient=True))
        else:
            self.pending.remove(pending)

    def somebody_waits(self, engine):
        return any(p.request is None and p.opened.requests.engine is engine for p in self.pending)

    # What an end means

    def ended(self, pending, request):
        pending.ends += 1
        assert pending.ends == 1, f"{pending.op.name} ends twice"
        self.pending.remove(pending)
        self.ended_ios += 1
        op, status = pending.op, request.status
        if op == Op.RESET:
            self.resetting -= 1
        if status == Status.ABORTED and (pending.may_abort or pending.frozen):
            assert not (pending.refusal and pending.early), "refused, and aborted"
            self.not_done(pending)
            return
        if pending.refusal:
            found = (Status(status), errno.errorcode.get(request.errno))
            assert found == (Status.FAILED, errno.errorcode[pending.refusal]), (op, found)
            return
        assert not pending.frozen, f"{op.name} was let in while a RESET was under way"
        if status == Status.SUCCESS:
            assert not pending.must_abort, f"{op.name} was aborted, and succeeds"
            assert op != Op.WRITE or not pending.unfit, "a WRITE of parts of write units succeeds"
        onto_itself = op == Op.COPY and pending.source == pending.blocks[0]
        if status in (Status.SUCCESS, Status.MISCOMPARE) and not onto_itself:
            assert all(lock.released for lock in pending.locks), f"{op.name} in a quiesced range"
        if status == Status.SUCCESS:
            if op == Op.ZCOPY:
                self.lend(pending, request)
            else:
                self.succeeded(pending, request)
        elif status == Status.MISCOMPARE:
            assert op in (Op.COMPARE, Op.COMPARE_AND_WRITE)
            shown = pending.node.turned(pending.before)
            assert not self.model.must_be(pending.blocks[0], shown), "equal, and said to differ"
        else:
            self.failed(pending, request)
            self.not_done(pending)

    def succeeded(self, pending, request):
        op, node = pending.op, pending.node
        first, count = pending.blocks
        what = f"{op.name} of {count} blocks at {pending.offset} of {node.name}"
        self.count(pending)
        if pending.payload is not None and op != Op.READ:
            assert pending.payload == pending.before, "the writer's data has changed"
        if op in (Op.READ, Op.COMPARE, Op.COMPARE_AND_WRITE) and pending.payload is not None:
            self.model.found(first, node.turned(pending.payload), what)
        if pending.new is not None:
            self.model.write(first, node.turned(pending.new))
        if op == Op.COPY:
            self.model.copy(pending.source, first, count)
        elif op == Op.SEEK_DATA:
            end = node.first + self.bdev_blocks(node)
            to = end if request.result == NOWHERE else node.first + request.result
            assert first <= to <= end, f"{what} finds {request.result}"
            self.hole(node, first, to - first, what)
        elif op == Op.SEEK_HOLE:
            assert request.result == NOWHERE or request.result >= pending.offset, what
            if request.result < self.bdev_blocks(node):
                self.hole(node, node.first + request.result, 1, what)
        elif op == Op.RESET and self.steered and not self.eaten(node):
            assert self.disk.resets > pending.resets, "RESET ends, and the disk was not reset"
        if self.steered and (op == Op.FLUSH or pending.fua):
            begin = first
            if op == Op.FLUSH and not count:
                begin, count = 0, NUM_BLOCKS
            then = pending.serials if op == Op.FLUSH else self.disk.serials
            for block in range(begin, begin + count):
                assert self.disk.stable_serials[block] >= then[block], f"{what}: not durable"

    def bdev_blocks(self, node):
        bdev = self.stack.registry.find(node.name)
        return bdev.num_blocks if bdev else NUM_BLOCKS

    def eaten(self, node):
        """Whether a layer keeps RESETs to itself, or they may end without one of the disk."""
        return any(each.kind == "error" for each in node.path()) or self.limits.get(
            "reset_io_drain_timeout"
        )

    def hole(self, node, first, count, what):
        if not node.flips:
            assert self.model.may_be_zero(first, count), f"{what}: no hole"

    def not_done(self, pending):
        """It failed or was aborted: what it changes may be changed, or not."""
        self.calm = False
        first, count = pending.blocks
        if pending.refusal or not pending.changes():
            return
        if pending.op == Op.COPY:
            self.model.copy(pending.source, first, count, done=False)
        else:
            self.model.may_have_written(first, pending.node.turned(pending.new))

    def failed(self, pending, request):
        """Hold that a failure is one that somebody asked for."""
        found = (Status(request.status).name, errno.errorcode.get(request.errno))
        if (pending.may_be_cut or pending.unfit) and found == ("FAILED", "EINVAL"):
            return
        asked_for = pending.may_fail or pending.may_abort or self.injects(pending.node)
        assert asked_for, (pending.op.name, pending.node.name, found)
        if found[0] == "FAILED" and not self.injects(pending.node):
            if pending.op == Op.RESET:
                return
            assert found[1] == "EREMOTEIO", (pending.op.name, found)
        elif found[0] == "NVME_ERROR":
            assert self.injects(pending.node)
            assert request.detail == 2 << 8 | 0x81
        else:
            assert found[0] == "FAILED", (pending.op.name, found)

    def injects(self, node):
        return any(each.kind == "error" for each in node.path())

    def count(self, pending):
        """Note what shall be counted."""
        op, count = pending.op, pending.blocks[1]
        if op in (Op.READ, Op.WRITE):
            for node in pending.node.path():
                node.passed[op] = node.passed.get(op, 0) + count
        if pending.node is self.root and (
            (op == Op.COPY and (not count or pending.source == pending.blocks[0]))
            or (op == Op.UNMAP and not count)
        ):
            name = "copy" if op == Op.COPY else "unmap"
            ops, blocks = self.trivial.get(name, (0, 0))
            self.trivial[name] = (ops + 1, blocks + count)

    # ZCOPY

    def lend(self, pending, request):
        """Between the phases of a ZCOPY: it is in flight, and its memory is ours."""
        first, _count = pending.blocks
        self.model.found(first, pending.node.turned(b"".join(request.zcopy_data)), "ZCOPY")
        self.pending.append(pending)
        self.lent.append(pending)

    @rule(which=st.integers(0, 10), change=st.booleans(), commit=st.booleans())
    def give_back(self, which, change, commit):
        if not self.lent:
            return
        pending = self.lent.pop(which % len(self.lent))
        first = pending.blocks[0]
        change = change and not self.protected  # whoever does has to make what belongs to it
        if change:
            at = 0
            for view in pending.request.zcopy_data:
                view[:] = pending.new[at : at + len(view)]
                at += len(view)
        pending.ends = 0
        pending.frozen = False

        def given_back(request):
            pending.ends += 1
            assert pending.ends == 1
            self.pending.remove(pending)
            if change and commit and request.status == Status.SUCCESS:
                self.model.write(first, pending.node.turned(pending.new))
            elif change:
                self.model.may_have_written(first, pending.node.turned(pending.new))
            if request.status != Status.SUCCESS:
                self.calm = False
                assert pending.may_abort or self.resetting
            pending.opened._leave()

        pending.may_abort |= bool(self.resetting)
        with pending.opened.reactor.here():
            pending.opened.requests.zcopy_end(pending.request, commit, given_back)

    # Aborts, failures, time

    def expect_aborts(self, below=None):
        """A RESET, or the removal of `below`, ends what waits."""
        for pending in self.pending:
            pending.may_abort |= below is None or pending.node.stands_on(below)

    @rule(which=st.integers(0, 20))
    def abort(self, which):
        if not self.pending:
            return
        victim = self.pending[which % len(self.pending)]
        if victim.request is None or victim.request.done or victim in self.lent:
            return
        if victim.opened not in self.stack.descriptors:
            return
        aborts = Pending(Op.ABORT, victim.node, victim.opened, [])
        aborts.frozen = False
        if victim.op not in (Op.ABORT, Op.RESET):
            victim.may_abort = True
        self.calm = False

        def ended(request):
            aborts.ends += 1
            assert aborts.ends == 1
            self.pending.remove(aborts)
            assert request.status in (Status.SUCCESS, Status.FAILED, Status.ABORTED)
            if request.status == Status.ABORTED:
                assert aborts.may_abort
            if request.status == Status.SUCCESS:
                assert victim.op not in (Op.RESET, Op.ABORT)
                victim.must_abort = True
                assert victim.request.status != Status.SUCCESS, "aborted, and had succeeded"

        aborts.may_abort = bool(self.resetting)
        self.pending.append(aborts)
        aborts.request = victim.opened.submit(Op.ABORT, 0, 0, victim=victim.request, callback=ended)
        if aborts.request is None:
            self.pending.remove(aborts)

    @precondition(lambda self: self.steered)
    @rule(
        which=st.integers(0, 20),
        times=st.integers(1, 6),
        how=st.sampled_from(["do"] * 6 + ["fail", "nomem"]),
    )
    def finish(self, which, times, how):
        for _ in range(min(times, len(self.disk.held))):
            if self.disk.held:
                self.finish_one(which, how)

    def finish_one(self, which, how):
        failed = self.disk.finish(which, how)
        if failed is not None:
            op, offset, count = failed
            for pending in self.pending:
                # A FLUSH or RESET has no place of its own; and an emulated SEEK fails nowhere.
                if pending.op == op or pending.touches(offset, count) or not count:
                    pending.may_fail = True
            self.calm = False

    @precondition(lambda self: self.steered)
    @rule(room=st.sampled_from([1, 2, 5, 1000]))
    def have_room(self, room):
        self.disk.room = room

    @rule()
    def turn(self):
        self.stack.reactors.poll()

    @rule(us=st.integers(1, 300))
    def wait(self, us):
        self.stack.pass_time(us)

    # Rules: the stack

    @precondition(lambda self: len(self.nodes) > 1)
    @rule(which=st.integers(0, MAX_NODES))
    def second_writer(self, which):
        node = self.nodes[which % len(self.nodes)]
        if not self.above(node):
            return
        with pytest.raises(BdevError) as refusal:
            self.stack.open(node.name)
        assert refusal.value.errno == errno.EPERM

    @precondition(lambda self: len(self.nodes) < MAX_NODES)
    @rule(kind=st.sampled_from(sorted(LAYERS)), which=st.integers(0, MAX_NODES))
    def add_layer(self, kind, which):
        free = [node for node in self.nodes if not self.above(node) and node.depth < MAX_DEPTH]
        if not free:
            return
        base = free[which % len(free)]
        size = self.bdev(base).num_blocks
        if kind in ("window", "split") and size < 8:
            return
        if kind == "split" and (size // 2) % self.write_unit:
            return
        if kind in FLIPS and self.protected:
            return  # what is inverted is not what was protected
        self.tries += 1
        name = f"L{self.tries}"
        key, cls, params = wish(self.layers, kind, name, base.name)
        self.run_down(self.spawn(self.stack.registry.create(cls, params)), finish=False)
        first = base.first
        if kind == "split":
            made = [Node(f"{base.name}p{n}", kind, base, first + n * (size // 2)) for n in range(2)]
        else:
            shift = size // 4 if kind == "window" else 0
            made = [Node(name, kind, base, first + shift)]
        for node in made:
            node.key, node.wish = key, (cls, params)
            self.nodes.append(node)
            self.open_all(node)
        if kind in ("late", "narrow", "error", "poor", "turns"):
            self.calm = False

    @precondition(lambda self: any(node.kind == "error" for node in self.nodes))
    @rule(
        which=st.integers(0, MAX_NODES),
        status=st.sampled_from(["failure", "nomem", "nvme_failure", "pending"]),
        op=st.sampled_from(["read", "write", "unmap", "flush", "all"]),
        times=st.integers(1, 3),
    )
    def inject(self, which, status, op, times):
        nodes = [node for node in self.nodes if node.kind == "error"]
        bdev = self.bdev(nodes[which % len(nodes)])
        nvme = {"nvme_sct": 2, "nvme_sc": 0x81} if status == "nvme_failure" else {}
        bdev.inject(InjectParams(name=bdev.name, io_type=op, error_type=status, num=times, **nvme))
        self.calm = False

    @rule(which=st.integers(0, MAX_NODES), on=st.integers(0, 2))
    def close_one(self, which, on):
        """Close what is idle: the next I/O makes a new channel, whatever is in force by then."""
        node = self.nodes[which % len(self.nodes)]
        opened = self.opened.get((node.name, on % len(self.stack.reactors)))
        busy = any(pending.opened is opened for pending in self.pending)
        if opened in self.stack.descriptors and not opened.requests.in_flight and not busy:
            opened.close()

    @rule(
        which=st.integers(0, MAX_NODES),
        offset=st.integers(0, NUM_BLOCKS),
        count=st.integers(1, NUM_BLOCKS),
    )
    def quiesce(self, which, offset, count):
        node = self.nodes[which % len(self.nodes)]
        bdev = self.bdev(node)
        offset %= bdev.num_blocks
        count = min(count, bdev.num_blocks - offset)
        if len(self.locks) < 3:
            task = self.spawn(bdev.quiesce(type(bdev), offset, count))
            self.locks.append(Lock(node, offset, count, task))

    @rule(which=st.integers(0, 3))
    def unquiesce(self, which):
        if not self.locks:
            return
        lock = self.locks[which % len(self.locks)]
        if not lock.task.done:
            return
        lock.task.result()
        self.locks.remove(lock)
        twins = [
            other
            for other in self.locks
            if other.node is lock.node
            and (other.offset, other.count, other.task.done) == (lock.offset, lock.count, True)
        ]
        assert not twins
        lock.released = True
        bdev = self.bdev(lock.node)
        task = self.spawn(bdev.unquiesce(type(bdev), lock.offset, lock.count))
        for _ in range(200):
            if not task.done:
                self.stack.reactors.poll()
        task.result()

    @precondition(lambda self: len(self.nodes) > 1)
    @rule(which=st.integers(0, MAX_NODES), returns=st.booleans())
    def remove_layer(self, which, returns):
        """A layer goes, and all above it; it returns, and they with it, or all is forgotten."""
        node = self.nodes[1:][which % len(self.nodes[1:])]
        self.unlock_all()
        for other in self.nodes:
            if other.key == node.key:
                self.expect_aborts(other)
        creations = self.stack.registry.creations
        self.run_down(self.spawn(self.stack.registry.delete_creation(creations[node.key])))
        mine = [other for other in self.nodes if other.key == node.key]
        gone = [other for other in self.nodes if any(other.stands_on(one) for one in mine)]
        for other in gone:
            assert self.stack.registry.find(other.name) is None
            assert not any(name == other.name for name, _ in self.open_now())
        if returns:
            self.run_down(self.spawn(self.stack.registry.create(*node.wish)))
            for other in gone:
                assert self.bdev(other).state is BdevState.READY
                other.passed = {}
                self.open_all(other)
        else:
            for key in {other.key for other in gone} - {node.key}:
                self.run_down(self.spawn(self.stack.registry.delete_creation(creations[key])))
            self.nodes = [other for other in self.nodes if other not in gone]

    def open_now(self):
        return [key for key, opened in self.opened.items() if opened in self.stack.descriptors]

    @rule(rebuild=st.booleans(), cut=st.booleans(), patience=st.integers(0, 3))
    def remove_disk(self, rebuild, cut, patience):
        """Everything goes, from the top, and comes back; `cut`: as the power leaves it."""
        if patience:  # it ends all that is under way: not too often
            return
        self.unlock_all()
        self.expect_aborts()
        task = self.spawn(self.stack.registry.delete("Disk", self.cls.kind))
        self.stack.reactors.poll()
        self.run_down(task)
        assert list(self.stack.registry) == []
        assert not self.stack.descriptors
        if not rebuild:
            for key in list(self.stack.registry.creations):
                creation = self.stack.registry.creations[key]
                self.run_down(self.spawn(self.stack.registry.delete_creation(creation)))
            self.nodes = [self.root]
        self.opened = {}
        if self.steered:
            self.cls.stored = bytes(self.disk.stable) if cut else bytes(self.disk.bytes)
            self.model.load(self.cls.stored)
        elif self.file is None:
            self.model.load(bytes(NUM_BLOCKS * self.block))
        self.attach_disk()
        names = sorted(bdev.name for bdev in self.stack.registry)
        assert names == sorted(node.name for node in self.nodes)
        for node in self.nodes:
            node.passed = {}
            self.open_all(node)

    # Letting things end

    def spawn(self, coroutine):
        with self.stack.reactor.here():
            task = self.stack.reactor.spawn(coroutine)
        task.add_done_callback(lambda _task: None)
        return task

    def patience(self):
        """Yield as long as it makes sense to wait: until no I/O has ended for long."""
        ended, quiet, since = self.ended_ios, 0, time.monotonic()
        while quiet < 2000 or (self.file is not None and time.monotonic() < since + PATIENCE_S):
            yield
            quiet += 1
            if self.file is not None and quiet > 50:
                time.sleep(0.0005)  # the kernel has its own time
            if self.ended_ios != ended:
                ended, quiet, since = self.ended_ios, 0, time.monotonic()

    def unlock_all(self):
        """Let all locks be taken and given back."""
        for _ in self.patience():
            for lock in [lock for lock in self.locks if lock.task.done]:
                self.unquiesce(self.locks.index(lock))
            if not self.locks:
                return
            self.stack.pass_time(100)
            self.let_go()
        raise AssertionError("a range can not be quiesced")

    def let_go(self):
        """Let the disk, and those who hold something, go on."""
        while self.lent:
            self.give_back(0, change=True, commit=True)
        if self.steered:
            while self.disk.held:
                self.finish_one(0, "do")
        for node in self.nodes:
            bdev = self.stack.registry.find(node.name)
            if node.kind == "error" and bdev is not None:
                for channel in entry_of(bdev).channels():
                    with channel.reactor.here():
                        bdev.resume(channel)

    def run_down(self, task=None, *, finish=True):
        """Carry on until everything in flight has ended; with a task, until that has."""
        for _ in self.patience():
            if task is not None and task.done and (not finish or not self.pending):
                break
            if task is None and not self.pending:
                break
            self.stack.pass_time(100)
            if finish:
                self.let_go()
        if finish:
            left = [(pending.op.name, pending.node.name) for pending in self.pending]
            assert not left, f"these do not end: {left}"
        if task is not None:
            waits = {
                bdev.name: (bdev.holders(), entry_of(bdev).outstanding)
                for bdev in self.stack.registry
            }
            assert task.done, f"it does not end; bdevs, who has them open, I/Os: {waits}"
            task.result()

    # What always holds

    @invariant()
    def nothing_is_lost(self):
        if not hasattr(self, "stack"):
            return
        self.steps += 1
        engines = self.stack.engines
        submitted = sum(pending.request is not None for pending in self.pending)
        assert sum(engine.ios_in_use for engine in engines) >= submitted
        assert sum(engine.misused for engine in engines) == 0, "completed, and nobody held it"
        assert self.stack.errors == [], self.stack.errors
        event("waiting" if any(engine.waiting for engine in engines) else "not waiting")
        if not self.pending:
            self.nothing_in_flight()

    def nothing_in_flight(self):
        self.stack.settle()
        if self.pending:
            return
        for engine in self.stack.engines:
            assert (engine.ios_in_use, engine.waiting, engine.reserve_in_use) == (0, 0, 0)
            assert engine.buffers.live_buffers == 0
        if self.steered:
            counted = {
                name: stat[:2]
                for name, stat in entry_of(self.disk).iostat().stats.items()
                if any(stat[:2])
            }
            did = {}
            for name in ("read", "write", "unmap", "copy"):
                parts = (self.disk.done.get(name, (0, 0)), self.trivial.get(name, (0, 0)))
                total = tuple(map(sum, zip(*parts, strict=True)))
                if any(total):
                    did[name] = total
            assert counted == did, f"counted: {counted}; the disk did {did}"
        for node in self.nodes:
            stats = entry_of(self.bdev(node)).iostat().stats
            for op, name in ((Op.READ, "read"), (Op.WRITE, "write")):
                counted, passed = stats[name][1], node.passed.get(op, 0)
                assert counted >= passed, (node.name, name)
                if self.calm:
                    assert counted == passed, (node.name, name)

    def teardown(self):
        if not hasattr(self, "stack"):
            return
        if sys.exc_info()[0] is None:
            self.unlock_all()
            self.run_down()
            self.nothing_in_flight()
            for at, node in enumerate(self.nodes):
                if self.injects(node):
                    continue
                size = self.bdev(node).num_blocks
                for offset in range(0, size, 8):
                    self.read_back(at, offset, min(8, size - offset))
            self.stack.settle()
            self.run_down(self.spawn(self.stack.registry.close()), finish=False)
            self.stack.close()
        else:
            self.abandon()
        type(self).ran = (self.steps, self.ended_ios)
        if self.file is not None:
            os.close(self.file)

    def abandon(self):
        """Give back what outlives an example that is given up half-way."""
        for reactor in self.stack.reactors:
            for task in reactor._ready:
                if inspect.getcoroutinestate(task._coroutine) == inspect.CORO_CREATED:
                    task._coroutine.close()  # else Python complains that nobody awaited it
        if self.file is not None:
            self.abandon_file()

    def abandon_file(self):
        """Give back the threads of the file's workers, and its lock."""
        for reactor in self.stack.reactors:
            found = reactor.locals.pop(FileService, None)
            if found is not None:
                workers = found._workers
                for _ in workers._threads:
                    workers._jobs.put(None)
                for thread in workers._threads:
                    thread.join()
        inode = os.fstat(self.file).st_ino
        for key in [key for key in access._open_files if key[-1] == inode]:
            del access._open_files[key]

    def read_back(self, at, offset, count):
        self.io(
            at=at,
            on=0,
            op=Op.READ,
            offset=offset,
            source=0,
            count=count,
            cuts=[],
            byte=0,
            bare=False,
            fua=False,
            patient=True,
        )
        self.run_down()
