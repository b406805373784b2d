"""The kernel's nbd driver: what a block device /dev/nbdN is set up and run with (linux/nbd.h).

All of it is behind `KernelNbd` and `KernelDevice`, so that tests can put another kernel in their
place. Opening a device, and each of these calls, may block: they are for a thread of their own.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Final

from vbdev.bdev import BdevError
from vbdev.wire.nbd import TransmissionFlag

__all__ = ["FLAGS", "IO_TIMEOUT_S", "KernelDevice", "KernelNbd", "Setup", "sector_bytes"]

NBD_SET_SOCK: Final = 0xAB00
NBD_SET_BLKSIZE: Final = 0xAB01
NBD_DO_IT: Final = 0xAB03
NBD_CLEAR_SOCK: Final = 0xAB04
NBD_SET_SIZE_BLOCKS: Final = 0xAB07
NBD_DISCONNECT: Final = 0xAB08
NBD_SET_TIMEOUT: Final = 0xAB09
NBD_SET_FLAGS: Final = 0xAB0A
NAMES: Final = {
    NBD_SET_SOCK: "NBD_SET_SOCK",
    NBD_SET_BLKSIZE: "NBD_SET_BLKSIZE",
    NBD_DO_IT: "NBD_DO_IT",
    NBD_CLEAR_SOCK: "NBD_CLEAR_SOCK",
    NBD_SET_SIZE_BLOCKS: "NBD_SET_SIZE_BLOCKS",
    NBD_DISCONNECT: "NBD_DISCONNECT",
    NBD_SET_TIMEOUT: "NBD_SET_TIMEOUT",
    NBD_SET_FLAGS: "NBD_SET_FLAGS",
}

IO_TIMEOUT_S: Final = 60
"""How long the kernel waits for one reply before it gives the device up (SPDK: 60 s)."""

SYSFS_SECTOR_BYTES: Final = 512
"""What sizes in /sys/block are counted in, whatever the device's blocks are."""
LARGEST_BLOCK_BYTES: Final = 4096

FLAGS: Final = (
    TransmissionFlag.HAS_FLAGS
    | TransmissionFlag.READ_ONLY
    | TransmissionFlag.SEND_FLUSH
    | TransmissionFlag.SEND_FUA
    | TransmissionFlag.SEND_TRIM
    | TransmissionFlag.SEND_WRITE_ZEROES
)
"""What the driver can make use of with one connection. Older ones leave out what they do not
know."""

NO_DRIVER: Final = (
    "load the kernel's driver (modprobe nbd nbds_max=16); in a container, hand its devices in;"
    " nbd_server_start and nbd_export_add serve without it"
)
HINTS: Final = {
    errno.EPERM: "it takes CAP_SYS_ADMIN",
    errno.EACCES: "it takes the right to open the device for writing",
    errno.ENOENT: NO_DRIVER,
    errno.ENXIO: NO_DRIVER,
    errno.ENOTTY: "it is no device of the kernel's nbd driver",
}
BLKSIZE_HINT: Final = "it takes powers of two from 512 to the size of a page"


def sector_bytes(block_size: int) -> int:
    """Return the block size of a device for a bdev's: its own, where the driver can have it.

    Else a smaller one, of which the bdev's blocks are made as far as that is possible.
    """
    if block_size > LARGEST_BLOCK_BYTES:
        return LARGEST_BLOCK_BYTES if block_size % LARGEST_BLOCK_BYTES == 0 else 512
    return block_size if block_size & (block_size - 1) == 0 else 512


class Setup:
    """What a device is told before it runs. Sizes in bytes."""

    __slots__ = ("block_size", "flags", "num_blocks", "socket_fd", "timeout_s")

    def __init__(
        self,
        *,
        socket_fd: int,
        block_size: int,
        num_blocks: int,
        flags: TransmissionFlag,
        timeout_s: int = IO_TIMEOUT_S,
    ) -> None:
        self.socket_fd = socket_fd
        """The kernel's end; the kernel has an own reference to it once it is set."""
        self.block_size = block_size
        self.num_blocks = num_blocks
        self.flags = flags & FLAGS
        self.timeout_s = timeout_s


