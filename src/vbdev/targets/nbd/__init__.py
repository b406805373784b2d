"""The NBD target: any bdev as an export, to any NBD client, over unix sockets and TCP.

export        a bdev under an export name: what is negotiated follows from the bdev
connection    one client as the server sees it: its handshake, and where it is served
session       one client in transmission: the compiled stream of requests, on its reactor
block_status  NBD_CMD_BLOCK_STATUS from SEEK_DATA and SEEK_HOLE
server        listeners, exports and connections; orderly stop
kernel        the kernel's nbd driver: what a device /dev/nbdN is set up and run with
disks         bdevs attached to such devices, whose kernel end is one client more
"""

from vbdev.targets.nbd.export import Export
from vbdev.targets.nbd.kernel_disks import KernelDisks
from vbdev.targets.nbd.nbd_server import NbdServer

__all__ = ["Export", "KernelDisks", "NbdServer"]
