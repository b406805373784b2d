"""Canaries: one thing broken at a time, each of which the machine has to find.

What the core does itself is broken from outside: by a layer or a disk that does to the I/Os what a
broken core would, or where Python code decides (claims, locks, resets, whom a completion reaches).
"""

from __future__ import annotations

import contextlib
from unittest import mock

from hypothesis import strategies as st
from hypothesis.stateful import initialize

from machine.disks import Disk
from machine.layers import FLIPPED, LAYERS
from machine.stacks import Stacks, limits
from support.stack import layer
from vbdev.bdev import control
from vbdev.bdev.entry import entry_of
from vbdev.registry import Registry
from vbdev.vocab import Op, Status


class Canary(Stacks):
    """The machine on a disk that a test steers, with a broken layer at the bottom."""

    disks = (Disk,)
    broken = None

    @initialize(limits=limits, reactors=st.integers(1, 3))
    def make(self, limits, reactors):
        super().make(cls=0, limits=limits, limited=False, reactors=reactors, pool=12)
        if self.broken is not None:
            self.layers = {**LAYERS, "broken": self.broken}
            self.add_layer("broken", 0)


def on_top_of_all(submit=None, completed=None, **more):
    """Return a machine with this layer between the disk and all the rest."""
    return type("Broken", (Canary,), {"broken": layer(submit, completed, kind="broken", **more)})


# Layers


def drops_a_completion(_self, _channel, ios):
    ios.take(ios.num_blocks == 7)


def forgets_a_write(_self, channel, ios):
    ios.take([op == Op.WRITE and at % 4 == 3 for op, at, _ in ios.extents()]).complete()
    channel.base.submit(ios)


def loses_a_flush(_self, channel, ios):
    ios.take(Op.FLUSH).complete()
    channel.base.submit(ios)


def forgets_where_it_was(_self, channel, ios):
    # As if the I/Os kept an offset that is another layer's.
    ios.shift(1)
    channel.base.submit(ios)


def changes_the_writers_data(_self, channel, ios):
    for view in ios.data(Op.WRITE):
        view[:] = bytes(view).translate(FLIPPED)
    channel.base.submit(ios)


def copies_back_too_early(_self, channel, ios):
    # What was in the buffer before the base has filled it.
    reads = ios.take(Op.READ)
    reads.copy_data(Op.READ)
    reads.complete()
    channel.base.submit(ios)


async def narrow(self):
    self.max_rw_size = 3


def forgets_a_child(_self, channel, ios):
    # Of those that a WRITE was split into, every one in the middle.
    ios.take([op == Op.WRITE and at % 2 and n == 3 for op, at, n in ios.extents()]).complete()
    channel.base.submit(ios)


def aborts_another(_self, channel, ios):
    """An ABORT ends what comes next, and says that it has found its victim."""
    aborts = ios.take(Op.ABORT)
    channel.context["due"] = channel.context.get("due", 0) + len(aborts)
    aborts.complete()
    while channel.context["due"] and len(ios):
        channel.context["due"] -= 1
        ios.take([True] + [False] * (len(ios) - 1)).complete(Status.ABORTED)
    channel.base.submit(ios)


def context(_self, _channel):
    return {}


# Disks


class Forgetful(Disk):
    """What it has no room for is never heard of again, as from a queue that loses its end."""

    def refuse(self, one):
        """Keep it for ever."""


class Swapping(Disk):
    """What it has no room for is done in the wrong place of the queue: its data is another's."""

    def refuse(self, one):
        """Say that it was done."""
        one.complete(Status.SUCCESS)


def with_disk(cls):
    return type("Broken", (Canary,), {"disks": (cls,)})


# Where Python decides


class Twice(Canary):
    """A completion reaches its owner twice."""

    def submit(self, pending, *words, callback, **more):
        def ended(request):
            callback(request)
            if pending.op == Op.WRITE:
                callback(request)

        return super().submit(pending, *words, callback=ended, **more)


def patched(*what, **how):
    """Return a machine that runs with something replaced."""

    class Patched(Canary):
        def __init__(self):
            self.undo = contextlib.ExitStack()
            self.undo.enter_context(mock.patch.object(*what, **how))
            super().__init__()

        def teardown(self):
            with self.undo:
                super().teardown()

    return Patched


def open_all_the_same(self, name, **words):
    """Open without a look at who has claimed it."""
    bdev = self.get(name)
    claim, entry_of(bdev).claim = entry_of(bdev).claim, None
    try:
        return OPEN(self, name, **words)
    finally:
        entry_of(bdev).claim = claim


OPEN = Registry.open
CANARIES = {
    "drop a completion": on_top_of_all(drops_a_completion),
    "complete twice": Twice,
    "forget a write": on_top_of_all(forgets_a_write),
    "lose a flush": on_top_of_all(loses_a_flush),
    "forget a frame": on_top_of_all(forgets_where_it_was),
    "change the writer's data": on_top_of_all(changes_the_writers_data),
    "copy back too early": on_top_of_all(copies_back_too_early),
    "forget a child of a split": on_top_of_all(forgets_a_child, start=narrow),
    "abort another": on_top_of_all(aborts_another, create_channel=context),
    "lose what has no room": with_disk(Forgetful),
    "take for done what has no room": with_disk(Swapping),
    "ignore a claim": patched(Registry, "open", new=open_all_the_same),
    "serve a locked range": patched(control.RangeLock, "apply", new=lambda _self, _channel: None),
    "let I/O through a reset": patched(
        control, "Channel", new=type("Open", (), {"freeze": id, "unfreeze": id})
    ),
}
