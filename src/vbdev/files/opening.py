"""Opening a file for a bdev: what it is, who else has it, how large, which alignment.

Everything that can be wrong with a file is found here, before there is a bdev, and said with the
file's name, the value and the bound. Nothing is created and nothing changes its size.

Any of this may hang, on a mount whose server is gone. So it runs on a thread
(`vbdev.reactor.blocking`), and for a path that may hang in a process of its own (`aside`). That is
also why this imports little, and why its error is not the one of the bdevs.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import stat
import struct
from collections.abc import Callable, Iterator
from typing import NamedTuple

from vbdev.core.file.job import can_punch, dio_alignment
from vbdev.files.stable_writes import dsync_holds

__all__ = [
    "FileError",
    "FileGeometry",
    "FileKey",
    "FileLockedError",
    "FileSurvey",
    "close_descriptors",
    "open_again",
    "open_file",
    "read_file",
    "size_of",
    "survey_file",
    "unlock",
]

MIN_BLOCK_SIZE = 512
BLKGETSIZE64 = 0x80081272
BLKSSZGET = 0x1268
BLKPBSZGET = 0x127B
BLKROGET = 0x125E
F_GET_SEALS = 1034
F_SEAL_WRITE, F_SEAL_FUTURE_WRITE = 0x8, 0x10

FileKey = tuple[str, int, int]


class FileError(Exception):
    """A file can not be a bdev: `errno`, and a sentence that names the file."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.errno = number


class FileLockedError(FileError):
    """Another program has the file locked."""


class FileGeometry(NamedTuple):
    """An open file. Sizes in bytes.

    fd: for data. sync_fd: the same file through a description of its own, for the sync at the end.
    alignment: of data in memory, and of its pieces. dsync: direct writes with RWF_DSYNC are stable.
    may_hang: its mount or disk may, so what may block is done in another process (`access`).
    """

    fd: int
    sync_fd: int
    key: FileKey
    is_device: bool
    direct: bool
    dsync: bool
    size: int
    block_size: int
    phys_block_size: int
    alignment: int
    can_unmap: bool
    can_seek: bool
    fast_zero: bool
    may_hang: bool = False


def open_file(
    who: str,
    filename: str,
    *,
    readonly: bool,
    direct: bool | None,
    block_size: int | None,
    devices_only: str = "",
    claim: Callable[[FileKey], object],
    warn: Callable[[str], object],
) -> FileGeometry:
    """Open and lock a file and measure it; FileError where it can not be a bdev. Blocks.

    who: the bdev, for messages. direct: O_DIRECT, or not, or (None) where it works.
    block_size: bytes, or None for what the file asks for. devices_only: the parameter that block
    devices alone can have, if it was given. claim: told which file it is before it is locked;
    raises FileError if it is somebody's here. warn: told in a sentence what is worth a warning.
    """
    where = f"{who}: {filename}"
    _check_block_size(where, block_size)
    with contextlib.ExitStack() as undo, _named(where):
        fd, status = _open(where, filename, readonly=readonly, devices_only=devices_only)
        undo.callback(os.close, fd)
        if not readonly:
            _check_writable(where, fd, status)
        is_device = stat.S_ISBLK(status.st_mode)
        key = ("device", status.st_rdev, 0) if is_device else ("file", status.st_dev, status.st_ino)
        claim(key)
        _lock_file(where, fd, readonly=readonly, warn=warn)
        geometry = _measure(where, fd, key, readonly=readonly, direct=direct, block_size=block_size)
        undo.pop_all()
    return geometry


def _measure(
    where: str,
    fd: int,
    key: FileKey,
    *,
    readonly: bool,
    direct: bool | None,
    block_size: int | None,
) -> FileGeometry:
    status = os.fstat(fd)
    is_device = stat.S_ISBLK(status.st_mode)
    size = size_of(fd, is_device=is_device)
    logical = _ioctl_int(fd, BLKSSZGET) if is_device else MIN_BLOCK_SIZE
    align = 0
    if direct is not False:
        align = _try_direct(fd, logical if is_device else 0)
    if block_size is None:
        block_size = logical
        if align and size % align == 0:
            block_size = max(logical, align)
    _check_size(where, size, block_size, logical)
    direct = _settle_direct(where, fd, direct, align, block_size)
    unmaps = not readonly and (
        _queue_limit(status.st_rdev, "discard_max_bytes") > 0 if is_device else can_punch(fd, size)
    )
    return FileGeometry(
        fd=fd,
        sync_fd=open_again(fd),
        key=key,
        is_device=is_device,
        direct=direct,
        dsync=direct and dsync_holds(fd, is_device=is_device),
        size=size,
        block_size=block_size,
        phys_block_size=_phys_block_size(fd, status, block_size, is_device=is_device),
        alignment=align if direct else 1,
        can_unmap=unmaps,
        can_seek=_can_seek(fd),
        fast_zero=(
            _queue_limit(status.st_rdev, "write_zeroes_max_bytes") > 0 if is_device else unmaps
        ),
    )


class FileSurvey(NamedTuple):
    """What can be told of a file without opening it. Sizes in bytes."""

    key: FileKey
    size: int
    block_size: int


