# The protocol's error values (doc/proto.md, "Error values"), as errnos of this machine.

from libc.errno cimport (
    EINVAL,
    EIO,
    ENOMEM,
    ENOSPC,
    EOPNOTSUPP as ENOTSUP,
    EOVERFLOW,
    EPERM,
    ESHUTDOWN,
)
from libc.stdint cimport uint32_t


cdef inline int errno_of(uint32_t error) noexcept nogil:
    # The first five are what they are called everywhere; what nobody knows is EINVAL.
    if error == EPERM or error == EIO or error == ENOMEM or error == EINVAL or error == ENOSPC:
        return <int>error
    if error == 75:
        return EOVERFLOW
    if error == 95:
        return ENOTSUP
    if error == 108:
        return ESHUTDOWN
    return EINVAL
