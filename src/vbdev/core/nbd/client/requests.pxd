# What an I/O asks an NBD server for, and what it asks for instead where the server refuses that.
#
# A server may refuse what it offers: the flags are its own, and the answer is that of what lies
# behind it, a plugin, a filter or a file system. The protocol has ENOTSUP for it, and EINVAL for
# every errno that it has no number for (ENOSYS, ENOTTY, ENODEV); an I/O that gets here is within
# the disk and in whole blocks, so neither speaks of the range. Then, as for files (`file/job`):
#
# | refused | instead |
# | --- | --- |
# | WRITE_ZEROES | WRITEs of zeroes, one behind the other in the same slot |
# | the same with FAST_ZERO | nothing: ENOTSUP, because writing is not fast |
# | TRIM | nothing, and it succeeds: what unmapped blocks hold is undefined |
# | FUA | the same without, and a FLUSH behind it |
# | FLUSH | nothing: it fails |
#
# What was refused, and could then be done otherwise, is kept with the RemoteDisk: no connection
# asks for it again. A request of more than MAX_PAYLOAD may have been refused for its length, and
# says nothing of others.

from libc.errno cimport EINVAL, EIO, EOPNOTSUPP as ENOTSUP, EPERM, EROFS

from vbdev.core.base.types cimport (
    FLAG_FAST_ZERO,
    FLAG_FUA,
    FLAG_NO_HOLE,
    OP_FLUSH,
    OP_READ,
    OP_UNMAP,
    OP_WRITE,
    OP_WRITE_ZEROES,
    bdev_io,
    uint16_t,
    uint32_t,
    uint64_t,
)
from vbdev.core.nbd.client.queue cimport (
    REFUSES_FAST_ZERO,
    REFUSES_FUA,
    REFUSES_NO_HOLE,
    REFUSES_TRIM,
    REFUSES_ZEROES,
    RemoteDisk,
)
from vbdev.core.nbd.client.slots cimport nbd_slot
from vbdev.core.nbd.wire cimport (
    CMD_FLAG_FAST_ZERO,
    CMD_FLAG_FUA,
    CMD_FLAG_NO_HOLE,
    CMD_READ,
    CMD_TRIM,
    CMD_WRITE,
    CMD_WRITE_ZEROES,
    EXPORT_READ_ONLY,
    EXPORT_SEND_FAST_ZERO,
    EXPORT_SEND_FLUSH,
    EXPORT_SEND_FUA,
    EXPORT_SEND_TRIM,
    EXPORT_SEND_WRITE_ZEROES,
)


cdef enum:
    ZERO_PIECE = 1 << 20        # bytes of a WRITE of zeroes, at most
    MAX_PAYLOAD = 32 << 20      # bytes that every server takes (doc/proto.md, "Block sizes")


cdef inline int request_fault(const bdev_io *io, RemoteDisk disk, uint32_t offered) noexcept nogil:
    # Return 0, or the errno of an I/O that this server can not be asked for.
    if io.op == OP_READ:
        return 0
    if (io.op == OP_FLUSH or io.flags & FLAG_FUA) and disk.has_lost():
        return EIO  # it was lost while the I/O waited
    if io.op == OP_FLUSH:
        return 0 if offered & EXPORT_SEND_FLUSH else ENOTSUP
    if offered & EXPORT_READ_ONLY:
        return EROFS
    if io.flags & FLAG_FUA and not offered & EXPORT_SEND_FLUSH and (
            not offered & EXPORT_SEND_FUA or disk.refuses(REFUSES_FUA)):
        return ENOTSUP
    if io.op == OP_WRITE or io.op == OP_UNMAP:
        return 0
    if io.op != OP_WRITE_ZEROES:
        return ENOTSUP
    if io.flags & FLAG_FAST_ZERO and (
            not offered & EXPORT_SEND_FAST_ZERO or not offered & EXPORT_SEND_WRITE_ZEROES
            or disk.refuses(REFUSES_ZEROES | REFUSES_FAST_ZERO)):
        return ENOTSUP
    return 0


cdef inline bint request_is_void(
        const bdev_io *io, RemoteDisk disk, uint32_t offered
) noexcept nogil:
    # Whether nothing is to be asked for: an UNMAP of which the server does not know.
    return io.op == OP_UNMAP and (
        not offered & EXPORT_SEND_TRIM or disk.refuses(REFUSES_TRIM))


