"""The way up in runs: what goes up together is counted, shown and put back as if it went alone.

Method: I/Os of one owner on two stacks, of types, lengths and times drawn at random, completed in
any order and not all with success; counters, what `completed` saw, and the order of callbacks are
those that a model in a few lines of Python has.
"""

import itertools
import random

import pytest

from support.stack import Stub, describe, layer, stack
from vbdev.core.counts.histogram import Histogram
from vbdev.core.engine.batch import IOBatch
from vbdev.core.load.loadgen import LoadGenerator
from vbdev.modules.malloc import Malloc
from vbdev.vocab import Op, Status

COUNTED = {Op.READ: "read", Op.WRITE: "write", Op.UNMAP: "unmap"}
OPS = (Op.READ, Op.READ, Op.READ, Op.WRITE, Op.UNMAP, Op.FLUSH)
SHIFT = 100
LAYERS = ("plain", "shifting", "watching", "shifting and watching", "counting")


def build(s, name, kinds):
    """Make a stack; return what its watching layers will have seen, by the layers' numbers."""
    s.disk(Stub, name=f"{name}0", num_blocks=4096)
    seen = {}
    for number, kind in enumerate(kinds, 1):
        submit = completed = None
        if "shifting" in kind:

            def submit(_self, channel, ios):
                ios.shift(SHIFT)
                channel.base.submit(ios)

        if "watching" in kind:

            def completed(_self, _channel, ios, number=number):
                seen[number] += zip(describe(ios), ios.statuses.tolist(), strict=True)

            seen[number] = []
        s.layer(layer(submit, completed), name=f"{name}{number}", base=f"{name}{number - 1}")
    return seen


def channels(top):
    """Yield the channels of a stack from the top down."""
    while top is not None:
        yield top
        top = getattr(top, "base", None)


class Model:
    """What is expected of one stack: I/Os as (op, offset, blocks, submitted, ended, status)."""

    def __init__(self, kinds):
        self.kinds = kinds
        self.ended = []

    def stats(self):
        out = dict.fromkeys(("read", "write", "unmap", "copy"), (0, 0, 0, 0, 0))
        for op, name in COUNTED.items():
            mine = [io for io in self.ended if io[0] == op and io[5] == Status.SUCCESS]
            if mine:
                took = [ended - submitted for _, _, _, submitted, ended, _ in mine]
                blocks = sum(io[2] for io in mine)
                out[name] = (len(mine), blocks, sum(took), max(took), min(took))
        return out

    def errors(self):
        failed = sum(io[5] != Status.SUCCESS for io in self.ended)
        return {Status.FAILED: failed} if failed else {}

    def seen_by(self, number):
        above = sum("shifting" in kind for kind in self.kinds[number:])
        return [
            ((op, offset + SHIFT * above, blocks), status)
            for op, offset, blocks, _, _, status in self.ended
        ]


