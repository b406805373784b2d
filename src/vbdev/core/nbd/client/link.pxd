from vbdev.core.base.types cimport bdev_io, size_t, uint32_t, uint64_t
from vbdev.core.nbd.client.queue cimport RemoteDisk, NbdQueue, flush_group
from vbdev.core.nbd.client.replies cimport NbdReplies
from vbdev.core.nbd.client.sender cimport NbdSender
from vbdev.core.nbd.client.slots cimport nbd_slot, slot_table


cdef class NbdLink:
    cdef readonly NbdQueue path
    cdef readonly int fd
    cdef readonly uint64_t size_bytes
    cdef uint64_t num_blocks
    cdef uint64_t most_blocks   # whose bytes fit a request's length
    cdef readonly uint32_t export_flags
    cdef slot_table slots
    cdef NbdSender sender
    cdef NbdReplies replies
    cdef uint64_t acked         # writes that the server acknowledged
    cdef uint64_t flushed       # of those, covered by a FLUSH
    cdef readonly bint closed
    cdef readonly bint ebbing
    cdef bint leaving           # the server shuts down: it is asked for nothing more
    cdef readonly bint lost_writes
    cdef readonly str reason

    cdef bint has_dirt(self) noexcept nogil
    cdef bint has_unsent(self) noexcept nogil
    cdef int take(self, size_t most) except -1
    cdef int check(self, const bdev_io *io, RemoteDisk disk) noexcept nogil
    cdef bint add_flush(self, flush_group *group) noexcept
    cdef int send_(self) except -1
    cdef int receive_(self) except -1
    cdef void use_(self, nbd_slot *slot, uint64_t now) noexcept nogil
    cdef int settle_all(self) except -1
    cdef int _settle(self, NbdQueue path, RemoteDisk disk, nbd_slot *slot) except -1
    cdef int _note(self, const nbd_slot *slot, int err) except -1
    cdef int close_(self, int err, bint gone, str reason) except -1
    cdef int _ended(self, str reason) except -1
    cdef int _let_go(self, int err, bint gone, bint keep_doubtful) except -1
