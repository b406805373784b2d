"""xor: a vbdev of one's own. Everything written below it is XORed with a key, and back again.

vbdev serve malloc:64MiB --module examples/xor.py --layer xor,key=0x5a --nbd unix:/tmp/x.sock
"""

import numpy as np

from vbdev.bdev import VirtualBdev, VirtualBdevParams
from vbdev.vocab import Op


class XorParams(VirtualBdevParams, kw_only=True, forbid_unknown_fields=True):
    """Create a bdev whose data is XORed on its way down."""

    key: int = 0xFF
    """One byte, 0 to 255."""


class Xor(VirtualBdev):
    """Transforms data both ways; addresses pass unchanged."""

    kind = "xor"
    Params = XorParams
    ops = frozenset({Op.READ, Op.WRITE, Op.FLUSH, Op.UNMAP, Op.RESET, Op.ABORT, Op.COPY})

    def submit(self, channel, ios):
        ios.copy_data(Op.WRITE)  # the writer's buffer stays as it is
        self.apply(ios.data(Op.WRITE))
        channel.base.submit(ios)

    def completed(self, channel, ios):
        self.apply(ios.data(Op.READ))

    def apply(self, pieces):
        for piece in pieces:
            data = np.frombuffer(piece, dtype=np.uint8)
            np.bitwise_xor(data, np.uint8(self.params.key), out=data)