@pytest.mark.parametrize("seed", range(20))
def test_runs_are_as_good_as_one_at_a_time(seed):
    rng = random.Random(seed)
    with stack() as s:
        names = ("A", "B")
        models = {
            name: Model([rng.choice(LAYERS) for _ in range(rng.randrange(4))]) for name in names
        }
        seen = {name: build(s, name, models[name].kinds) for name in names}
        tops = {name: s.open(f"{name}{len(models[name].kinds)}") for name in names}
        for name, model in models.items():
            for channel, kind in zip(
                channels(tops[name].channel), reversed(model.kinds), strict=False
            ):
                if kind == "counting":
                    channel.set_histogram(Histogram(ops=1 << Op.READ))
        owner = tops["A"].requests
        told = {name: [] for name in names}
        held = {name: [] for name in names}
        for _ in range(12):
            for _ in range(rng.randrange(1, 9)):
                name = rng.choice(names)
                op, at, blocks = rng.choice(OPS), rng.randrange(2048), rng.randrange(1, 9)
                io = (op, at, blocks, s.engine.clock_ns())
                data = bytearray(blocks * 512) if op in (Op.READ, Op.WRITE) else None
                with tops[name].reactor.here():
                    owner.submit(
                        tops[name].channel,
                        op,
                        at,
                        blocks,
                        data,
                        callback=lambda request, name=name, io=io: told[name].append(
                            (*io, s.engine.clock_ns(), request.status)
                        ),
                    )
                held[name].append(io)
                if rng.random() < 0.3:
                    s.pass_time(rng.randrange(1, 1000))
            order = [(name, i) for name in names for i in range(len(held[name]))]
            rng.shuffle(order)
            chosen = order[: rng.randrange(len(order) + 1)]
            now = s.engine.clock_ns()
            for (name, status), group in itertools.groupby(
                chosen, lambda one: (one[0], rng.choice([Status.SUCCESS] * 7 + [Status.FAILED]))
            ):
                which = [i for _, i in group]
                models[name].ended += [(*held[name][i], now, status) for i in which]
                finish(s.registry.find(f"{name}0"), which, status)
            for name in names:
                gone = {i for one, i in chosen if one == name}
                held[name] = [io for i, io in enumerate(held[name]) if i not in gone]
                disk = s.registry.find(f"{name}0")
                disk.held = [one for one in disk.held if len(one)]
            s.settle()
        for name in names:
            s.registry.find(f"{name}0").complete()
            models[name].ended += [(*io, s.engine.clock_ns(), Status.SUCCESS) for io in held[name]]
        s.settle()
        for name, model in models.items():
            assert told[name] == model.ended
            assert {number: model.seen_by(number) for number in seen[name]} == seen[name]
            top = tops[name].channel
            for channel, kind in itertools.zip_longest(channels(top), reversed(model.kinds)):
                assert channel.stats() == model.stats()
                assert channel.errors() == model.errors()
                assert channel.outstanding == 0
                if kind == "counting":
                    reads = sum(io[0] == Op.READ for io in model.ended)
                    assert channel.histogram_copy().total == reads


def finish(disk, which, status):
    """Complete what a Stub holds, and leave the places empty."""
    for i in which:
        disk.held[i].complete(status)


def test_a_batch_that_a_module_keeps_is_not_used_again():
    kept = []
    with stack() as s:
        disk = s.disk(Stub)
        s.layer(layer(None, lambda _self, _channel, ios: kept.append(ios)))
        top = s.open("Top")
        for _ in range(3):
            top.submit(Op.READ, 0, 1, bytearray(512))
            disk.complete()
            s.settle()
        assert len({id(ios) for ios in kept}) == 3
        kept.append(IOBatch())
        kept[-1].extend(kept[0])
        assert [len(ios) for ios in kept] == [0, 0, 0, 0]


def test_what_completed_holds_back_goes_up_later_once():
    """Every other I/O of a run stays with the layer; those around it go up together."""
    held, told = [], []

    def completed(_self, _channel, ios):
        odd = ios.take(ios.offset_blocks % 2 == 1)
        held.append(odd)

    with stack() as s:
        disk = s.disk(Stub)
        s.layer(layer(None, completed), name="Holder")
        s.layer(base="Holder")
        top = s.open("Top")
        for at in range(8):
            top.submit(Op.READ, at, 1, bytearray(512), callback=lambda _r, at=at: told.append(at))
        disk.complete()
        s.settle()
        assert told == [0, 2, 4, 6]
        assert top.channel.outstanding == top.channel.base.outstanding == 4
        for odd in held:
            odd.complete()
        s.settle()
        assert told == [0, 2, 4, 6, 1, 3, 5, 7]
        assert top.channel.stats()["read"][:2] == (8, 8)


def test_an_owner_gets_its_own_offsets_back():
    """`verify` computes from an I/O's offset what must be there."""
    ended = []
    with stack() as s:
        s.disk(Malloc, num_blocks=4096)

        def swap(_self, channel, ios):
            ios.offset_blocks ^= 8
            channel.base.submit(ios)

        s.layer(layer(swap), name="Swaps")
        s.layer(base="Swaps")
        top = s.open("Top")
        with top.reactor.here():
            load = LoadGenerator(
                s.engine,
                top.channel,
                workload="verify",
                io_size=4096,
                queue_depth=8,
                on_end=lambda: ended.append(True),
            )
            load.start(512)
        s.turn_until(lambda: ended)
        assert (load.ios, load.failures, load.mismatch) == (512, 0, None)
        load.close()
