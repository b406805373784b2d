"""Layers that do something to what passes, and how each is made and seen from above."""

from __future__ import annotations

from types import SimpleNamespace

from support.stack import layer
from vbdev.bdev import ALL_OPS
from vbdev.core.engine.batch import IOBatch
from vbdev.core.engine.protect import remap_down, remap_up
from vbdev.modules.delay import Delay
from vbdev.modules.error import Error
from vbdev.modules.passthru import Passthru
from vbdev.modules.split import Split, SplitCreateParams, SplitParams
from vbdev.reactor.reactor import Reactor
from vbdev.vocab import Op, Status

PLAIN = frozenset({Op.READ, Op.WRITE, Op.FLUSH, Op.RESET, Op.ABORT, Op.COPY})
FLIPPED = bytes(range(256))[::-1]


def flip(views):
    for view in views:
        view[:] = bytes(view).translate(FLIPPED)


def flip_down(_self, channel, ios):
    ios.copy_data(Op.WRITE, Op.READ)
    flip(ios.data(Op.WRITE))
    channel.base.submit(ios)


def flip_up(_self, _channel, ios):
    flip(ios.data(Op.READ))


def shift_down(self, channel, ios):
    ios.copy_data(Op.WRITE)  # what has to wait for it comes back unshifted
    remap_down(ios, self.dif, self.first)
    ios.shift(self.first)
    channel.base.submit(ios)


def shift_up(self, _channel, ios):
    remap_up(ios, self.dif, self.first)


async def start_window(self):
    self.first = self.num_blocks // 4
    self.num_blocks -= 2 * self.first
    self.dif = self.base.metadata_layout() if self.base.dif_type else None
    if self.dif is not None:
        self.ops -= {Op.ZCOPY}
        self.gives_read_buffers = False  # they are written to


def per_channel(_self, _channel):
    return SimpleNamespace(turns=0, gathered=IOBatch())


def hold_up(_self, channel, ios):
    """Keep what succeeded for a while; once in three times ask the base again for READs."""
    channel.context.turns += 1
    if channel.context.turns % 3 == 0:
        # Not for what was aborted: whoever asked for that has been told that it was.
        channel.base.submit(ios.take((ios.ops == Op.READ) & (ios.statuses != Status.ABORTED)))
        return
    late = IOBatch()
    late.extend(ios.take(ios.statuses == Status.SUCCESS))
    Reactor.current().call_later(50, late.complete)


def gather_down(_self, channel, ios):
    """Send what comes within 20 us as one batch."""
    gathered = channel.context.gathered
    if not len(gathered):
        Reactor.current().call_later(20, lambda: channel.base.submit(gathered.take()))
    gathered.extend(ios)


async def pass_on(_self, _channel, io):
    await io.forward()


async def flip_each(_self, _channel, io):
    if io.op == Op.WRITE:
        await io.copy_data()
        flip(io.data())
    if await io.forward() == Status.SUCCESS and io.op == Op.READ:
        flip(io.data())


async def take_turns(_self, channel, io):
    """Do some as they are, some by children after a nap, and READs that fail once more."""
    if io.op in {Op.ZCOPY, Op.RESET} or io.id % 3 == 0:
        return io.forward() and None
    await channel.reactor.sleep(20 * (io.id % 3))
    child = io.child(channel.base)
    # Not for what was aborted: whoever asked for that has been told that it was.
    if await child not in {Status.SUCCESS, Status.ABORTED} and io.op == Op.READ:
        child = io.child(channel.base)
        await child
    return child


async def start_narrow(self):
    """Have limits of one's own, so that I/Os are split here, and once more further down."""
    self.max_rw_size = min(self.max_rw_size or 5, 5)
    self.max_copy = min(self.max_copy or 7, 7)
    self.max_unmap, self.max_unmap_segments = 3, 2
    self.max_write_zeroes = min(self.max_write_zeroes or 4, 4)


LAYERS = {
    "passthru": Passthru,
    "flip": layer(flip_down, flip_up, kind="flip", ops=PLAIN),
    "gather": layer(
        gather_down, kind="gather", gives_read_buffers=True, create_channel=per_channel
    ),
    "window": layer(
        shift_down, shift_up, kind="window", start=start_window, gives_read_buffers=True
    ),
    "late": layer(None, hold_up, kind="late", create_channel=per_channel),
    "narrow": layer(kind="narrow", start=start_narrow, gives_read_buffers=True),
    "poor": layer(kind="poor", ops=ALL_OPS - {Op.COPY, Op.COMPARE, Op.WRITE_ZEROES, Op.ABORT}),
    "each": layer(handle=pass_on, kind="each", gives_read_buffers=True),
    "flip_each": layer(handle=flip_each, kind="flip_each", ops=PLAIN),
    "turns": layer(handle=take_turns, kind="turns"),
    "delay": Delay,
    "error": Error,
    "split": Split,
}
LATENCIES = {
    "avg_read_latency": 30,
    "p99_read_latency": 200,
    "avg_write_latency": 50,
    "p99_write_latency": 300,
    "seed": 1,
}
PARTS = 2


def wish(layers, kind, name, base):
    """Return (key, class, parameters) with which a layer of this kind is created."""
    cls = layers[kind]
    if kind == "split":
        request = SplitCreateParams(base_bdev=base, split_count=PARTS)
        return f"split of {base}", cls, SplitParams(request=request)
    if kind == "error":
        return name, cls, cls.Params(name=name, base_name=base)
    more = LATENCIES if kind == "delay" else {}
    return name, cls, cls.Params(name=name, base_bdev_name=base, **more)
