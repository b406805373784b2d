"""The NBD target: any bdev as an export, to any NBD client, over unix sockets and TCP.

export          a bdev under an export name: what is negotiated follows from the bdev
nbd_connection  one client as the server sees it: its handshake, and where it is served
session         one client in transmission: the compiled stream of requests, on its reactor
poll_group      what the sessions of one reactor share: memory, and who keeps it too long
block_status    NBD_CMD_BLOCK_STATUS from SEEK_DATA and SEEK_HOLE
nbd_server      listeners, exports and connections; orderly stop
ourselves       whether a client is this very process
kernel          the kernel's nbd driver: what a device /dev/nbdN is set up and run with
devices         such devices by their names
kernel_disks    bdevs attached to such devices, whose kernel end is one client more
"""

from vbdev.targets.nbd.export import Export
from vbdev.targets.nbd.kernel_disks import KernelDisks
from vbdev.targets.nbd.nbd_server import NbdServer

__all__ = ["Export", "KernelDisks", "NbdServer"]