def survey_file(
    who: str, filename: str, *, readonly: bool, block_size: int | None, devices_only: str = ""
) -> FileSurvey:
    """Measure a file as `open_file` would, and open nothing; FileError as there.

    What only opening tells is not found: who has it locked or mounted, what O_DIRECT wants. A block
    size that nobody gave is that of the device, and 512 bytes of a regular file.
    """
    where = f"{who}: {filename}"
    _check_block_size(where, block_size)
    with _named(where):
        status = os.stat(filename)  # noqa: PTH116 - pathlib takes long to import
        _check_type(where, status.st_mode, devices_only)
        if not os.access(filename, os.R_OK if readonly else os.R_OK | os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    is_device = stat.S_ISBLK(status.st_mode)
    size, logical = status.st_size, MIN_BLOCK_SIZE
    if is_device:
        logical = _queue_limit(status.st_rdev, "logical_block_size") or MIN_BLOCK_SIZE
        size = _sectors(status.st_rdev) * MIN_BLOCK_SIZE
    block_size = block_size or logical
    _check_size(where, size, block_size, logical)
    key = ("device", status.st_rdev, 0) if is_device else ("file", status.st_dev, status.st_ino)
    return FileSurvey(key, size, block_size)


def read_file(filename: str, *, regular: bool) -> bytes:
    """Return what is in a file; with `regular` FileNotFoundError for one that is none. Blocks."""
    if regular and not os.path.isfile(filename):  # noqa: PTH113 - see above
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    with open(filename, "rb") as file:  # noqa: PTH123
        return file.read()


def unlock(fd: int) -> None:
    """Give the lock back. Blocks.

    A ring may hold an open file a little longer than its descriptors; the lock shall not wait.
    """
    with contextlib.suppress(OSError):
        _set_lock(fd, fcntl.F_UNLCK)


def close_descriptors(geometry: FileGeometry) -> None:
    """Close a file. What it holds is not synced by that. Blocks."""
    for fd in (geometry.sync_fd, geometry.fd):
        with contextlib.suppress(OSError):  # of what an earlier write lost; the last sync has told
            os.close(fd)


def size_of(fd: int, *, is_device: bool) -> int:
    """Return the size of an open file in bytes. Blocks."""
    if is_device:
        answer = fcntl.ioctl(fd, BLKGETSIZE64, bytes(8))
        return int(struct.unpack("=Q", answer)[0])
    return os.fstat(fd).st_size


@contextlib.contextmanager
def _named(where: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        number = error.errno if isinstance(error, OSError) and error.errno else errno.EINVAL
        text = os.strerror(number) if isinstance(error, OSError) else str(error)
        raise FileError(number, f"{where}: {text}") from error


def _open(
    where: str, filename: str, *, readonly: bool, devices_only: str
) -> tuple[int, os.stat_result]:
    before = os.stat(filename)  # noqa: PTH116 - see above
    # Looked at before it is opened, because opening some things has effects, or blocks.
    _check_type(where, before.st_mode, devices_only)
    flags = os.O_RDONLY if readonly else os.O_RDWR
    if stat.S_ISBLK(before.st_mode) and not readonly:
        flags |= os.O_EXCL  # of a device: refused while it is mounted, or part of another
    fd = os.open(filename, flags | os.O_CLOEXEC)
    try:
        status = os.fstat(fd)
        _check_type(where, status.st_mode)
    except BaseException:
        os.close(fd)
        raise
    return fd, status


def _check_writable(where: str, fd: int, status: os.stat_result) -> None:
    """Refuse what could be opened for writing and still takes no write."""
    why = ""
    if stat.S_ISBLK(status.st_mode):
        if _ioctl_int(fd, BLKROGET):
            why = "the device is read-only (blockdev --setro, or its medium is)"
    else:
        with contextlib.suppress(OSError):  # EINVAL: it is no memfd
            if fcntl.fcntl(fd, F_GET_SEALS) & (F_SEAL_WRITE | F_SEAL_FUTURE_WRITE):
                why = "the file is sealed against writing"
    if not why:
        try:
            os.pwrite(fd, b"", 0)  # the kernel's own checks, and nothing is written
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EACCES, errno.EROFS, errno.ETXTBSY):
                return
            why = f"it can not be written: {os.strerror(error.errno)}"
    if why:
        raise FileError(errno.EACCES, f"{where}: {why}; with readonly it can be read")


def _check_block_size(where: str, block_size: int | None) -> None:
    if block_size is not None and (block_size < MIN_BLOCK_SIZE or block_size & (block_size - 1)):
        raise FileError(
            errno.EINVAL,
            f"{where}: block_size {block_size} is no power of two of at least {MIN_BLOCK_SIZE}",
        )


def _check_type(where: str, mode: int, devices_only: str = "") -> None:
    if devices_only and stat.S_ISREG(mode):
        raise FileError(
            errno.EOPNOTSUPP,
            f"{where}: {devices_only} is for block devices, and this is a regular file",
        )
    if stat.S_ISREG(mode) or stat.S_ISBLK(mode):
        return
    names = {
        stat.S_IFDIR: "a directory",
        stat.S_IFCHR: "a character device",
        stat.S_IFIFO: "a FIFO",
        stat.S_IFSOCK: "a socket",
    }
    number = errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL
    what = names.get(stat.S_IFMT(mode), f"of type {stat.S_IFMT(mode):#o}")
    raise FileError(number, f"{where} is {what}; a regular file or a block device is needed")


def _set_lock(fd: int, kind: int) -> None:
    # struct flock: the whole file, wherever it ends. An open file description lock belongs to
    # this opening alone: other opens of the process, or their closing, do not touch it.
    fcntl.fcntl(fd, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", kind, os.SEEK_SET, 0, 0, 0))


def _lock_file(where: str, fd: int, *, readonly: bool, warn: Callable[[str], object]) -> None:
    """Keep other writers away (qemu takes locks of the same kind). Readers share."""
    try:
        _set_lock(fd, fcntl.F_RDLCK if readonly else fcntl.F_WRLCK)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            wanted = "reading" if readonly else "writing"
            raise FileLockedError(
                errno.EBUSY, f"{where} can not be locked for {wanted}: another program has it"
            ) from error
        # A file system without locks still makes a disk; it is for the operator to keep others off.
        warn(f"file not locked: the file system has no locks where={where} error={error}")


def _try_direct(fd: int, logical: int) -> int:
    """Turn O_DIRECT on and return the alignment that it needs, in bytes; 0 where it is refused."""
    stated = dio_alignment(fd)
    if stated is not None and 0 in stated:
        return 0
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    try:
        fcntl.fcntl(fd, fcntl.F_SETFL, flags | os.O_DIRECT)
    except OSError as error:
        if error.errno == errno.EINVAL:
            return 0
        raise
    if stated is not None:
        # One figure for both: each piece's address has to meet the first, its length the second.
        return max(*stated, MIN_BLOCK_SIZE)
    return logical or _probe_alignment(fd)


def _probe_alignment(fd: int) -> int:
    with mmap.mmap(-1, 8192) as page, memoryview(page) as view:
        for align in (512, 4096):
            with contextlib.suppress(OSError), view[align : 2 * align] as piece:
                os.preadv(fd, [piece], 0)
                return align
    return 4096


def _settle_direct(where: str, fd: int, wanted: bool | None, align: int, block_size: int) -> bool:
    """Decide on O_DIRECT now that the block size is known, and set the flag accordingly."""
    if align and block_size % align == 0:
        return True
    if wanted:
        reason = (
            f"needs blocks of a multiple of {align} bytes, and block_size is {block_size}"
            if align
            else "does not work on this file system"
        )
        raise FileError(errno.EINVAL, f"{where}: direct is true, but O_DIRECT {reason}")
    fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) & ~os.O_DIRECT)
    return False


