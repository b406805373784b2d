"""What tests of modules that handle I/Os in coroutines begin with."""

from support.stack import Stub, layer
from vbdev.vocab import Op

BLOCK = 512


def read(top, offset=0, count=1, **more):
    return top.submit(Op.READ, offset, count, bytearray(count * BLOCK), **more)


def built(rig, handle, disk=Stub, **attributes):
    """Return the disk, and an open of a layer of coroutines on it."""
    below = rig.disk(disk)
    rig.layer(layer(handle=handle, **attributes))
    return below, rig.open("Top")
