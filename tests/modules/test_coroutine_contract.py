"""The contract of any vbdev, over vbdevs of coroutines: they forward as passthru does."""

from support.stack import layer
from vbdev.bdev import VirtualBdev
from vbdev.modules.passthru import Passthru
from vbdev.testing import LayerContractSuite
from vbdev.vocab import Op, Status


async def pass_on(_self, _channel, io):
    await io.forward()


async def make_children(_self, channel, io):
    """Do by children what a child can do; a ZCOPY has one BdevIO for both of its phases."""
    if io.op == Op.ZCOPY:
        return await io.forward()
    child = io.child(channel.base)
    await child
    return child


async def copy_and_nap(_self, channel, io):
    await io.copy_data()
    await channel.reactor.sleep(7)
    return await io.forward()


class Halves(VirtualBdev):
    """Takes READs in batches, and the rest one by one."""

    kind = "halves"
    product_name = "halves"
    ops = Passthru.ops

    def submit(self, channel, ios):
        channel.base.submit(ios.take(Op.READ))
        super().submit(channel, ios)

    async def handle(self, channel, io):
        status = await io.forward()
        assert io.status is status
        assert isinstance(status, Status)


class TestPassOn(LayerContractSuite):
    module = layer(handle=pass_on, kind="pass_on", gives_read_buffers=True)


class TestMakeChildren(LayerContractSuite):
    module = layer(handle=make_children, kind="make_children")


class TestCopyAndNap(LayerContractSuite):
    module = layer(handle=copy_and_nap, kind="copy_and_nap")


class TestHalves(LayerContractSuite):
    module = Halves
