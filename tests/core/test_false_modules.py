"""Modules that do it wrong: they are named, their I/Os end, and nothing else does."""

import time

import pytest

from support.stack import Stub, layer, stack
from vbdev.core.engine.requests import Requests
from vbdev.modules.malloc import Malloc
from vbdev.modules.zone_block import ZoneBlock
from vbdev.testing import forward
from vbdev.vocab import Op, Status, ZoneAction


def test_one_that_blocks_and_then_raises():
    def submit(_self, _channel, _ios):
        time.sleep(0.12)
        raise ZeroDivisionError

    slow = []
    with stack(real_clock=True) as rig:
        rig.engine.on_slow_module = lambda channel, ns: slow.append((channel.bdev.name, ns))
        rig.disk(Malloc)
        rig.layer(layer(submit, kind="late"))
        top = rig.open("Top")
        assert top.io(Op.READ, 0, 1, bytearray(512)).status == Status.FAILED
        ((who, error, failed),) = rig.errors
        assert (who, type(error), failed) == ("Top", ZeroDivisionError, 1)
        ((name, took_ns),) = slow
        assert name == "Top"
        assert took_ns >= 100_000_000


@pytest.mark.parametrize("op", [Op.COPY, Op.COMPARE])
def test_one_that_answers_a_read_without_any_data(op):
    """What stands in for COPY and COMPARE has nothing to write, or to compare."""

    def submit(_self, _channel, ios):
        ios.complete(Status.SUCCESS)

    with stack() as rig:
        disk = rig.disk(Malloc)
        disk.ops -= {op}
        rig.layer(layer(submit, kind="empty", gives_read_buffers=True)).gives_read_buffers = True
        top = rig.open("Top")
        data = bytes(1024) if op is Op.COMPARE else None
        for _ in range(2):  # what is left in a BdevIO of the one before is no data either
            ended = top.io(op, 0, 2, data, src_offset_blocks=100)
            assert (ended.status, ended.errno) == (Status.FAILED, 5)


def test_requests_of_one_reactor_for_a_channel_of_another():
    with stack(reactors=2) as rig:
        rig.disk(Stub)
        here, there = rig.open("Disk"), rig.open("Disk", on=1)
        own = Requests(rig.engine)
        with pytest.raises(RuntimeError, match="reactor"):
            own.submit(there.channel, Op.READ, 0, 1, bytearray(512))
        assert own.in_flight == 0
        victim = there.submit(Op.READ, 0, 1, bytearray(512))
        with pytest.raises(ValueError, match="reactor"):
            here.submit(Op.ABORT, 0, 0, victim=victim)
        rig.settle()
        rig.registry.find("Disk").complete()
        rig.settle()
        assert victim.status == Status.SUCCESS
        own.close()


def test_a_write_of_no_blocks_behind_the_last_zone_takes_no_other_with_it():
    def together(self, channel, ios):
        if not hasattr(self, "first"):
            self.first = ios.take()
        else:
            self.first.extend(ios)
            forward(self, channel, self.first)

    with stack() as rig:
        rig.disk(Malloc)
        zones = rig.create(
            ZoneBlock, name="Zones", base_bdev="Disk", zone_capacity=512, optimal_open_zones=1
        )
        held = rig.open("Zones")
        held.io(Op.ZONE_MANAGEMENT, 0, 0, arg=ZoneAction.RESET)
        rig.layer(layer(together, kind="together"), base="Zones")
        held.close()
        top = rig.open("Top")
        good = top.submit(Op.WRITE, 0, 1, bytes(512))
        nothing = top.submit(Op.WRITE, zones.num_blocks, 0, b"")
        rig.settle()
        assert (good.status, nothing.status) == (Status.SUCCESS, Status.FAILED)
        assert rig.errors == []