def _check_size(where: str, size: int, block_size: int, logical: int) -> None:
    if size == 0:
        raise FileError(errno.EINVAL, f"{where} is empty: 0 bytes, and a bdev has at least 1 block")
    if block_size % logical:
        raise FileError(
            errno.EINVAL,
            f"{where}: block_size {block_size} is no multiple of the device's {logical} bytes",
        )
    if size % block_size:
        raise FileError(
            errno.EINVAL,
            f"{where}: its size of {size} bytes is no multiple of the block size of {block_size}",
        )


def open_again(fd: int) -> int:
    """Open the same file a second time: a write-back error is told once to each description.

    For writing too where `fd` is: a FUSE server is told through which handle a sync comes, and
    fuse2fs does nothing for one that was opened for reading. Blocks.
    """
    mode = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE
    try:
        return os.open(f"/proc/self/fd/{fd}", mode | os.O_CLOEXEC)
    except OSError:
        # No /proc here, or nobody may open the file for writing any more: syncs then share the
        # description with FUA writes.
        return os.dup(fd)


def _ioctl_int(fd: int, request: int) -> int:
    return int(struct.unpack("=i", fcntl.ioctl(fd, request, bytes(4)))[0])


def _phys_block_size(fd: int, status: os.stat_result, block_size: int, *, is_device: bool) -> int:
    size = _ioctl_int(fd, BLKPBSZGET) if is_device else status.st_blksize
    return size if size > block_size and size % block_size == 0 else block_size


def _queue_limit(device: int, name: str) -> int:
    """Return a limit of a block device's queue from sysfs; 0 where it says nothing."""
    for queue in ("queue", "../queue"):  # of a partition: the disk's
        found = _sysfs_number(device, f"{queue}/{name}")
        if found is not None:
            return found
    return 0


def _sectors(device: int) -> int:
    """Return the size of a block device from sysfs, in units of 512 bytes; 0 if it says nothing."""
    return _sysfs_number(device, "size") or 0


def _sysfs_number(device: int, name: str) -> int | None:
    path = f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/{name}"
    with contextlib.suppress(OSError, ValueError), open(path, encoding="ascii") as file:  # noqa: PTH123
        return int(file.read())
    return None


def _can_seek(fd: int) -> bool:
    try:
        os.lseek(fd, 0, os.SEEK_HOLE)
    except OSError:
        return False
    return True
