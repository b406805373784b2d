"""gpt: the partitions of a disk, `<base>p1`, `<base>p2` and so on, found by its table or made here.

Every new bdev that nobody has claimed is looked at. The partitions of SPDK's own types become
bdevs; those of other types do on request (`bdev_gpt_set_options`). Nothing is configured: what the
table on the disk says comes back with the disk. How a table looks is told in `vbdev.wire.gpt`.

Only a protective MBR makes a disk one with a GUID partition table (UEFI 2.10, 5.2.3); without it
headers are left-overs. The primary table counts. Where it is damaged the secondary one does, unless
the disk is in use as something else. A table is never repaired silently. Nothing is overwritten
that is not provably a table of this kind, unless the caller says so.

blocks     reading and writing blocks of a bdev
table      what a disk says of its partitions, and the order in which that is written
contents   what else is on a disk
erasing    which blocks are a table's own
module     the bdevs and the RPC methods
"""

from vbdev.modules.gpt.module import Gpt

__all__ = ["Gpt"]
