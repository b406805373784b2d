"""Stacks of vbdevs under random I/O, removal and return, against a bytearray.

Method: a Hypothesis state machine on virtual time. The model is the disk's bytes; each layer says
how its blocks and its data map onto those below. I/Os that overlap are kept apart, so that what a
READ must return is always known. Pools are tiny, so that waiting and refusal are the normal case.
Held throughout: each request ends exactly once with a status that the model allows, counters equal
what passed, and at the end nothing is left in use.
"""

import errno
import sys
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, Phase, event, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from support.stack import Stack, layer
from vbdev.core.batch import IOBatch
from vbdev.modules.malloc import Malloc
from vbdev.modules.passthru import Passthru
from vbdev.vocab import WRITE_OPS, Op, Status

BLOCK = 512
NUM_BLOCKS = 64
MAX_LAYERS = 6
POOL = 12
BUFFERS = 8192  # two of 4 KiB, or one of 8
DATA_OPS = (Op.READ, Op.WRITE, Op.COMPARE)
PLAIN = frozenset({Op.READ, Op.WRITE, Op.FLUSH, Op.RESET, Op.ABORT, Op.COPY})


class Slow(Malloc):
    """A disk that carries out its I/Os when the test says so, or fails them undone."""

    kind = "slow"

    async def start(self):
        await super().start()
        self.held = []

    def submit(self, channel, ios):
        self.held += ios.split()

    def finish(self, which, *, fail):
        one = self.held.pop(which % len(self.held))
        if fail:
            one.complete(Status.FAILED, errno.EREMOTEIO)
        else:
            self._ram.execute(one)


class Aligned(Slow):
    """One that takes whole pages in memory only: nearly all data is bounced."""

    kind = "aligned"
    required_alignment = 12


def flip(views):
    for view in views:
        view[:] = bytes(byte ^ 0xFF for byte in view)


def flip_down(_self, channel, ios):
    ios.copy_data(Op.WRITE, Op.READ)
    flip(ios.data(Op.WRITE))
    channel.base.submit(ios)


def flip_up(_self, _channel, ios):
    flip(ios.data(Op.READ))


def shift_down(self, channel, ios):
    ios.shift(self.first)
    ios.copy_data(Op.WRITE)  # what has to wait for it comes back unshifted
    channel.base.submit(ios)


async def start_window(self):
    self.first = self.num_blocks // 4
    self.num_blocks -= 2 * self.first


def hold_up(self, channel, ios):
    """Keep what succeeded for a while; once in three times ask the base again for READs."""
    self.turns = getattr(self, "turns", 0) + 1
    if self.turns % 3 == 0:
        channel.base.submit(ios.take(Op.READ))
        return
    late = IOBatch()
    late.extend(ios.take(ios.statuses == Status.SUCCESS))
    self.base_descriptor.reactor.call_later(50, late.complete)


def gather_down(self, channel, ios):
    """Send what comes within 20 us as one batch."""
    if not getattr(self, "gathered", None):
        self.gathered = IOBatch()
        self.base_descriptor.reactor.call_later(
            20, lambda: channel.base.submit(self.gathered.take())
        )
    self.gathered.extend(ios)


LAYERS = {
    "passthru": Passthru,
    "flip": layer(flip_down, flip_up, kind="flip", ops=PLAIN),
    "gather": layer(gather_down, kind="gather", gives_read_buffers=True),
    "window": layer(shift_down, kind="window", start=start_window, gives_read_buffers=True),
    "late": layer(None, hold_up, kind="late"),
}


ios = st.fixed_dictionaries(
    {
        "level": st.sampled_from([0, 1, 2, 3, 4, MAX_LAYERS, MAX_LAYERS, MAX_LAYERS]),
        "op": st.sampled_from(
            [Op.READ] * 4
            + [Op.WRITE] * 4
            + [
                Op.UNMAP,
                Op.WRITE_ZEROES,
                Op.COPY,
                Op.COMPARE,
                Op.FLUSH,
                Op.SEEK_DATA,
                Op.ZONE_APPEND,
            ]
        ),
        "offset": st.integers(0, NUM_BLOCKS + 2),
        "source": st.integers(0, NUM_BLOCKS + 2),
        "count": st.integers(0, 12),
        "cuts": st.lists(st.integers(0, 6000), max_size=3),
        "byte": st.integers(0, 255),
        "bare": st.booleans(),
    }
)


