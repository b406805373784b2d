"""Where a direct write with RWF_DSYNC is stable once it has returned.

The flag is a wish: a file system that does not know what to do with it writes, and says nothing.
So it is sent only where the kernel's sources show that it is kept, for writes through io_uring as
for blocking ones. Everywhere else a FUA write is a write, and then an fdatasync.

Kept, with the function that keeps it:

| where | why |
| --- | --- |
| block devices | each bio has REQ_FUA (`dio_bio_write_op`, block/fops.c); for a disk without FUA the block layer puts a flush behind it (block/blk-flush.c) |
| ext2, ext3, ext4, XFS | direct I/O is `iomap_dio_rw` (fs/iomap/direct-io.c), which ends with `generic_write_sync`, or REQ_FUA on an overwrite; ends that come later do so in a workqueue. Before Linux 5.5 `dio_complete` of fs/direct-io.c did it for ext4 |

Not kept, or not always, and therefore not listed:

| where | why |
| --- | --- |
| FUSE | `fuse_direct_write_iter` (fs/fuse/file.c) syncs nothing; the server is told of O_DSYNC and may forget it |
| btrfs | takes the flag away before `iomap_dio_rw` to avoid a deadlock, and forgot to sync what ended later (`btrfs_direct_write` of Linux 5.15 to 6.1); checksummed files are written through the page cache |
| overlayfs, eCryptfs | what the file system below does; an overlay may be mounted `volatile` |
| NFS, CIFS, Ceph, 9p, GFS2, OCFS2, ... | the server, or another node, has the data; each has a path of its own |
| bcachefs, F2FS, ZFS, ... | direct I/O of their own, not looked at |
| tmpfs | nothing is ever stable, and fdatasync costs nothing |
"""  # noqa: E501 - tables

from __future__ import annotations

from vbdev.core.file.job import file_system_type

__all__ = ["BTRFS_MAGIC", "EXT_MAGIC", "XFS_MAGIC", "dsync_holds"]

EXT_MAGIC = 0xEF53
"""f_type of ext2, ext3 and ext4 (linux/magic.h)."""
XFS_MAGIC = 0x58465342
BTRFS_MAGIC = 0x9123683E

_KEEPS_DSYNC = frozenset({EXT_MAGIC, XFS_MAGIC})


def dsync_holds(fd: int, *, is_device: bool) -> bool:
    """Tell whether direct writes to an open file with RWF_DSYNC are stable when they return.

    False wherever that is not known.
    """
    if is_device:  # its file system is that of the device node, which has no part in this
        return True
    try:
        return file_system_type(fd) in _KEEPS_DSYNC
    except OSError:
        return False