cdef inline void request_zeroes(nbd_slot *slot, RemoteDisk disk, uint64_t at) noexcept nogil:
    # Write zeroes from byte `at` of the disk on, as many as go at once.
    cdef uint64_t end = (slot.io.offset_blocks + slot.io.num_blocks) * disk.block_size
    cdef uint64_t most = disk.max_bytes if disk.max_bytes < ZERO_PIECE else ZERO_PIECE
    most -= most % disk.block_size
    if most == 0:
        most = disk.block_size
    slot.zeroing = True
    slot.command = CMD_WRITE
    slot.flags &= CMD_FLAG_FUA
    slot.offset = at
    slot.length = <uint32_t>(end - at if end - at < most else most)


cdef inline void request_begin(
        nbd_slot *slot, bdev_io *io, RemoteDisk disk, uint32_t offered
) noexcept nogil:
    # Fill in the first request of an I/O without a fault, other than a FLUSH.
    slot.io = io
    slot.offset = io.offset_blocks * disk.block_size
    slot.length = <uint32_t>(io.num_blocks * disk.block_size)
    slot.flags = 0
    if io.op == OP_READ:
        slot.command = CMD_READ
        return
    if io.flags & FLAG_FUA and offered & EXPORT_SEND_FUA and not disk.refuses(REFUSES_FUA):
        slot.flags = CMD_FLAG_FUA
    if io.op == OP_WRITE:
        slot.command = CMD_WRITE
    elif io.op == OP_UNMAP:
        slot.command = CMD_TRIM
    elif not offered & EXPORT_SEND_WRITE_ZEROES or disk.refuses(
            REFUSES_ZEROES | (REFUSES_NO_HOLE if io.flags & FLAG_NO_HOLE else 0)):
        request_zeroes(slot, disk, slot.offset)
    else:
        slot.command = CMD_WRITE_ZEROES
        if io.flags & FLAG_NO_HOLE:
            slot.flags |= CMD_FLAG_NO_HOLE
        if io.flags & FLAG_FAST_ZERO:
            slot.flags |= CMD_FLAG_FAST_ZERO


cdef inline bint request_instead(nbd_slot *slot, RemoteDisk disk, uint32_t offered) noexcept nogil:
    # Take an error that the server answered. True: there is another request to be sent in the
    # slot; False: `slot.err` is what the I/O ends with, which may be success by now.
    cdef bint can_not = slot.err == EINVAL or slot.err == ENOTSUP
    if slot.command == CMD_WRITE_ZEROES and (can_not or slot.err == EPERM):
        if slot.io.flags & FLAG_FAST_ZERO:
            if slot.err != ENOTSUP:  # which says that this range would take long
                slot.refused |= REFUSES_FAST_ZERO
                slot.err = ENOTSUP
            return False
        slot.refused |= REFUSES_NO_HOLE if slot.io.flags & FLAG_NO_HOLE else REFUSES_ZEROES
        request_zeroes(slot, disk, slot.offset)
        return True
    if not can_not:
        return False
    if slot.flags & CMD_FLAG_FUA and offered & EXPORT_SEND_FLUSH:
        slot.flags &= <uint16_t>~CMD_FLAG_FUA
        slot.refused |= REFUSES_FUA
        return True
    if slot.command == CMD_TRIM:
        slot.refused = REFUSES_TRIM
        slot.err = 0
    return False


cdef inline bint request_goes_on(nbd_slot *slot, RemoteDisk disk) noexcept nogil:
    # A request has succeeded. True: the next piece of its zeroes is to be sent.
    cdef uint64_t done = slot.offset + slot.length
    if not slot.zeroing or slot.flushing:
        return False
    if done == (slot.io.offset_blocks + slot.io.num_blocks) * disk.block_size:
        return False
    request_zeroes(slot, disk, done)
    return True


cdef inline int request_refused(const nbd_slot *slot, RemoteDisk disk) noexcept nogil:
    # An I/O has ended as it should. Return what of it is not to be asked for again, REFUSES_*.
    if slot.io.num_blocks * disk.block_size > MAX_PAYLOAD:
        return 0
    # Where it was FUA, the rest may have been refused for that alone.
    return REFUSES_FUA if slot.refused & REFUSES_FUA else slot.refused
