"""Memory domains: where the data of an I/O may live besides the memory of this process.

`system` memory is what every bdev can use. The second kind is memory that is shared through a
memfd: whoever has the file descriptor, in another process too, reads and writes the same bytes,
and an I/O names them as pieces `(offset, length)`:

    domain, fd = create_memfd(1 << 20)
    requests.submit(channel, Op.READ, 0, 8, [(0, 4096)], memory_domain=domain)

Which kinds a bdev uses without a copy says `Bdev.memory_domains`; any bdev can be given any.
"""

from __future__ import annotations

import errno
import fcntl
import os

from vbdev.core.memory.domain import MemoryDomain
from vbdev.vocab import DmaDeviceType
from vbdev.vocab.errors import BdevError

__all__ = ["MemoryDomain", "create_memfd", "map_memfd"]


def create_memfd(size_bytes: int, name: str = "vbdev") -> tuple[MemoryDomain, int]:
    """Make memory that can be shared: the domain, and the memfd, which is the caller's to close."""
    if size_bytes <= 0:
        raise BdevError(errno.EINVAL, f"memory domain {name!r}: {size_bytes} bytes; at least 1")
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, size_bytes)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
        return map_memfd(fd), fd
    except BaseException:
        os.close(fd)
        raise


def map_memfd(fd: int) -> MemoryDomain:
    """Use memory that another process made, as large as it is now; the descriptor stays yours.

    EINVAL where it is empty, or not sealed against shrinking, which would kill this process.
    """
    try:
        return MemoryDomain(fd, os.fstat(fd).st_size, DmaDeviceType.MEMFD)
    except ValueError as error:
        raise BdevError(errno.EINVAL, f"memory domain of descriptor {fd}: {error}") from error
    except OSError as error:
        raise BdevError(
            error.errno or errno.EINVAL, f"memory domain of descriptor {fd}: {error}"
        ) from error