class KernelDevice:
    """One device, open. BdevError, with the errno of the call, where the kernel refuses."""

    def __init__(self, path: str, fd: int) -> None:
        self.path = path
        self._fd = fd

    def set_socket(self, setup: Setup) -> None:
        """Give it its socket, which makes it the caller's; EBUSY while it is anybody's."""
        self._call(NBD_SET_SOCK, setup.socket_fd)

    def set_up(self, setup: Setup) -> None:
        """Give it its size, timeout and abilities. After `set_socket`."""
        self._call(NBD_SET_BLKSIZE, setup.block_size)
        self._call(NBD_SET_SIZE_BLOCKS, setup.num_blocks)
        self._call(NBD_SET_TIMEOUT, setup.timeout_s)
        self._call(NBD_SET_FLAGS, int(setup.flags))

    def run(self) -> None:
        """Let it run, until it is disconnected or its socket ends. On the thread that set it up."""
        self._call(NBD_DO_IT)

    def disconnect(self) -> None:
        """Let `run` end: the kernel sends NBD_CMD_DISC. From any thread."""
        self._call(NBD_DISCONNECT)

    def clear(self) -> None:
        """Take its socket away. After `run`, or instead of it."""
        self._call(NBD_CLEAR_SOCK)

    def close(self) -> None:
        """Close it."""
        os.close(self._fd)

    def ioctl(self, request: int, value: int) -> int:
        """Carry one call out and return its errno, 0 for success."""
        return call_ioctl(self._fd, request, value)

    def _call(self, request: int, value: int = 0) -> None:
        number = self.ioctl(request, value)
        if number:
            hint = BLKSIZE_HINT if request == NBD_SET_BLKSIZE else HINTS.get(number)
            raise BdevError(
                number,
                f"{self.path}: {NAMES[request]} of {value}: {os.strerror(number)}"
                + (f"; {hint}" if hint else ""),
            )


class KernelNbd:
    """The driver: which devices there are, and who has them."""

    def exists(self, path: str) -> bool:
        """Whether there is such a device."""
        return Path(path).exists()

    def owner(self, number: int) -> int | None:
        """Return the process that runs /dev/nbd<number>, None when nobody does.

        BdevError where that can not be found out.
        """
        file = Path(f"/sys/block/nbd{number}/pid")
        try:
            return int(file.read_text(encoding="ascii"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise BdevError(
                getattr(error, "errno", None) or errno.EIO, f"{file}: {error}"
            ) from error

    def size_bytes(self, number: int) -> int | None:
        """Return the size that /dev/nbd<number> has now, None where that can not be found out.

        It is 0 until the device runs, and for a while longer: the driver names its process before
        it sets the size (drivers/block/nbd.c, nbd_start_device).
        """
        try:
            text = Path(f"/sys/block/nbd{number}/size").read_text(encoding="ascii")
            return int(text) * SYSFS_SECTOR_BYTES
        except (OSError, ValueError):
            return None

    def look(self, path: str) -> None:
        """Open a device that runs, and close it: the kernel reads its partition table then.

        It does so at the first open only, which elsewhere udev's is. BdevError where it fails.
        """
        try:
            os.close(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        except OSError as error:
            raise BdevError(error.errno or errno.EIO, f"{path}: {error.strerror}") from error

    def users(self, number: int) -> list[str]:
        """Say who uses /dev/nbd<number>: where it is mounted, what stands on it."""
        block = Path(f"/sys/block/nbd{number}")
        disks = [block, *sorted(block.glob(f"nbd{number}p*"))]
        names = {disk.name for disk in disks}
        found = [f"device {one.name}" for disk in disks for one in disk.glob("holders/*")]
        try:
            mounts = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="replace")
        except OSError:
            mounts = ""
        for line in mounts.splitlines():
            source, target = [*line.split(" "), ""][:2]
            if source.removeprefix("/dev/") in names:
                found.append(f"the mount at {target}")
        return found

    def open(self, path: str) -> KernelDevice:
        """Open a device for writing; BdevError with the errno of the open."""
        try:
            fd = os.open(path, os.O_RDWR | os.O_DIRECT | os.O_CLOEXEC)
        except OSError as error:
            number = error.errno or errno.EIO
            hint = HINTS.get(number)
            raise BdevError(
                number, f"{path}: {os.strerror(number)}" + (f"; {hint}" if hint else "")
            ) from error
        return KernelDevice(path, fd)


def call_ioctl(fd: int, request: int, value: int) -> int:
    """Return the errno of an ioctl whose argument is a number, 0 for success.

    `fcntl.ioctl` takes no number beyond an int, which a size in blocks may be.
    """
    import ctypes

    function = ctypes.CDLL(None, use_errno=True).ioctl
    function.argtypes = (ctypes.c_int, ctypes.c_ulong, ctypes.c_ulong)
    while function(fd, request, value) < 0:
        number = ctypes.get_errno()
        if number != errno.EINTR or request == NBD_DO_IT:
            return number
    return 0
