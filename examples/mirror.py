"""mirror: each block twice, and what one copy can not give any more comes from the other.

vbdev serve malloc:64MiB --module examples/mirror.py --layer mirror --nbd unix:/tmp/m.sock
"""

from vbdev.bdev import BASIC_OPS, VirtualBdev
from vbdev.vocab import Op, Status


class Mirror(VirtualBdev):
    """Keeps each block in both halves of its base; what one half can not read is repaired."""

    kind = "mirror"
    product_name = "Mirror"
    ops = BASIC_OPS | {Op.UNMAP}
    repaired = 0

    def inherit(self):
        super().inherit()
        self.num_blocks //= 2

    def base_resized(self):
        """Stay as it is: the second half does not move."""

    async def handle(self, channel, io):
        if io.op == Op.READ:
            return await self.read(channel, io)
        if io.op != Op.RESET:  # which is the whole base's
            io.child(channel.base, offset_blocks=io.offset_blocks + self.num_blocks)
        return await io.forward()  # both at once; the I/O ends when both have

    async def read(self, channel, io):
        status = await io.forward()
        if status in (Status.SUCCESS, Status.ABORTED):
            return status
        async with io.lock():  # or the repair could undo a WRITE that came behind the second READ
            other = io.child(channel.base, offset_blocks=io.offset_blocks + self.num_blocks)
            if await other == Status.SUCCESS:
                await io.child(channel.base, Op.WRITE)  # what was read, where it was asked for
                self.repaired += 1
        return other

    def dump_info(self):
        return {"mirror": {"repaired": self.repaired}}
