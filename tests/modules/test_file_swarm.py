"""Many I/Os of every kind at once, aborted and reset at random: each ends, and the data is right.

Every slot of the disk has one I/O in flight at most, so its content is known whatever the order
in which the slots' I/Os end. An aborted write may have happened or not.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from vbdev.modules.file import service
from vbdev.vocab import IoFlag, Op, Status

SLOTS, SLOT_BLOCKS, BLOCK = 64, 8, 512
SLOT = SLOT_BLOCKS * BLOCK
CHANGES = (Op.WRITE, Op.WRITE, Op.WRITE_ZEROES, Op.UNMAP)


class Swarm:
    def __init__(self, stack, descriptor, seed):
        self.stack, self.descriptor, self.random = stack, descriptor, random.Random(seed)
        self.may_hold = [{bytes(SLOT)} for _ in range(SLOTS)]
        self.free = list(range(SLOTS))
        self.running = {}
        self.begun = self.ended = self.aborted = 0

    def step(self):
        roll = self.random.random()
        if roll < 0.04:
            self.submit(Op.RESET)
        elif roll < 0.12:
            self.submit(Op.FLUSH)
        elif roll < 0.24 and self.running:
            victim = self.random.choice(list(self.running))
            self.submit(Op.ABORT, victim=self.running[victim])
        elif self.free:
            slot = self.free.pop(self.random.randrange(len(self.free)))
            self.read(slot) if roll < 0.5 else self.change(slot)

    def submit(self, op, *args, ended=None, **kwargs):
        key = object()

        def callback(request):
            self.running.pop(key, None)
            self.ended += 1
            self.aborted += request.status == Status.ABORTED
            assert op is Op.ABORT or request.status in (Status.SUCCESS, Status.ABORTED)
            if ended is not None:
                ended(request.status == Status.SUCCESS)

        self.begun += 1
        request = self.descriptor.submit(op, *args, callback=callback, **kwargs)
        if op not in (Op.ABORT, Op.RESET):
            self.running[key] = request

    def read(self, slot):
        data = bytearray(SLOT + 1)

        def ended(succeeded):
            self.free.append(slot)
            if succeeded:
                assert bytes(data[:SLOT]) in self.may_hold[slot]
                self.may_hold[slot] = {bytes(data[:SLOT])}

        where = memoryview(data)[:SLOT]
        self.submit(Op.READ, slot * SLOT_BLOCKS, SLOT_BLOCKS, where, ended=ended)

    def change(self, slot):
        op = self.random.choice(CHANGES)
        new = self.random.randbytes(SLOT) if op is Op.WRITE else bytes(SLOT)
        cut = self.random.randrange(SLOT)
        data = [new[:cut], new[cut:]] if op is Op.WRITE else None

        def ended(succeeded):
            self.free.append(slot)
            self.may_hold[slot] = {new} if succeeded else self.may_hold[slot] | {new}

        flags = self.random.choice((0, 0, IoFlag.FUA))
        self.submit(op, slot * SLOT_BLOCKS, SLOT_BLOCKS, data, flags=flags, ended=ended)


@pytest.mark.parametrize("mode", ["ring", "threads"])
@pytest.mark.parametrize("direct", [None, False])
@pytest.mark.parametrize("seed", range(3))
def test_swarm(make_stack, monkeypatch, mode, direct, seed):
    monkeypatch.setattr(service, "RING_ENTRIES", 4 << 2 * seed)
    monkeypatch.setattr(service, "MAX_UNDER_WAY", 8 << 2 * seed)
    stack = make_stack(mode)
    path = stack.path(SLOTS * SLOT)
    stack.create(path, direct=direct)
    if seed:
        stack.gather(seed * 7)
    descriptor = stack.open("G0" if seed else "U0")
    swarm = Swarm(stack, descriptor, seed)

    async def main():
        for turn in range(1500):
            swarm.step()
            if turn % 16 == 0:
                await stack.reactor.sleep(0)
        if seed:
            stack.registry.get("G0").size = 1
        swarm.submit(Op.FLUSH)
        while swarm.ended < swarm.begun or len(swarm.free) < SLOTS:
            await stack.reactor.sleep(100)
        await descriptor.io(Op.RESET)

    stack.run(main())
    content = Path(path).read_bytes()
    for slot in range(SLOTS):
        assert content[slot * SLOT : (slot + 1) * SLOT] in swarm.may_hold[slot]