class Pending:
    """A request in flight, and what its end means for the model."""

    def __init__(self, op, spans, reads, effect):
        self.op, self.spans, self.reads, self.effect = op, spans, reads, effect
        self.request = None
        self.ends = 0
        self.may_fail = False


class Stacks(RuleBasedStateMachine):
    layers = LAYERS

    @initialize(cls=st.sampled_from([Malloc, Slow, Aligned]))
    def make(self, cls):
        self.stack = Stack(pool_size=POOL, buffer_limit_bytes=BUFFERS)
        self.cls = cls
        self.disk = self.stack.disk(cls, num_blocks=NUM_BLOCKS)
        self.names = []
        self.kinds = []
        self.data = bytearray(NUM_BLOCKS * BLOCK)
        self.pending = []
        self.opened = {}
        self.passed = {}
        self.asked_twice = set()

    # What is where

    def level_names(self):
        return ["Disk", *self.names]

    def bdev(self, level):
        return self.stack.registry.find(self.level_names()[level])

    def to_disk(self, level, offset):
        """Return where a block of a level is on the disk, and whether its data is flipped."""
        flipped = False
        for kind, name in zip(self.kinds[:level], self.names[:level], strict=True):
            if kind == "window":
                offset += self.stack.registry.find(name).first
            flipped ^= kind == "flip"
        return offset, flipped

    def free(self, spans, reads):
        return not any(
            start < p_start + p_count and p_start < start + count
            for p in self.pending
            if not (p.reads and reads)
            for start, count in spans
            for p_start, p_count in p.spans
        )

    # Rules: I/O

    @rule(ios=st.lists(ios, min_size=1, max_size=8))
    def burst(self, ios):
        for io in ios:
            self.io(**io)

    def io(self, *, level, op, offset, source, count, cuts, byte, bare):
        level = min(level, len(self.names))
        bdev = self.bdev(level)
        opened = self.open(level)
        if op in (Op.FLUSH, Op.RESET):
            offset = count = 0
        where, flipped = self.to_disk(level, offset)
        from_where, _ = self.to_disk(level, source)
        inside = offset + count <= bdev.num_blocks
        if op == Op.COPY:
            inside &= source + count <= bdev.num_blocks
        if op == Op.SEEK_DATA:
            inside &= offset < bdev.num_blocks
        spans = [(where, count)] + ([(from_where, count)] if op == Op.COPY else [])
        reads = op in (Op.READ, Op.COMPARE, Op.SEEK_DATA)
        if op == Op.SEEK_DATA:
            spans = [(0, NUM_BLOCKS)]
        if inside and not self.free(spans, reads):
            return
        payload = None
        if op in DATA_OPS and not (op == Op.READ and bare):
            payload = memoryview(bytearray([byte]) * (count * BLOCK))
        pieces = None
        if payload is not None:
            edges = sorted({0, len(payload), *(cut % (len(payload) + 1) for cut in cuts)})
            pieces = [payload[a:b] for a, b in pairwise(edges)] or [payload]
        span = slice(where * BLOCK, (where + count) * BLOCK)

        def expected():
            plain = self.data[span]
            return bytes(b ^ 0xFF for b in plain) if flipped else bytes(plain)

        before = payload.tobytes() if payload is not None else None

        def effect(request):
            if op == Op.READ and payload is not None:
                assert payload == expected(), f"READ of {count} at {offset} of level {level}"
            elif op == Op.WRITE:
                assert payload.tobytes() == before, "the writer's data changed"
                self.data[span] = bytes(b ^ 0xFF for b in before) if flipped else before
            elif op in (Op.UNMAP, Op.WRITE_ZEROES):
                self.data[span] = bytes(count * BLOCK)
            elif op == Op.COPY:
                at = from_where * BLOCK
                self.data[span] = self.data[at : at + count * BLOCK]
            elif op == Op.SEEK_DATA:
                found = min(request.result, bdev.num_blocks)
                first, _ = self.to_disk(level, 0)
                hole = self.data[(first + offset) * BLOCK : (first + found) * BLOCK]
                assert not any(hole)

        pending = Pending(op, spans if inside else [], reads, effect)
        supported = op in bdev.ops
        forbidden = op in WRITE_OPS and not opened.descriptor.write

        def ended(request):
            pending.ends += 1
            self.pending.remove(pending)
            if not supported:
                assert (request.status, request.errno) == (Status.FAILED, errno.ENOTSUP)
            elif forbidden:
                assert (request.status, request.errno) == (Status.FAILED, errno.EBADF)
            elif not inside:
                assert (request.status, request.errno) == (Status.FAILED, errno.EINVAL)
            elif request.status == Status.SUCCESS:
                effect(request)
                self.count(level, op, count)
            elif request.status == Status.MISCOMPARE:
                assert op == Op.COMPARE
                assert payload != expected()
            elif request.status == Status.FAILED:
                assert request.errno == errno.EREMOTEIO
                assert issubclass(self.cls, Slow)
            else:
                assert request.status == Status.ABORTED
                assert pending.may_fail or op in DATA_OPS

        self.pending.append(pending)
        pending.request = opened.submit(
            op, offset, count, pieces, callback=ended, src_offset_blocks=source
        )
        if pending.request is None:
            self.pending.remove(pending)
            assert self.stack.engine.ios_in_use == POOL

    def count(self, level, op, blocks):
        kind = {Op.READ: "read", Op.WRITE: "write", Op.UNMAP: "unmap", Op.COPY: "copy"}.get(op)
        if kind is None:
            return
        for name in self.level_names()[: level + 1]:
            ops, sum_blocks = self.passed.get((name, kind), (0, 0))
            self.passed[name, kind] = (ops + 1, sum_blocks + blocks)

    @precondition(lambda self: self.pending)
    @rule(which=st.integers(0, POOL))
    def abort(self, which):
        """Of what waits it is certain; the rest of the stack may say no."""
        victim = self.pending[which % len(self.pending)]
        if victim.op == Op.ABORT:
            return
        victim.may_fail = True
        pending = Pending(Op.ABORT, [], True, None)

        def ended(request):
            pending.ends += 1
            self.pending.remove(pending)
            assert request.status in (Status.SUCCESS, Status.FAILED)
            if request.status == Status.SUCCESS:
                assert victim.request.status in (Status.ABORTED, Status.PENDING)

        self.pending.append(pending)
        pending.request = self.open(len(self.names)).submit(
            Op.ABORT, 0, 0, victim=victim.request, callback=ended
        )
        if pending.request is None:
            self.pending.remove(pending)

    @rule(
        which=st.integers(0, 20),
        times=st.integers(1, 5),
        fail=st.sampled_from([False] * 3 + [True]),
    )
    def finish(self, which, times, fail):
        if issubclass(self.cls, Slow):
            for _ in range(min(times, len(self.disk.held))):
                self.disk.finish(which, fail=fail)

    @rule()
    def turn(self):
        self.stack.reactor.poll()

    @rule(us=st.integers(1, 200))
    def wait(self, us):
        self.stack.pass_time(us)

    # Rules: the stack

    def open(self, level):
        """Return an open of a level, for writing if it began before a layer claimed the bdev."""
        name = self.level_names()[level]
        if name not in self.opened or self.opened[name] not in self.stack.descriptors:
            self.opened[name] = self.stack.open(name, write=self.bdev(level).claim is None)
        return self.opened[name]

    @precondition(lambda self: len(self.names) < MAX_LAYERS)
    @rule(kind=st.sampled_from(sorted(LAYERS)))
    def add_layer(self, kind):
        self.open(len(self.names))
        if kind == "window" and self.bdev(len(self.names)).num_blocks < 8:
            return
        name = f"L{len(self.names)}"
        assert self.stack.layer(self.layers[kind], name=name, base=self.level_names()[-1])
        if kind == "late":
            self.asked_twice |= set(self.level_names())
        self.names.append(name)
        self.kinds.append(kind)
        self.open(len(self.names))

    @precondition(lambda self: self.names)
    @rule()
    def remove_top(self):
        name = self.names[-1]
        task = self.stack.reactor.spawn(self.stack.registry.delete(name, self.kinds[-1]))
        self.run_down(task)
        assert self.stack.registry.find(name) is None
        self.forget(name)
        self.names.pop()
        self.kinds.pop()

    @rule(rebuild=st.booleans())
    def remove_disk(self, rebuild):
        """Everything goes, from the top, and comes back with an empty disk unless it is deleted."""
        deleted = None if rebuild or not self.names else self.names[0]
        task = self.stack.reactor.spawn(self.stack.registry.delete("Disk", self.cls.kind))
        self.stack.reactor.poll()
        self.run_down(task)
        assert list(self.stack.registry) == []
        assert not self.stack.descriptors
        if deleted:
            for name, kind in zip(self.names, self.kinds, strict=True):
                self.stack.run(self.stack.registry.delete(name, kind))
            self.names, self.kinds = [], []
        self.opened, self.passed = {}, {}
        late = [at for at, kind in enumerate(self.kinds) if kind == "late"]
        self.asked_twice = set(self.level_names()[: late[-1] + 1]) if late else set()
        self.disk = self.stack.disk(self.cls, num_blocks=NUM_BLOCKS)
        assert [bdev.name for bdev in self.stack.registry] == self.level_names()
        self.data = bytearray(NUM_BLOCKS * BLOCK)
        for level in range(len(self.level_names())):
            self.open(level)

    def forget(self, name):
        self.opened.pop(name, None)
        self.asked_twice.discard(name)
        for key in [key for key in self.passed if key[0] == name]:
            del self.passed[key]

    def run_down(self, task=None):
        """Carry on until everything in flight has ended."""
        for _ in range(10_000):
            self.stack.pass_time(100)
            if issubclass(self.cls, Slow):
                while self.disk.held:
                    self.disk.finish(0, fail=False)
            elif not self.pending and (task is None or task.done):
                break
            if not self.pending and not self.stack.engine.pending and (task is None or task.done):
                break
        assert self.pending == []
        assert task is None or task.done
        if task is not None:
            task.result()

    # What always holds

    @invariant()
    def nothing_is_lost(self):
        if not hasattr(self, "stack"):
            return
        engine = self.stack.engine
        assert engine.ios_in_use == len(self.pending)
        assert engine.misused == 0
        assert self.stack.errors == [], self.stack.errors
        assert all(p.ends == 0 for p in self.pending)
        assert engine.waiting <= len(self.pending)
        event("waiting" if engine.waiting else "not waiting")

    @invariant()
    def counters_are_right(self):
        if hasattr(self, "stack") and not self.pending:
            for name in set(self.level_names()) - self.asked_twice:
                counted = self.stack.registry.find(name).iostat().stats
                for kind, stat in counted.items():
                    assert stat[:2] == self.passed.get((name, kind), (0, 0)), (name, kind)

    def teardown(self):
        if not hasattr(self, "stack"):
            return
        self.run_down()
        for level in range(len(self.level_names())):
            size = self.bdev(level).num_blocks
            for offset in range(0, size, 8):
                count = min(8, size - offset)
                self.io(
                    level=level,
                    op=Op.READ,
                    offset=offset,
                    source=0,
                    count=count,
                    cuts=[100],
                    byte=0,
                    bare=False,
                )
                self.run_down()
        self.stack.close()


