"""A vbdev in plain Python that looks at each I/O's offset, as a column."""

import numpy as np

from vbdev.bdev import ALL_OPS, VirtualBdev


class Columns(VirtualBdev):
    """Counts the I/Os that begin in the first quarter of the disk."""

    kind = "columns"
    ops = ALL_OPS
    gives_read_buffers = True
    hot = 0

    def submit(self, channel, ios):
        """Look at the offsets, and hand the batch on."""
        self.hot += int(np.count_nonzero(ios.offset_blocks < self.base.num_blocks // 4))
        channel.base.submit(ios)
