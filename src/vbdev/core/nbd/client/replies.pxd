from vbdev.core.base.sockets cimport ssize_t
from vbdev.core.base.types cimport buffer_ref, iovec, size_t, uint16_t, uint32_t, uint64_t, uint8_t
from vbdev.core.memory.buffers cimport BufferPool
from vbdev.core.nbd.client.slots cimport nbd_slot, slot_table


cdef enum:
    # Why a reply ends its connection; `NbdReplies.complaint` has the words.
    FAULT_NONE = 0
    FAULT_MAGIC
    FAULT_COOKIE
    FAULT_SIMPLE_READ
    FAULT_SIMPLE_BEHIND
    FAULT_NONE_CONTENT
    FAULT_KIND
    FAULT_ERROR_SIZE
    FAULT_ERROR_ZERO
    FAULT_ERROR_TEXT
    FAULT_ERROR_OFFSET
    FAULT_OUTSIDE
    FAULT_TWICE
    FAULT_TOO_MANY
    FAULT_SHORT
    FAULT_MEMORY

    PLAN_READS = 128


cdef class NbdReplies:
    cdef slot_table *slots      # the link's
    cdef BufferPool buffers
    cdef bint structured
    cdef buffer_ref rx          # received and not looked at yet: from `start` to `end`
    cdef size_t start
    cdef size_t end
    cdef nbd_slot *filling      # whose data is being received
    cdef size_t fill_left       # bytes of it that are still to come
    cdef uint32_t fill_iov
    cdef size_t fill_at         # in that iovec
    cdef bint fill_done         # the reply ends with that data
    cdef iovec *iovs
    cdef nbd_slot *plan[PLAN_READS]     # whose replies are expected next, in this order
    cdef uint32_t plan_bytes[PLAN_READS]    # of their data
    cdef uint32_t planned
    cdef uint32_t without_plan  # receives still to go without one
    cdef uint32_t penalty       # how many, after a plan that was wrong
    cdef uint8_t *heads         # of the replies in the plan
    cdef int fault
    cdef uint64_t fault_args[4]
    cdef readonly uint64_t receives

    cdef ssize_t receive(self, int fd, bint *filled) noexcept nogil
    cdef size_t _plan(self, iovec *iov, size_t *bytes) noexcept nogil
    cdef void _follow(self, size_t rest) noexcept nogil
    cdef bint _expected(self, const uint8_t *p, const nbd_slot *slot) noexcept nogil
    cdef void _unplan(self, uint32_t k, size_t at, size_t rest) noexcept nogil
    cdef void parse(self) noexcept nogil
    cdef void rest(self) noexcept nogil
    cdef void forget(self) noexcept nogil
    cdef str complaint(self)
    cdef void _blame(self, int fault, uint64_t a, uint64_t b, uint64_t c, uint64_t d) noexcept nogil
    cdef void _seek(self, nbd_slot *slot, size_t at) noexcept nogil
    cdef void _filled(self, size_t n) noexcept nogil
    cdef void _fill_ended(self) noexcept nogil
    cdef void _copy(self) noexcept nogil
    cdef void _zero(self, size_t n) noexcept nogil
    cdef void _simple(self, uint32_t error, uint64_t cookie) noexcept nogil
    cdef bint _chunk(self, const uint8_t *p, size_t have) noexcept nogil
    cdef int _error_chunk(
        self, const nbd_slot *slot, const uint8_t *p, uint16_t kind, uint32_t length
    ) noexcept nogil
    cdef bint _came(self, nbd_slot *slot, uint64_t offset, uint32_t data) noexcept nogil
    cdef void _answered(self, nbd_slot *slot) noexcept nogil
