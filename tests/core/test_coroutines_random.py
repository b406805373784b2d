"""Coroutines that do anything at any moment, on little memory, with ABORT and RESET in between.

Each I/O ends once, nothing is left behind, and the same seed does the same again.
"""

import contextlib
import gc
import os
import random

import pytest

from support.stack import Stub, layer, stack
from vbdev.modules.malloc import Malloc
from vbdev.vocab import Op, Status

BLOCK = 512
ROUNDS = int(os.environ.get("VBDEV_RANDOM_COROUTINES", "12"))


class Wild:
    """Draws what each coroutine does next."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.rig = None
        self.top = None
        self.requests = []
        self.log = []

    async def handle(self, _bdev, channel, io):
        self.log.append((int(io.op), io.offset_blocks, channel.bdev.name))
        try:
            for _ in range(self.random.randrange(4)):
                await self.step(channel, io)
            if io.op == Op.RESET or self.random.random() < 0.8:
                await io.forward()
            choice = self.random.random()
            if choice < 0.1:
                raise ZeroDivisionError
            if choice < 0.2:
                return Status.FAILED
            if choice < 0.3:
                io.complete()
                await channel.reactor.sleep(self.random.randrange(3))
            return None
        finally:
            choice = self.random.random()
            if choice < 0.1:
                with contextlib.suppress(RuntimeError):
                    io.complete(Status.FAILED)
            elif choice < 0.2:
                self.abort()
            elif choice < 0.22:
                self.rig.reactor.poll()

    async def step(self, channel, io):
        choice = self.random.randrange(12)
        if choice == 0:
            await channel.reactor.sleep(self.random.randrange(5))
        elif choice == 1:
            await io.copy_data()
        elif choice == 2 and io.op in {Op.READ, Op.WRITE}:
            await io.child(channel.base)
        elif choice == 3 and io.op in {Op.READ, Op.WRITE}:
            children = [io.child(channel.base) for _ in range(3)]
            await children[self.random.randrange(3)]
        elif choice == 4:
            io.child(channel.base, Op.FLUSH)
        elif choice == 5:
            await io.child(channel.base, Op.WRITE, 0, 1, bytearray(BLOCK))
        elif choice == 6:
            self.abort()
        elif choice == 7:
            self.rig.reactor.poll()
        elif choice == 8:
            await io.forward()
        elif choice == 9 and self.random.random() < 0.2:
            self.requests.append(self.top.submit(Op.RESET, 0, 0))
        elif choice == 10 and io.op in {Op.READ, Op.WRITE}:
            io.child(channel.base)
            await io.copy_data()
        else:
            io.offset_blocks += 1

    def abort(self):
        victims = [r for r in self.requests if r is not None and not r.done]
        if victims:
            self.requests.append(
                self.top.submit(Op.ABORT, 0, 0, victim=self.random.choice(victims))
            )


def run(seed, disk):
    wild = Wild(seed)
    draw = wild.random
    ends = []
    with stack(
        pool_size=draw.choice([6, 20, 100]), buffer_limit_bytes=draw.choice([8192, 32768, 1 << 20])
    ) as rig:
        wild.rig = rig
        below = rig.disk(disk)

        async def handle(self, channel, io):
            return await wild.handle(self, channel, io)

        rig.layer(layer(handle=handle, kind="lower"), name="Lower")
        rig.layer(layer(handle=handle, kind="upper"), name="Upper", base="Lower")
        wild.top = rig.open("Upper")
        for _ in range(draw.randrange(20, 60)):
            op = draw.choice([Op.READ, Op.READ, Op.WRITE, Op.WRITE, Op.FLUSH])
            blocks = 0 if op == Op.FLUSH else draw.choice([1, 8, 16])
            data = None if op == Op.FLUSH else bytearray(blocks * BLOCK)
            wild.requests.append(
                wild.top.submit(op, draw.randrange(32), blocks, data, callback=ends.append)
            )
            if draw.random() < 0.1:
                wild.abort()
            if draw.random() < 0.02:
                wild.requests.append(wild.top.submit(Op.RESET, 0, 0))
            for _ in range(draw.randrange(3)):
                rig.reactor.poll()
            if disk is Stub and below.held and draw.random() < 0.5:
                some = draw.sample(range(len(below.held)), draw.randrange(len(below.held)) + 1)
                below.complete(some, draw.choice([Status.SUCCESS, Status.FAILED]))
        wild.requests = [r for r in wild.requests if r is not None]

        rig.settle()
        while not all(r.done for r in wild.requests):
            if disk is Stub and below.held:
                below.complete()
            else:
                assert rig.reactor.advance(), "it can not come true"
            rig.settle()
            wild.requests = [r for r in wild.requests if r is not None]
        rig.pass_time(20)
        statuses = [int(r.status) for r in wild.requests if r is not None]
        assert len(ends) == len(set(map(id, ends)))
        for _, error, _ in rig.errors:
            assert isinstance(error, ZeroDivisionError) or any(
                known in str(error) for known in ("aborted", "await them first", "has ended")
            ), error
        wild.top.close()
    return statuses, wild.log


@pytest.mark.parametrize("disk", [Stub, Malloc])
@pytest.mark.parametrize("seed", range(ROUNDS))
def test_anything_goes_and_nothing_is_lost(seed, disk):
    assert run(seed, disk) == run(seed, disk)
    gc.collect()