def changes_the_writers_data(_self, channel, ios):
    flip(ios.data(Op.WRITE))
    channel.base.submit(ios)


def forgets_a_write(_self, channel, ios):
    ios.take(ios.offset_blocks % 16 == 3).complete()
    channel.base.submit(ios)


def loses_an_io(_self, channel, ios):
    ios.take(ios.num_blocks == 7)
    channel.base.submit(ios)


def is_off_by_one(_self, channel, ios):
    ios.shift(1)
    channel.base.submit(ios)


@pytest.mark.parametrize(
    "fault", [changes_the_writers_data, forgets_a_write, loses_an_io, is_off_by_one]
)
def test_the_machine_finds_faults(fault):
    """A rig that finds nothing proves nothing: each of these layers must fail it."""

    class Canary(Stacks):
        layers = {**LAYERS, "passthru": layer(fault, kind="passthru")}

        def teardown(self):
            if hasattr(self, "stack") and sys.exc_info()[0] is None:
                super().teardown()

    with pytest.raises((AssertionError, ExceptionGroup)):
        run_state_machine_as_test(
            Canary,
            settings=settings(
                TestStacks.settings, max_examples=1000, database=None, phases=[Phase.generate]
            ),
        )


TestStacks = Stacks.TestCase
TestStacks.settings = settings(
    max_examples=200,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestStacks = pytest.mark.skip(reason="its model does not know emulation yet")(TestStacks)
