"""A vbdev that handles each I/O in a coroutine of its own, and looks at its offset."""

from vbdev.bdev import ALL_OPS, VirtualBdev


class Coroutines(VirtualBdev):
    """Counts the I/Os that begin in the first quarter of the disk, when the base has ended them."""

    kind = "coroutines"
    ops = ALL_OPS
    gives_read_buffers = True
    hot = 0

    async def handle(self, channel, io):
        """Hand the I/O on, and look at its offset behind its end."""
        await io.forward()
        if io.offset_blocks < self.base.num_blocks // 4:
            self.hot += 1
